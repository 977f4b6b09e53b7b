"""What channelwise kernels share: how arrays lie, where the interior is, tables for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import Machine
from einstride.codegen.vector_formats import Format
from einstride.cpu.runtime import operands
from einstride.cpu.runtime.argument_block import address
from einstride.cpu.runtime.offset_tables import lowest_offset, offsets
from einstride.geometry.arithmetic import COMPLEXES, ITEMSIZE
from einstride.geometry.convolution import Geometry

REAL = {"complex64": "float32", "complex128": "float64"}

FEW = 1 << 20
"""Multiply-adds that are done before another thread could begin."""

MOST_LANES = 32
"""Positions that rounding to whole vectors may take from the interior, on both sides."""

Steps = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """The arrays of a call, by all that a kernel must know but their addresses.

    Attributes
    ----------
    geometry : Geometry
        Of the forward convolution.
    stored : tuple of str
        The dtypes of x, and of y or gy.
    compute : str
        The dtype of products and sums.
    x_steps, y_steps : tuple of int
        Strides, counted in real numbers.
    threads : int
        How many there may be.
    machine : Machine
        Whose vectors.
    """

    geometry: Geometry
    stored: tuple[str, str]
    compute: str
    x_steps: Steps
    y_steps: Steps
    threads: int
    machine: Machine

    @property
    def parts(self) -> int:
        """Real numbers in a number."""
        return 2 if self.compute in COMPLEXES else 1

    @property
    def lanes(self) -> int:
        """Real numbers in a vector."""
        return self.machine.lanes(ITEMSIZE[self.compute] // self.parts)

    @property
    def room(self) -> int:
        """Vectors of sums that registers hold, with some to spare."""
        return (24 if self.machine.registers == 32 else 10) // self.parts

    @property
    def x(self) -> Format:
        """The numbers of x."""
        return _format(self.stored[0], self.compute)

    @property
    def y(self) -> Format:
        """The numbers of y or gy."""
        return _format(self.stored[1], self.compute)

    @property
    def unit(self) -> tuple[bool, bool]:
        """Do neighbouring channels of x and of y lie side by side?"""
        return self.x_steps[-1] == self.parts, self.y_steps[-1] == self.parts

    @property
    def merged(self) -> bool:
        """Do vectors of channels hold whole groups?"""
        g = self.geometry
        inputs, outputs = g.channels // g.groups, g.filters // g.groups
        whole = self.lanes // self.parts % outputs == 0 and self.lanes * inputs > outputs
        return g.groups > 1 and inputs <= 16 and whole

    @property
    def along(self) -> bool:
        """Do vectors run along a row of positions? Where only these lie side by side."""
        if self.y_steps[-2] != self.parts and self.x_steps[-2] != self.parts:
            return False
        return not self.unit[1] or self.geometry.filters == 1

    @property
    def used(self) -> int:
        """Threads that this is enough work for."""
        return self.threads if self.geometry.multiply_adds * self.parts**2 >= FEW else 1

    def words(self, tables: list[Any]) -> dict[str, int]:
        """The words that all kernels have."""
        g, xs, ys = self.geometry, self.x_steps, self.y_steps
        back = lowest_offset(g.size[-1], xs[-2])
        found = {
            "x_batch": xs[0], "x_channel": xs[-1],
            "x_stride": g.stride[-1] * xs[-2], "x_tap": g.dilation[-1] * xs[-2],
            "x_step": xs[-2],
            "x_back": -back,
            "x_first": -g.padding[-1][0] * xs[-2] - back,
            "y_batch": ys[0], "y_channel": ys[-1],
            "channels": g.channels // g.groups, "groups": g.groups, "filters": g.filters,
            "all_rows": prod(g.out[:-1]),
        }  # fmt: skip
        for a in range(g.rank):
            axis = (address(tables[a]), g.kernel[a], g.out[a], ys[a + 1])
            names = ("table", "taps", "out", "y_step")
            found |= {f"{name}{a}": value for name, value in zip(names, axis, strict=True)}
        return found


def _format(stored: str, compute: str) -> Format:
    return Format(REAL.get(stored, stored), REAL.get(compute, compute), compute in COMPLEXES)


def axis_names(rank: int) -> tuple[str, ...]:
    """The words of each axis."""
    return tuple(f"{name}{a}" for a in range(rank) for name in ("table", "taps", "out", "y_step"))


def steps(shape: Steps, strides: Steps, dtype: Any) -> Steps:
    """Strides in real numbers; an axis of one element counts as one without gaps."""
    parts = 2 if dtype.kind == "c" else 1
    return operands.element_strides(strides, dtype.itemsize // parts, shape, parts)


def interior(g: Geometry) -> tuple[int, int]:
    """The positions of the last axis whose taps all meet x, as a range."""
    s, low = g.stride[-1], g.padding[-1][0]
    first = min(max(-(-low // s), 0), g.out[-1])
    stop = (g.size[-1] + low - g.extent[-1]) // s + 1
    return first, max(min(stop, g.out[-1]), first)


def whole_vectors(form: Form) -> tuple[int, int]:
    """The interior, less what does not fill a vector of positions."""
    g, each = form.geometry, form.lanes // form.parts
    first, stop = interior(g)
    first = min(-(-first // each) * each, g.out[-1])
    return first, max(first, first + (stop - first) // each * each)


def tables(form: Form, inside: tuple[int, int], by_tap: bool) -> tuple[list[Any], int]:
    """Where the taps of each position lie, by axis; and bytes to add to the address of x.

    Of the last axis only the positions outside of `inside` are listed, tap by tap if `by_tap`. An
    offset is negative only in a border of zeros, also where x runs backwards in memory.
    """
    g, found, shift = form.geometry, [], 0
    for a in range(g.rank):
        last = a == g.rank - 1
        listed = np.delete(np.arange(g.out[a]), slice(*inside)) if last else None
        table, back = offsets(g, a, form.x_steps[a + 1], listed)
        found.append(np.ascontiguousarray(table.T) if last and by_tap else table)
        shift += back
    return found, shift * (ITEMSIZE[form.stored[0]] // (2 if form.stored[0] in COMPLEXES else 1))


def entries(g: Geometry) -> int:
    """Numbers in the tables, at most; in the making there are three times as many."""
    first, stop = interior(g)
    border = g.out[-1] - max(stop - first - MOST_LANES, 0)
    outer = sum(o * k for o, k in zip(g.out[:-1], g.kernel[:-1], strict=True))
    return outer + border * g.kernel[-1] + max(g.size) + sum(map(max, g.padding))
