"""Bytes and seconds of the pieces of a spectral convolution. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod

from einstride.algorithms.fft.axes import Axis, Positions
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

CALL = 3e-7
"""Seconds that one product of a stack costs beyond its multiply-adds, on one thread. Fitted by hand
to layers timed with NumPy, as is `STEP`; both change how many tiles a block has."""

PIECE = 32
"""A piece of lines has as many elements as a block has bytes, divided by this."""

STEP = 3e-6
"""Seconds that one operation on arrays costs beyond its elements."""


@cached(4096)
def frequencies(axes: tuple[Axis, ...], planes: int) -> int:
    """Q: of real signals on one axis half of them, and each further axis has them all."""
    return prod(x.half for x in axes) << (len(axes) - 1 + (planes == 2))


def stages(axes: tuple[Axis, ...], positions: tuple[Positions, ...], planes: int) -> int:
    """The most elements that either piece of scratch memory must hold for one signal."""
    most, q, unit = 0, 1, planes
    counts = [at[2] for at in positions]
    for a, axis in enumerate(axes):
        rest = prod(counts[a + 1 :])
        most = max(most, q * unit * max(2 * axis.half, counts[a]) * rest)
        q *= axis.half * unit
        unit = 2
    return most


def transform(
    axes: tuple[Axis, ...], positions: tuple[Positions, ...], planes: int, r: dict[str, float]
) -> Line:
    """Seconds to analyse or synthesise m signals at once, all threads counted as one."""
    fixed = each = 0.0
    q, unit = 1, planes
    counts = [at[2] for at in positions]
    for a, axis in enumerate(axes):
        rest, rows = prod(counts[a + 1 :]), q * unit
        if axis.fast:
            each += rows * rest * axis.period * (log2(axis.period) * r["fft"] + 2 * r["turn"])
            fixed += STEP
        else:
            work = rows * 2 * axis.half * counts[a] * r["dft"]
            each += work * rest * (1 + 4 / counts[a])
            fixed += work * 8 + rows * CALL + STEP  # products with few columns are slow
        if unit == 2:
            each += rows * 2 * axis.half * rest * r["plane"]
            fixed += 4 * STEP
        q *= axis.half * unit
        unit = 2
    return Line(fixed, each)


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds as a function of the number of signals."""

    fixed: float
    each: float

    def __call__(self, m: int) -> float:
        """Of m signals at once."""
        return self.fixed + self.each * m


@dataclass(frozen=True, slots=True)
class Frame:
    """What one choice of axes means for every block: elements and seconds for one signal.

    Attributes
    ----------
    q : int
        Frequencies.
    x, y, taps : int
        Elements of one signal as it is gathered or put: planes times positions.
    x_stage, y_stage, f_stage : int
        Of either piece of scratch memory.
    x_time, y_time, f_time : Line
        Of a transform.
    """

    q: int
    x: int
    y: int
    taps: int
    x_stage: int
    y_stage: int
    f_stage: int
    x_time: Line
    y_time: Line
    f_time: Line


def frame(axes: tuple[Axis, ...], planes: int, r: dict[str, float]) -> Frame:
    """The frame of some axes."""
    xs, ys = tuple(a.x_positions for a in axes), tuple(a.y_positions for a in axes)
    fs = tuple(a.f_positions for a in axes)
    return Frame(
        frequencies(axes, planes),
        planes * prod(a.inputs for a in axes),
        planes * prod(a.outputs for a in axes),
        planes * prod(a.kernel for a in axes),
        stages(axes, xs, planes),
        stages(axes, ys, planes),
        stages(axes, fs, planes),
        transform(axes, xs, planes, r),
        transform(axes, ys, planes, r),
        transform(axes, fs, planes, r),
    )


def product(q: int, n: int, g: Geometry, c: int, d: int, r: dict[str, float]) -> float:
    """Seconds to multiply spectra of n signals of c channels by a filter with d results."""
    if g.channels == g.groups:
        return q * 2 * n * d * 3 * r["plane"] + 4 * STEP
    groups = max(c * g.groups // g.channels, 1) if g.groups > 1 else 1
    inner, width = c // groups, d // groups
    each = 4 * q * n * c * width
    slower = 1 + 8 / inner + 8 / (2 * n) + 16 / width
    return each * r["dft"] * slower + q * 2 * groups * 2 * CALL + q * 2 * n * d * 2 * r["plane"]


def positions(axes: tuple[Axis, ...], tiles: tuple[int, ...]) -> int:
    """Elements of x under a box of tiles."""
    return prod((t - 1) * x.step + x.inputs for t, x in zip(tiles, axes, strict=True))


def planes_of(job: Job) -> int:
    """Planes of a signal: 2 of complex ones."""
    return 2 if job.arithmetic.compute.startswith("complex") else 1


def real_item(job: Job) -> int:
    """Bytes of a number in a plane."""
    return job.itemsize // planes_of(job)


def pieces_bytes(axes: tuple[Axis, ...], block_bytes: int, item: int) -> int:
    """What a worker's fast transforms allocate: lines, their spectra and cuFFT's work area."""
    longest = max((x.period for x in axes if x.fast), default=0)
    return 6 * max(block_bytes // PIECE, longest + 2) * item if longest else 0
