"""Forward kernels with few channels in a group: which one, and the words it is called with."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen import jit
from einstride.cpu.channelwise import channels, positions
from einstride.cpu.channelwise.form import Form, interior, tables, whole_vectors
from einstride.cpu.runtime.argument_block import Call
from einstride.cpu.runtime.chunks import FINE, chunk_count
from einstride.cpu.runtime.offset_tables import sources

SHORT = 56
"""Positions of a row whose tiles are written out, at most."""

UNROLLED = 200
"""Taps, of all positions together, that are written out for such a row."""

NEAR = 1 << 14
"""Bytes of a filter that stay near while a tile is summed."""


def call(form: Form) -> Call:
    """y = conv(x, f) + bias: wants the addresses x, y, f and bias (0 for none)."""
    return _along(form) if form.along else _across(form)


def _cut(form: Form, width: int, tile: int) -> dict[str, int]:
    """Chunks: rows of one example, or strips of `width` interior positions in tiles."""
    g = form.geometry
    rows = prod(g.out[:-1])
    many = chunk_count(form.threads, FINE)
    each = min(max(-(-g.batch * rows // many), 1), rows)
    blocks = -(-rows // each)
    strips = max(min(width // tile, many // max(g.batch * blocks, 1)), 1)
    return {
        "chunks": g.batch * blocks * strips, "blocks": blocks, "rows": each,
        "strips": strips, "strip": width // strips // tile * tile,
    }  # fmt: skip


def _call(form: Form, module: Any, spec: Any, words: dict[str, int], keep: list[Any]) -> Call:
    kernel = jit.KernelSpec(module.NAME, module.kernel, (spec,), form.machine)
    names = module.arguments(form.geometry.rank)
    known = {name: words[name] for name in names if name in words}
    return Call(kernel, names, known, min(form.used, words["chunks"]), keep)


def _across(form: Form) -> Call:
    """Vectors across channels."""
    g = form.geometry
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    inside, outside = interior(g)
    listed, shift = tables(form, (inside, outside), False)
    row = short_row(form)
    tile, vectors = blocking(form, len(row) or outside - inside)
    spec = channels.Spec(
        form.x, form.y, form.lanes, g.rank, tile, vectors, form.merged,
        inputs if form.merged else 0, outputs if form.merged else 0, *form.unit, row,
    )  # fmt: skip
    words = form.words(listed) | _cut(form, 0 if row else outside - inside, tile)
    words |= {"x": shift, "inside": inside, "outside": outside}
    return _call(form, channels, spec, words, listed)


def short_row(form: Form) -> tuple[tuple[int, ...], ...]:
    """The elements of x under the taps of a row whose tiles are written out, else nothing."""
    g = form.geometry
    if not 1 < g.out[-1] <= SHORT or g.out[-1] * g.kernel[-1] > UNROLLED:
        return ()
    if form.merged and g.channels > g.groups:
        return ()
    return tuple(map(tuple, sources(g, g.rank - 1).tolist()))


def blocking(form: Form, width: int) -> tuple[int, int]:
    """P and V: as many sums as registers hold, no more positions than the interior has."""
    g = form.geometry
    filters = g.filters if form.merged else g.filters // g.groups
    count = -(-filters * form.parts // form.lanes)
    most, vectors = min(form.room, 8), 1
    if not form.merged or g.channels == g.groups:
        even = [v for v in (4, 3, 2) if v * 2 <= form.room and count % v == 0]
        vectors = even[0] if even else max(min(count, 4, form.room // 2), 1)
        if prod(g.kernel) * vectors * form.machine.vector_bytes > NEAR:
            vectors = 1
        most = max(form.room // vectors, 1)
    if short_row(form):
        most = min(form.room, 14)
        tile = -(-g.out[-1] // -(-g.out[-1] // most))
        return tile, max(min(form.room // tile, vectors), 1)
    return max(-(-width // max(-(-width // most), 1)), 1), vectors


def _along(form: Form) -> Call:
    """Vectors along rows of positions."""
    g, each = form.geometry, form.lanes // form.parts
    inside, outside = whole_vectors(form)
    outputs = g.filters // g.groups
    results = max(i for i in range(1, min(outputs, 4) + 1) if outputs % i == 0)
    vectors = max(min(form.room // results, (outside - inside) // each, 6), 1)
    unit = g.stride[-1] * form.x_steps[-2] == form.parts
    masked = unit and g.padding_mode == "zeros"
    spec = positions.Spec(
        form.x, form.y, form.lanes, g.rank, vectors, results, unit,
        form.y_steps[-2] == form.parts, masked,
    )  # fmt: skip
    listed, shift = tables(form, (0, g.out[-1]) if masked else (inside, outside), True)
    words = form.words(listed) | _cut(form, outside - inside, vectors * each)
    words |= {"x": shift, "inside": inside, "outside": outside} | surroundings(
        form, inside, outside
    )
    return _call(form, positions, spec, words, listed)


def surroundings(form: Form, inside: int, outside: int) -> dict[str, int]:
    """The words by which kernels along positions find borders."""
    g = form.geometry
    return {
        "size": g.size[-1], "low": g.padding[-1][0], "spread": g.dilation[-1],
        "border": g.out[-1] - outside + inside,
    }  # fmt: skip
