"""Choose a forward kernel for few channels per group, its register tile and its arguments."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen import jit
from einstride.cpu.channelwise import channels, positions
from einstride.cpu.channelwise.signature import Signature, interior, tables, vector_interior
from einstride.cpu.runtime.argument_block import Call
from einstride.cpu.runtime.chunks import FINE, chunk_count
from einstride.cpu.runtime.offset_tables import sources

MAX_UNROLLED_ROW = 56
"""Positions of a row whose tiles are unrolled, at most, so that border taps cost no look-up."""

MAX_UNROLLED_TAPS = 200
"""Taps of all positions of an unrolled row, at most: it bounds the kernel's code."""

FILTER_CACHE_BYTES = 1 << 14
"""Bytes of the taps that V vectors of output channels read per tile, at most, for V above 1: about
half of a first cache, so that they stay in it from tile to tile."""


def call(sig: Signature) -> Call:
    """Make the call that computes y = conv(x, f) + bias from the addresses x, y, f, bias (or 0)."""
    return _call_along_positions(sig) if sig.along_positions else _call_along_channels(sig)


def _divide_into_chunks(sig: Signature, width: int, tile: int) -> dict[str, int]:
    """List the arguments that divide the work into chunks.

    A chunk is some rows of one example or, where rows are too few for the threads, one strip of
    each of them: a multiple of `tile` positions of the `width` interior ones.
    """
    g = sig.geometry
    rows = prod(g.out[:-1])
    max_chunks = chunk_count(sig.threads, FINE)
    block_rows = min(max(-(-g.batch * rows // max_chunks), 1), rows)
    blocks = -(-rows // block_rows)
    strips = max(min(width // tile, max_chunks // max(g.batch * blocks, 1)), 1)
    return {
        "chunks": g.batch * blocks * strips, "blocks": blocks, "rows": block_rows,
        "strips": strips, "strip": width // strips // tile * tile,
    }  # fmt: skip


def _make_call(
    sig: Signature, module: Any, spec: Any, values: dict[str, int], offset_tables: list[Any]
) -> Call:
    kernel = jit.KernelSpec(module.NAME, module.kernel, (spec,), sig.target)
    names = module.arguments(sig.geometry.rank)
    arguments = {name: values[name] for name in names if name in values}
    return Call(kernel, names, arguments, min(sig.useful_threads, values["chunks"]), offset_tables)


def _call_along_channels(sig: Signature) -> Call:
    """Make the call whose vectors hold output channels."""
    g = sig.geometry
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    inside, outside = interior(g)
    offset_tables, shift = tables(sig, (inside, outside), False)
    row = unrolled_row(sig)
    tile, vectors = blocking(sig, len(row) or outside - inside)
    spec = channels.Spec(
        sig.x, sig.y, sig.lanes, g.rank, tile, vectors, sig.spans_groups,
        inputs if sig.spans_groups else 0, outputs if sig.spans_groups else 0,
        *sig.contiguous_channels, row,
    )  # fmt: skip
    values = sig.arguments(offset_tables) | _divide_into_chunks(
        sig, 0 if row else outside - inside, tile
    )
    values |= {"x": shift, "inside": inside, "outside": outside}
    return _make_call(sig, channels, spec, values, offset_tables)


def unrolled_row(sig: Signature) -> tuple[tuple[int, ...], ...]:
    """Return the elements of x under each tap of each position of an unrolled row; else empty."""
    g = sig.geometry
    if not 1 < g.out[-1] <= MAX_UNROLLED_ROW or g.out[-1] * g.kernel[-1] > MAX_UNROLLED_TAPS:
        return ()
    if sig.spans_groups and g.channels > g.groups:
        return ()
    return tuple(map(tuple, sources(g, g.rank - 1).tolist()))


def blocking(sig: Signature, width: int) -> tuple[int, int]:
    """Choose P and V, the positions and vectors of a register tile.

    They take as many accumulators as the registers have, for at most `width` positions.
    """
    g = sig.geometry
    filters = g.filters if sig.spans_groups else g.filters // g.groups
    count = -(-filters * sig.parts // sig.lanes)
    max_tile, vectors = min(sig.accumulators, 8), 1
    if not sig.spans_groups or g.channels == g.groups:
        divisors = [v for v in (4, 3, 2) if v * 2 <= sig.accumulators and count % v == 0]
        vectors = divisors[0] if divisors else max(min(count, 4, sig.accumulators // 2), 1)
        if prod(g.kernel) * vectors * sig.target.vector_bytes > FILTER_CACHE_BYTES:
            vectors = 1
        max_tile = max(sig.accumulators // vectors, 1)
    if unrolled_row(sig):
        max_tile = min(sig.accumulators, 14)
        tile = -(-g.out[-1] // -(-g.out[-1] // max_tile))
        return tile, max(min(sig.accumulators // tile, vectors), 1)
    return max(-(-width // max(-(-width // max_tile), 1)), 1), vectors


def _call_along_positions(sig: Signature) -> Call:
    """Make the call whose vectors hold neighbouring positions of a row."""
    g, vector_positions = sig.geometry, sig.lanes // sig.parts
    inside, outside = vector_interior(sig)
    outputs = g.filters // g.groups
    results = max(i for i in range(1, min(outputs, 4) + 1) if outputs % i == 0)
    vectors = max(min(sig.accumulators // results, (outside - inside) // vector_positions, 6), 1)
    contiguous = g.stride[-1] * sig.x_strides[-2] == sig.parts
    masked = contiguous and g.padding_mode == "zeros"
    spec = positions.Spec(
        sig.x, sig.y, sig.lanes, g.rank, vectors, results, contiguous,
        sig.y_strides[-2] == sig.parts, masked,
    )  # fmt: skip
    offset_tables, shift = tables(sig, (0, g.out[-1]) if masked else (inside, outside), True)
    values = sig.arguments(offset_tables) | _divide_into_chunks(
        sig, outside - inside, vectors * vector_positions
    )
    values |= {"x": shift, "inside": inside, "outside": outside} | border_arguments(
        sig, inside, outside
    )
    return _make_call(sig, positions, spec, values, offset_tables)


def border_arguments(sig: Signature, inside: int, outside: int) -> dict[str, int]:
    """List the arguments by which kernels with vectors along positions find the border."""
    g = sig.geometry
    return {
        "size": g.size[-1], "low": g.padding[-1][0], "dilation": g.dilation[-1],
        "border": g.out[-1] - outside + inside,
    }  # fmt: skip
