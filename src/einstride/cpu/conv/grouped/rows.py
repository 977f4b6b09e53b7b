"""Divide rows into tiles, and copy the x of a tile to a staging buffer, for grouped kernels.

The staging buffer lies on the stack. It holds one vector for each position of x that a tile of a
row reads: the channels of all groups of the panel, and zeros in the border. Products then read x at
constant offsets, for any strides and padding.

A vector holds several small groups. A product needs channel c of each group: a shuffle moves it to
the lanes of the group's outputs. No element is multiplied by the filter of another group, not even
by a zero there, so a NaN stays in its group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.codegen.vector_formats import shuffle
from einstride.cpu.conv.grouped.shape import ChannelLayout
from einstride.cpu.runtime.offset_tables import sources
from einstride.geometry.convolution import Geometry

TileKind = tuple[tuple[bool, ...], ...]
"""For each position of a tile and each tap of the last axis: True if the tap may read x.

The tiles of a row with equal values are computed by the same code."""

MAX_TILE_KINDS = 4
"""Kinds of tiles that a kernel has code for, at most; chosen. A row with more kinds has one, whose
products at the border multiply zeros."""


@dataclass(frozen=True)
class Spec:
    """The parameters of a grouped kernel.

    Attributes
    ----------
    x_dtype, y_dtype, compute : str
        The dtypes of x, of y or gy, and of products and sums.
    layout : ChannelLayout
        The layout of channels in vectors.
    rank : int
        Number of spatial axes.
    stride, dilation : int
        Stride and dilation of the last axis.
    tile_kinds : tuple of TileKind
        The kinds of tiles in a row, in order.
    full_x, full_y : bool
        True if every panel fills its vectors of x, or of y.
    prefetch : bool
        True if the next row is prefetched.
    all_inside : bool
        True if all positions that tiles read lie in x, so that their stride is constant.
    """

    x_dtype: str
    y_dtype: str
    compute: str
    layout: ChannelLayout
    rank: int
    stride: int
    dilation: int
    tile_kinds: tuple[TileKind, ...]
    full_x: bool
    full_y: bool
    prefetch: bool
    all_inside: bool

    @property
    def taps(self) -> int:
        """The number of taps of the last axis."""
        return len(self.tile_kinds[0][0])

    @property
    def positions(self) -> int:
        """The number of positions in the longest tile."""
        return max(map(len, self.tile_kinds))

    def positions_read(self, kind: TileKind) -> dict[int, list[tuple[int, int]]]:
        """List the positions of x that a tile reads, with the (position, tap) pairs of each."""
        pairs: dict[int, list[tuple[int, int]]] = {}
        for p, taps in enumerate(kind):
            for k, reads in enumerate(taps):
                if reads:
                    pairs.setdefault(p * self.stride + k * self.dilation, []).append((p, k))
        return dict(sorted(pairs.items()))

    @property
    def staging_vectors(self) -> int:
        """The number of vectors in the staging buffer."""
        return max(len(self.positions_read(kind)) for kind in self.tile_kinds)


def divide_row(
    g: Geometry, max_tile: int
) -> tuple[tuple[TileKind, ...], list[tuple[int, int]], bool]:
    """Divide a row into tiles of at most `max_tile` positions.

    Returns the kinds of tiles, the range of positions of each kind, and `Spec.all_inside`.
    """
    width = g.out[-1]
    tile = -(-width // -(-width // max_tile))
    in_x = sources(g, g.rank - 1) >= 0
    for reads in (in_x, in_x | True):
        tile_kinds: list[TileKind] = []
        ranges: list[tuple[int, int]] = []
        for w in range(0, width, tile):
            kind = tuple(map(tuple, reads[w : w + tile].tolist()))
            if tile_kinds and tile_kinds[-1] == kind:
                ranges[-1] = (ranges[-1][0], w + len(kind))
            else:
                tile_kinds.append(kind)
                ranges.append((w, w + len(kind)))
        if len(tile_kinds) <= MAX_TILE_KINDS:
            break
    all_inside = g.padding_mode == "zeros" and reads is in_x
    return tuple(tile_kinds), ranges, all_inside


def range_arguments() -> tuple[str, ...]:
    """List the names of the arguments that hold the range of positions of each kind of tile."""
    return tuple(f"{end}{i}" for i in range(MAX_TILE_KINDS) for end in ("kind_start", "kind_stop"))


def allocate_aligned(code: Code, element: str, count: int) -> Pointer:
    """Allocate `count` elements on the stack, aligned to cache lines."""
    unaligned = code.scratch(element, count + 64)
    start = Value(code, code.builder.ptrtoint(unaligned.ir, INT64))
    return code.pointer((start + 63) & -64, element)


@dataclass(frozen=True)
class Source:
    """The channels of x of a panel in one row.

    If all positions lie in x, the first has the offset `first` from `x`, and neighbours are
    `stride` apart; else the table `offsets` holds their offsets. `inputs` is the number of the
    panel's input channels.
    """

    x: Pointer
    offsets: Pointer
    zeros: Pointer
    inputs: Value
    first: Value
    stride: Value


def load_x(
    code: Code, spec: Spec, source: Source, c0: Value, offset: Value, inside: bool = False
) -> Value:
    """Load a vector of x: channels from c0 on of all groups; zeros for a negative offset.

    With `inside`, the offset is never negative.
    """
    layout = spec.layout

    def select_inside(pointer: Pointer) -> Pointer:
        return pointer if inside else (offset >= 0).select_pointer(pointer, source.zeros)

    if layout.contiguous:
        width = layout.lanes if layout.groups == 1 else layout.groups * layout.block
        remaining = (source.inputs - c0).minimum(width)
        mask = None if spec.full_x else code.first_lanes(remaining, layout.lanes)
        pointer = select_inside(source.x.at(offset + c0))
        return pointer.load_as(spec.x_dtype, spec.compute, layout.lanes, mask)
    group_channels = (code.number(layout.inputs) - c0).minimum(layout.block)
    result: Value | None = None
    for j in range(layout.groups):
        count = (code.number(j * layout.inputs) < source.inputs).select(
            group_channels, code.number(0)
        )
        lanes = _mask_range(code, j * layout.block, count, layout.lanes)
        shift = c0 + j * (layout.inputs - layout.block)
        pointer = select_inside(source.x.at(offset + shift))
        part = pointer.load_as(spec.x_dtype, spec.compute, layout.lanes, lanes)
        result = part if result is None else lanes.select(part, result)
    return result if result is not None else code.zero(spec.compute, layout.lanes)


def fill_staging(
    code: Code, spec: Spec, source: Source, block: Value, kind: TileKind, staging: Pointer
) -> None:
    """Copy a block of channels, at each position that a tile reads, to the staging buffer."""
    computed_offset, last_position = source.first, 0
    for i, q in enumerate(spec.positions_read(kind)):
        for _ in range(q - last_position):
            computed_offset = computed_offset + source.stride
        last_position = q
        offset = computed_offset if spec.all_inside else source.offsets.at(q).load()
        vector = load_x(code, spec, source, block * spec.layout.block, offset, spec.all_inside)
        staging.at(i * spec.layout.lanes).store(vector)


def _mask_range(code: Code, first: int, count: Value, lanes: int) -> Mask:
    """Make a mask of `count` lanes from lane `first` on; `count` must not be negative."""
    if not first:
        return code.first_lanes(count, lanes)
    lanes_before = code.first_lanes(code.number(first), lanes)
    return code.first_lanes(count + first, lanes) ^ lanes_before


def broadcast_channel(spec: Spec, pointer: Pointer, c: Any) -> Value:
    """Broadcast channel c of each group, at a position of x, to the lanes of its outputs."""
    layout = spec.layout
    if layout.groups == 1:
        return pointer.code.splat(pointer.at(c).load(), layout.lanes)
    return shuffle(pointer.load(layout.lanes), layout.order[c])
