"""Depthwise forward passes and input gradients: the sizes of tiles, and a kernel's words.

Both are described by where the taps of each position lie, axis by axis (`Sources`): a forward pass
in x, also through its border; an input gradient in gy, wherever its stride lets a tap meet one.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from einstride.codegen import jit
from einstride.cpu.channelwise.filter_gradient_call import Cuts
from einstride.cpu.channelwise.form import Form
from einstride.cpu.depthwise import filter_gradient, forward
from einstride.cpu.depthwise.sources import (
    Sources,
    forward_sources,
    gradient_sources,
    interior,
    pattern_of,
)
from einstride.cpu.depthwise.spec import Spec
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.chunks import FINE, chunk_count
from einstride.cpu.runtime.offset_tables import lowest_offset, to_offsets
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry

SHORT = 28
"""Positions of a row whose tiles are written out, at most."""

WRITTEN = 200
"""Taps, of all positions of such a row together, at most."""

FAR = 1 << 19
"""Numbers of x and y that are too many for the nearer caches."""

NARROW = 5
"""Columns of a tile with few taps, at most, where memory is slower than the sums: the processor
follows so many streams by itself."""

STRETCH = 64
"""Positions that go by, at least, before sums of a filter gradient are put into memory; twice as
many where the arrays are near."""

MANY = 25
"""Taps that make it worth while to copy x and them side by side."""

FIRST = 16
"""Taps of a row that are in registers at once, at most."""


def suits(form: Form, backwards: bool) -> bool:
    """Is it one channel in and one out, of real numbers that lie side by side?"""
    g = form.geometry
    if g.channels != g.groups or g.filters != g.groups or form.parts > 1 or not all(form.unit):
        return False
    if prod(g.kernel) > 4096 or form.lanes < 4 or g.channels < min(form.lanes, 8):
        return False
    out = g.size if backwards else g.out
    return not (backwards and g.stride[-1] > 1 and not is_short(out[-1], g.kernel[-1])
                and (out[-1] % g.stride[-1] or g.stride[-1] > 4))  # fmt: skip


def is_short(out: int, kernel: int) -> bool:
    """Are the tiles of a row of so many positions written out?"""
    return out <= SHORT and out * kernel <= WRITTEN


def call(form: Form, backwards: bool) -> Call:
    """y = conv(x, f) + bias, or gx for gy: wants the addresses x, y, f and bias (0 for none)."""
    g = form.geometry
    make = gradient_sources if backwards else forward_sources
    axes = [make(g, a) for a in range(g.rank)]
    out = tuple(len(axis.table) for axis in axes)
    x_size = g.out if backwards else g.size
    dense = g.rank > 1 and g.dilation[-2] == g.stride[-2] == 1
    rows, tile, taps = blocking(form, out, dense, axes[-1].group)
    last, kernel = axes[-1], g.kernel[-1]
    short = is_short(out[-1], kernel)
    packed = _packs(form, x_size)
    spec = Spec(
        form.x, form.y, form.lanes, g.rank, rows, tile, taps, _held(form, rows, tile),
        g.channels % form.lanes,
        pattern_of(last, tile, short), short, last.group, backwards,
        far(g) and not packed, packed,
    )  # fmt: skip
    there = [prod(x_size[a + 1 :]) * form.lanes for a in range(g.rank)]
    near = replace(form, x_steps=(form.x_steps[0], *there, 1)) if packed else form
    words, tables = places(near, axes, x_size, short)
    words |= {"taps": prod(g.kernel), "plane": prod(x_size) * form.lanes}
    for a, size in enumerate(x_size):
        words |= {f"size{a}": size, f"here{a}": form.x_steps[a + 1], f"there{a}": there[a]}
    words |= {
        "x_ahead": tile * last.move // last.group * form.x_steps[-2],
        "y_ahead": tile * form.y_steps[-2],
    }
    words |= _cut(form, out, rows, packed)
    names = forward.arguments(g.rank)
    words = {name: words[name] for name in names if name in words}
    made = jit.KernelSpec(forward.NAME, forward.kernel, (spec,), form.machine)
    return Call(made, names, words, min(form.used, words["chunks"]), tables)


def places(
    form: Form, axes: list[Sources], size: tuple[int, ...], short: bool
) -> tuple[dict[str, int], list[Any]]:
    """The words that say where the taps lie in an array of this size, and their tables."""
    g, last = form.geometry, axes[-1]
    inside, outside = interior(last, size[-1])
    backs = [lowest_offset(n, s) for n, s in zip(size, form.x_steps[1:-1], strict=True)]
    lying = [axis.table for axis in axes[:-1]] + [last.padded]
    tables = [
        to_offsets(there, step, back)
        for there, step, back in zip(lying, form.x_steps[1:-1], backs, strict=True)
    ]
    step = form.x_steps[-2]
    words = {
        "x": sum(backs) * ITEMSIZE[form.stored[0]],
        "x_batch": form.x_steps[0], "x_step": step,
        "x_first": (0 if short else -last.first * step) - backs[-1],
        "x_move": last.move * step, "columns": address(tables[-1]), "move": last.move,
        "inside": inside, "outside": outside, "y_batch": form.y_steps[0], "filters": g.filters,
    }  # fmt: skip
    for a, axis in enumerate(axes):
        found = (address(tables[a]), g.kernel[a], len(axis.table), form.y_steps[a + 1])
        names = ("table", "taps", "out", "y_step")
        words |= {f"{name}{a}": value for name, value in zip(names, found, strict=True)}
    return words, tables


def blocking(form: Form, out: tuple[int, ...], dense: bool, group: int) -> tuple[int, int, int]:
    """R, P and T: the cheapest tile by loads and products, of those that registers hold."""
    g = form.geometry
    room, kernel = form.machine.registers - 2, g.kernel[-1]
    most = min(g.kernel[-2], out[-2], 4) if dense else 1
    best: tuple[float, int, int, int] | None = None
    narrow = far(g) and prod(g.kernel[-2:]) < 12
    for rows in range(1, most + 1):
        for tile in range(1, min(out[-1], NARROW if narrow else 24) + 1):
            taps = min((room - rows * tile) // rows, kernel, FIRST)
            if taps < min(kernel, 2) or tile % group:
                continue
            price = _price(g, out, rows, tile, taps, group)
            if best is None or price < best[0]:
                best = (price, rows, tile, taps)
    if best is None:
        return 1, group, 1
    return best[1:]


def _price(g: Geometry, out: tuple[int, ...], rows: int, tile: int, taps: int, group: int) -> float:
    """Cycles of a tile, about, for each of the positions that it is needed for.

    The core does two products and one load a cycle, and a product takes four cycles, so that eight
    sums keep it busy.
    """
    high, kernel = g.kernel[-2] if g.rank > 1 else 1, g.kernel[-1]
    blocks = -(-kernel // taps)
    stride = 1 if group > 1 else g.stride[-1]
    reach = (tile - 1) * stride // group + (taps - 1) * g.dilation[-1] // group + 1
    loads = (high + rows - 1) * blocks * min(reach, tile * taps)
    products = rows * tile * kernel * high / group
    waiting = max(1.0, 8 / (rows * tile))
    needed = out[-1] / -(-out[-1] // tile)
    if rows > 1:
        needed *= out[-2] / -(-out[-2] // rows)
    return (products * waiting / 2 + loads + rows * kernel * high / 2 + rows * tile) / needed


def _cut(form: Form, out: tuple[int, ...], rows: int, packed: int) -> dict[str, int]:
    """Chunks: groups of R rows of one example, and panels of channels where these are few."""
    g = form.geometry
    of_axis = -(-out[-2] // rows) if len(out) > 1 else 1
    groups = prod(out[:-2]) * of_axis
    many = chunk_count(form.threads, FINE)
    each = min(max(-(-g.batch * groups // many), 1), groups)
    blocks, examples = -(-groups // each), 1
    vectors = -(-g.filters // (form.lanes * max(packed, 1)))
    panels = max(min(vectors, many // max(g.batch * blocks, 1)), 1)
    if packed:  # the taps of a panel are copied for many examples
        each, panels = groups, min(vectors, many)
        blocks, examples = 1, max(-(-g.batch * panels // many), 1)
    panel = -(-vectors // panels)
    panels = -(-vectors // panel)
    return {
        "panels": panels, "panel": panel * form.lanes * max(packed, 1),
        "chunks": -(-g.batch // examples) * blocks * panels, "blocks": blocks, "groups": each,
        "all_groups": groups, "row_groups": of_axis, "batch": g.batch, "examples": examples,
    }  # fmt: skip


def _packs(form: Form, x_size: tuple[int, ...]) -> int:
    """How many vectors are copied at once, where taps are many and positions few."""
    g = form.geometry
    taps, elements = prod(g.kernel), prod(x_size)
    if not MANY <= taps <= forward.TAPS or elements > forward.ELEMENTS:
        return 0
    most = min(4, forward.TAPS // taps, forward.ELEMENTS // max(elements, 1))
    width = form.lanes * form.threads
    return max(n for n in range(1, most + 1) if n == 1 or g.channels % (n * width) == 0)


def _held(form: Form, rows: int, tile: int) -> int:
    """The rows of taps that stay in registers, if they all can."""
    g = form.geometry
    if g.rank == 1 or g.kernel[-2] < rows:
        return 0
    return g.kernel[-2] if prod(g.kernel[-2:]) + rows * tile + 2 <= form.machine.registers else 0


def call_gradient(form: Form, cut: Cuts) -> Call:
    """sums += x gy: wants the addresses x, y (of gy) and f, tables of zeros in order."""
    g = form.geometry
    axes = [forward_sources(g, a) for a in range(g.rank)]
    short, high = is_short(g.out[-1], g.kernel[-1]), prod(g.kernel[:-1])
    most = min(form.machine.registers - 2 - prod(g.kernel), g.out[-1], 16)
    tile = -(-g.out[-1] // -(-g.out[-1] // most))
    spec = filter_gradient.Spec(
        form.x, form.y, form.lanes, g.rank, high, tile, g.channels % form.lanes,
        pattern_of(axes[-1], tile, short), short, g.rank > 1 and far(g),
    )  # fmt: skip
    words, tables = places(form, axes, g.size, short)
    vectors = -(-g.filters // form.lanes)
    units = cut.groups * cut.tables
    panels = 1 if form.used == 1 else min(vectors, -(-chunk_count(form.threads, FINE) // units))
    panel = -(-vectors // panels)
    words |= {
        "panels": -(-vectors // panel), "panel": panel * form.lanes, "units": cut.units,
        "chunks": units * -(-vectors // panel), "rows": cut.rows,
        "all_rows": prod(g.out[:-1]), "group_rows": prod(g.out[:-1]) * (g.batch // cut.groups),
        "stretch": max((STRETCH if far(g) else 2 * STRETCH) // g.out[-1], 1),
        "f_unit": prod(g.f_shape),
        "x_ahead": g.stride[0] * form.x_steps[1], "y_ahead": form.y_steps[1],
    }  # fmt: skip
    names = filter_gradient.arguments(g.rank)
    words = {name: words[name] for name in names if name in words}
    name, write = filter_gradient.NAME, filter_gradient.kernel
    made = jit.KernelSpec(name, write, (spec,), form.machine)
    return Call(made, names, words, min(form.used, words["chunks"]), tables)


def suits_gradient(form: Form, cut: Cuts) -> bool:
    """Are the sums of all taps few enough for the registers?"""
    g = form.geometry
    few = prod(g.kernel) + 6 <= form.machine.registers and g.rank <= 2
    return few and cut.strips == 1 and suits(form, False)


def far(g: Geometry) -> bool:
    """Are the arrays too large for the nearer caches?"""
    return prod(g.x_shape) + prod(g.y_shape) > FAR
