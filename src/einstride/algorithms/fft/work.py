"""Predict bytes and seconds of the steps of a convolution by frequencies. No arrays."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod

from einstride.algorithms.fft.axes import Axis, Positions
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

CALL = 3e-7
"""Seconds that one matrix product of a stack costs beyond its multiply-adds, on one thread.

Fitted by hand to layers timed with NumPy, as is `STEP`; both change how many tiles a block has.
"""

LINE_BLOCK = 32
"""Bytes of the backend's block per element of a block of lines: see `fast.line_block_elements`."""

STEP = 3e-6
"""Seconds that one operation on arrays costs beyond its elements."""


@cached(4096)
def frequencies(axes: tuple[Axis, ...], planes: int) -> int:
    """Count the frequencies Q: half of a real signal's first axis, all of each further axis."""
    return prod(x.half for x in axes) << (len(axes) - 1 + (planes == 2))


def buffer_elements(axes: tuple[Axis, ...], positions: tuple[Positions, ...], planes: int) -> int:
    """Count the elements that each of a transform's two buffers needs for one signal."""
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
) -> LinearTime:
    """Predict the seconds to analyse or synthesise m signals at once, on one thread."""
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
    return LinearTime(fixed, each)


@dataclass(frozen=True, slots=True)
class LinearTime:
    """Seconds as a linear function of the number of signals."""

    fixed: float
    each: float

    def __call__(self, m: int) -> float:
        """Return the seconds of m signals at once."""
        return self.fixed + self.each * m


@dataclass(frozen=True, slots=True)
class AxesCost:
    """Elements and seconds per signal that follow from one choice of axes.

    Attributes
    ----------
    q : int
        Frequencies.
    x, y, taps : int
        Elements of one signal before or after its transform: planes times positions.
    x_stage, y_stage, f_stage : int
        Elements of each of a transform's two buffers.
    x_time, y_time, f_time : LinearTime
        Seconds of a transform.
    """

    q: int
    x: int
    y: int
    taps: int
    x_stage: int
    y_stage: int
    f_stage: int
    x_time: LinearTime
    y_time: LinearTime
    f_time: LinearTime


def axes_cost(axes: tuple[Axis, ...], planes: int, r: dict[str, float]) -> AxesCost:
    """Compute elements and seconds per signal for some axes."""
    xs, ys = tuple(a.x_positions for a in axes), tuple(a.y_positions for a in axes)
    fs = tuple(a.f_positions for a in axes)
    return AxesCost(
        frequencies(axes, planes),
        planes * prod(a.inputs for a in axes),
        planes * prod(a.outputs for a in axes),
        planes * prod(a.kernel for a in axes),
        buffer_elements(axes, xs, planes),
        buffer_elements(axes, ys, planes),
        buffer_elements(axes, fs, planes),
        transform(axes, xs, planes, r),
        transform(axes, ys, planes, r),
        transform(axes, fs, planes, r),
    )


def product(q: int, n: int, g: Geometry, c: int, d: int, r: dict[str, float]) -> float:
    """Predict the seconds to multiply spectra of n signals of c channels by d filters."""
    if g.channels == g.groups:
        return q * 2 * n * d * 3 * r["plane"] + 4 * STEP
    groups = max(c * g.groups // g.channels, 1) if g.groups > 1 else 1
    inner, width = c // groups, d // groups
    each = 4 * q * n * c * width
    slower = 1 + 8 / inner + 8 / (2 * n) + 16 / width
    return each * r["dft"] * slower + q * 2 * groups * 2 * CALL + q * 2 * n * d * 2 * r["plane"]


def positions(axes: tuple[Axis, ...], tiles: tuple[int, ...]) -> int:
    """Count the elements of x that a box of tiles reads."""
    return prod((t - 1) * x.step + x.inputs for t, x in zip(tiles, axes, strict=True))


def planes_of(job: Job) -> int:
    """Return the planes of a signal: 1 if real, 2 if complex."""
    return 2 if job.arithmetic.compute.startswith("complex") else 1


def real_item(job: Job) -> int:
    """Return the bytes of an element of a plane."""
    return job.itemsize // planes_of(job)


def fast_bytes(axes: tuple[Axis, ...], block_bytes: int, item: int) -> int:
    """Count the bytes that a worker's FFTs allocate: lines, spectra and cuFFT's work area."""
    longest = max((x.period for x in axes if x.fast), default=0)
    return 6 * max(block_bytes // LINE_BLOCK, longest + 2) * item if longest else 0
