"""Assign the channels of groups to vectors, and pack the filter accordingly.

A panel is one vector with the output channels of several small groups, or a few vectors with part
of one large group. A packed filter is (panel, outer tap, channel, tap of the last axis, vector),
with zeros where a group has no channel, so that products read it contiguously.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target
from einstride.cpu.grouped import pack as pack_kernels
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

MOST_TAPS = 7
"""Taps of the last axis for which grouped kernels are used, at most; their code is written out."""


@dataclass(frozen=True)
class ChannelLayout:
    """The layout of grouped channels in vectors.

    Attributes
    ----------
    lanes, vectors : int
        Elements in a vector; vectors in a panel, more than one only for a part of one group.
    groups : int
        Groups in a panel.
    columns : int
        Output channels of a group.
    inputs : int
        Input channels of a group.
    block : int
        Input channels of each group of a panel that one vector of x holds.
    per_group : int
        Panels of one group; 1 if a panel holds several groups.
    """

    lanes: int
    vectors: int
    groups: int
    columns: int
    inputs: int
    block: int
    per_group: int

    @property
    def width(self) -> int:
        """The number of elements in a row of a panel."""
        return self.lanes * self.vectors

    @property
    def blocks(self) -> int:
        """The number of blocks of input channels in a group."""
        return -(-self.inputs // self.block)

    @property
    def x_width(self) -> int:
        """The number of elements in the full vectors of a panel's input channels."""
        if self.groups > 1:
            return self.blocks * self.lanes
        return -(-self.blocks * self.block // self.lanes) * self.lanes

    @property
    def contiguous(self) -> bool:
        """True if a vector of input channels is contiguous in x."""
        return self.groups == 1 or self.blocks == 1

    def panels(self, groups: int) -> int:
        """Return the number of panels of all `groups` of a convolution."""
        return -(-groups // self.groups) * self.per_group

    @property
    def order(self) -> list[list[int]]:
        """For each channel of a block: the lane of x that each lane of the product multiplies."""
        if self.groups == 1:
            return []
        last = self.groups - 1
        return [
            [min(lane // self.columns, last) * self.block + c for lane in range(self.lanes)]
            for c in range(self.block)
        ]


@cached(1024)
def channel_layout(g: Geometry, compute: str, target: Target, max_block: int = 0) -> ChannelLayout:
    """Choose a geometry's layout; with `max_block`, one vector and blocks of at most that size."""
    lanes = target.lanes(ITEMSIZE[compute])
    inputs, columns = g.channels // g.groups, g.filters // g.groups
    panel_groups = min(max(lanes // columns, 1), g.groups)
    all_vectors = -(-columns // lanes)
    per_group = -(-all_vectors // (1 if max_block else 4 if target.registers >= 32 else 2))
    block = min(lanes // panel_groups, inputs, max_block or lanes)
    block = -(-inputs // -(-inputs // block))
    return ChannelLayout(
        lanes, -(-all_vectors // per_group), panel_groups, columns, inputs, block, per_group
    )


@kept
def panel_tables(g: Geometry, layout: ChannelLayout) -> tuple[Any, ...]:
    """List, for each panel, its first group, its first output channel, the number of its output
    channels, and the number of its groups' input channels."""  # fmt: skip
    numbers = np.arange(layout.panels(g.groups))
    group = numbers // layout.per_group * layout.groups
    panel_groups = np.minimum(layout.groups, g.groups - group)
    first = group * layout.columns + numbers % layout.per_group * layout.width
    count = np.where(
        layout.groups > 1, panel_groups * layout.columns,
        np.minimum(layout.width, layout.columns - numbers % layout.per_group * layout.width),
    )  # fmt: skip
    tables = (group, first, count, panel_groups * layout.inputs)
    return tuple(np.ascontiguousarray(t, np.int64) for t in tables)


def panel_bytes(g: Geometry, compute: str, target: Target) -> int:
    """Count the bytes of a packed filter."""
    layout = channel_layout(g, compute, target)
    rows = prod(g.kernel) * layout.blocks * layout.block
    return layout.panels(g.groups) * rows * layout.width * ITEMSIZE[compute] + CACHE_LINE


def pack(
    f: Any, g: Geometry, compute: str, launch: Any, threads: int, target: Target,
    transposed: bool = False,
) -> Any:  # fmt: skip
    """Pack a filter f (*K, C // G, D) with any strides into panels.

    With `transposed`, f is the filter of the forward pass whose input gradient `g` computes, (*K,
    D // G, C) in the terms of `g`, and its channels are exchanged.
    """
    layout = channel_layout(g, compute, target)
    shape = (
        layout.panels(g.groups),
        prod(g.kernel[:-1]),
        layout.blocks * layout.block,
        g.kernel[-1],
        layout.width,
    )
    panels = aligned_empty(shape, compute)
    call = _packing_call(g, layout, dtype_name(f), compute, f.strides, transposed, threads, target)
    call(launch, f=address(f), panels=address(panels))
    return panels


@kept
def _packing_call(
    g: Geometry, layout: ChannelLayout, operand: str, compute: str, strides: tuple[int, ...],
    transposed: bool, threads: int, target: Target,
) -> Call:  # fmt: skip
    *taps, inner, outer = element_strides(strides, ITEMSIZE[operand])
    if transposed:  # f: a group's outputs are the last axis but one; groups and inputs the last
        channel, column, group = outer, inner, outer * layout.inputs
    else:
        channel, column, group = inner, outer, outer * layout.columns
    offsets = grid(g.kernel, taps)
    groups, firsts, counts, _ = panel_tables(g, layout)
    inside = firsts - groups * layout.columns  # 0 if a panel holds several groups
    starts = np.ascontiguousarray(groups * group + inside * column)
    lane = np.arange(layout.width)
    lane_offsets = lane * column
    if layout.groups > 1:
        lane_offsets = lane // layout.columns * group + lane % layout.columns * column
    lane_offsets = np.ascontiguousarray(lane_offsets, np.int64)
    form = operand, compute, layout.lanes, layout.vectors
    if layout.groups == 1 and channel == 1 and column != 1:
        kernel = KernelSpec("grouped_panels", pack_kernels.transposing_kernel, (*form,), target)
    else:
        contiguous = bool((lane_offsets == lane).all())
        kernel = KernelSpec("grouped_panels", pack_kernels.kernel, (*form, contiguous), target)
    values = {
        "chunks": len(starts), "outer": prod(g.kernel[:-1]), "taps": g.kernel[-1],
        "channels": layout.inputs, "padded": layout.blocks * layout.block,
        "tap_offsets": address(offsets),
        "f_channel": channel, "lane_offsets": address(lane_offsets), "panel_f": address(starts),
        "panel_columns": address(counts),
    }  # fmt: skip
    tables = (offsets, lane_offsets, starts, counts)
    workers = threads if prod(g.f_shape) > 1 << 17 else 1
    return Call(kernel, pack_kernels.ARGUMENTS, values, workers, tables)
