"""Write what the depthwise kernels share: their walk over rows, and the arguments for it.

The elements that the taps of a position meet are known when a kernel is written: as indices into
the row where the tiles of a short row are unrolled, else relative to the tile's first position.
Tiles of a longer row that meet a border take the offset of each element from a table, and skip
elements in padding of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.cpu.conv.channelwise.signature import Signature, axis_arguments
from einstride.cpu.conv.depthwise.sources import NO_ELEMENT, Pattern, Sources, interior
from einstride.cpu.conv.loop_nest import block
from einstride.cpu.conv.schedule import Schedule
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

Pairs = Sequence[tuple[int, int]]
"""Pairs of a position of the tile and a tap, both known when the kernel is written."""

TileWriter = Callable[[Pointer, Pointer, Pattern, "Pointer | None"], None]
"""Write a tile, given the addresses of x and y, its pattern, and the offset table of the last axis
if the tile meets a border."""


@dataclass(frozen=True)
class DepthwiseSchedule(Schedule):
    """What the schedules of both depthwise kernels have.

    Attributes
    ----------
    rank : int
        Number of spatial axes.
    tail : int
        Channels in the last vector if it is not full, else 0.
    pattern : tuple of tuple of int
        For the whole row if `unrolled`; else for the positions of a tile, counted from the element
        that tap 0 of the first one meets.
    unrolled : bool
        True if the tiles of a row are unrolled.
    prefetch : bool
        True if elements of later tiles are prefetched while a tile is summed.
    alignment : int
        The tiles of a row that is not unrolled begin at multiples of it. An input gradient has its
        stride, since patterns repeat after as many positions; else 1.
    """

    rank: int
    tail: int
    pattern: Pattern
    unrolled: bool
    prefetch: bool
    alignment: int

    in_lanes = "channels"
    operands = "vectors of channels"
    edges = "tables of offsets leave out elements in zeros; short rows are unrolled without them"
    overlapping: ClassVar[bool]
    """True if the last tile of a row may overlap the one before, since its sums are stored."""


def loop_over_vectors(
    code: Code, schedule: DepthwiseSchedule, panel: Value, vectors: int,
    visit: Callable[[Value, Mask | None], None],
) -> None:  # fmt: skip
    """Visit the first channel and the mask of every `vectors` vectors of a panel of channels.

    The mask is None but for the tail, the last vector of all channels if it is not full.
    """
    width = schedule.lanes * vectors
    low, high = block(panel, code["panel"], code["filters"])
    with code.loop(low, high - (width - 1), width) as d:
        visit(d, None)
    if schedule.tail:
        with code.when(high.equals(code["filters"])):
            tail = code.number(schedule.tail)
            visit(high - tail, code.first_lanes(tail, schedule.lanes))


def loop_over_tiles(
    code: Code, schedule: DepthwiseSchedule, columns: int, x: Pointer, y: Pointer,
    write: TileWriter,
) -> None:  # fmt: skip
    """Loop over the tiles of a row, of `columns` positions each."""
    axis, pattern = schedule.rank - 1, schedule.pattern
    y_stride, out = code[f"y_stride{axis}"], code[f"out{axis}"]

    def write_at(w: Value, pattern: Pattern) -> None:
        count = w // schedule.alignment
        start = code["x_first"] + count * code["x_advance"]
        border = (w < code["inside"]) | (code["outside"] < w + len(pattern))
        with code.builder.if_else(border.ir) as (at_border, in_interior):
            with at_border:
                table = code.array(f"table{axis}", "int64").at(count * code["advance"])
                write(x, y.at(w * y_stride), pattern, table)
            with in_interior:
                write(x.at(start), y.at(w * y_stride), pattern, None)

    if schedule.unrolled:
        for o in range(0, len(pattern), columns):
            write(x.at(code["x_first"]), y.at(y_stride * o), pattern[o : o + columns], None)
    elif schedule.overlapping:
        with code.loop(0, out, columns) as w:
            write_at(w.minimum(out - columns), pattern)
    else:
        full_tiles = out - out % columns
        with code.loop(0, full_tiles, columns) as w:
            write_at(w, pattern)
        with code.loop(full_tiles, out) as w:
            write_at(w, pattern[:1])


def loop_over_elements(
    code: Code, x_rows: list[Pointer], pattern: Pattern, table: Pointer | None, x_stride: Value,
    visit: Callable[[list[Pointer], Pairs], None],
) -> None:  # fmt: skip
    """Visit each element of the rows `x_rows` of x that taps meet.

    Visits its address in each row, and the pairs of position and tap that meet it.
    """
    pairs_of_element: dict[int, list[tuple[int, int]]] = {}
    for p, taps in enumerate(pattern):
        for k, j in enumerate(taps):
            if j != NO_ELEMENT:
                pairs_of_element.setdefault(j, []).append((p, k))
    last_element = min(pairs_of_element, default=0)
    pointers = [x.at(x_stride * last_element) for x in x_rows]
    for j in sorted(pairs_of_element):
        if table is not None:
            offset = table.at(j).load()
            with code.when(offset >= 0):
                visit([x.at(offset) for x in x_rows], pairs_of_element[j])
            continue
        if j > last_element:
            pointers = [x.at(x_stride * (j - last_element)) for x in pointers]
        last_element = j
        visit(pointers, pairs_of_element[j])


def tap_arguments(
    sig: Signature, axes: list[Sources], size: tuple[int, ...], unrolled: bool
) -> dict[str, Any]:
    """List the kernel arguments for the elements that taps meet, of an array x of this size."""
    last, x_stride = axes[-1], sig.x_strides[-2]
    inside, outside = interior(last, size[-1])
    lowest = [lowest_offset(n, s) for n, s in zip(size, sig.x_strides[1:-1], strict=True)]
    elements = [axis.elements() for axis in axes[:-1]] + [last.padded]
    tables = list(map(to_offsets, elements, sig.x_strides[1:-1], lowest))
    return {
        "x": sum(lowest) * ITEMSIZE[sig.x.stored], "x_batch": sig.x_strides[0],
        "x_stride": x_stride, "x_first": (0 if unrolled else -last.first * x_stride) - lowest[-1],
        "x_advance": last.advance * x_stride, "advance": last.advance, "inside": inside,
        "outside": outside, "y": 0, "y_batch": sig.y_strides[0], "f": 0,
        "filters": sig.geometry.filters,
        **axis_arguments(sig, tables, tuple(axis.count for axis in axes)),
    }  # fmt: skip


def suits(sig: Signature, backwards: bool) -> bool:
    """True if the kernels compute this call: one contiguous real channel in and out per group.

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
    out, stride = g.size[-1], g.stride[-1]
    fits = is_unrolled(out, g.kernel[-1]) or (out % stride == 0 and stride <= 4)
    return not backwards or stride == 1 or fits


def is_unrolled(out: int, kernel: int) -> bool:
    """True if the tiles of a row of `out` positions are unrolled."""
    return out <= MAX_UNROLLED_ROW and out * kernel <= MAX_UNROLLED_TAPS


def exceeds_caches(g: Geometry) -> bool:
    """True if a core's own caches do not hold x and y."""
    return prod(g.x_shape) + prod(g.y_shape) > MAX_CACHED
