"""Direct convolution by compiled kernels, one module for each library that has some.

A module here offers the functions of `Algorithm`; a new library is one file and one row below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einstride.algorithms.direct import cuda

if TYPE_CHECKING:
    from einstride.algorithms import Algorithm
    from einstride.backends import Array, Backend, Traits
    from einstride.job import Cost, Job

KERNELS: dict[str, Algorithm] = {"cupy": cuda}


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    return KERNELS[b.traits.library].forward(x, f, job, b, bias, out)


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    return KERNELS[b.traits.library].input_grad(gy, f, job, b, bias, out)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), in `out` if given."""
    return KERNELS[b.traits.library].filter_grad(x, gy, job, b, bias, out)


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    if traits.library not in KERNELS:
        return f"no compiled kernels for {traits.library}"
    return KERNELS[traits.library].supports(job, traits)


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """What the library's kernels would take."""
    return KERNELS[traits.library].cost(job, traits, rates)
