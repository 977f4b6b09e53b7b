"""Choose the panels of a dense convolution, and pack a filter into them.

A panel is (tap, channel, V vectors of columns): the convolution then reads the filter contiguously.
Columns are output channels; zeros fill the last panel. The filter may have any strides, so flipped
filters, the taps of one phase and the transposed filter of an input gradient are packed without
another copy. A complex channel is two real channels; see `complex_as_real`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER, bytes_of, letter
from einstride.codegen.jit import Machine, machine
from einstride.codegen.vector_ops import transpose
from einstride.cpu import complex_as_real
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.conv.loop_nest import look_up
from einstride.cpu.conv.register_tile import vector_masks
from einstride.cpu.runtime.aligned_memory import CACHE_LINE
from einstride.cpu.runtime.argument_block import Call, Layout, bind, dtype_name, layout
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_strides, packed
from einstride.cpu.runtime.recorder import allocate
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
def panel_layout(compute: str, columns: int, on: Machine) -> PanelLayout:
    """Choose the register tile for `columns` output channels in a group; it uses all registers."""
    parts = 2 if compute in PARTS else 1
    lanes = on.lanes(ITEMSIZE[real(compute)])
    all_vectors = -(-columns * parts // lanes)
    max_vectors = 4 if on.registers >= 32 else 2
    count = -(-all_vectors // max_vectors)
    vectors = -(-all_vectors // count)
    rows = min((on.registers - 1 - vectors) // vectors, 14 if on.registers >= 32 else 6)
    return PanelLayout(parts, lanes, vectors, 6 if vectors == 4 else rows, count)


def panel_bytes(g: Geometry, compute: str, on: Machine) -> int:
    """Count the bytes of a packed filter."""
    panel = panel_layout(compute, g.filters // g.groups, on)
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
    panel = panel_layout(compute, g.filters // g.groups, machine())
    if panel.parts == 2:
        f = complex_as_real.filters(f)
    inner = g.channels // g.groups * panel.parts
    shape = (panel.per_group * g.groups, prod(g.kernel), inner, panel.width)
    panels = allocate(launch, shape, real(compute))
    packing(g, layout(f), compute, threads, machine())(launch, f=f, panels=panels)
    return panels


def is_packed(f: Any, g: Geometry, compute: str, on: Machine) -> bool:
    """True if the filter has one panel, and the same memory layout as this panel."""
    panel = panel_layout(compute, g.filters, on)
    one_panel = g.groups == panel.per_group == panel.parts == 1 and panel.width == g.filters
    return bool(one_panel and dtype_name(f) == compute and packed(f))


@dataclass(frozen=True)
class Packing:
    """What the packing kernel is compiled for.

    Attributes
    ----------
    operand, compute : str
        The dtypes of f and of the panels.
    lanes, vectors : int
        Elements of a vector, vectors of a panel.
    order : str
        The contiguous axis of f: "columns" (output channels), "channels", or "any".
    """

    operand: str
    compute: str
    lanes: int
    vectors: int
    order: str


@kept
def packing(g: Geometry, f: Layout, compute: str, threads: int, on: Machine) -> Call:
    """Make the call that packs a real filter f; it needs the arrays f and panels."""
    panel = panel_layout(compute, g.filters // g.groups, on)
    operand = real(f.dtype)
    *taps, channel, column = element_strides(f.strides, ITEMSIZE[operand])
    offsets = grid(g.kernel, taps)
    _, _, first, counts = panel_tables(g, panel, 0, 0)
    order = "columns" if column == 1 else "channels" if channel == 1 else "any"
    inner = g.channels // g.groups * panel.parts
    size = prod(g.f_shape) * panel.parts**2
    arguments = {
        "chunks": len(first) * len(offsets), "f": 0, "panels": 0, "taps": len(offsets),
        "channels": inner, "tap_offsets": offsets, "f_channel": channel, "f_column": column,
        "panel_f": first * column, "panel_columns": counts,
    }  # fmt: skip
    spec = Packing(operand, real(compute), panel.lanes, panel.vectors, order)
    return bind("panels", kernel, spec, arguments, threads if size > 1 << 17 else 1, on)


def kernel(packing: Packing, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``panels``."""
    code = Code("panels", names)
    operand, compute = packing.operand, packing.compute
    lanes, vectors = packing.lanes, packing.vectors
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        taps, channels = code["taps"], code["channels"]
        panel, tap = chunk // taps, chunk % taps
        f = code.array("f", operand)
        f = f.at(look_up(code, "tap_offsets", tap)).at(look_up(code, "panel_f", panel))
        columns = look_up(code, "panel_columns", panel)
        panel_tap = code.array("panels", compute).at((panel * taps + tap) * channels * width)
        if packing.order == "channels":
            for v in range(vectors):
                f_vector = f.at(code["f_column"] * (v * lanes))
                _transpose_panel(code, f_vector, panel_tap.at(v * lanes), columns - v * lanes,
                                 operand, compute, lanes, width)  # fmt: skip
        else:
            masks = vector_masks(code, columns, lanes, vectors)
            with code.loop(0, channels) as c:  # the outer loop, since rows may lie far apart
                row = f.at(c * code["f_channel"])
                for v, mask in enumerate(masks):
                    if packing.order == "columns":
                        vector = row.at(v * lanes).load(lanes, mask)
                    else:
                        vector = _gather(row, code["f_column"], v * lanes, lanes, mask)
                    panel_tap.at(c * width + v * lanes).store(
                        code.convert(vector, operand, compute)
                    )
    return code.text()


def _transpose_panel(
    code: Code, f: Pointer, panel: Pointer, columns: Value, operand: str, compute: str, lanes: int,
    width: int,
) -> None:  # fmt: skip
    """Pack one vector of output channels, transposing lanes x lanes elements in registers."""
    channels = code["channels"]
    rows = [f.at(code["f_column"] * j) for j in range(lanes)]
    full_squares = (columns >= lanes).select(channels - channels % lanes, code.number(0))
    with code.loop(0, full_squares, lanes) as c:
        square = transpose([row.at(c).load_as(operand, compute, lanes) for row in rows])
        for j, vector in enumerate(square):
            panel.at((c + j) * width).store(vector)
    with code.loop(full_squares, channels, lanes) as c:
        depth = channels - c
        square = transpose(
            [
                row.at(c).load_as(
                    operand, compute, lanes,
                    code.first_lanes((columns >= j + 1).select(depth, code.number(0)), lanes),
                )
                for j, row in enumerate(rows)
            ]
        )  # fmt: skip
        for j, vector in enumerate(square):
            with code.when(depth >= j + 1):
                panel.at((c + j) * width).store(vector)


def _gather(pointer: Pointer, stride: Value, first: int, lanes: int, mask: Mask) -> Value:
    """Gather the elements at the offsets (first, first + 1, ...) * stride."""
    code, kind = pointer.code, ir.VectorType(pointer.element, lanes)
    numbers = ir.Constant(ir.VectorType(INT64, lanes), list(range(first, first + lanes)))
    size = bytes_of(pointer.element)
    base = code.splat(Value(code, code.builder.ptrtoint(pointer.ir, INT64)), lanes)
    addresses = base + Value(code, numbers) * code.splat(stride * size, lanes)
    pointers = Value(code, code.builder.inttoptr(addresses.ir, ir.VectorType(POINTER, lanes)))
    name = f"llvm.masked.gather.v{lanes}{letter(pointer.element)}.v{lanes}p0"
    return code.intrinsic(name, kind, [pointers, size, mask, Value(code, ir.Constant(kind, None))])
