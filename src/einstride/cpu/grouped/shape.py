"""How grouped channels are laid into vectors: several small groups side by side in one, or a part
of one large group in a few.

The filter is brought into panels of that shape first: (panel, outer tap, channel, tap of the last
axis, vector), zeros where a group has no channel, so that products read it as one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine
from einstride.cpu.grouped import pack as grouped_panels
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

MOST_TAPS = 7
"""Taps of the last axis that are written out."""


@dataclass(frozen=True)
class Lanes:
    """How the channels of groups lie in vectors.

    Attributes
    ----------
    lanes, vectors : int
        Numbers in a vector; vectors in a panel. Several only where they belong to one group.
    joined : int
        Groups in a panel.
    columns : int
        Output channels of a group.
    inputs : int
        Input channels of a group.
    block : int
        Input channels of each joined group that one vector of x holds.
    per_group : int
        Panels of one group; 1 where groups are joined.
    """

    lanes: int
    vectors: int
    joined: int
    columns: int
    inputs: int
    block: int
    per_group: int

    @property
    def width(self) -> int:
        """Numbers in a row of a panel."""
        return self.lanes * self.vectors

    @property
    def blocks(self) -> int:
        """Vectors of x that hold all channels of the groups of a panel."""
        return -(-self.inputs // self.block)

    @property
    def held(self) -> int:
        """Numbers that hold all of them, in whole vectors."""
        if self.joined > 1:
            return self.blocks * self.lanes
        return -(-self.blocks * self.block // self.lanes) * self.lanes

    @property
    def run(self) -> bool:
        """Is such a vector one run of x?"""
        return self.joined == 1 or self.blocks == 1

    def panels(self, groups: int) -> int:
        """How many there are."""
        return -(-groups // self.joined) * self.per_group

    @property
    def order(self) -> list[list[int]]:
        """For each channel of a block: which number of a vector of x every lane multiplies."""
        if self.joined == 1:
            return []
        last = self.joined - 1
        return [
            [min(lane // self.columns, last) * self.block + c for lane in range(self.lanes)]
            for c in range(self.block)
        ]


@cached(1024)
def lanes_of(g: Geometry, compute: str, on: Machine, most: int = 0) -> Lanes:
    """The layout for a geometry; with `most`, one vector, and so many channels in a block."""
    lanes = on.lanes(ITEMSIZE[compute])
    inputs, columns = g.channels // g.groups, g.filters // g.groups
    joined = min(max(lanes // columns, 1), g.groups)
    every = -(-columns // lanes)
    per_group = -(-every // (1 if most else 4 if on.registers >= 32 else 2))
    block = min(lanes // joined, inputs, most or lanes)
    block = -(-inputs // -(-inputs // block))
    return Lanes(lanes, -(-every // per_group), joined, columns, inputs, block, per_group)


@kept
def panel_tables(g: Geometry, s: Lanes) -> tuple[Any, ...]:
    """For each panel: its first group, its first output channel, how many it has of them, and how
    many input channels a row of x has for it."""  # fmt: skip
    numbers = np.arange(s.panels(g.groups))
    group = numbers // s.per_group * s.joined
    here = np.minimum(s.joined, g.groups - group)
    first = group * s.columns + numbers % s.per_group * s.width
    count = np.where(
        s.joined > 1, here * s.columns,
        np.minimum(s.width, s.columns - numbers % s.per_group * s.width),
    )  # fmt: skip
    tables = (group, first, count, here * s.inputs)
    return tuple(np.ascontiguousarray(t, np.int64) for t in tables)


def panel_bytes(g: Geometry, compute: str, on: Machine) -> int:
    """The size of the filter as panels."""
    s = lanes_of(g, compute, on)
    rows = prod(g.kernel) * s.blocks * s.block
    return s.panels(g.groups) * rows * s.width * ITEMSIZE[compute] + CACHE_LINE


def pack(
    f: Any, g: Geometry, compute: str, launch: Any, threads: int, on: Machine, turned: bool = False
) -> Any:
    """The filter as panels: f (*K, C // G, D), a view of any strides.

    `turned`: f is that of the forward pass whose input gradient this is, (*K, D // G, C) in the
    terms of g, and its channels exchange their roles on the way.
    """
    s = lanes_of(g, compute, on)
    shape = (s.panels(g.groups), prod(g.kernel[:-1]), s.blocks * s.block, g.kernel[-1], s.width)
    found = aligned_empty(shape, compute)
    call = _packing(g, s, dtype_name(f), compute, f.strides, turned, threads, on)
    call(launch, f=address(f), panels=address(found))
    return found


@kept
def _packing(
    g: Geometry, s: Lanes, operand: str, compute: str, strides: tuple[int, ...], turned: bool,
    threads: int, on: Machine,
) -> Call:  # fmt: skip
    *taps, inner, outer = element_strides(strides, ITEMSIZE[operand])
    if turned:  # outputs of a group are f's inner axis, groups and inputs share its outer one
        channel, column, group = outer, inner, outer * s.inputs
    else:
        channel, column, group = inner, outer, outer * s.columns
    offsets = grid(g.kernel, taps)
    groups, firsts, counts, _ = panel_tables(g, s)
    inside = firsts - groups * s.columns  # 0 where groups are joined
    starts = np.ascontiguousarray(groups * group + inside * column)
    lane = np.arange(s.width)
    where = lane * column
    if s.joined > 1:
        where = lane // s.columns * group + lane % s.columns * column
    where = np.ascontiguousarray(where, np.int64)
    form = operand, compute, s.lanes, s.vectors
    if s.joined == 1 and channel == 1 and column != 1:
        kernel = KernelSpec("grouped_panels", grouped_panels.turned, (*form,), on)
    else:
        dense = bool((where == lane).all())
        kernel = KernelSpec("grouped_panels", grouped_panels.kernel, (*form, dense), on)
    values = {
        "chunks": len(starts), "outer": prod(g.kernel[:-1]), "taps": g.kernel[-1],
        "channels": s.inputs, "padded": s.blocks * s.block, "tap_offsets": address(offsets),
        "f_channel": channel, "lane_offsets": address(where), "panel_f": address(starts),
        "panel_columns": address(counts),
    }  # fmt: skip
    keep = (offsets, where, starts, counts)
    used = threads if prod(g.f_shape) > 1 << 17 else 1
    return Call(kernel, grouped_panels.ARGUMENTS, values, used, keep)
