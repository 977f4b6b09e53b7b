"""The same convolution with other axes: positions or taps of the last axis taken as channels."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from einstride.borders import pairs_met
from einstride.geometry import Geometry
from einstride.primitives import is_complex

if TYPE_CHECKING:
    from einstride.job import Job

FEW = 8
"""Channels from which a tap alone is a sum long enough."""


@lru_cache(maxsize=1024)
def joined(job: Job) -> Geometry:
    """The geometry with the taps of the last axis as channels, where they lie side by side.

    Without padding and dilation a window's row is one run of K * C numbers. Few channels then make
    one long sum of products instead of many short ones.
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
    return replace(g, channels=channels * taps, kernel=(*g.kernel[:-1], 1), flip=False)


@lru_cache(maxsize=1024)
def gathered(g: Geometry) -> Geometry:
    """The geometry with as many positions of the last axis as its stride taken as channels.

    Where taps and positions come in whole strides, an input gradient is one pass, not one for each
    phase, and writes its positions side by side.
    """
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
    return replace(
        g, size=(*g.size[:-1], size), channels=g.channels * step, kernel=(*g.kernel[:-1], taps),
        stride=(*g.stride[:-1], 1), padding=(*g.padding[:-1], (low // step, after)),
    )  # fmt: skip


@lru_cache(maxsize=1024)
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


def no_float16(job: Job) -> str | None:
    """Why kernels cannot convert the job's float16 arrays; None if they can, or there are none."""
    from einstride.simd.compiler import machine

    if "float16" not in (*job.operands, job.arithmetic.result):
        return None
    if job.arithmetic.compute != "float32":
        return "vectors convert float16 to and from float32 only"
    return None if machine().converts_float16 else "this machine's vectors do not convert float16"
