"""Choose register tiles and fill argument blocks for the depthwise kernels of all passes.

A forward pass and an input gradient are one kernel. They differ in the elements that the taps of a
position meet on each axis (`Sources`): elements of x, through its border too, or of gy.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from einstride.codegen import jit
from einstride.cpu.channelwise.filter_gradient_call import PartialSums
from einstride.cpu.channelwise.signature import Signature
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

MAX_UNROLLED_ROW = 28
"""Positions of a row whose tiles are unrolled, at most."""

MAX_UNROLLED_TAPS = 200
"""Taps of all positions of an unrolled row, at most: it bounds the kernel's code."""

MAX_CACHED = 1 << 19
"""Elements of x and y, at most, that a core's own caches hold: larger arrays are prefetched, in
tiles of few columns."""

MAX_STREAMS = 5
"""Columns of a tile with few taps, at most, if memory limits the speed: the processor's own
prefetcher follows about as many streams."""

MIN_SPAN = 64
"""Positions of the rows, about, that a filter gradient sums in registers before it adds the sums to
memory; twice as many if the caches hold the arrays. They decide the order of sums."""

MIN_PACKED_TAPS = 25
"""Taps from which x and the taps are packed; fewer do not pay for the copy."""

MAX_REGISTER_TAPS = 16
"""Taps of a row that registers hold at once, at most."""


def suits(sig: Signature, backwards: bool) -> bool:
    """True if the kernel computes this call: one contiguous real channel in and out per group.

    With `backwards` the call is an input gradient. If it is strided, its rows must be unrolled or a
    multiple of the stride, of 4 at most.
    """
    g = sig.geometry
    if not g.channels == g.filters == g.groups:
        return False
    if sig.parts > 1 or not all(sig.contiguous_channels):
        return False
    if prod(g.kernel) > 4096 or sig.lanes < 4 or g.channels < min(sig.lanes, 8):
        return False
    out = g.size if backwards else g.out
    return not (backwards and g.stride[-1] > 1 and not is_unrolled(out[-1], g.kernel[-1])
                and (out[-1] % g.stride[-1] or g.stride[-1] > 4))  # fmt: skip


def is_unrolled(out: int, kernel: int) -> bool:
    """True if the tiles of a row of `out` positions are unrolled."""
    return out <= MAX_UNROLLED_ROW and out * kernel <= MAX_UNROLLED_TAPS


def call(sig: Signature, backwards: bool) -> Call:
    """Make the call that computes y = conv(x, f) + bias, or with `backwards` gx from gy.

    It takes the addresses x (x or gy), y (y or gx), f and bias (0: none).
    """
    g = sig.geometry
    sources_of = gradient_sources if backwards else forward_sources
    axes = [sources_of(g, a) for a in range(g.rank)]
    out = tuple(axis.count for axis in axes)
    x_size = g.out if backwards else g.size
    dense = g.rank > 1 and g.dilation[-2] == g.stride[-2] == 1
    rows, tile, taps = blocking(sig, out, dense, axes[-1].alignment)
    last, kernel = axes[-1], g.kernel[-1]
    unrolled = is_unrolled(out[-1], kernel)
    packed = _packed_vectors(sig, x_size)
    spec = Spec(
        sig.x, sig.y, sig.lanes, g.rank, rows, tile, taps, _resident_rows(sig, rows, tile),
        g.channels % sig.lanes,
        pattern_of(last, tile, unrolled), unrolled, last.alignment, backwards,
        exceeds_caches(g) and not packed, packed,
    )  # fmt: skip
    packed_strides = [prod(x_size[a + 1 :]) * sig.lanes for a in range(g.rank)]
    read_signature = (
        replace(sig, x_strides=(sig.x_strides[0], *packed_strides, 1)) if packed else sig
    )
    values, tables = tap_arguments(read_signature, axes, x_size, unrolled)
    values |= {"taps": prod(g.kernel), "plane": prod(x_size) * sig.lanes}
    for a, size in enumerate(x_size):
        values |= {f"size{a}": size, f"x_stride_of{a}": sig.x_strides[a + 1]}
        values |= {f"packed_stride{a}": packed_strides[a]}
    values |= {
        "x_prefetch": tile * last.advance // last.alignment * sig.x_strides[-2],
        "y_prefetch": tile * sig.y_strides[-2],
    }
    values |= _divide_into_chunks(sig, out, rows, packed)
    names = forward.arguments(g.rank)
    values = {name: values[name] for name in names if name in values}
    kernel_spec = jit.KernelSpec(forward.NAME, forward.kernel, (spec,), sig.target)
    return Call(kernel_spec, names, values, min(sig.useful_threads, values["chunks"]), tables)


def tap_arguments(
    sig: Signature, axes: list[Sources], size: tuple[int, ...], unrolled: bool
) -> tuple[dict[str, int], list[Any]]:
    """List the kernel arguments for the elements that taps meet, and their offset tables."""
    g, last = sig.geometry, axes[-1]
    inside, outside = interior(last, size[-1])
    lowest_offsets = [lowest_offset(n, s) for n, s in zip(size, sig.x_strides[1:-1], strict=True)]
    elements = [axis.elements() for axis in axes[:-1]] + [last.padded]
    tables = [
        to_offsets(e, x_stride, lowest)
        for e, x_stride, lowest in zip(elements, sig.x_strides[1:-1], lowest_offsets, strict=True)
    ]
    x_stride = sig.x_strides[-2]
    values = {
        "x": sum(lowest_offsets) * ITEMSIZE[sig.stored[0]],
        "x_batch": sig.x_strides[0], "x_stride": x_stride,
        "x_first": (0 if unrolled else -last.first * x_stride) - lowest_offsets[-1],
        "x_advance": last.advance * x_stride, "columns": address(tables[-1]),
        "advance": last.advance,
        "inside": inside, "outside": outside, "y_batch": sig.y_strides[0], "filters": g.filters,
    }  # fmt: skip
    for a, axis in enumerate(axes):
        axis_values = (address(tables[a]), g.kernel[a], axis.count, sig.y_strides[a + 1])
        names = ("table", "taps", "out", "y_stride")
        values |= {f"{name}{a}": value for name, value in zip(names, axis_values, strict=True)}
    return values, tables


def blocking(
    sig: Signature, out: tuple[int, ...], dense: bool, alignment: int
) -> tuple[int, int, int]:
    """Choose R, P and T of the register tile with the fewest cycles by `_predict_cycles`."""
    g = sig.geometry
    registers, kernel = sig.target.registers - 2, g.kernel[-1]
    max_rows = min(g.kernel[-2], out[-2], 4) if dense else 1
    best: tuple[float, int, int, int] | None = None
    narrow = exceeds_caches(g) and prod(g.kernel[-2:]) < 12
    for rows in range(1, max_rows + 1):
        for tile in range(1, min(out[-1], MAX_STREAMS if narrow else 24) + 1):
            taps = min((registers - rows * tile) // rows, kernel, MAX_REGISTER_TAPS)
            if taps < min(kernel, 2) or tile % alignment:
                continue
            cycles = _predict_cycles(g, out, rows, tile, taps, alignment)
            if best is None or cycles < best[0]:
                best = (cycles, rows, tile, taps)
    if best is None:
        return 1, alignment, 1
    return best[1:]


def _predict_cycles(
    g: Geometry, out: tuple[int, ...], rows: int, tile: int, taps: int, alignment: int
) -> float:
    """Predict the cycles of a tile per position.

    The core is taken to do two multiply-adds and one load per cycle, and a multiply-add to take
    four cycles, so that eight independent sums keep it busy.
    """
    tap_rows, kernel = g.kernel[-2] if g.rank > 1 else 1, g.kernel[-1]
    blocks = -(-kernel // taps)
    stride = 1 if alignment > 1 else g.stride[-1]
    reach = (tile - 1) * stride // alignment + (taps - 1) * g.dilation[-1] // alignment + 1
    loads = (tap_rows + rows - 1) * blocks * min(reach, tile * taps)
    products = rows * tile * kernel * tap_rows / alignment
    waiting = max(1.0, 8 / (rows * tile))
    outputs = out[-1] / -(-out[-1] // tile)
    if rows > 1:
        outputs *= out[-2] / -(-out[-2] // rows)
    return (products * waiting / 2 + loads + rows * kernel * tap_rows / 2 + rows * tile) / outputs


def _divide_into_chunks(
    sig: Signature, out: tuple[int, ...], rows: int, packed: int
) -> dict[str, int]:
    """List the arguments that divide the work into chunks.

    A chunk is some blocks of R rows of one example, for a panel of channels where rows are too few
    for the threads.
    """
    g = sig.geometry
    axis_blocks = -(-out[-2] // rows) if len(out) > 1 else 1
    row_blocks = prod(out[:-2]) * axis_blocks
    max_chunks = chunk_count(sig.threads, FINE)
    block_size = min(max(-(-g.batch * row_blocks // max_chunks), 1), row_blocks)
    blocks, examples = -(-row_blocks // block_size), 1
    vectors = -(-g.filters // (sig.lanes * max(packed, 1)))
    panels = max(min(vectors, max_chunks // max(g.batch * blocks, 1)), 1)
    if packed:  # the taps of a panel are packed once for many examples
        block_size, panels = row_blocks, min(vectors, max_chunks)
        blocks, examples = 1, max(-(-g.batch * panels // max_chunks), 1)
    panel = -(-vectors // panels)
    panels = -(-vectors // panel)
    return {
        "panels": panels, "panel": panel * sig.lanes * max(packed, 1),
        "chunks": -(-g.batch // examples) * blocks * panels, "blocks": blocks,
        "row_blocks": block_size,
        "all_row_blocks": row_blocks, "axis_blocks": axis_blocks, "batch": g.batch,
        "examples": examples,
    }  # fmt: skip


def _packed_vectors(sig: Signature, x_size: tuple[int, ...]) -> int:
    """Count the vectors that are packed at once; 0 if taps are few or positions are many."""
    g = sig.geometry
    taps, elements = prod(g.kernel), prod(x_size)
    if not MIN_PACKED_TAPS <= taps <= forward.TAPS or elements > forward.ELEMENTS:
        return 0
    max_vectors = min(4, forward.TAPS // taps, forward.ELEMENTS // max(elements, 1))
    width = sig.lanes * sig.threads
    return max(n for n in range(1, max_vectors + 1) if n == 1 or g.channels % (n * width) == 0)


def _resident_rows(sig: Signature, rows: int, tile: int) -> int:
    """Count the rows of taps if all taps stay in registers, else 0."""
    g = sig.geometry
    if g.rank == 1 or g.kernel[-2] < rows:
        return 0
    return g.kernel[-2] if prod(g.kernel[-2:]) + rows * tile + 2 <= sig.target.registers else 0


def call_gradient(sig: Signature, partials: PartialSums) -> Call:
    """Make the call that adds x gy to partial sums, given the addresses x, y (gy's) and f.

    At f lie the partial sums, filled with zeros, one after the other.
    """
    g = sig.geometry
    axes = [forward_sources(g, a) for a in range(g.rank)]
    unrolled, tap_rows = is_unrolled(g.out[-1], g.kernel[-1]), prod(g.kernel[:-1])
    max_tile = min(sig.target.registers - 2 - prod(g.kernel), g.out[-1], 16)
    tile = -(-g.out[-1] // -(-g.out[-1] // max_tile))
    spec = filter_gradient.Spec(
        sig.x, sig.y, sig.lanes, g.rank, tap_rows, tile, g.channels % sig.lanes,
        pattern_of(axes[-1], tile, unrolled), unrolled, g.rank > 1 and exceeds_caches(g),
    )  # fmt: skip
    values, tables = tap_arguments(sig, axes, g.size, unrolled)
    vectors = -(-g.filters // sig.lanes)
    partial_sums = partials.results * partials.per_result
    max_panels = -(-chunk_count(sig.threads, FINE) // partial_sums) if sig.useful_threads > 1 else 1
    panels = min(vectors, max_panels)
    panel = -(-vectors // panels)
    values |= {
        "panels": -(-vectors // panel), "panel": panel * sig.lanes,
        "chunks": partial_sums * -(-vectors // panel), "rows": partials.rows,
        "row_ranges": partials.row_ranges, "all_rows": prod(g.out[:-1]),
        "result_rows": prod(g.out[:-1]) * (g.batch // partials.results),
        "span": max((MIN_SPAN if exceeds_caches(g) else 2 * MIN_SPAN) // g.out[-1], 1),
        "f_partial": prod(g.f_shape),
        "x_prefetch": g.stride[0] * sig.x_strides[1], "y_prefetch": sig.y_strides[1],
    }  # fmt: skip
    names = filter_gradient.arguments(g.rank)
    values = {name: values[name] for name in names if name in values}
    name, write = filter_gradient.NAME, filter_gradient.kernel
    kernel_spec = jit.KernelSpec(name, write, (spec,), sig.target)
    return Call(kernel_spec, names, values, min(sig.useful_threads, values["chunks"]), tables)


def suits_gradient(sig: Signature, partials: PartialSums) -> bool:
    """True if the kernel computes this filter gradient: registers hold the sums of all taps."""
    g = sig.geometry
    fits = prod(g.kernel) + 6 <= sig.target.registers and g.rank <= 2
    return fits and partials.strips == 1 and suits(sig, False)


def exceeds_caches(g: Geometry) -> bool:
    """True if a core's own caches do not hold x and y."""
    return prod(g.x_shape) + prod(g.y_shape) > MAX_CACHED
