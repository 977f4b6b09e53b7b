"""The dense kernels' callers: forward convolution and filter gradient of arrays in memory.

Geometries here do not flip. Complex numbers are pairs of real channels: x of C complex channels is
read as 2C real ones, and the filter's panels hold [[re, im], [-im, re]] for each number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from einstride.dtypes import ITEMSIZE
from einstride.geometry import Geometry
from einstride.simd import dense, outer, panels
from einstride.simd.compiler import Machine, kernel, machine
from einstride.simd.host import Call, offsets, ranges, sources

PARTS = {"complex64": "float32", "complex128": "float64"}
SLICE_BYTES = 384 << 10
"""The part of a panel that is gone through at once: it stays in a core's second cache."""
REGION_BYTES = 192 << 10
"""The part of x and gy that a filter gradient sums over at once."""


def real(name: str) -> str:
    """The dtype of the real and imaginary parts."""
    return PARTS.get(name, name)


@dataclass(frozen=True)
class Shape:
    """How the output channels of a job are cut into vectors and panels.

    Attributes
    ----------
    parts : int
        2 for complex numbers, else 1.
    lanes, vectors : int
        Numbers in a vector, vectors in a panel.
    rows : int
        What else a tile holds: positions, or input channels.
    per_group : int
        Panels of one group.
    """

    parts: int
    lanes: int
    vectors: int
    rows: int
    per_group: int

    @property
    def width(self) -> int:
        """Numbers in a row of a panel."""
        return self.lanes * self.vectors


@lru_cache(maxsize=1024)
def shape(compute: str, columns: int, on: Machine) -> Shape:
    """The tile for so many output channels of one group: as many registers as there are."""
    parts = 2 if compute in PARTS else 1
    lanes = on.lanes(ITEMSIZE[real(compute)])
    every = -(-columns * parts // lanes)
    most = 4 if on.registers >= 32 else 2
    count = -(-every // most)
    vectors = -(-every // count)
    rows = min((on.registers - 1 - vectors) // vectors, 14 if on.registers >= 32 else 6)
    return Shape(parts, lanes, vectors, 6 if vectors == 4 else rows, count)


def panel_bytes(g: Geometry, compute: str, on: Machine) -> int:
    """The size of the filter as panels."""
    s = shape(compute, g.filters // g.groups, on)
    inner = g.channels // g.groups * s.parts
    return prod(g.kernel) * inner * s.width * s.per_group * g.groups * ITEMSIZE[real(compute)]


@lru_cache(maxsize=1024)
def _columns(g: Geometry, s: Shape, x_channel: int, y_channel: int) -> tuple[Any, ...]:
    """For each panel: offsets in x, in y and in all output channels, and how many it has."""
    columns = g.filters // g.groups * s.parts
    first = np.arange(s.per_group) * s.width
    group = np.arange(g.groups)[:, None]
    inside = np.broadcast_to(first, (g.groups, s.per_group))
    column = group * columns + first
    x = np.broadcast_to(group * (g.channels // g.groups) * x_channel, column.shape)
    tables = (x, column // s.parts * y_channel, column, np.minimum(s.width, columns - inside))
    return tuple(np.ascontiguousarray(t.ravel(), np.int64) for t in tables)


def pack(
    f: Any, g: Geometry, compute: str, launch: Any, threads: int, on: Machine | None = None
) -> Any:
    """The filter (*K, C // G, D), a view of any strides, as panels."""
    on = on or machine()
    s = shape(compute, g.filters // g.groups, on)
    if s.parts == 2:
        f = _pairs(f, g, compute)
    part, item = real(f.dtype.name), f.dtype.itemsize
    steps = [t // item for t in f.strides]
    taps = prod(g.kernel)
    inner = g.channels // g.groups * s.parts
    found = np.empty((s.per_group * g.groups, taps, inner, s.width), real(compute))
    call = _packing(g, s, part, real(compute), tuple(steps), threads, on)
    call(launch, f=_address(f), panels=_address(found))
    return found


def _pairs(f: Any, g: Geometry, compute: str) -> Any:
    """Complex f as real numbers (*K, 2C // G, 2D)."""
    part = np.dtype(real(compute))
    pairs = np.empty((*f.shape[:-2], f.shape[-2], 2, f.shape[-1], 2), part)
    pairs[..., 0, :, 0] = pairs[..., 1, :, 1] = f.real
    pairs[..., 0, :, 1] = f.imag
    np.negative(pairs[..., 0, :, 1], out=pairs[..., 1, :, 0])
    return pairs.reshape(*f.shape[:-2], 2 * f.shape[-2], 2 * f.shape[-1])


@lru_cache(maxsize=512)
def _packing(
    g: Geometry, s: Shape, operand: str, compute: str, steps: tuple[int, ...], threads: int,
    on: Machine,
) -> Call:  # fmt: skip
    *taps, channel, column = steps
    grid = np.zeros((), np.int64)
    for count, step in zip(g.kernel, taps, strict=True):
        grid = grid[..., None] + np.arange(count) * step
    grid = np.ascontiguousarray(grid.ravel())
    _, _, first, counts = _columns(g, s, 0, 0)
    firsts = first * column
    function = kernel(
        "panels", panels.kernel, operand, compute, s.lanes, s.vectors, column == 1, on=on
    )
    inner = g.channels // g.groups * s.parts
    size = prod(g.f_shape) * s.parts**2
    values = {
        "chunks": len(first) * len(grid), "taps": len(grid), "channels": inner,
        "tap_offsets": _address(grid), "f_channel": channel, "f_column": column,
        "panel_f": _address(firsts), "panel_columns": _address(counts),
    }  # fmt: skip
    keep = (grid, firsts, counts)
    return Call(function, panels.ARGUMENTS, values, threads if size > 1 << 17 else 1, keep)


def _address(a: Any) -> int:
    return int(a.__array_interface__["data"][0])


def correlate(
    x: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int,
    on: Machine | None = None,
) -> None:  # fmt: skip
    """out (B, *O, D) = conv(x, panels) + bias, of arrays whose strides are whole elements."""
    on = on or machine()
    call = _correlation(
        g, x.dtype.name, compute, out.dtype.name, x.strides, out.strides, threads, on
    )
    addresses = {"x": _address(x), "f": _address(packed), "y": _address(out)}
    if bias is not None:
        addresses["bias"] = _address(bias)
    call(launch, **addresses)


@lru_cache(maxsize=1024)
def _correlation(
    g: Geometry, operand: str, compute: str, result: str, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], threads: int, on: Machine,
) -> Call:  # fmt: skip
    s = shape(compute, g.filters // g.groups, on)
    items = ITEMSIZE[real(operand)], ITEMSIZE[real(result)]
    x_steps = [t // items[0] for t in x_strides]
    y_steps = [t // items[1] for t in y_strides]
    x_channel, y_channel = x_steps[-1], y_steps[-1]
    x_columns, y_columns, column, counts = _columns(g, s, x_channel, y_channel)
    inner = g.channels // g.groups * s.parts
    axes, base = _axes(g, x_steps, y_steps)
    dense_x = g.channels // g.groups == 1 or x_channel == s.parts
    dense_y = g.filters // g.groups == 1 or y_channel == s.parts
    tile = dense.Tile(
        real(operand), real(compute), real(result), s.lanes, s.rows, s.vectors,
        tuple(axis.table is not None for axis in axes), dense_x, dense_y,
    )  # fmt: skip
    item = ITEMSIZE[real(compute)]
    depth = max(SLICE_BYTES // (prod(g.kernel) * s.width * item), 32)
    if result != compute or not dense_y or depth >= inner:
        depth = inner
    positions = g.batch * prod(g.out)
    rows = _block(positions, len(column), threads, s)
    zeros = np.zeros(inner if dense_x else 1, real(operand))
    keep: list[Any] = [x_columns, y_columns, column, counts, zeros]
    inside = len(column) * prod(g.kernel) * inner * s.width * item <= SLICE_BYTES
    values = {
        "chunks": -(-positions // rows) * len(column), "blocks": -(-positions // rows),
        "block": rows, "positions": positions, "panels": len(column), "panels_inside": int(inside),
        "x": base * items[0], "zeros": _address(zeros), "x_channel": x_channel // s.parts or 1,
        "y_channel": y_channel // s.parts, "f_panel": prod(g.kernel) * inner * s.width,
        "channels": inner, "slice": depth, "panel_x": _address(x_columns),
        "panel_y": _address(y_columns), "panel_column": _address(column),
        "panel_columns": _address(counts),
    }  # fmt: skip
    for a, axis in enumerate(axes):
        table = axis.table
        keep.append(table)
        values |= {
            f"table{a}": 0 if table is None else _address(table),
            f"taps{a}": 1 if table is None else table.shape[1],
            f"x_first{a}": axis.first, f"x_step{a}": axis.step,
            f"out{a}": axis.out, f"y_step{a}": axis.y_step,
        }  # fmt: skip
    function = kernel("dense", dense.kernel, tile, on=on)
    return Call(function, dense.arguments(len(axes)), values, threads, keep)


def _block(positions: int, panels: int, threads: int, s: Shape) -> int:
    """Positions in a chunk: a few hundred, fewer where threads would have nothing to do."""
    share = positions * panels // (4 * threads) if threads > 1 else positions
    rows = max(min(share, 768), s.rows)
    count = -(-positions // rows)
    even = -(-positions // count)
    return -(-even // s.rows) * s.rows


@dataclass
class Axis:
    """The outputs along an axis: where they read x, by table or in even steps; where they write."""

    out: int
    y_step: int
    table: Any = None
    first: int = 0
    step: int = 0


def _axes(
    g: Geometry, x_steps: Sequence[int], y_steps: Sequence[int]
) -> tuple[list[Axis], int]:
    """The batch and each spatial axis, and what to add to the address of x.

    Axes in even steps that follow each other are made one: a 1x1 convolution has one axis in the
    end, and the kernel no coordinates to find.
    """
    axes, base = [_even(g.batch, y_steps[0], x_steps[0])], min((g.batch - 1) * x_steps[0], 0)
    for a in range(g.rank):
        step, low = x_steps[a + 1], g.padding[a][0]
        reach = (g.out[a] - 1) * g.stride[a] - low
        if g.kernel[a] == 1 and low <= 0 and reach < g.size[a]:
            axis = _even(g.out[a], y_steps[a + 1], step * g.stride[a])
            base += -low * step - axis.first
            before = axes[-1]
            if before.table is None and (
                before.out == 1
                or (before.y_step, before.step) == (axis.y_step * axis.out, axis.step * axis.out)
            ):
                count = before.out * axis.out
                axes[-1] = Axis(count, axis.y_step, None, before.first + axis.first, axis.step)
                continue
        else:
            table, back = offsets(g, a, step)
            base += back
            axis = Axis(g.out[a], y_steps[a + 1], np.ascontiguousarray(table, np.int64))
        axes.append(axis)
    return axes, base


def _even(count: int, y_step: int, step: int) -> Axis:
    return Axis(count, y_step, None, -min((count - 1) * step, 0), step)


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int,
    each: bool = False, on: Machine | None = None,
) -> None:  # fmt: skip
    """out (*K, C // G, D) of dtype compute = the filter gradient; (B, ...) for each example.

    Complex numbers: out is real, (*K, 2C // G, 2D), every part of x times every part of gy.
    """
    on = on or machine()
    call = _gradient(
        g, x.dtype.name, gy.dtype.name, compute, x.strides, gy.strides, out.strides, each,
        threads, on,
    )  # fmt: skip
    call(launch, x=_address(x), gy=_address(gy), gf=_address(out))


@lru_cache(maxsize=1024)
def _gradient(
    g: Geometry, first: str, second: str, compute: str, x_strides: tuple[int, ...],
    gy_strides: tuple[int, ...], gf_strides: tuple[int, ...], each: bool, threads: int, on: Machine,
) -> Call:  # fmt: skip
    s = shape(compute, g.filters // g.groups, on)
    item = ITEMSIZE[real(compute)]
    x_steps = [t // ITEMSIZE[real(first)] for t in x_strides]
    gy_steps = [t // ITEMSIZE[real(second)] for t in gy_strides]
    gf_steps = [t // item for t in gf_strides]
    gf_batch = gf_steps.pop(0) if each else 0
    x_columns, y_columns, column, counts = _columns(g, s, x_steps[-1], s.parts)
    inner = g.channels // g.groups * s.parts
    rows = min(s.rows, inner)
    rows = -(-inner // -(-inner // rows))  # the same tile for all of them, as far as that goes
    masked = bool((counts != s.width).any())
    tile = outer.OuterTile(
        real(first), real(second), real(compute), s.lanes, rows, s.vectors, g.rank, masked
    )
    taps = np.zeros((), np.int64)
    for count, step in zip(g.kernel, gf_steps[: g.rank], strict=True):
        taps = taps[..., None] + np.arange(count) * step
    taps = np.ascontiguousarray(taps.ravel())
    share = max(SLICE_BYTES // (len(taps) * s.width * item), rows)
    part = min(-(-min(share, inner) // rows) * rows, inner)
    while part > 4 * rows and -(-inner // part) * len(column) < 2 * threads:
        part = -(-(part // 2) // rows) * rows
    batch, lines = _region(g, s, item)
    values = {
        "chunks": len(column) * -(-inner // part) * (g.batch if each else 1),
        "panels": len(column), "slices": -(-inner // part), "slice": part, "channels": inner,
        "examples": g.batch if each else 1, "x_channel": x_steps[-1] // s.parts or 1,
        "x_batch": x_steps[0], "gy_batch": gy_steps[0], "gf_batch": gf_batch,
        "gf_channel": gf_steps[-2], "tap_offsets": _address(taps), "batch": g.batch,
        "region_batch": batch, "region_rows": lines, "panel_x": _address(x_columns),
        "panel_y": _address(y_columns), "panel_column": _address(column),
        "panel_columns": _address(counts),
    }  # fmt: skip
    keep: list[Any] = [taps, x_columns, y_columns, column, counts]
    base = 0
    for a in range(g.rank):
        table, back = offsets(g, a, x_steps[a + 1])
        base += back
        arrays = (np.ascontiguousarray(table, np.int64), *ranges(g, a))
        keep += arrays
        names = (f"table{a}", f"first{a}", f"last{a}")
        values |= {n: _address(v) for n, v in zip(names, arrays, strict=True)}
        values |= {f"taps{a}": g.kernel[a], f"out{a}": g.out[a], f"gy_step{a}": gy_steps[a + 1]}
    values["x"] = base * ITEMSIZE[real(first)]
    function = kernel("outer", outer.kernel, tile, on=on)
    return Call(function, outer.arguments(g.rank), values, threads, keep)


def _region(g: Geometry, s: Shape, item: int) -> tuple[int, int]:
    """Examples and outputs on the first axis in a region; the same for any number of threads."""
    inner = min(g.channels // g.groups * s.parts, 64)
    each = (inner * prod(g.stride) + s.width) * item * prod(g.out[1:])
    lines = max(REGION_BYTES // max(each, 1), 1)
    if lines >= g.out[0]:
        return max(lines // max(g.out[0], 1), 1), g.out[0]
    return 1, lines
