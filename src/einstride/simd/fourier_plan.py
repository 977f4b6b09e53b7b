"""How planes are cut into tiles, how long their transforms are, and what stands at each position.

Position z of a plane along an axis stands for position p = z + base of the padded axis, up to whole
periods: where the padding holds zeros, or x again, a period may be shorter than the range of a
tile. Outputs are j = o - start; a tap k at distance d meets z = j + k d - shift, with shift = base
- start, so that the filter lies at shift - k d and its gradient at k d - shift, modulo the period.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from einstride.borders import segments
from einstride.geometry import Geometry
from einstride.simd.fourier_lines import radices

LONGEST = 1 << 15
"""Of all periods."""

NEAR = 900 << 10
"""Bytes of a tile and its spectrum that stay in a core's second cache."""

SCATTERED = 24
"""Instructions' time of a vector whose numbers lie apart."""

FAR = 1.4
"""How much slower a tile is that does not."""

FARTHER = 6 << 20
"""Bytes beyond which the third cache, shared by the cores, does not hold it well either."""


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


@lru_cache(maxsize=128)
def padded(g: Geometry, axis: int) -> Any:
    """Which element of x each position of the padded axis holds that an output meets; -1 for zero.

    Of stride one.
    """
    (low, high), size = g.padding[axis], g.size[axis]
    found = np.empty(max(size + low + high, 0), np.int64)
    for run in segments(-low, size + high, size, g.padding_mode):
        found[run.there] = run.source + run.step * np.arange(run.stop - run.start)
        if run.source < 0:
            found[run.there] = -1
    return found[: g.out[axis] + g.extent[axis] - 1]


def lengths(start: int, stop: int) -> Iterator[int]:
    """Fast lengths in a range."""
    return (n for n in range(max(start, 1), stop) if radices(n)[0] < float("inf"))


@lru_cache(maxsize=128)
def choices(g: Geometry, axis: int) -> tuple[Axis, ...]:
    """The ways to cut an axis that are worth a thought."""
    found, held = [], padded(g, axis)
    out, extent, whole = g.out[axis], g.extent[axis], len(held)
    inside = np.flatnonzero(held >= 0)
    base = int(inside[0]) if len(inside) else 0
    for n in lengths(extent, min(2 * whole + 9, LONGEST + 1)):
        if n < out or not np.array_equal(held[n:], held[:-n] if n < whole else held[n:]):
            continue
        present = int(((inside - base) % n).max()) + 1 if len(inside) else 1
        found.append(Axis(1, out, n, present, base))
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
    pair = across.effort + 20 * half
    taken = (down.present + down.outputs) / 2 * pair
    columns = half * (2 * down.effort + 10 * down.period)
    size = (2 * (half | 1) * (max(down.present, down.outputs)) + 2 * half * down.period) * vector
    if gradient:
        size += 2 * (half | 1) * down.outputs * vector
    far = FAR * max(size / FARTHER, 1.0) ** 0.6 if size > NEAR else 1.0
    effort = far * (taken + columns)
    if spread:
        apart = down.present * across.present + down.outputs * across.outputs
        return Plan(
            down, across, flat, -(-batch * tiles // spread) / batch * (effort + SCATTERED * apart)
        )
    return Plan(down, across, flat, tiles * effort)


@lru_cache(maxsize=256)
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
    held = padded(g, axis)
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
