"""Choose the panels of a dense convolution, and pack a filter into them: see `cpu.conv.packing`.

A complex channel is two real channels; see `complex_as_real`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import Target, host_target
from einstride.cpu import complex_as_real
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.conv.packing import packing_call
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, allocate
from einstride.cpu.runtime.argument_block import Call, Layout, dtype_name, layout
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_strides, packed
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

SLICE_BYTES = 384 << 10
"""Bytes of the slice of a panel that is used at once; chosen to stay in a core's second-level
cache."""


@dataclass(frozen=True)
class PanelLayout:
    """The register tile and the panels of a convolution.

    Attributes
    ----------
    parts : int
        2 for complex numbers, else 1.
    lanes, vectors : int
        Elements in a vector, vectors in a panel.
    rows : int
        Rows of the register tile: positions, or input channels in a filter gradient.
    per_group : int
        Number of panels of one group.
    """

    parts: int
    lanes: int
    vectors: int
    rows: int
    per_group: int

    @property
    def width(self) -> int:
        """The number of elements in a row of a panel."""
        return self.lanes * self.vectors


@cached(1024)
def panel_layout(compute: str, columns: int, target: Target) -> PanelLayout:
    """Choose the register tile for `columns` output channels in a group; it uses all registers."""
    parts = 2 if compute in PARTS else 1
    lanes = target.lanes(ITEMSIZE[real(compute)])
    all_vectors = -(-columns * parts // lanes)
    max_vectors = 4 if target.registers >= 32 else 2
    count = -(-all_vectors // max_vectors)
    vectors = -(-all_vectors // count)
    rows = min((target.registers - 1 - vectors) // vectors, 14 if target.registers >= 32 else 6)
    return PanelLayout(parts, lanes, vectors, 6 if vectors == 4 else rows, count)


def panel_bytes(g: Geometry, compute: str, target: Target) -> int:
    """Count the bytes of a packed filter."""
    panel = panel_layout(compute, g.filters // g.groups, target)
    inner = g.channels // g.groups * panel.parts
    count = prod(g.kernel) * inner * panel.width * panel.per_group * g.groups
    return count * ITEMSIZE[real(compute)] + CACHE_LINE


@kept
def panel_tables(
    g: Geometry, panel: PanelLayout, x_channel: int, y_channel: int
) -> tuple[Any, ...]:
    """List each panel's offsets in x and in y, its first output channel, and their number."""
    columns = g.filters // g.groups * panel.parts
    first = np.arange(panel.per_group) * panel.width
    group = np.arange(g.groups)[:, None]
    inside = np.broadcast_to(first, (g.groups, panel.per_group))
    column = group * columns + first
    x = np.broadcast_to(group * (g.channels // g.groups) * x_channel, column.shape)
    tables = (
        x,
        column // panel.parts * y_channel,
        column,
        np.minimum(panel.width, columns - inside),
    )
    return tuple(np.ascontiguousarray(t.ravel(), np.int64) for t in tables)


def pack(f: Any, g: Geometry, compute: str, launch: Any, threads: int) -> Any:
    """Pack a filter (*K, C // G, D) with any strides into panels."""
    panel = panel_layout(compute, g.filters // g.groups, host_target())
    if panel.parts == 2:
        f = complex_as_real.filters(f)
    inner = g.channels // g.groups * panel.parts
    shape = (panel.per_group * g.groups, prod(g.kernel), inner, panel.width)
    panels = allocate(launch, shape, real(compute))
    packing(g, layout(f), compute, threads, host_target())(launch, f=f, panels=panels)
    return panels


def is_packed(f: Any, g: Geometry, compute: str, target: Target) -> bool:
    """True if the filter has one panel, and the same memory layout as this panel."""
    panel = panel_layout(compute, g.filters, target)
    one_panel = g.groups == panel.per_group == panel.parts == 1 and panel.width == g.filters
    return bool(one_panel and dtype_name(f) == compute and packed(f))


@kept
def packing(g: Geometry, f: Layout, compute: str, threads: int, target: Target) -> Call:
    """Make the call that packs a real filter; it needs the arrays f and panels."""
    panel = panel_layout(compute, g.filters // g.groups, target)
    operand = real(f.dtype)
    *taps, channel, column = element_strides(f.strides, ITEMSIZE[operand])
    _, _, first, counts = panel_tables(g, panel, 0, 0)
    inner = g.channels // g.groups * panel.parts
    return packing_call(
        (operand, real(compute)), panel.lanes, panel.vectors, grid(g.kernel, taps), inner,
        (channel, column), first * column, counts, threads, target, inner,
    )  # fmt: skip
