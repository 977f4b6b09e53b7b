"""Depthwise convolution by compiled FFTs, in one or two dimensions.

The lanes of a vector are channels, so that a transform over positions needs no shuffles; see
`einstride.cpu.fft.kernels`. An input gradient is a forward pass for each stride phase. The order of
a sum depends on shapes alone, so the bits depend neither on threads nor on limits nor (but for
filter gradients) on other examples.

Error: normwise, c * u * log2(L) * ||x||_2 * ||f||_2 for each channel of an example, with L
positions of a plane and u the unit roundoff (Higham 2002, theorem 24.2).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.arrays.ops import flip
from einstride.codegen import jit
from einstride.cpu.runtime.operands import element_strides, operand, packed, result_array
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import HALVES, ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.fft.calls import FFTConvolution

EXACT = False
"""False: results are rounded, even where all products and sums are integers."""

COMPUTES = ("float32", "float64")
"""The dtypes of products that the kernels have."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None,
    prepared: Any = None,
) -> Array:  # fmt: skip
    """x (B, *S, C), f (*K, 1, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    g = job.geometry
    out = b.empty(g.y_shape, job.arithmetic.result, x) if out is None else out
    f = flip(f, g.rank, b) if g.flip else f
    _convolve(x, f, g, job, b, bias, out, None if prepared is None else prepared[0])
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None,
    prepared: Any = None,
) -> Array:  # fmt: skip
    """gy (B, *O, D), f (*K, 1, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g = job.geometry
    out = b.empty(g.x_shape, job.arithmetic.result, gy) if out is None else out
    f = _input_grad_filter(f, g, b)
    for i, phase in enumerate(input_gradient_phases.phases(g)):
        destination = out[(slice(None), *phase.positions(g.stride), ...)]
        if phase.geometry is None:
            destination[...] = 0 if bias is None else bias
            continue
        sub = flip(f[(*phase.taps, ...)], g.rank, b)
        kept = None if prepared is None else prepared[i]
        _convolve(gy, sub, phase.geometry, job, b, bias, destination, kept)
    return out


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, 1, D), or (B, *K, 1, D) for each example."""
    from einstride.cpu.fft import workspace as fft_workspace
    from einstride.cpu.fft.calls import call
    from einstride.cpu.runtime.argument_block import address, dtype_name

    g = job.geometry
    form = _form(g, job)
    out = b.empty(job.shape, job.arithmetic.result, x) if out is None else out
    destination = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    per_example = destination if job.per_example else destination[None]
    x, gy, result = operand(x, b), operand(gy, b), result_array(per_example, b)
    units = fft_workspace.partial_sums(form, job)
    block_count, workers = fft_workspace.blocks_at_once(form, job)
    block = _scratch(fft_workspace.scratch_elements(form, job) * workers, job, b, x)
    f_strides = _strides(result, True)
    dtypes = (dtype_name(x), dtype_name(gy)), (dtype_name(result),)
    arrays = {"x": address(x), "y": address(gy)}
    arguments = {"scratch": address(block)}
    if fft_workspace.fused(form, job):
        strides = (_strides(x), _strides(gy), f_strides)
        kernel = call(form, "reduce", dtypes[0] + dtypes[1], strides, form.blocks, units, workers)
        kernel(b.launch, f=address(result), **arrays, **arguments)
    else:
        spectra = _scratch(units * block_count * form.spectrum, job, b, x)
        arguments["spectra"] = address(spectra)
        for first in range(0, form.blocks, block_count):
            count = min(block_count, form.blocks - first)
            given = (dtypes[0], (_strides(x), _strides(gy)), count, units, workers)
            call(form, "gather", *given)(b.launch, first=first, **arrays, **arguments)
            parts = spectra[: units * count * form.spectrum].reshape(units, -1)
            for i in range(1, units):
                parts[0] += parts[i]
            kernel = call(form, "finish", dtypes[1], (f_strides,), count, 1, workers)
            kernel(b.launch, f=address(result), first=first, **arguments)
    if result is not per_example:
        per_example[...] = result
    return out


def prepare(f: Array, job: Job, b: Backend) -> tuple[Array | None, ...]:
    """Return `prepared` of `forward` and `input_grad`: the filter's spectra."""
    g = job.geometry
    if job.direction == "forward":
        return (_filter_spectra(flip(f, g.rank, b) if g.flip else f, g, job, b),)
    f = _input_grad_filter(f, g, b)
    return tuple(
        None
        if phase.geometry is None
        else _filter_spectra(flip(f[(*phase.taps, ...)], g.rank, b), phase.geometry, job, b)
        for phase in input_gradient_phases.phases(g)
    )


def _input_grad_filter(f: Array, g: Geometry, b: Backend) -> Array:
    """Return the filter of an input gradient before its taps are reversed.

    Channels need no exchange: each has one filter.
    """
    return flip(f, g.rank, b) if g.flip else f


def _filter_spectra(f: Array, g: Geometry, job: Job, b: Backend) -> Array:
    form = _form(g, job)
    spectra = _scratch(form.blocks * form.spectrum, job, b, f)
    block = _scratch(form.scratch_elements("spectrum") * job.threads, job, b, f)
    _transform(f, form, b, block, spectra, 0, form.blocks, job.threads)
    return spectra


def _transform(
    f: Array, form: FFTConvolution, b: Backend, block: Array, spectra: Array, first: int,
    count: int, workers: int,
) -> None:  # fmt: skip
    """Compute the spectra of some blocks of a filter."""
    from einstride.cpu.fft.calls import call
    from einstride.cpu.runtime.argument_block import address, dtype_name

    f = operand(f, b)
    kernel = call(form, "spectrum", (dtype_name(f),), (_strides(f[None], True),), count, 1, workers)
    arguments = {"scratch": address(block), "spectra": address(spectra), "first": first}
    kernel(b.launch, f=address(f), **arguments)


def _convolve(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any,
    prepared: Array | None,
) -> None:  # fmt: skip
    """Compute y = conv(x, f) + bias without flip, with a stride of 1."""
    from einstride.cpu.fft import workspace as fft_workspace
    from einstride.cpu.fft.calls import call
    from einstride.cpu.runtime.argument_block import address, dtype_name

    form = _form(g, job)
    x, result = operand(x, b), result_array(out, b)
    bias_in = None if bias is None else operand(bias, b, form.compute, packed)
    bias_at = 0 if bias_in is None else address(bias_in)
    block_count, workers = fft_workspace.blocks_at_once(form, job)
    block = _scratch(fft_workspace.scratch_elements(form, job) * workers, job, b, x)
    dtypes, strides = (dtype_name(x), dtype_name(result)), (_strides(x), _strides(result))
    arguments = {
        "x": address(x),
        "y": address(result),
        "scratch": address(block),
        "bias": bias_at,
    }
    if prepared is None and fft_workspace.fused(form, job):
        f = operand(f, b)
        of_f = _strides(f[None], True)
        kernel = call(
            form, "whole", (dtype_name(f), *dtypes), (of_f, *strides), form.blocks, 1, workers
        )
        kernel(b.launch, f=address(f), **arguments)
    else:
        block_count = form.blocks if prepared is not None else block_count
        spectra = _scratch(block_count * form.spectrum, job, b, x) if prepared is None else prepared
        for first in range(0, form.blocks, block_count):
            count = min(block_count, form.blocks - first)
            if prepared is None:
                _transform(f, form, b, block, spectra, first, count, workers)
            kernel = call(form, "convolve", dtypes, strides, count, 1, workers)
            kernel(b.launch, spectra=address(spectra), first=first, **arguments)
    if result is not out:
        out[...] = result


def _form(g: Geometry, job: Job) -> FFTConvolution:
    return _form_of(g, job.arithmetic.compute, job.direction == "filter_grad", jit.host_target())


@cached(256)
def _form_of(g: Geometry, compute: str, gradient: bool, target: jit.Target) -> FFTConvolution:
    from einstride.cpu.fft.calls import FFTConvolution

    return FFTConvolution(g, compute, gradient, target)


def _strides(a: Any, of_filter: bool = False) -> tuple[int, ...]:
    """Return the strides in elements of examples, of the spatial axes and of channels.

    A filter has one input channel, whose stride is left out.
    """
    found = element_strides(a.strides, a.itemsize, a.shape, 1)
    return (*found[:-2], found[-1]) if of_filter else found


def _scratch(count: int, job: Job, b: Backend, like: Array) -> Array:
    """Allocate `count` elements of the products' dtype, aligned to a cache line."""
    from einstride.cpu.runtime.argument_block import address

    item = ITEMSIZE[job.arithmetic.compute]
    found = b.empty((count + 64 // item,), job.arithmetic.compute, like)
    return found[-address(found) % 64 // item :][:count]


def _geometries(job: Job) -> list[Geometry]:
    g = job.geometry
    if job.direction != "input_grad":
        return [g]
    return [p.geometry for p in input_gradient_phases.phases(g) if p.geometry is not None]


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if the compiled kernels can do the job, else why not."""
    g, compute = job.geometry, job.arithmetic.compute
    if not traits.compiled:
        return "its transforms are compiled for NumPy arrays, with llvmlite"
    if job.arithmetic.exact:
        return "integers must be exact, and spectra are rounded"
    if job.accuracy == "elementwise":
        return "its error is bounded by norms, not element by element"
    if compute not in COMPUTES or any(name not in (*COMPUTES, *HALVES) for name in job.operands):
        return "its transforms are of real floating-point numbers"
    if g.rank > 2 or 0 in g.size:
        return "its planes have one or two axes, and elements"
    if g.groups != g.channels:
        return "each channel has its own filter there"
    if job.direction == "input_grad" and g.filters != g.channels:
        return "an input channel has several filters"
    if job.direction != "input_grad" and max(g.stride) > 1:
        return "its transforms give every position, and a stride keeps few"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(job.geometry)):
        return reason
    return _refused(job)


def _refused(job: Job) -> str | None:
    from einstride.codegen.conversions import unconverted

    stored = (*job.operands, job.arithmetic.result)
    if reason := unconverted(stored, job.arithmetic.compute, jit.host_target()):
        return reason
    if any(_form(g, job).optional_tiling is None for g in _geometries(job)):
        return "a filter is longer than any period"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    return None


def _kernels(form: FFTConvolution, job: Job) -> tuple[str, ...]:
    """List the kernels of a pass whose filter is not prepared, the kernel with products first."""
    from einstride.cpu.fft import workspace as fft_workspace

    if fft_workspace.fused(form, job):
        return ("reduce",) if form.gradient else ("whole",)
    return ("gather", "finish") if form.gradient else ("convolve", "spectrum")


def describe(job: Job) -> Facts:
    """Describe the tiles and the transform length of each axis, and the kernels."""
    from einstride.cpu.fft import workspace as fft_workspace

    geometries = _geometries(job)
    if not geometries:
        return {"compiled": True, "kernel": "none: no tap meets an element"}
    g = max(geometries, key=lambda h: h.multiply_adds)
    form = _form(g, job)
    cut, (blocks, workers) = form.tiling, fft_workspace.blocks_at_once(form, job)
    axes = [cut.across] if cut.flat else [cut.down, cut.across]
    found: Facts = {
        "transforms": {
            f"axis {a}": f"length {x.period} by FFT, {x.tiles} tiles of {x.outputs} outputs"
            for a, x in enumerate(axes)
        },
        "compiled": True,
        "kernel": " and ".join(f"fourier_{name}" for name in _kernels(form, job)),
        "lanes": {"tiles" if form.tiled_lanes else "channels": form.lanes},
        "vectors of channels at once": blocks,
        "threads": workers,
        "target": str(form.target),
    }
    return found | ({"passes": len(geometries)} if len(geometries) > 1 else {})


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict the vector instructions of transforms and products."""
    from einstride.cpu.fft.calls import effort, filter_effort

    g, item = job.geometry, job.itemsize
    forms = [_form(h, job) for h in _geometries(job)]
    efforts = sum(effort(form) + filter_effort(form) for form in forms)
    moved = (prod(g.x_shape) + prod(g.y_shape)) * item
    seconds = rates["kernel"] + max(efforts * rates["fourier"] / job.threads, moved * rates["copy"])
    return Cost(int(efforts), workspace(job), moved, seconds)


def workspace(job: Job) -> int:
    """Count the bytes that a job takes, for the largest of its passes."""
    from einstride.cpu.fft import workspace as fft_workspace

    found = 0
    for h in _geometries(job):
        form = _form(h, job)
        blocks, workers = fft_workspace.blocks_at_once(form, job)
        needed = fft_workspace.workspace_bytes(form, job, blocks, workers)
        found = max(found, needed + form.tables + fft_workspace.copies(job))
    return found
