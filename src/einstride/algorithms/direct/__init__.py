"""Direct convolution: the sums of the definition, in compiled kernels, on arrays as they lie.

`cpu` calls the kernels for NumPy, `cuda` those for CuPy; here a call is handed to one of them.
Start with `dense` for many channels on CPUs, and `cuda` for GPUs.

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit
roundoff of the dtype of the products, 2 * sqrt(2) times that for complex numbers, plus one rounding
where the result's dtype is narrower (Jeannerod and Rump 2013): `accuracy="elementwise"` holds.

Cost: engines count in multiply-adds of two vectors, each of which takes the calibrated seconds
`vector`; whatever else a kernel does is counted as so many of these. The factors are named where
they are used. They were fitted by hand to timed layers on the machine of the calibration, an x86
core with 64-byte vectors. They do not change results, only which engine or algorithm is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.geometry.problem import Cost, Facts, Job


@cached(2, "process")  # "cpu" and "cuda"
def _calls(kernels: str | None) -> Any:
    """The module that calls the kernels of `einstride.cpu` or `einstride.cuda`: `Traits.kernels`.

    It is imported when arrays are met that need it.
    """
    if kernels == "cpu":
        from einstride.algorithms.direct import cpu

        return cpu
    from einstride.algorithms.direct import cuda

    return cuda


def forward(
    x: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    more = {} if prepared is None else {"prepared": prepared}
    return _calls(b.traits.kernels).forward(x, f, job, b, bias, out, **more)


def input_grad(
    gy: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    more = {} if prepared is None else {"prepared": prepared}
    return _calls(b.traits.kernels).input_grad(gy, f, job, b, bias, out, **more)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), or (B, *K, C // G, D) per example."""
    return _calls(b.traits.kernels).filter_grad(x, gy, job, b, bias, out)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """The filter as the kernels read it, for `prepared`; None where they read it as it is."""
    make = getattr(_calls(b.traits.kernels), "prepare", None)
    return None if make is None else make(f, job, b)


def program(
    first: Array, second: Array, bias: Array | None, out: Array, job: Job, b: Backend
) -> Any:
    """A small call as steps that need no Python in between, for arrays that lie like these."""
    make = getattr(_calls(b.traits.kernels), "program", None)
    return None if make is None else make(first, second, bias, out, job, b)


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    if traits.kernels is None:
        return f"no compiled kernels for {traits.library}"
    reason: str | None = _calls(traits.kernels).supports(job, traits)
    return reason


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """The engine that runs the job, its kernel and the kernel's register tile."""
    found: Facts = _calls(b.traits.kernels).describe(job, b, first, second, out)
    return found


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """What the kernels would spend."""
    found: Cost = _calls(traits.kernels).cost(job, traits, rates)
    return found
