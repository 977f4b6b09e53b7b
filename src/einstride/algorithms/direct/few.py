"""The engine for few channels: first layers, patches, signals (`einstride.simd.blocks`).

A few channels fill no vector. In an input gradient the positions of a block do, one stride or some
in each direction; the filter is joined accordingly, which `prepare` can keep.

Zeros of the joined filter would spread a NaN or an infinity of gy over a block. Where a sum is NaN,
the engine of many channels does it again, which has no such zeros.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct import dense
from einstride.dtypes import ITEMSIZE
from einstride.job import Cost, Job
from einstride.primitives import is_complex

if TYPE_CHECKING:
    from einstride.backends import Array, Backend, Traits

TABLES = 1 << 19
"""Numbers that the table of columns may hold."""


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """gy, f -> gx."""
    from einstride.simd import block_calls

    g, compute = job.geometry, job.arithmetic.compute
    if not _lines(out):
        return dense.input_grad(gy, f, job, b, bias, out)
    packed = prepare(f, job, b) if prepared is None else prepared
    gy = dense.readable(gy, b, packed=True)
    done = block_calls.gradient(
        gy, packed, g, compute, bias, out, b.launch, dense.threads_of(job)
    )  # fmt: skip
    return out if done else dense.input_grad(gy, f, job, b, bias, out)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """The joined filter as panels."""
    from einstride.simd import block_calls

    compute = job.arithmetic.compute
    f = b.xp.ascontiguousarray(b.astype(f, compute))
    return block_calls.pack(f, job.geometry, compute, b.launch, dense.threads_of(job))


def _lines(a: Array) -> bool:
    """Is a line of the last axis with its channels one run of numbers?"""
    from einstride.simd.host import regular

    *_, n, c = a.shape
    channels = c == 1 or a.strides[-1] == a.itemsize
    return regular(a) and channels and (n == 1 or a.strides[-2] == c * a.itemsize)


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    g = job.geometry
    if job.direction != "input_grad":
        return "only input gradients have few columns"
    if g.groups > 1:
        return "groups have kernels of their own"
    if is_complex(job.arithmetic.compute):
        return "complex numbers have no blocks"
    if job.batch_invariant:
        return "a NaN in one example changes the order of sums in others"
    reason = dense.supports(job, traits)
    if reason is None and _entries(job) > TABLES:
        return "its table of columns would be too large"
    return reason


def _entries(job: Job) -> int:
    from einstride.simd.block_calls import cut

    found = cut(job.geometry, job.arithmetic.compute)
    return found.panels * found.taps * found.width


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Products of whole vectors, with those of the joined filter's zeros."""
    from einstride.simd.block_calls import cut, panel_bytes

    g, compute = job.geometry, job.arithmetic.compute
    item = ITEMSIZE[compute]
    threads = dense.threads_of(job)
    panels = panel_bytes(g, compute)
    arrays = prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)
    vectors = cut(g, compute).work + 2.0 * panels / item / 16
    # The other engine's panels stand in for these where a NaN is found.
    again = dense.cost(job, traits, rates).workspace
    workspace = panels + prod(g.f_shape) * item + 32 * _entries(job) + again
    moved = arrays * job.itemsize
    seconds = (
        rates["kernel"] + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    )
    return Cost(g.multiply_adds, workspace, moved, seconds)
