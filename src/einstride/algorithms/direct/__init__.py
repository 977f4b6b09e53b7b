"""Direct convolution: compiled kernels add the products of the definition, without copies.

`cpu` calls the kernels for NumPy, `cuda` the kernels for CuPy; this module chooses between them.
Start with `dense` for many channels on CPUs, and `cuda` for GPUs.

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit
roundoff of the dtype of the products, 2 * sqrt(2) times that for complex numbers, plus one rounding
where the result's dtype is narrower (Jeannerod and Rump 2013): `accuracy="elementwise"` holds.
On CPUs, float32 sums of forward passes and input gradients are blocked unless one order is asked
for by `accuracy="elementwise"` (`cpu.conv.blocked_sums`): then n is at most 96, or 192 with vectors
of 64 bytes, plus 16 for each factor of 16 in the number of blocks. In layers of many channels and
so few filters that tiles are unrolled, it is the products of a row of taps.

Cost: the unit is one vector FMA, which takes the calibrated seconds `vector`. All other work of a
kernel is counted as a number of vector FMAs, by constants next to the engine's `cost`. They were
fitted by hand to timed layers on the machine of the calibration, an x86 core with 64-byte vectors.
They do not change results, only which engine or algorithm is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.geometry.problem import Cost, Facts, Job


@cached(2, "process")  # "cpu" and "cuda"
def _calls(kernels: str | None) -> Any:
    """Import the module that calls the kernels of `einstride.cpu` or `einstride.cuda`.

    `kernels` is `Traits.kernels`. The import waits for arrays that need it.
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
    """Return `prepared`: the filter packed for the kernels; None if they read it as it is."""
    make = getattr(_calls(b.traits.kernels), "prepare", None)
    return None if make is None else make(f, job, b)


def program(
    first: Array, second: Array, bias: Array | None, out: Array, job: Job, b: Backend
) -> Any:
    """Return a small call as one compiled program for arrays with these strides, or None."""
    make = getattr(_calls(b.traits.kernels), "program", None)
    return None if make is None else make(first, second, bias, out, job, b)


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    if traits.kernels is None:
        return f"no compiled kernels for {traits.library}"
    reason: str | None = _calls(traits.kernels).supports(job, traits)
    return reason


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the engine that runs the job, its kernel and the kernel's register tile."""
    found: Facts = _calls(b.traits.kernels).describe(job, b, first, second, out)
    return found


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict the cost of the kernels."""
    found: Cost = _calls(traits.kernels).cost(job, traits, rates)
    return found
