"""Divide rows into tiles, and load the x of several groups to a vector, for grouped kernels.

A vector of x holds the same channels of several small groups. A product needs channel c of each
group: a shuffle moves it to the lanes of the group's outputs. No element is multiplied by the
filter of another group, not even by a zero there, so a NaN stays in its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.vector_formats import Format, shuffle
from einstride.cpu.conv.grouped.layout import ChannelLayout, panel_tables
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.offset_tables import (
    lowest_offset,
    padded_elements,
    sources,
    to_offsets,
)
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry

MAX_TAPS = 7
"""Taps of the last axis for which grouped kernels are used, at most; their code is written out."""

MAX_TILE_KINDS = 4
"""Kinds of tiles that a kernel has code for, at most; chosen. A row with more kinds has one, whose
products at the border multiply zeros."""

TileKind = tuple[tuple[bool, ...], ...]
"""For each position of a tile and each tap of the last axis: True if the tap may read x.

The tiles of a row with equal values are computed by the same code."""


@dataclass(frozen=True)
class GroupedSchedule(Schedule):
    """What the schedules of both grouped kernels have.

    Attributes
    ----------
    layout : ChannelLayout
        The layout of channels in vectors.
    rank : int
        Number of spatial axes.
    stride, dilation : int
        Stride and dilation of the last axis.
    tile_kinds : tuple of TileKind
        The kinds of tiles in a row, in order.
    all_inside : bool
        True if all positions that tiles read lie in x, so that their stride is constant.
    full_x, full_y : bool
        True if every panel fills its vectors of x, or of y.
    """

    layout: ChannelLayout
    rank: int
    stride: int
    dilation: int
    tile_kinds: tuple[TileKind, ...]
    all_inside: bool
    full_x: bool
    full_y: bool

    in_lanes = "output channels of neighbouring groups, or of one"

    @property
    def taps(self) -> int:
        """The number of taps of the last axis."""
        return len(self.tile_kinds[0][0])

    def positions_read(self, kind: TileKind) -> dict[int, list[tuple[int, int]]]:
        """List the positions of x that a tile reads, with the (position, tap) pairs of each."""
        pairs: dict[int, list[tuple[int, int]]] = {}
        for p, taps in enumerate(kind):
            for k, reads in enumerate(taps):
                if reads:
                    pairs.setdefault(p * self.stride + k * self.dilation, []).append((p, k))
        return dict(sorted(pairs.items()))

    def load_x(
        self, x: Pointer, inputs: Value, c0: Value, offset: Value, inside: bool = False
    ) -> Value:
        """Load a vector of x: channels from c0 on of all groups; zeros for a negative offset.

        `inputs` is the number of the panel's input channels. With `inside`, the offset is never
        negative.
        """
        code, layout, lanes = x.code, self.layout, self.lanes

        def load(shift: Value, mask: Mask | None) -> Value:
            pointer = x.at(offset + shift)
            if not inside:
                zeros = code.array("zeros", self.x.stored)
                pointer = (offset >= 0).select_pointer(pointer, zeros)
            return pointer.load_as(self.x.stored, self.compute, lanes, mask)

        if layout.contiguous:
            width = lanes if layout.groups == 1 else layout.groups * layout.block
            remaining = (inputs - c0).minimum(width)
            return load(c0, None if self.full_x else code.first_lanes(remaining, lanes))
        group_channels = (code.number(layout.inputs) - c0).minimum(layout.block)
        result = code.zero(self.compute, lanes)
        for j in range(layout.groups):
            is_group = code.number(j * layout.inputs) < inputs
            count = is_group.select(group_channels, code.number(0))
            mask = _mask_range(code, j * layout.block, count, lanes)
            part = load(c0 + j * (layout.inputs - layout.block), mask)
            result = mask.select(part, result) if j else part
        return result

    def broadcast(self, position: Pointer, c: Any) -> Value:
        """Broadcast channel c of each group, at a position of x, to the lanes of its outputs."""
        if self.layout.groups == 1:
            return position.code.splat(position.at(c).load(), self.lanes)
        return shuffle(position.load(self.lanes), self.layout.lanes_of_channel(c))


def _divide_row(g: Geometry, max_tile: int) -> tuple[list[TileKind], list[tuple[int, int]], bool]:
    """Divide a row into tiles of at most `max_tile` positions.

    Returns the kinds of tiles, the range of positions of each, and `GroupedSchedule.all_inside`.
    """
    width = g.out[-1]
    tile = -(-width // -(-width // max_tile))
    in_x = sources(g, g.rank - 1) >= 0
    for reads in (in_x, in_x | True):
        kinds: list[TileKind] = []
        ranges: list[tuple[int, int]] = []
        for w in range(0, width, tile):
            kind = tuple(map(tuple, reads[w : w + tile].tolist()))
            if kinds and kinds[-1] == kind:
                ranges[-1] = (ranges[-1][0], w + len(kind))
            else:
                kinds.append(kind)
                ranges.append((w, w + len(kind)))
        if len(kinds) <= MAX_TILE_KINDS:
            break
    return kinds, ranges, g.padding_mode == "zeros" and reads is in_x


def describe_rows(
    g: Geometry, layout: ChannelLayout, x: Format, x_strides: Sequence[int], max_tile: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of `GroupedSchedule`, and the arguments that both kernels have."""
    kinds, ranges, all_inside = _divide_row(g, max_tile)
    groups, first, counts, inputs = panel_tables(g, layout)
    x_channels = layout.groups * layout.block  # in a vector of x
    full_x = layout.x_width == layout.inputs
    if layout.groups > 1:
        full_x = x_channels == layout.lanes and not (inputs % x_channels).any()
    fields = {
        "layout": layout, "rank": g.rank, "stride": g.stride[-1], "dilation": g.dilation[-1],
        "tile_kinds": tuple(kinds), "all_inside": all_inside, "full_x": bool(full_x),
        "full_y": bool((counts == layout.width).all()),
    }  # fmt: skip
    lowest = lowest_offset(g.size[-1], x_strides[-2])
    arguments: dict[str, Any] = {
        "x": lowest * ITEMSIZE[x.stored], "zeros": np.zeros(layout.lanes, x.stored),
        "row_offsets": to_offsets(padded_elements(g, g.rank - 1), x_strides[-2], lowest),
        "panels": len(first), "channel_blocks": layout.blocks,
        "panel_x": groups * layout.inputs, "panel_column": first, "panel_columns": counts,
        "panel_inputs": inputs,
    }  # fmt: skip
    for a in range(g.rank):
        arguments |= {f"taps{a}": g.kernel[a], f"out{a}": g.out[a]}
    for i, (start, stop) in enumerate(ranges):
        arguments |= {f"kind_start{i}": start, f"kind_stop{i}": stop}
    return fields, arguments


def _mask_range(code: Code, first: int, count: Value, lanes: int) -> Mask:
    """Make a mask of `count` lanes from lane `first` on; `count` must not be negative."""
    if not first:
        return code.first_lanes(count, lanes)
    lanes_before = code.first_lanes(code.number(first), lanes)
    return code.first_lanes(count + first, lanes) ^ lanes_before
