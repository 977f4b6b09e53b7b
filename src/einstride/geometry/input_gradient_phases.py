"""The input gradient rewritten as forward convolutions over the output gradient.

From y[o] = sum_k x[o * s + k * d - low] f[k], the gradient of x[i] sums gy[o] f[k] over all pairs
with o * s + k * d = i + low. Two readings of that condition give two rewritings:

`dilated` puts s - 1 zeros between the elements of gy and makes it one convolution; easy to read,
but most products are with zeros. `phases` sorts the positions i by r = (i + low) mod s: within one
phase only the taps with k * d = r (mod s) contribute, and they form a dense convolution of stride
one with a sub-filter. No product with an inserted zero is formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd, prod

from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.padding import Pads
from einstride.geometry.padding_modes import first_tap
from einstride.support.byte_cache import kept


def dilated(g: Geometry) -> Pads:
    """The padding of gy, after `stride - 1` zeros were put between its elements.

    The windows of that array with dilation d, times the flipped filter, give gx: x[0] meets tap
    K - 1 at distance d * (K - 1) - low before gy[0].
    """
    pads = []
    for s, o, e, step, (low, _) in zip(g.size, g.out, g.extent, g.stride, g.padding, strict=True):
        before = e - 1 - low
        pads.append((before, s + e - 1 - before - ((o - 1) * step + 1)))
    return tuple(pads)


@dataclass(frozen=True)
class Phase:
    """A dense part of the input gradient.

    Attributes
    ----------
    remainder : tuple of int
        The first position of gx on each axis; the others follow in steps of the stride.
    taps : tuple of slice
        The taps of f that contribute.
    geometry : Geometry or None
        Of the forward convolution over gy with those taps, reversed and with the roles of the
        channels exchanged; None if no tap contributes and the gradient is zero.
    """

    remainder: Shape
    taps: tuple[slice, ...]
    geometry: Geometry | None


@dataclass(frozen=True)
class _AxisPhase:
    first: int
    count: int
    taps: slice
    kernel: int
    dilation: int
    padding: tuple[int, int]


MOST_PHASES = 1 << 14
"""Phases that an input gradient is cut into, at most: 128 x 128 strides. Each takes a kilobyte of
Python's objects (`PHASE_BYTES`) and a call of its own; with more, a plan of a stride of a million
would take a gigabyte."""

PHASE_BYTES = 1 << 10
"""Bytes of a phase and of its geometry, about."""


class Phases(tuple[Phase, ...]):
    """The phases of an input gradient, with the bytes they take."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        """Bytes of Python's objects, about."""
        return len(self) * PHASE_BYTES

    @property
    def read_filter(self) -> bool:
        """True if any phase reads a tap of the filter: else no copy of the filter is needed."""
        return any(phase.geometry is not None for phase in self)


def refused(g: Geometry) -> str | None:
    """Why an input gradient is not cut into phases; None if it can be."""
    count = prod(map(min, g.stride, g.size))
    if count <= MOST_PHASES:
        return None
    return f"its strides cut the input gradient into {count} phases, more than {MOST_PHASES}"


@kept
def phases(g: Geometry) -> Phases:
    """The phases of the input gradient, one for each remainder modulo the stride on each axis."""
    axes = [
        [p for r in range(min(g.stride[a], g.size[a])) if (p := _axis_phase(g, a, r)).count > 0]
        for a in range(g.rank)
    ]
    found = []
    for parts in product(*axes):
        geometry = None
        if all(p.kernel for p in parts):
            geometry = Geometry(
                batch=g.batch,
                size=g.out,
                channels=g.filters,
                kernel=tuple(p.kernel for p in parts),
                filters=g.channels,
                groups=g.groups,
                stride=(1,) * g.rank,
                dilation=tuple(p.dilation for p in parts),
                padding=tuple(p.padding for p in parts),
                flip=False,
                out=tuple(p.count for p in parts),
            )
        found.append(Phase(tuple(p.first for p in parts), tuple(p.taps for p in parts), geometry))
    return Phases(found)


def _axis_phase(g: Geometry, axis: int, first: int) -> _AxisPhase:
    """The positions first, first + s, ... of one axis."""
    s, d, low = g.stride[axis], g.dilation[axis], g.padding[axis][0]
    count = len(range(first, g.size[axis], s))
    remainder = (first + low) % s
    start = first_tap(s, d, remainder)
    start = g.kernel[axis] if start is None else min(start, g.kernel[axis])
    taps = slice(start, g.kernel[axis], s // gcd(s, d))
    kernel = len(range(g.kernel[axis])[taps])
    dilation = d // gcd(s, d)
    # Position n of the phase meets sub-tap j at o = m0 + n - c0 - j * dilation.
    m0 = (first + low - remainder) // s
    c0 = (start * d - remainder) // s
    before = c0 + (kernel - 1) * dilation - m0
    after = count + (kernel - 1) * dilation - g.out[axis] - before
    return _AxisPhase(first, count, taps, kernel, dilation, (before, after))
