"""Assign the channels of groups to the lanes of vectors, and pack the filter accordingly.

A panel is one vector with the output channels of several small groups, or a few vectors with part
of one large group. A packed filter is (panel, outer tap, channel, tap of the last axis, vectors),
with zeros where a group has no channel, so that products read it contiguously: see
`cpu.conv.packing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import Target
from einstride.cpu.conv.packing import packing_call
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached


@dataclass(frozen=True)
class ChannelLayout:
    """The layout of grouped channels in vectors.

    Attributes
    ----------
    lanes, vectors : int
        Elements in a vector; vectors in a panel, more than one only for a part of one group.
    groups : int
        Groups in a panel.
    columns, inputs : int
        Output channels and input channels of a group.
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
    def panel_inputs(self) -> int:
        """The number of input channels in a panel: full blocks."""
        return self.blocks * self.block

    @property
    def x_width(self) -> int:
        """The number of elements in the full vectors of a panel's input channels."""
        if self.groups > 1:
            return self.blocks * self.lanes
        return -(-self.panel_inputs // self.lanes) * self.lanes

    @property
    def contiguous(self) -> bool:
        """True if a vector of input channels is contiguous in x."""
        return self.groups == 1 or self.blocks == 1

    def panels(self, groups: int) -> int:
        """Return the number of panels of all `groups` of a convolution."""
        return -(-groups // self.groups) * self.per_group

    def lanes_of_channel(self, c: int) -> list[int]:
        """List the lane of x that each lane of a product multiplies, for channel c of a block."""
        last = self.groups - 1
        return [min(lane // self.columns, last) * self.block + c for lane in range(self.lanes)]


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
    inside = numbers % layout.per_group * layout.width
    count = np.minimum(layout.width, panel_groups * layout.columns - inside)
    tables = group, group * layout.columns + inside, count, panel_groups * layout.inputs
    return tuple(np.ascontiguousarray(t, np.int64) for t in tables)


def panel_bytes(g: Geometry, compute: str, target: Target) -> int:
    """Count the bytes of a packed filter."""
    layout = channel_layout(g, compute, target)
    rows = prod(g.kernel) * layout.panel_inputs
    return layout.panels(g.groups) * rows * layout.width * ITEMSIZE[compute] + CACHE_LINE


def pack(f: Any, g: Geometry, compute: str, launch: Any, threads: int, target: Target) -> Any:
    """Pack a filter (*K, C // G, G, D // G) with any strides into panels."""
    layout = channel_layout(g, compute, target)
    inputs = layout.panel_inputs
    shape = layout.panels(g.groups), prod(g.kernel[:-1]), inputs, g.kernel[-1], layout.width
    panels = aligned_empty(shape, compute)
    if inputs > layout.inputs:
        panels[:, :, layout.inputs :] = 0
    call = _packing_call(g, dtype_name(f), compute, f.strides, threads, target)
    call(launch, f=address(f), panels=address(panels))
    return panels


@kept
def _packing_call(
    g: Geometry, operand: str, compute: str, strides: tuple[int, ...], threads: int, target: Target
) -> Call:  # fmt: skip
    layout = channel_layout(g, compute, target)
    *taps, channel, group, column = element_strides(strides, ITEMSIZE[operand])
    groups, firsts, counts, _ = panel_tables(g, layout)
    starts = groups * group + (firsts - groups * layout.columns) * column
    lane = np.arange(layout.width)
    offsets = lane // layout.columns * group + lane % layout.columns * column
    has_stride = layout.groups == 1 or bool((offsets == lane).all())
    return packing_call(
        (operand, compute), layout.lanes, layout.vectors, grid(g.kernel, taps), layout.inputs,
        (channel, column), starts, counts, threads, target, layout.panel_inputs,
        g.kernel[-1], None if has_stride else offsets,
    )  # fmt: skip
