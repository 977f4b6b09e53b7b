"""What the argument blocks of channelwise kernels depend on: arrays, interior, offset tables.

The interior of a row is the range of output positions whose taps all meet x; kernels compute its
addresses. Offset tables give the addresses of the border positions and of the outer axes' taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.runtime import operands
from einstride.cpu.runtime.argument_block import address
from einstride.cpu.runtime.offset_tables import lowest_offset, offsets
from einstride.geometry.arithmetic import COMPLEXES, ITEMSIZE
from einstride.geometry.convolution import Geometry

REAL = {"complex64": "float32", "complex128": "float64"}

MIN_THREADED = 1 << 20
"""Multiply-adds from which a call uses several threads: fewer take less time than to start one."""

MAX_ROUNDED_OFF = 32
"""Positions that `vector_interior` leaves out of the interior, at most, at both ends together:
twice the lanes of the widest vector. `entries` counts them as border."""

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """Everything that determines a kernel call except the addresses of its arrays.

    Attributes
    ----------
    geometry : Geometry
        The forward convolution.
    stored : tuple of str
        The dtypes of x, and of y or gy.
    compute : str
        The dtype of products and sums.
    x_strides, y_strides : tuple of int
        The strides of x, and of y or gy, counted in real numbers: a complex element has two.
    threads : int
        The most threads that the call may use.
    target : Target
        The target whose vectors and registers the kernel is compiled for.
    """

    geometry: Geometry
    stored: tuple[str, str]
    compute: str
    x_strides: Strides
    y_strides: Strides
    threads: int
    target: Target

    @property
    def parts(self) -> int:
        """Real numbers per element: 2 for complex dtypes, else 1."""
        return 2 if self.compute in COMPLEXES else 1

    @property
    def lanes(self) -> int:
        """Real numbers per vector."""
        return self.target.lanes(ITEMSIZE[self.compute] // self.parts)

    @property
    def accumulators(self) -> int:
        """Accumulators of a register tile, at most, or pairs of them for complex numbers."""
        return (24 if self.target.registers == 32 else 10) // self.parts

    @property
    def x(self) -> Format:
        """The format of x: its dtype in memory and the dtype of products."""
        return _format(self.stored[0], self.compute)

    @property
    def y(self) -> Format:
        """The format of y or gy: its dtype in memory and the dtype of sums."""
        return _format(self.stored[1], self.compute)

    @property
    def contiguous_channels(self) -> tuple[bool, bool]:
        """True for x, and for y, if neighbouring channels are contiguous in memory."""
        return self.x_strides[-1] == self.parts, self.y_strides[-1] == self.parts

    @property
    def spans_groups(self) -> bool:
        """True if a vector of output channels holds whole groups."""
        g = self.geometry
        inputs, outputs = g.channels // g.groups, g.filters // g.groups
        whole = self.lanes // self.parts % outputs == 0 and self.lanes * inputs > outputs
        return g.groups > 1 and inputs <= 16 and whole

    @property
    def along_positions(self) -> bool:
        """True if vectors run along a row of positions.

        So where positions are contiguous in x or y, and the channels of y are not, or it has one.
        """
        if self.y_strides[-2] != self.parts and self.x_strides[-2] != self.parts:
            return False
        return not self.contiguous_channels[1] or self.geometry.filters == 1

    @property
    def useful_threads(self) -> int:
        """Threads that the call has enough multiply-adds for."""
        return self.threads if self.geometry.multiply_adds * self.parts**2 >= MIN_THREADED else 1

    def arguments(self, tables: list[Any]) -> dict[str, int]:
        """List the kernel arguments that all channelwise kernels have."""
        g, x_strides, y_strides = self.geometry, self.x_strides, self.y_strides
        lowest = lowest_offset(g.size[-1], x_strides[-2])
        values = {
            "x_batch": x_strides[0], "x_channel": x_strides[-1],
            "window_stride": g.stride[-1] * x_strides[-2], "x_tap": g.dilation[-1] * x_strides[-2],
            "x_stride": x_strides[-2],
            "x_back": -lowest,
            "x_first": -g.padding[-1][0] * x_strides[-2] - lowest,
            "y_batch": y_strides[0], "y_channel": y_strides[-1],
            "channels": g.channels // g.groups, "groups": g.groups, "filters": g.filters,
            "all_rows": prod(g.out[:-1]),
        }  # fmt: skip
        for a in range(g.rank):
            axis_values = (address(tables[a]), g.kernel[a], g.out[a], y_strides[a + 1])
            names = ("table", "taps", "out", "y_stride")
            values |= {f"{name}{a}": value for name, value in zip(names, axis_values, strict=True)}
        return values


def _format(stored: str, compute: str) -> Format:
    return Format(REAL.get(stored, stored), REAL.get(compute, compute), compute in COMPLEXES)


def axis_arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments of each spatial axis."""
    return tuple(f"{name}{a}" for a in range(rank) for name in ("table", "taps", "out", "y_stride"))


def element_strides(shape: Strides, strides: Strides, dtype: Any) -> Strides:
    """Return the strides in bytes as strides in real numbers.

    An axis of one element gets the stride that it has in a contiguous array.
    """
    parts = 2 if dtype.kind == "c" else 1
    return operands.element_strides(strides, dtype.itemsize // parts, shape, parts)


def interior(g: Geometry) -> tuple[int, int]:
    """Return the first position of the last axis whose taps all meet x, and one past the last."""
    s, low = g.stride[-1], g.padding[-1][0]
    first = min(max(-(-low // s), 0), g.out[-1])
    stop = (g.size[-1] + low - g.extent[-1]) // s + 1
    return first, max(min(stop, g.out[-1]), first)


def vector_interior(sig: Signature) -> tuple[int, int]:
    """Return the interior, shortened at both ends to whole vectors of positions."""
    g, vector_positions = sig.geometry, sig.lanes // sig.parts
    first, stop = interior(g)
    first = min(-(-first // vector_positions) * vector_positions, g.out[-1])
    return first, max(first, first + (stop - first) // vector_positions * vector_positions)


def tables(sig: Signature, inside: tuple[int, int], by_tap: bool) -> tuple[list[Any], int]:
    """Make the offset tables of each axis' taps and positions; return bytes to add to x's address.

    The last axis' table lists only positions outside the range `inside`, as (tap, position) if
    `by_tap`, else as (position, tap). An offset is negative only where a tap meets padding of
    zeros, even if x has negative strides: the bytes to add make it so.
    """
    g, axis_tables, shift = sig.geometry, [], 0
    for a in range(g.rank):
        last = a == g.rank - 1
        border_outputs = np.delete(np.arange(g.out[a]), slice(*inside)) if last else None
        table, lowest = offsets(g, a, sig.x_strides[a + 1], border_outputs)
        axis_tables.append(np.ascontiguousarray(table.T) if last and by_tap else table)
        shift += lowest
    return axis_tables, shift * (
        ITEMSIZE[sig.stored[0]] // (2 if sig.stored[0] in COMPLEXES else 1)
    )


def entries(g: Geometry, backwards: bool = False) -> int:
    """Count the entries of all offset tables, at most; making them takes three times their memory.

    With `backwards`, those of a depthwise input gradient, too, which have a row for each element.
    """
    first, stop = interior(g)
    border = g.out[-1] - max(stop - first - MAX_ROUNDED_OFF, 0)
    rows = list(map(max, g.out, g.size)) if backwards else g.out
    outer = sum(n * k for n, k in zip(rows[:-1], g.kernel[:-1], strict=True))
    return outer + border * g.kernel[-1] + max(g.size) + sum(map(max, g.padding))
