"""Choose the register tile and the panels of a dense convolution, and pack the filter.

A complex channel is two real channels; see `complex_as_real`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu import complex_as_real
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.dense import pack as pack_kernel
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
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
    layout = panel_layout(compute, g.filters // g.groups, target)
    inner = g.channels // g.groups * layout.parts
    count = prod(g.kernel) * inner * layout.width * layout.per_group * g.groups
    return count * ITEMSIZE[real(compute)] + CACHE_LINE


@kept
def panel_tables(
    g: Geometry, layout: PanelLayout, x_channel: int, y_channel: int
) -> tuple[Any, ...]:
    """List each panel's offsets in x and in y, its first output channel, and their number."""
    columns = g.filters // g.groups * layout.parts
    first = np.arange(layout.per_group) * layout.width
    group = np.arange(g.groups)[:, None]
    inside = np.broadcast_to(first, (g.groups, layout.per_group))
    column = group * columns + first
    x = np.broadcast_to(group * (g.channels // g.groups) * x_channel, column.shape)
    tables = (
        x,
        column // layout.parts * y_channel,
        column,
        np.minimum(layout.width, columns - inside),
    )
    return tuple(np.ascontiguousarray(t.ravel(), np.int64) for t in tables)


def pack(
    f: Any, g: Geometry, compute: str, launch: Any, threads: int, target: Target | None = None
) -> Any:
    """Pack a filter (*K, C // G, D) with any strides into panels."""
    target = target or host_target()
    layout = panel_layout(compute, g.filters // g.groups, target)
    if layout.parts == 2:
        f = complex_as_real.filters(f)
    taps = prod(g.kernel)
    inner = g.channels // g.groups * layout.parts
    panels = aligned_empty((layout.per_group * g.groups, taps, inner, layout.width), real(compute))
    packing(f, g, compute, threads, target)(launch, f=address(f), panels=address(panels))
    return panels


def packing(f: Any, g: Geometry, compute: str, threads: int, target: Target) -> Call:
    """Make the call that packs real arrays like f; it needs the addresses ``f`` and ``panels``."""
    layout = panel_layout(compute, g.filters // g.groups, target)
    part = real(dtype_name(f))
    f_strides = element_strides(f.strides, ITEMSIZE[part])
    return _packing_call(g, layout, part, real(compute), f_strides, threads, target)


def is_packed(f: Any, g: Geometry, compute: str, target: Target) -> bool:
    """True if the filter has one panel, and the same memory layout as this panel."""
    layout = panel_layout(compute, g.filters, target)
    one_panel = g.groups == layout.per_group == layout.parts == 1 and layout.width == g.filters
    return bool(one_panel and dtype_name(f) == compute and packed(f))


@kept
def _packing_call(
    g: Geometry, layout: PanelLayout, operand: str, compute: str, f_strides: tuple[int, ...],
    threads: int, target: Target,
) -> Call:  # fmt: skip
    *taps, channel, column = f_strides
    offsets = grid(g.kernel, taps)
    _, _, first, counts = panel_tables(g, layout, 0, 0)
    firsts = first * column
    order = "columns" if column == 1 else "channels" if channel == 1 else "any"
    kernel = KernelSpec(
        "panels",
        pack_kernel.kernel,
        (operand, compute, layout.lanes, layout.vectors, order),
        target,
    )
    inner = g.channels // g.groups * layout.parts
    size = prod(g.f_shape) * layout.parts**2
    values = {
        "chunks": len(first) * len(offsets), "taps": len(offsets), "channels": inner,
        "tap_offsets": address(offsets), "f_channel": channel, "f_column": column,
        "panel_f": address(firsts), "panel_columns": address(counts),
    }  # fmt: skip
    tables = (offsets, firsts, counts)
    return Call(kernel, pack_kernel.ARGUMENTS, values, threads if size > 1 << 17 else 1, tables)
