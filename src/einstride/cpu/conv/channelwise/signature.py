"""What the kernel calls of channelwise and depthwise convolutions depend on, and offset tables.

The interior of a row is the range of output positions whose taps all meet x; kernels compute its
addresses. Offset tables give the addresses of the border positions and of the outer axes' taps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.complex_as_real import real
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import COMPLEXES, ITEMSIZE
from einstride.geometry.convolution import Geometry

MIN_THREADED = 1 << 20
"""Multiply-adds from which a call uses several threads: fewer take less time than to start one."""

MAX_ROUNDED_OFF = 32
"""Positions that `Signature.vector_interior` leaves out of the interior, at most, at both ends
together: twice the lanes of the widest vector. `entries` counts them as border."""

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """Everything that determines a kernel call except the addresses of its arrays.

    Attributes
    ----------
    geometry : Geometry
        The forward convolution.
    x, y : Format
        The formats of x, and of y or gy.
    x_strides, y_strides : tuple of int
        The strides of x, and of y or gy, counted in real numbers: a complex element has two.
    threads : int
        The most threads that the call may use.
    target : Target
        The target whose vectors and registers the kernel is compiled for.
    blocked : bool
        True if the sums of blocks of products may be added: see `blocked_sums`.
    """

    geometry: Geometry
    x: Format
    y: Format
    x_strides: Strides
    y_strides: Strides
    threads: int
    target: Target
    blocked: bool = False

    @property
    def parts(self) -> int:
        """Real numbers per element: 2 for complex dtypes, else 1."""
        return 2 if self.x.pairs else 1

    @property
    def lanes(self) -> int:
        """Real numbers per vector."""
        return self.target.lanes(ITEMSIZE[self.x.computed])

    @property
    def vector_positions(self) -> int:
        """Elements per vector."""
        return self.lanes // self.parts

    @property
    def accumulators(self) -> int:
        """Accumulators of a register tile, at most, or pairs of them for complex numbers."""
        return (24 if self.target.registers == 32 else 10) // self.parts

    @property
    def contiguous_channels(self) -> tuple[bool, bool]:
        """True for x, and for y, if neighbouring channels are contiguous in memory."""
        return self.x_strides[-1] == self.parts, self.y_strides[-1] == self.parts

    @property
    def spans_groups(self) -> bool:
        """True if a vector of output channels holds whole groups."""
        g = self.geometry
        inputs, outputs = g.channels // g.groups, g.filters // g.groups
        whole = self.vector_positions % outputs == 0 and self.lanes * inputs > outputs
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
    def vector_interior(self) -> tuple[int, int]:
        """The interior of a row, shortened at both ends to whole vectors of positions."""
        size, out = self.vector_positions, self.geometry.out[-1]
        first, stop = interior(self.geometry)
        first = min(-(-first // size) * size, out)
        return first, max(first, first + (stop - first) // size * size)

    @property
    def useful_threads(self) -> int:
        """Threads that the call has enough multiply-adds for."""
        return self.threads if self.geometry.multiply_adds * self.parts**2 >= MIN_THREADED else 1


def signature(
    g: Geometry, compute: str, x: tuple[str, Strides], y: tuple[str, Strides], threads: int,
    target: Target, backwards: bool = False, blocked: bool = False,
) -> Signature:  # fmt: skip
    """Make the signature of a call for arrays with these dtypes and strides in bytes.

    With `backwards`, x stands for gy and y for gx. An axis of one element gets the stride that it
    has in a contiguous array.
    """

    def strides(array: tuple[str, Strides], shape: Strides) -> Strides:
        dtype, byte_strides = array
        parts = 2 if dtype in COMPLEXES else 1
        return element_strides(byte_strides, ITEMSIZE[dtype] // parts, shape, parts)

    x_shape, y_shape = (g.y_shape, g.x_shape) if backwards else (g.x_shape, g.y_shape)
    x_format, y_format = (
        Format(real(dtype), real(compute), compute in COMPLEXES) for dtype, _ in (x, y)
    )
    return Signature(
        g, x_format, y_format, strides(x, x_shape), strides(y, y_shape), threads, target, blocked
    )


def interior(g: Geometry) -> tuple[int, int]:
    """Return the first position of the last axis whose taps all meet x, and one past the last."""
    s, low = g.stride[-1], g.padding[-1][0]
    first = min(max(-(-low // s), 0), g.out[-1])
    stop = (g.size[-1] + low - g.extent[-1]) // s + 1
    return first, max(min(stop, g.out[-1]), first)


def axis_arguments(sig: Signature, tables: Iterable[Any], out: Strides) -> dict[str, Any]:
    """List the kernel arguments of each spatial axis: its offset table, taps, outputs, stride."""
    arguments: dict[str, Any] = {}
    for a, table in enumerate(tables):
        arguments |= {
            f"table{a}": table, f"taps{a}": sig.geometry.kernel[a], f"out{a}": out[a],
            f"y_stride{a}": sig.y_strides[a + 1],
        }  # fmt: skip
    return arguments


def entries(g: Geometry, backwards: bool = False) -> int:
    """Count the entries of all offset tables, at most; making them takes three times their memory.

    With `backwards`, those of a depthwise input gradient, too, which have a row for each element.
    """
    first, stop = interior(g)
    border = g.out[-1] - max(stop - first - MAX_ROUNDED_OFF, 0)
    rows = list(map(max, g.out, g.size)) if backwards else g.out
    outer = sum(n * k for n, k in zip(rows[:-1], g.kernel[:-1], strict=True))
    return outer + border * g.kernel[-1] + max(g.size) + sum(map(max, g.padding))
