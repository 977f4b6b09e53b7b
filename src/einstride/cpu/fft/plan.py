"""Choose the tiles of planes and the lengths of their transforms, and list what positions hold.

Position z of a plane along an axis holds position p = z + base of the padded axis, modulo the
period, the length of the transform. Where the padding holds zeros, or repeats x, a period may be
shorter than the range of a tile. Output o has index j = o - start; tap k with dilation d meets
z = j + k d - shift, with shift = base - start, so that the filter lies at shift - k d and its
gradient at k d - shift, modulo the period.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

import numpy as np

from einstride.cpu.fft.lines import radices
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import Segment, segments
from einstride.support.caches import cached

MAX_PERIOD = 1 << 15
"""Length of the longest transform."""

L2_BYTES = 900 << 10
"""Bytes of a tile and its spectrum, at most, that stay in a core's second cache."""

# Terms of the effort, in vector instructions, fitted by hand to timed layers on an x86 core with
# 64-byte vectors; they change which periods and tiles are chosen.
SCATTERED = 24
"""Instructions per vector that is gathered or scattered."""

SPLIT = 20
"""Instructions per frequency of a pair of rows, to separate their spectra and to join them."""

MULTIPLIED = 10
"""Instructions per frequency of a column, to multiply the spectra and to move them."""

BEYOND_L2 = 1.4
"""Factor by which a tile is slower that does not stay in the second cache."""

L3_BYTES = 6 << 20
"""Bytes of a tile beyond which the third cache, shared by the cores, does not hold it well."""

BEYOND_L3_POWER = 0.6
"""Power of the size by which tiles larger than `L3_BYTES` get slower."""


@dataclass(frozen=True)
class Axis:
    """The tiling of one axis of the planes.

    Attributes
    ----------
    tiles, outputs : int
        Tiles, and outputs per tile; the last may have fewer.
    period : int
        The length of the transform.
    inputs : int
        Positions of a plane that may hold elements of x; the others hold zeros.
    shift : int
        Base less start, the same for every tile.
    """

    tiles: int
    outputs: int
    period: int
    inputs: int
    shift: int

    @property
    def effort(self) -> float:
        """Vector instructions of one transform."""
        return radices(self.period)[0]


NO_AXIS = Axis(1, 1, 1, 1, 0)
"""The second axis of planes that have one spatial axis."""


def lengths(start: int, stop: int) -> list[int]:
    """Lengths in a range, start <= n < stop, that have fast transforms."""
    fast = _fast_lengths()
    return list(fast[bisect_left(fast, max(start, 1)) : bisect_left(fast, stop)])


@cached(1)
def _fast_lengths() -> tuple[int, ...]:
    """Every product of the radices' primes up to `MAX_PERIOD`."""
    fast = [1]
    for prime in (2, 3, 5):
        for n in fast:  # grows while it is read
            if n * prime <= MAX_PERIOD:
                fast.append(n * prime)
    return tuple(sorted(fast))


def periodic(axis_segments: Sequence[Segment], n: int) -> bool:
    """True if an axis of these segments repeats with period n."""
    ends = [run.stop for run in axis_segments]
    length = ends[-1] if ends else 0
    position = 0
    while position + n < length:
        first, second = (axis_segments[bisect_right(ends, p)] for p in (position, position + n))
        value = (first.source + first.step * (position - first.start), first.step)
        value_after = (second.source + second.step * (position + n - second.start), second.step)
        stop = min(first.stop, second.stop - n)
        if value[0] != value_after[0] or (value[1] != value_after[1] and stop - position > 1):
            return False
        position = stop
    return True


@cached(128)
def choices(g: Geometry, axis: int) -> tuple[Axis, ...]:
    """List the tilings of an axis that are compared, by formula since it may have any length.

    With one tile, borders of zeros may be left out: the elements of x between them are one span.
    """
    single_tiles = []
    out, extent = g.out[axis], g.extent[axis]
    length, low = out + extent - 1, g.padding[axis][0]
    axis_segments = segments(-low, length - low, g.size[axis], g.padding_mode)
    in_x = [run for run in axis_segments if run.source >= 0]
    base = in_x[0].start if in_x else 0
    count = in_x[-1].stop - base if in_x else 1
    for n in lengths(max(extent, out), min(2 * length + 9, MAX_PERIOD + 1)):
        if not periodic(axis_segments, n):
            continue
        single_tiles.append(Axis(1, out, n, min(count, n), base))
        if len(single_tiles) == 6:
            break
    tiled: list[Axis] = []
    least = inf
    for n in lengths(extent, min(length, MAX_PERIOD + 1)):
        tiles = -(-out // (n - extent + 1))
        outputs = -(-out // tiles)
        tiles = -(-out // outputs)
        total = tiles * (radices(n)[0] + SPLIT * n / 2)
        if tiles > 1 and total < least:  # longer tiles take more memory: they must save work
            least = total
            tiled.append(Axis(tiles, outputs, n, outputs + extent - 1, 0))
    return (*single_tiles, *tiled[-16:])


@dataclass(frozen=True)
class Tiling:
    """How the planes of a geometry are divided into tiles.

    Attributes
    ----------
    down, across : Axis
        The axis of rows, and that within a row. Tiles of one spatial axis are rows.
    flat : bool
        True if there is one spatial axis.
    effort : float
        Vector instructions per block of channels and example, about.
    """

    down: Axis
    across: Axis
    flat: bool
    effort: float

    @property
    def half(self) -> int:
        """Frequencies that are kept of a row."""
        return self.across.period // 2 + 1

    @property
    def pitch(self) -> int:
        """Complex vectors in a row of the buffer: odd, so that a column uses all cache sets."""
        return self.half | 1

    @property
    def spectrum(self) -> int:
        """Real vectors in a spectrum."""
        return 2 * self.half * self.down.period

    @property
    def planes(self) -> int:
        """Planes per example."""
        return self.down.tiles * self.across.tiles if not self.flat else self.down.tiles


def _predict_tiling(
    down: Axis, across: Axis, flat: bool, gradient: bool, vector: int, batch: int, tiled_lanes: int
) -> Tiling:
    """Return the tiling of these two axes with its effort.

    `vector` is the size of a vector in bytes; the rest is as for `best_tiling`.
    """
    half = across.period // 2 + 1
    tiles = down.tiles * across.tiles
    if flat:
        rows = min(across.tiles, 2)
        tiles = -(-across.tiles // rows)
        down = Axis(tiles, rows, 1, rows, 0)
    pair = across.effort + SPLIT * half
    row_effort = (down.inputs + down.outputs) / 2 * pair
    column_effort = half * (2 * down.effort + MULTIPLIED * down.period)
    size = (2 * (half | 1) * (max(down.inputs, down.outputs)) + 2 * half * down.period) * vector
    if gradient:
        size += 2 * (half | 1) * down.outputs * vector
    cache_factor = (
        BEYOND_L2 * max(size / L3_BYTES, 1.0) ** BEYOND_L3_POWER if size > L2_BYTES else 1.0
    )
    effort = cache_factor * (row_effort + column_effort)
    if tiled_lanes:
        scattered_elements = down.inputs * across.inputs + down.outputs * across.outputs
        return Tiling(
            down,
            across,
            flat,
            -(-batch * tiles // tiled_lanes) / batch * (effort + SCATTERED * scattered_elements),
        )
    return Tiling(down, across, flat, tiles * effort)


@cached(256)
def best_tiling(g: Geometry, gradient: bool, vector: int, tiled_lanes: int) -> Tiling | None:
    """Choose the tiling with the least effort; None if no period is long enough.

    `tiled_lanes` is the number of planes per vector, or 0 if lanes hold channels.
    """
    common = (gradient, vector, g.batch, tiled_lanes)
    if g.rank == 1:
        tilings = [_predict_tiling(NO_AXIS, a, True, *common) for a in choices(g, 0)]
    else:
        pairs = product(choices(g, 0), choices(g, 1))
        tilings = [_predict_tiling(a, b, False, *common) for a, b in pairs]
    return min(tilings, key=lambda p: p.effort, default=None)


def taps(g: Geometry, axis: int, axis_tiling: Axis, gradient: bool) -> Any:
    """Return (period,) the tap at each position; -1 for none."""
    table = np.full(axis_tiling.period, -1, np.int64)
    k = np.arange(g.kernel[axis])
    z = axis_tiling.shift - k * g.dilation[axis]
    table[(-z if gradient else z) % axis_tiling.period] = k
    return table
