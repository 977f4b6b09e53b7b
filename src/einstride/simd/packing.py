"""How output channels are cut into vectors and panels, and the filter brought into them.

Complex numbers are pairs of real channels: x of C complex channels is read as 2C real ones, and the
filter's panels hold [[re, im], [-im, re]] for each number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from einstride.dtypes import ITEMSIZE
from einstride.geometry import Geometry
from einstride.simd import panels
from einstride.simd.compiler import Machine, kernel, machine
from einstride.simd.host import Call, address, name_of

PARTS = {"complex64": "float32", "complex128": "float64"}
SLICE_BYTES = 384 << 10
"""The part of a panel that is gone through at once: it stays in a core's second cache."""


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
def columns(g: Geometry, s: Shape, x_channel: int, y_channel: int) -> tuple[Any, ...]:
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
    taps = prod(g.kernel)
    inner = g.channels // g.groups * s.parts
    found = np.empty((s.per_group * g.groups, taps, inner, s.width), real(compute))
    packing(f, g, compute, threads, on)(launch, f=address(f), panels=address(found))
    return found


def packing(f: Any, g: Geometry, compute: str, threads: int, on: Machine) -> Call:
    """The kernel that packs arrays like f, of real numbers: wants the addresses f and panels."""
    s = shape(compute, g.filters // g.groups, on)
    part = real(name_of(f))
    steps = tuple(t // ITEMSIZE[part] for t in f.strides)
    return _packing(g, s, part, real(compute), steps, threads, on)


def is_packed(f: Any, g: Geometry, compute: str, on: Machine) -> bool:
    """Does the filter lie in memory as its only panel would?"""
    s = shape(compute, g.filters, on)
    whole = g.groups == s.per_group == s.parts == 1 and s.width == g.filters
    return bool(whole and name_of(f) == compute and f.flags.c_contiguous)


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
    _, _, first, counts = columns(g, s, 0, 0)
    firsts = first * column
    function = kernel(
        "panels", panels.kernel, operand, compute, s.lanes, s.vectors, column == 1, on=on
    )
    inner = g.channels // g.groups * s.parts
    size = prod(g.f_shape) * s.parts**2
    values = {
        "chunks": len(first) * len(grid), "taps": len(grid), "channels": inner,
        "tap_offsets": address(grid), "f_channel": channel, "f_column": column,
        "panel_f": address(firsts), "panel_columns": address(counts),
    }  # fmt: skip
    keep = (grid, firsts, counts)
    return Call(function, panels.ARGUMENTS, values, threads if size > 1 << 17 else 1, keep)
