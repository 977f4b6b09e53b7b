"""The same convolution with other axes: positions or taps of the last axis taken as channels."""

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

FEW = 8
"""Channels from which a tap alone is a sum long enough."""


WIDEST = 256
"""Output channels in a panel, at most, on any machine."""


def tables(g: Geometry) -> int:
    """Bytes of the tables of offsets."""
    axes = zip(g.out, g.size, g.kernel, strict=True)
    return 16 * sum(max(o, s) * k for o, s, k in axes if k > 1)


def copied_lines(job: Job) -> int:
    """Bytes of a copy of x, or of its gradient, whose lines have gaps: of most layouts but one."""
    item = max(job.itemsize, job.operand_itemsize, ITEMSIZE[job.arithmetic.result])
    return prod(job.geometry.x_shape) * item


def _in_room(job: Job, run: Geometry) -> bool:
    """True if `run` may replace the job's geometry: the limit has room for the copy it may need."""
    if not job.hard:
        return True
    summed, columns = run.channels, run.filters
    if job.direction == "input_grad":
        summed, columns = columns, summed
    panels = prod(run.kernel) * summed * -(-columns // WIDEST) * WIDEST
    besides = (panels + 4 * prod(run.f_shape)) * job.itemsize + tables(run) + job.copied
    return copied_lines(job) + besides <= job.ceiling


@cached(1024)
def joined(job: Job) -> Geometry:
    """The geometry with the taps of the last axis as channels, where they lie side by side.

    Without padding and dilation a window's row is one run of K * C numbers. Few channels then make
    one long sum of products instead of many short ones. An x whose lines have gaps is copied first.
    """
    g = job.geometry
    taps, channels = g.kernel[-1], g.channels
    if (
        job.direction != "forward"
        or g.groups > 1
        or taps == 1
        or channels >= FEW
        or g.dilation[-1] > 1
        or g.padding[-1] != (0, 0)
        or is_complex(job.arithmetic.compute)
    ):
        return g
    run = replace(g, channels=channels * taps, kernel=(*g.kernel[:-1], 1), flip=False)
    return run if _in_room(job, run) else g


@cached(1024)
def gathered(job: Job) -> Geometry:
    """The geometry with as many positions of the last axis as its stride taken as channels.

    Where taps and positions come in whole strides, an input gradient is one pass, not one for each
    phase, and writes its positions side by side: to a copy, if the result's lines have gaps.
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
    run = replace(
        g, size=(*g.size[:-1], size), channels=g.channels * step, kernel=(*g.kernel[:-1], taps),
        stride=(*g.stride[:-1], 1), padding=(*g.padding[:-1], (low // step, after)),
    )  # fmt: skip
    return run if _in_room(job, run) else g


def regrouped(job: Job) -> bool:
    """True if the job's convolution is done with other axes than its own."""
    run = gathered(job) if job.direction == "input_grad" else joined(job)
    return run != job.geometry


@cached(1024)
def met(g: Geometry) -> float:
    """The share of the products whose tap does not stand in a border of zeros."""
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
    """Why kernels cannot convert the job's operands and result in registers; None if they can."""
    from einstride.codegen import conversions

    stored = (*job.operands, job.arithmetic.result)
    return conversions.unconverted(stored, job.arithmetic.compute, jit.machine())
