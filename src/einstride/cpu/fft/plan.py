"""How planes are cut into tiles, how long their transforms are, and what stands at each position.

Position z of a plane along an axis stands for position p = z + base of the padded axis, up to whole
periods: where the padding holds zeros, or x again, a period may be shorter than the range of a
tile. Outputs are j = o - start; a tap k at distance d meets z = j + k d - shift, with shift = base
- start, so that the filter lies at shift - k d and its gradient at k d - shift, modulo the period.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from einstride.cpu.fft.lines import radices
from einstride.cpu.runtime.offset_tables import padded_elements
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import Segment, segments
from einstride.support.caches import cached

LONGEST = 1 << 15
"""Of all periods."""

NEAR = 900 << 10
"""Bytes of a tile and its spectrum that stay in a core's second cache."""

# Of the effort, in vector instructions, fitted by hand to timed layers on an x86 core with 64-byte
# vectors; they change which periods and tiles are chosen.
SCATTERED = 24
"""Per vector whose numbers lie apart in memory, loaded or stored."""

SPLIT = 20
"""Per frequency of two rows: to part them, both ways."""

MULTIPLIED = 10
"""Per frequency of a column: to multiply the spectra and bring them to their slots."""

FAR = 1.4
"""Times slower a tile is that does not stay in the second cache."""

FARTHER = 6 << 20
"""Bytes beyond which the third cache, shared by the cores, does not hold it well either."""

WORSE = 0.6
"""The power of the size by which tiles beyond that get slower."""


@dataclass(frozen=True)
class Axis:
    """One axis of the planes.

    Attributes
    ----------
    tiles, outputs : int
        How many, and the outputs of each; the last may have fewer.
    period : int
        The length of the transform.
    present : int
        Positions of a plane that may hold something of x.
    shift : int
        Base less start, of every tile.
    """

    tiles: int
    outputs: int
    period: int
    present: int
    shift: int

    @property
    def effort(self) -> float:
        """Instructions of a line."""
        return radices(self.period)[0]


ALONE = Axis(1, 1, 1, 1, 0)
"""An axis that is not there."""


def lengths(start: int, stop: int) -> list[int]:
    """Fast lengths in a range."""
    every = _fast_lengths()
    return list(every[bisect_left(every, max(start, 1)) : bisect_left(every, stop)])


@cached(1)
def _fast_lengths() -> tuple[int, ...]:
    """Every product of the radices' primes up to `LONGEST`."""
    found = [1]
    for prime in (2, 3, 5, 7):
        for n in found:  # grows while it is read
            if n * prime <= LONGEST:
                found.append(n * prime)
    return tuple(sorted(found))


def periodic(held: Sequence[Segment], n: int) -> bool:
    """True if an axis of these runs holds the same at each position and n positions later."""
    ends = [run.stop for run in held]
    whole = ends[-1] if ends else 0
    at = 0
    while at + n < whole:
        one, other = (held[bisect_right(ends, p)] for p in (at, at + n))
        here = (one.source + one.step * (at - one.start), one.step)
        later = (other.source + other.step * (at + n - other.start), other.step)
        stop = min(one.stop, other.stop - n)
        if here[0] != later[0] or (here[1] != later[1] and stop - at > 1):
            return False
        at = stop
    return True


@cached(128)
def choices(g: Geometry, axis: int) -> tuple[Axis, ...]:
    """The ways to cut an axis that are worth a thought. By formula: an axis may be of any length.

    What x holds is one run of positions: all of them, or those between borders of zeros.
    """
    found = []
    out, extent = g.out[axis], g.extent[axis]
    whole, low = out + extent - 1, g.padding[axis][0]
    held = segments(-low, whole - low, g.size[axis], g.padding_mode)
    inside = [run for run in held if run.source >= 0]
    base = inside[0].start if inside else 0
    count = inside[-1].stop - base if inside else 1
    for n in lengths(max(extent, out), min(2 * whole + 9, LONGEST + 1)):
        if not periodic(held, n):
            continue
        found.append(Axis(1, out, n, min(count, n), base))
        if len(found) == 6:
            break
    tiled: dict[int, Axis] = {}
    for n in lengths(extent, min(whole, LONGEST + 1)):
        tiles = -(-out // (n - extent + 1))
        outputs = -(-out // tiles)
        tiles = -(-out // outputs)
        if tiles > 1 and tiles not in tiled:
            tiled[tiles] = Axis(tiles, outputs, n, outputs + extent - 1, 0)
    return (*found, *list(tiled.values())[-48:])


@dataclass(frozen=True)
class Plan:
    """The planes of a geometry.

    Attributes
    ----------
    down, across : Axis
        The rows, and the positions within a row. Of one spatial axis tiles are the rows.
    flat : bool
        Is there one spatial axis?
    effort : float
        Vector instructions for a channel of an example, about.
    """

    down: Axis
    across: Axis
    flat: bool
    effort: float

    @property
    def half(self) -> int:
        """Frequencies kept of a row."""
        return self.across.period // 2 + 1

    @property
    def pitch(self) -> int:
        """Complex vectors in a row of the buffer: odd, so that a column spreads over the cache."""
        return self.half | 1

    @property
    def spectrum(self) -> int:
        """Real vectors of a spectrum."""
        return 2 * self.half * self.down.period

    @property
    def planes(self) -> int:
        """Of an example."""
        return self.down.tiles * self.across.tiles if not self.flat else self.down.tiles


def _plan(
    down: Axis, across: Axis, flat: bool, gradient: bool, vector: int, batch: int, spread: int
) -> Plan:
    """A plan with its effort."""
    half = across.period // 2 + 1
    tiles = down.tiles * across.tiles
    if flat:
        rows = min(across.tiles, 2)
        tiles = -(-across.tiles // rows)
        down = Axis(tiles, rows, 1, rows, 0)
    pair = across.effort + SPLIT * half
    taken = (down.present + down.outputs) / 2 * pair
    columns = half * (2 * down.effort + MULTIPLIED * down.period)
    size = (2 * (half | 1) * (max(down.present, down.outputs)) + 2 * half * down.period) * vector
    if gradient:
        size += 2 * (half | 1) * down.outputs * vector
    far = FAR * max(size / FARTHER, 1.0) ** WORSE if size > NEAR else 1.0
    effort = far * (taken + columns)
    if spread:
        apart = down.present * across.present + down.outputs * across.outputs
        return Plan(
            down, across, flat, -(-batch * tiles // spread) / batch * (effort + SCATTERED * apart)
        )
    return Plan(down, across, flat, tiles * effort)


@cached(256)
def plan(g: Geometry, gradient: bool, vector: int, spread: int) -> Plan | None:
    """The cheapest plan; None if no period is long enough.

    `spread` is the number of planes in a vector, or 0 if its lanes are channels.
    """
    more = (gradient, vector, g.batch, spread)
    if g.rank == 1:
        every = [_plan(ALONE, a, True, *more) for a in choices(g, 0)]
    else:
        pairs = product(choices(g, 0), choices(g, 1))
        every = [_plan(a, b, False, *more) for a, b in pairs]
    return min(every, key=lambda p: p.effort, default=None)


def positions(g: Geometry, axis: int, cut: Axis) -> Any:
    """(tiles, present) which element of x stands at each position; -1 for zero."""
    held = padded_elements(g, axis)[: g.out[axis] + g.extent[axis] - 1]
    found = np.full((cut.tiles, cut.present), -1, np.int64)
    for t in range(cut.tiles):
        start = t * cut.outputs
        p = np.arange(start, min(start + cut.outputs + g.extent[axis] - 1, len(held)))
        z = (p - start - cut.shift) % cut.period
        inside = held[p] >= 0
        found[t, z[inside]] = held[p[inside]]
    return found


def results(g: Geometry, axis: int, cut: Axis) -> Any:
    """(tiles, outputs) which element of y stands at each position; -1 for none."""
    found = np.arange(cut.tiles * cut.outputs).reshape(cut.tiles, cut.outputs)
    return np.where(found < g.out[axis], found, -1)


def taps(g: Geometry, axis: int, cut: Axis, gradient: bool) -> Any:
    """(period,) which tap stands at each position; -1 for none."""
    found = np.full(cut.period, -1, np.int64)
    k = np.arange(g.kernel[axis])
    z = cut.shift - k * g.dilation[axis]
    found[(-z if gradient else z) % cut.period] = k
    return found
