"""Convolution as one `einsum` over the windows of x, a view made by `as_strided`: the definition.

The letters are b batch, o output position, k tap, i input position, g group, c and d the input and
output channels of one group (a bracketed letter stands for one letter per spatial axis):

- forward          ``b{o}{k}gc,{k}cgd->b{o}gd``
- filter gradient  ``b{o}{k}gc,b{o}gd->{k}cgd``
- input gradient   ``b{i}{k}gd,{k}cgd->b{i}gc``  over gy, dilated by the stride, padded, f flipped

A forward pass in six lines, without a loop:

>>> import numpy as np
>>> x, f, s = np.ones((64, 28, 28, 3)), np.ones((6, 6, 3, 2)), (2, 2)
>>> (B, H, W, C), (Fh, Fw, _, D), (Sh, Sw) = x.shape, f.shape, s
>>> shape = (B, 1 + (H - Fh) // Sh, 1 + (W - Fw) // Sw, Fh, Fw, C)
>>> x0, x1, x2, x3 = x.strides
>>> xs = np.lib.stride_tricks.as_strided(x, shape, (x0, Sh * x1, Sw * x2, x1, x2, x3))
>>> np.einsum("wxyijk,ijkd->wxyd", xs, f).shape
(64, 12, 12, 2)

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit
roundoff of the dtype of the products, 2 * sqrt(2) times that for complex numbers, plus one rounding
where the result's dtype is narrower (Jeannerod and Rump 2013): `accuracy="elementwise"` holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from string import ascii_letters
from typing import TYPE_CHECKING

from einstride.arrays.ops import (
    add_bias,
    conjugate,
    dilate,
    flip,
    is_complex,
    pad,
    split_groups,
    windows,
)
from einstride.geometry import input_gradient_phases
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

LARGE = 1 << 19
"""Multiply-adds from which an einsum is split into parts for threads; smaller ones do not gain.

The result's bits depend on this number and on `PARTS`, not on the number of threads.
"""

PARTS = 8
"""Parts of an einsum, at most, and so the threads that it can use."""

EQUATIONS = {
    "forward": "b{o}{k}gc,{k}cgd->b{o}gd",
    "filter_grad": "b{o}{k}gc,b{o}gd->{k}cgd",
    "input_grad": "b{i}{k}gd,{k}cgd->b{i}gc",
}
"""The contraction of each direction, in the letters that the module's docstring explains."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    g = job.geometry
    xs = windows(
        _split(pad(x, g.padding, g.padding_mode, b), g, b), g.kernel, g.stride, g.dilation, b
    )
    fs = _split(flip(f, g.rank, b) if g.flip else f, g, b)
    return _einsum(_equation(job), xs, fs, g.y_shape, job, b, bias, out)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), or (B, *K, C // G, D) per example."""
    g = job.geometry
    xs = windows(
        _split(pad(x, g.padding, g.padding_mode, b), g, b), g.kernel, g.stride, g.dilation, b
    )
    # The adjoint conjugates x; conj(sum x conj(gy)) is equal and needs no copy of the windows.
    gys = conjugate(_split(gy, g, b), b)
    direct = _is_direct(job)
    destination = out if direct else None
    first_axis = int(job.per_example)
    gf = _einsum(_equation(job), xs, gys, job.shape, job, b, None, destination)
    if direct:
        return gf
    gf = conjugate(flip(gf, g.rank, b, start=first_axis) if g.flip else gf, b)
    if out is None:
        return gf
    out[...] = gf
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g = job.geometry
    wide = pad(dilate(_split(gy, g, b), g.stride, b), input_gradient_phases.dilated(g), "zeros", b)
    ys = windows(wide, g.kernel, (1,) * g.rank, g.dilation, b)
    fs = _split(conjugate(f if g.flip else flip(f, g.rank, b), b), g, b)
    return _einsum(_equation(job), ys, fs, g.x_shape, job, b, bias, out)


def _is_direct(job: Job) -> bool:
    """True if the einsum's result is the filter gradient, neither to be flipped nor conjugated."""
    return not job.geometry.flip and not is_complex(job.arithmetic.compute)


def _einsum_dtype(job: Job, added: bool) -> str:
    """Return the dtype of the einsum: never halves if a bias is `added` to its result."""
    wide = added or job.arithmetic.result == job.sums
    return job.sums if wide else job.arithmetic.compute


def _equation(job: Job) -> str:
    """Return the contraction of a job, with one letter for each axis."""
    equation = EQUATIONS[job.direction]
    if job.per_example:
        equation = equation.replace("->", "->b")
    return _spelled(equation, job.geometry.rank, job.geometry.groups > 1)


def _split(a: Array, g: Geometry, b: Backend) -> Array:
    return a if g.groups == 1 else split_groups(a, g.groups, b)


@cached(256)
def _spelled(equation: str, rank: int, grouped: bool) -> str:
    """Write an equation with one letter per spatial axis, and without g for one group."""
    free = [c for c in ascii_letters if c not in "bgcd"]
    first, second = "".join(free[:rank]), "".join(free[rank : 2 * rank])
    equation = equation.replace("{k}", second).replace("{o}", first).replace("{i}", first)
    return equation if grouped else equation.replace("g", "")


def _einsum(
    equation: str,
    first: Array,
    second: Array,
    shape: tuple[int, ...],
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Contract both operands, add the bias, merge the groups; the result lies in `out` if given."""
    g, compute, result = job.geometry, _einsum_dtype(job, bias is not None), job.arithmetic.result
    destination = _split(out, g, b) if out is not None and compute == result else None
    if destination is not None and _is_split(job, b.traits):

        def part(views: tuple[Array, Array, Array]) -> None:
            b.einsum(equation, views[0], views[1], compute, views[2])

        b.run(lambda: part, list(_parts(first, second, destination, job)), job.threads)
        found = destination
    else:
        found = b.einsum(equation, first, second, compute, destination)
    if g.groups > 1:
        found = b.xp.reshape(found, shape)
    if bias is not None:
        found = add_bias(found, bias, b)
    if out is None:
        return b.astype(found, result)
    if destination is None:
        out[...] = found
    return out


def _is_split(job: Job, traits: Traits) -> bool:
    """True if the einsum is split into parts: decided by size alone, because the bits follow it."""
    return traits.on_host and job.geometry.multiply_adds >= LARGE


def _parts(
    first: Array, second: Array, destination: Array, job: Job
) -> Iterator[tuple[Array, Array, Array]]:
    """Split an einsum into views of both operands and of the result, along an axis of the result.

    No sum is split, so there are no partial sums to add.
    """
    axis, count = _cut(job)
    for part in _ranges(count):
        if job.direction != "filter_grad":
            index = (*[slice(None)] * axis, part)
            yield first[index], second, destination[index]
        else:
            index = (*[slice(None)] * (1 + job.geometry.rank + axis), part)
            first_axis = int(job.per_example)
            yield first[index], second, destination[(*[slice(None)] * (first_axis + axis), part)]


def _cut(job: Job) -> tuple[int, int]:
    """Return the axis of outputs, or of taps of a filter gradient, to split; and its length."""
    if job.direction == "filter_grad":
        return max(enumerate(job.geometry.kernel), key=lambda axis: axis[1])
    axis = int(job.shape[1] > job.shape[0])
    return axis, job.shape[axis]


def _ranges(count: int) -> Iterator[slice]:
    """Split a range into at most `PARTS` slices of nearly equal length."""
    parts = min(count, PARTS)
    for i in range(parts):
        yield slice(i * count // parts, (i + 1) * count // parts)


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    if job.batch_invariant:
        return "the library's einsum may choose its loops by the batch"
    return None


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the contraction, and the number of parts that the einsum is split into."""
    kept = job.direction != "filter_grad" or _is_direct(job)
    into = b.traits.mutable and kept and _einsum_dtype(job, False) == job.arithmetic.result
    parts = min(_cut(job)[1], PARTS) if into and _is_split(job, b.traits) else 1
    return {
        "compiled": False,
        "kernel": f"einsum {_equation(job)}",
        "windows": "a strided view" if b.traits.views else "slices, stacked",
        "parts": parts,
        "threads": min(parts, job.threads),
    }


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict one padded copy of the operand with windows, and what the library's einsum copies."""
    g = job.geometry
    n = g.multiply_adds
    if job.direction == "input_grad":
        n = g.batch * prod(g.size) * prod(g.f_shape)
        dilated = tuple(max((o - 1) * s + 1, 0) for o, s in zip(g.out, g.stride, strict=True))
        copies = prod(dilated) if dilated != g.out else 0  # zeros between the positions of gy
        if any(max(pads) > 0 for pads in input_gradient_phases.dilated(g)):
            copies += prod(s + e - 1 for s, e in zip(g.size, g.extent, strict=True))
        padded = g.batch * copies * g.filters * job.itemsize
    else:
        padded = 0
        if any(max(pads) > 0 for pads in g.padding):  # negative padding alone makes a view
            axes = zip(g.size, g.padding, strict=True)
            padded = prod(size + low + high for size, (low, high) in axes)
            padded *= g.batch * g.channels * job.itemsize
    if traits.einsum_copies:  # windows are copied whole
        padded += 2 * n // max(g.filters // g.groups, 1) * job.itemsize
        if traits.mutable:  # the product is copied to the result
            padded += prod(job.shape) * job.itemsize
    elif any(name != job.arithmetic.compute for name in job.operands) or g.flip:
        padded += (1 << 17) * job.itemsize + prod(g.f_shape) * job.itemsize
    item = job.itemsize
    if traits.on_host and job.direction != "forward":
        buffers = 2 * 8192 * item  # the buffers of NumPy's einsum, where it cannot stream
        padded += buffers * (min(job.threads, PARTS) if _is_split(job, traits) else 1)
    if job.arithmetic.compute != job.arithmetic.result:
        padded += prod(job.shape) * item
    if is_complex(job.arithmetic.compute) and job.direction == "filter_grad":
        padded += (prod(g.y_shape) + 2 * prod(job.shape)) * item  # a product and its conjugate
    elif job.direction == "filter_grad" and g.flip:
        padded += prod(job.shape) * item
    elif is_complex(job.arithmetic.compute) and job.direction == "input_grad":
        padded += prod(g.f_shape) * item
    moved = 2 * padded + (prod(g.x_shape) + prod(g.f_shape) + prod(g.y_shape)) * job.itemsize
    mixed = g.groups > 1 and g.channels > g.groups  # short loops, and none of them contiguous
    slower = rates["mixed"] if mixed else 1.0
    launches = 3 * rates.get("launch", 0.0)  # on a GPU: a copy of each operand, a product
    workers = min(job.threads, PARTS) if _is_split(job, traits) else 1
    seconds = (
        rates["call"] + launches + n * slower * rates["einsum"] / workers + moved * rates["copy"]
    )
    return Cost(n, padded, moved, seconds)
