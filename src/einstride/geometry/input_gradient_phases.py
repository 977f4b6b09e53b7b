"""Rewrite an input gradient as forward convolutions over the output gradient gy.

From y[o] = sum_k x[o * s + k * d - low] f[k], the gradient of x[i] sums gy[o] f[k] over all pairs
with o * s + k * d = i + low. This sum can be rewritten in two ways:

- `dilated` inserts s - 1 zeros between the elements of gy, which gives one convolution. It is
  simple, but most of its products are with zeros.
- `phases` sorts the positions i by r = (i + low) mod s. Within one phase only the taps with
  k * d = r (mod s) contribute, and they form a dense convolution of stride one with a sub-filter.
  No product with an inserted zero is formed.
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
    """Return the padding of gy after `stride - 1` zeros are inserted between its elements.

    The windows of the padded array with dilation d, times the flipped filter, give gx: the window
    of x[0] begins d * (K - 1) - low positions before gy[0].
    """
    pads = []
    for s, o, e, stride, (low, _) in zip(g.size, g.out, g.extent, g.stride, g.padding, strict=True):
        before = e - 1 - low
        pads.append((before, s + e - 1 - before - ((o - 1) * stride + 1)))
    return tuple(pads)


@dataclass(frozen=True)
class Phase:
    """Hold one phase of an input gradient, a dense convolution over gy.

    Attributes
    ----------
    remainder : tuple of int
        The first position of gx on each axis; the next ones follow at distances of the stride.
    taps : tuple of slice
        The taps of f that contribute.
    geometry : Geometry or None
        The forward convolution over gy with the contributing taps, reversed and with the roles of
        the channels exchanged; None if no tap contributes and the gradient is zero.
    """

    remainder: Shape
    taps: tuple[slice, ...]
    geometry: Geometry | None

    def positions(self, stride: Shape) -> tuple[slice, ...]:
        """Return the positions of gx on each axis, for the stride of the convolution."""
        return tuple(slice(r, None, s) for r, s in zip(self.remainder, stride, strict=True))


@dataclass(frozen=True)
class _AxisPhase:
    first: int
    count: int
    taps: slice
    kernel: int
    dilation: int
    padding: tuple[int, int]


MOST_PHASES = 1 << 14
"""Most phases of an input gradient: two axes of stride 128. Each phase takes a kilobyte of Python
objects (`PHASE_BYTES`) and a call of its own; without a limit, the plan of a stride of a million
would take a gigabyte."""

PHASE_BYTES = 1 << 10
"""Bytes of the Python objects of one phase and its geometry, rounded. The byte cache and plans
count this number for each phase."""


class Phases(tuple[Phase, ...]):
    """Hold the phases of an input gradient, and count their bytes."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        """Estimated bytes of all phases in memory."""
        return len(self) * PHASE_BYTES

    @property
    def read_filter(self) -> bool:
        """True if any phase reads a tap of the filter; otherwise no copy of the filter is made."""
        return any(phase.geometry is not None for phase in self)


def refused(g: Geometry) -> str | None:
    """Return why an input gradient has too many phases; None if it can be computed by phases."""
    count = prod(map(min, g.stride, g.size))
    if count <= MOST_PHASES:
        return None
    return f"its strides split the input gradient into {count} phases, more than {MOST_PHASES}"


@kept
def phases(g: Geometry) -> Phases:
    """List the phases of an input gradient, one for each remainder modulo the stride per axis."""
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
    """Return the phase of the positions first, first + s, ... of one axis."""
    s, d, low = g.stride[axis], g.dilation[axis], g.padding[axis][0]
    count = len(range(first, g.size[axis], s))
    remainder = (first + low) % s
    start = first_tap(s, d, remainder)
    start = g.kernel[axis] if start is None else min(start, g.kernel[axis])
    taps = slice(start, g.kernel[axis], s // gcd(s, d))
    kernel = len(range(g.kernel[axis])[taps])
    dilation = d // gcd(s, d)
    # Position n of the phase reads gy at o = m0 + n - c0 - j * dilation for sub-tap j.
    m0 = (first + low - remainder) // s
    c0 = (start * d - remainder) // s
    before = c0 + (kernel - 1) * dilation - m0
    after = count + (kernel - 1) * dilation - g.out[axis] - before
    return _AxisPhase(first, count, taps, kernel, dilation, (before, after))
