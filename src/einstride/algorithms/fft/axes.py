"""Split one axis of a convolution into tiles, and choose the period of their cyclic correlation.

A tile of T outputs reads a *frame* of positions: x at p, tap k at k * dilation, output o at
o * stride, and every product has p = o * stride + k * dilation. Over a period of L positions,

    y[o] = sum_p x[p] f[(p - o * stride) mod L]

is right if no element of x in [first, first + inputs) meets a tap of the next period: L >= end -
first and L >= first + inputs, where `end` is the length of the frame. Zeros around x therefore need
no positions of their own: a "same" convolution of one tile needs L = S + K // 2, not S + K - 1.
Integers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

Positions = tuple[int, int, int]
"""(first, step, count) of the positions of a signal's elements in the frame."""

DENSE = 160
"""Positions of the longest period that is transformed by a matrix; longer ones take an FFT."""

LONGEST = 1 << 22
"""Positions of the longest period: longer axes are split into tiles."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The tiles of one spatial axis and the period of their transforms.

    Attributes
    ----------
    period : int
        L, the length of the transform.
    tiles, outputs : int
        The number of tiles, and the outputs T of each; the last may have fewer.
    first, inputs : int
        The positions of the frame that hold elements of x.
    origin : int
        The index in x of position 0 of the first tile's frame; negative in the border.
    stride, dilation, kernel : int
        Stride, dilation and taps of the convolution.
    """

    period: int
    tiles: int
    outputs: int
    first: int
    inputs: int
    origin: int
    stride: int
    dilation: int
    kernel: int

    @property
    def half(self) -> int:
        """Count the frequencies of a real signal."""
        return self.period // 2 + 1

    @property
    def fast(self) -> bool:
        """True if the axis is transformed by FFT, False if by a matrix."""
        return self.period > DENSE

    @property
    def x_positions(self) -> Positions:
        """Return the positions of a tile of x."""
        return self.first, 1, self.inputs

    @property
    def f_positions(self) -> Positions:
        """Return the positions of the taps."""
        return 0, self.dilation, self.kernel

    @property
    def y_positions(self) -> Positions:
        """Return the positions of a tile's outputs."""
        return 0, self.stride, self.outputs

    @property
    def step(self) -> int:
        """Return the distance in x from one tile's frame to the next."""
        return self.outputs * self.stride


@cached(4096)
def fast_length(n: int) -> int:
    """Return the least even product of 2, 3, 5 and 7 that is at least n."""
    best = inf
    seven = 1
    while seven < best:
        five = seven
        while five < best:
            three = five
            while three < best:
                two = three * 2
                while two < n:
                    two *= 2
                best = min(best, two)
                three *= 3
            five *= 5
        seven *= 7
    return int(best)


def axis_of(g: Geometry, a: int, tiles: int) -> Axis:
    """Split axis `a` of a convolution into about `tiles` tiles."""
    out, s = g.out[a], g.stride[a]
    outputs = -(-out // tiles)
    tiles = -(-out // outputs)
    end = (outputs - 1) * s + g.extent[a]
    first, stop = 0, end
    low = g.padding[a][0]
    if tiles == 1 and g.padding_mode == "zeros":
        first = min(max(low, 0), end - 1)
        stop = max(min(end, low + g.size[a]), first + 1)
    smallest = max(end - first, stop)
    period = smallest
    if period > DENSE:  # an FFT needs a position for each tap and output
        period = fast_length(max(smallest, g.extent[a], (outputs - 1) * s + 1))
    return Axis(period, tiles, outputs, first, stop - first, -low, s, g.dilation[a], g.kernel[a])


@cached(4096)
def choices(g: Geometry, a: int, most: int) -> tuple[Axis, ...]:
    """List at most `most` ways to split axis `a`, the most promising first."""
    found: dict[int, Axis] = {}
    out, extent, s = g.out[a], g.extent[a], g.stride[a]
    wanted = {1, 2, 3, 4}
    lengths = [DENSE // 5 * i // 4 for i in (4, 6, 8, 12, 16, 20)]
    lengths += [fast_length(extent * i // 2) for i in (3, 4, 6, 8, 12, 16, 32)]
    lengths += [256, 512, 1024, 2048]
    for period in lengths:
        if period >= extent:
            outputs = (period - extent) // s + 1
            wanted.add(max(-(-out // outputs), 1))
    for tiles in wanted:
        # A tile has a position for each output: fast lengths beyond `LONGEST` take long to find.
        if tiles <= out and -(-out // tiles) <= LONGEST:
            axis = axis_of(g, a, tiles)
            if axis.period <= LONGEST:
                found[axis.tiles] = axis
    work = {
        t: t * x.period * (x.period.bit_length() * 6 if x.fast else x.period + 30)
        for t, x in found.items()
    }
    return tuple(found[t] for t in sorted(found, key=lambda t: work[t])[:most])
