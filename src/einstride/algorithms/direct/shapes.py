"""Rewrite a convolution so that taps or positions of the last axis become channels.

A rewritten convolution has longer sums or fewer passes, and the same result.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from einstride.arrays.ops import is_complex
from einstride.codegen import jit
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import pairs_met
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.geometry.problem import Job

FEW_CHANNELS = 8
"""Input channels from which the taps of the last axis stay an axis: sums are long enough."""


WIDEST = 256
"""Output channels of a panel, at most, on any machine: a bound for the workspace."""


def table_bytes(g: Geometry) -> int:
    """Count the bytes of the offset tables."""
    axes = zip(g.out, g.size, g.kernel, strict=True)
    return 16 * sum(max(o, s) * k for o, s, k in axes if k > 1)


def copy_bytes(job: Job) -> int:
    """Count the bytes of a copy of x or gx, needed if the lines of the last axis have gaps."""
    item = max(job.itemsize, job.operand_itemsize, ITEMSIZE[job.arithmetic.result])
    return prod(job.geometry.x_shape) * item


def _fits_limit(job: Job, other: Geometry) -> bool:
    """True if the workspace limit allows the copy that the geometry `other` may need."""
    if not job.hard:
        return True
    summed, columns = other.channels, other.filters
    if job.direction == "input_grad":
        summed, columns = columns, summed
    panels = prod(other.kernel) * summed * -(-columns // WIDEST) * WIDEST
    beside = (panels + 4 * prod(other.f_shape)) * job.itemsize + table_bytes(other) + job.copied
    return copy_bytes(job) + beside <= job.limit


@cached(1024)
def taps_as_channels(job: Job) -> Geometry:
    """Return the geometry with the taps of the last axis as input channels, if that is possible.

    Without padding and dilation, a row of a window is a contiguous span of K * C elements. Few
    channels then form one long sum of products instead of K short sums. An x whose lines have gaps
    is copied first. Otherwise the job's geometry is returned.
    """
    g = job.geometry
    taps, channels = g.kernel[-1], g.channels
    if (
        job.direction != "forward"
        or g.groups > 1
        or taps == 1
        or channels >= FEW_CHANNELS
        or g.dilation[-1] > 1
        or g.padding[-1] != (0, 0)
        or is_complex(job.arithmetic.compute)
    ):
        return g
    other = replace(g, channels=channels * taps, kernel=(*g.kernel[:-1], 1), flip=False)
    return other if _fits_limit(job, other) else g


@cached(1024)
def positions_as_channels(job: Job) -> Geometry:
    """Return the geometry with `stride` positions of the last axis as channels, if possible.

    If the stride divides taps, size and padding, an input gradient is one pass instead of one per
    phase of the last axis, and writes contiguous positions: to a copy, if the lines of gx have
    gaps. Otherwise the job's geometry is returned.
    """
    g = job.geometry
    step, (low, _) = g.stride[-1], g.padding[-1]
    if (
        step == 1
        or any(n % step for n in (g.kernel[-1], g.size[-1], low))
        or g.groups > 1
        or g.dilation[-1] > 1
        or g.flip
    ):
        return g
    size, taps = g.size[-1] // step, g.kernel[-1] // step
    after = g.out[-1] + taps - 1 - size - low // step
    other = replace(
        g, size=(*g.size[:-1], size), channels=g.channels * step, kernel=(*g.kernel[:-1], taps),
        stride=(*g.stride[:-1], 1), padding=(*g.padding[:-1], (low // step, after)),
    )  # fmt: skip
    return other if _fits_limit(job, other) else g


def has_other_axes(job: Job) -> bool:
    """True if the job is computed with another geometry than its own."""
    other = positions_as_channels(job) if job.direction == "input_grad" else taps_as_channels(job)
    return other != job.geometry


@cached(1024)
def fraction_inside(g: Geometry) -> float:
    """Return the fraction of the products whose tap does not read the border of zeros."""
    if g.padding_mode != "zeros" or 0 in g.out:
        return 1.0
    share = 1.0
    for size, out, kernel, stride, dilation, (low, _) in zip(
        g.size, g.out, g.kernel, g.stride, g.dilation, g.padding, strict=True
    ):
        inside = pairs_met(out, stride, kernel, dilation, low, size, g.padding_mode)
        share *= inside / (out * kernel)
    return share


def unconverted(job: Job) -> str | None:
    """Return why kernels cannot convert the job's dtypes in registers; None if they can."""
    from einstride.codegen import conversions

    stored = (*job.operands, job.arithmetic.result)
    return conversions.unconverted(stored, job.arithmetic.compute, jit.host_target())
