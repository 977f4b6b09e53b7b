"""Convolution of each channel with its own filters by compiled FFTs, in one or two dimensions.

The lanes of a vector are channels, so that a transform over positions needs no shuffles; see
`einstride.cpu.fft.kernels`. An input gradient is a forward pass for each stride phase. What a
sum's order depends on are shapes alone: threads, ceilings and (but for filter gradients) other
examples leave the bits alone.

Error: normwise, c * u * log2(L) * ||x||_2 * ||f||_2 for each channel of an example, with L
positions of a plane and u the unit roundoff (Higham 2002, theorem 24.2).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.arrays.ops import flip
from einstride.codegen import jit
from einstride.cpu.runtime.operands import operand, packed, steps, target
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import HALVES, ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.fft.calls import Form

EXACT = False
"""Integers come back rounded."""

COMPUTES = ("float32", "float64")


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
    f = _turned(f, g, b)
    for i, phase in enumerate(input_gradient_phases.phases(g)):
        steps = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        place = out[(slice(None), *steps, ...)]
        if phase.geometry is None:
            place[...] = 0 if bias is None else bias
            continue
        sub = flip(f[(*phase.taps, ...)], g.rank, b)
        kept = None if prepared is None else prepared[i]
        _convolve(gy, sub, phase.geometry, job, b, bias, place, kept)
    return out


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, 1, D), or (B, *K, 1, D) for each example."""
    from einstride.cpu.fft import workspace as fourier_room
    from einstride.cpu.fft.calls import call
    from einstride.cpu.runtime.argument_block import address, name_of

    g = job.geometry
    form = _form(g, job)
    out = b.empty(job.shape, job.arithmetic.result, x) if out is None else out
    place = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    each = place if job.per_example else place[None]
    x, gy, made = operand(x, b), operand(gy, b), target(each, b)
    units = fourier_room.units(form, job)
    many, workers = fourier_room.room(form, job)
    block = _scratch(fourier_room.share(form, job) * workers, job, b, x)
    f_steps = _steps(made, True)
    dtypes = (name_of(x), name_of(gy)), (name_of(made),)
    arrays = {"x": address(x), "y": address(gy)}
    words = {"scratch": address(block)}
    if fourier_room.fused(form, job):
        each_steps = (_steps(x), _steps(gy), f_steps)
        done = call(form, "reduce", dtypes[0] + dtypes[1], each_steps, form.blocks, units, workers)
        done(b.launch, f=address(made), **arrays, **words)
    else:
        spectra = _scratch(units * many * form.spectrum, job, b, x)
        words["spectra"] = address(spectra)
        for first in range(0, form.blocks, many):
            count = min(many, form.blocks - first)
            given = (dtypes[0], (_steps(x), _steps(gy)), count, units, workers)
            call(form, "gather", *given)(b.launch, first=first, **arrays, **words)
            parts = spectra[: units * count * form.spectrum].reshape(units, -1)
            for i in range(1, units):
                parts[0] += parts[i]
            done = call(form, "finish", dtypes[1], (f_steps,), count, 1, workers)
            done(b.launch, f=address(made), first=first, **words)
    if made is not each:
        each[...] = made
    return out


def prepare(f: Array, job: Job, b: Backend) -> tuple[Array | None, ...]:
    """What `forward` and `input_grad` take as `prepared`: the filter's spectra."""
    g = job.geometry
    if job.direction == "forward":
        return (_kept(flip(f, g.rank, b) if g.flip else f, g, job, b),)
    f = _turned(f, g, b)
    return tuple(
        None
        if phase.geometry is None
        else _kept(flip(f[(*phase.taps, ...)], g.rank, b), phase.geometry, job, b)
        for phase in input_gradient_phases.phases(g)
    )


def _turned(f: Array, g: Geometry, b: Backend) -> Array:
    """The filter of the input gradient, before its taps are reversed: one channel, one filter."""
    return flip(f, g.rank, b) if g.flip else f


def _kept(f: Array, g: Geometry, job: Job, b: Backend) -> Array:
    form = _form(g, job)
    spectra = _scratch(form.blocks * form.spectrum, job, b, f)
    block = _scratch(form.share("spectrum") * job.threads, job, b, f)
    _transform(f, form, b, block, spectra, 0, form.blocks, job.threads)
    return spectra


def _transform(
    f: Array, form: Form, b: Backend, block: Array, spectra: Array, first: int, count: int,
    workers: int,
) -> None:  # fmt: skip
    """The spectra of some blocks of a filter."""
    from einstride.cpu.fft.calls import call
    from einstride.cpu.runtime.argument_block import address, name_of

    f = operand(f, b)
    done = call(form, "spectrum", (name_of(f),), (_steps(f[None], True),), count, 1, workers)
    words = {"scratch": address(block), "spectra": address(spectra), "first": first}
    done(b.launch, f=address(f), **words)


def _convolve(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any,
    prepared: Array | None,
) -> None:  # fmt: skip
    """y = conv(x, f) + bias of a geometry that neither flips nor strides."""
    from einstride.cpu.fft import workspace as fourier_room
    from einstride.cpu.fft.calls import call
    from einstride.cpu.runtime.argument_block import address, name_of

    form = _form(g, job)
    x, made = operand(x, b), target(out, b)
    added = None if bias is None else operand(bias, b, form.compute, packed)
    bias_at = 0 if added is None else address(added)
    many, workers = fourier_room.room(form, job)
    block = _scratch(fourier_room.share(form, job) * workers, job, b, x)
    dtypes, moves = (name_of(x), name_of(made)), (_steps(x), _steps(made))
    words = {"x": address(x), "y": address(made), "scratch": address(block), "bias": bias_at}
    if prepared is None and fourier_room.fused(form, job):
        f = operand(f, b)
        of_f = _steps(f[None], True)
        done = call(form, "whole", (name_of(f), *dtypes), (of_f, *moves), form.blocks, 1, workers)
        done(b.launch, f=address(f), **words)
    else:
        many = form.blocks if prepared is not None else many
        spectra = _scratch(many * form.spectrum, job, b, x) if prepared is None else prepared
        for first in range(0, form.blocks, many):
            count = min(many, form.blocks - first)
            if prepared is None:
                _transform(f, form, b, block, spectra, first, count, workers)
            done = call(form, "convolve", dtypes, moves, count, 1, workers)
            done(b.launch, spectra=address(spectra), first=first, **words)
    if made is not out:
        out[...] = made


def _form(g: Geometry, job: Job) -> Form:
    return _form_of(g, job.arithmetic.compute, job.direction == "filter_grad", jit.machine())


@cached(256)
def _form_of(g: Geometry, compute: str, gradient: bool, machine: jit.Machine) -> Form:
    from einstride.cpu.fft.calls import Form

    return Form(g, compute, gradient, machine)


def _steps(a: Any, of_filter: bool = False) -> tuple[int, ...]:
    """Strides in elements: of examples, of the spatial axes, of channels.

    A filter's input channel is one, and is left out.
    """
    found = steps(a.strides, a.itemsize, a.shape, 1)
    return (*found[:-2], found[-1]) if of_filter else found


def _scratch(count: int, job: Job, b: Backend, like: Array) -> Array:
    """Room for so many numbers that begins at a cache line."""
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
    """None if it can do the job, else why not."""
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
    if reason := unconverted(stored, job.arithmetic.compute, jit.machine()):
        return reason
    if any(_form(g, job).plan is None for g in _geometries(job)):
        return "a filter is longer than any period"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    return None


def _kernels(form: Form, job: Job) -> tuple[str, ...]:
    """The kernels of a pass whose filter is not prepared, the one with the products first."""
    from einstride.cpu.fft import workspace as fourier_room

    if fourier_room.fused(form, job):
        return ("reduce",) if form.gradient else ("whole",)
    return ("gather", "finish") if form.gradient else ("convolve", "spectrum")


def describe(job: Job) -> Facts:
    """Each axis' tiles and the length of their transforms, and the kernels."""
    from einstride.cpu.fft import workspace as fourier_room

    geometries = _geometries(job)
    if not geometries:
        return {"compiled": True, "kernel": "none: no tap meets an element"}
    g = max(geometries, key=lambda h: h.multiply_adds)
    form = _form(g, job)
    cut, (blocks, workers) = form.cut, fourier_room.room(form, job)
    axes = [cut.across] if cut.flat else [cut.down, cut.across]
    found: Facts = {
        "transforms": {
            f"axis {a}": f"length {x.period} by FFT, {x.tiles} tiles of {x.outputs} outputs"
            for a, x in enumerate(axes)
        },
        "compiled": True,
        "kernel": " and ".join(f"fourier_{name}" for name in _kernels(form, job)),
        "lanes": {"tiles" if form.spread else "channels": form.lanes},
        "vectors of channels at once": blocks,
        "threads": workers,
        "target": str(form.machine),
    }
    return found | ({"passes": len(geometries)} if len(geometries) > 1 else {})


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Vector instructions of transforms and products."""
    from einstride.cpu.fft import workspace as fourier_room
    from einstride.cpu.fft.calls import filter_effort, worth

    g, item = job.geometry, job.itemsize
    efforts = workspace = 0.0
    for h in _geometries(job):
        form = _form(h, job)
        blocks, workers = fourier_room.room(form, job)
        efforts += worth(form) + filter_effort(form)
        needed = (
            fourier_room.need(form, job, blocks, workers) + form.tables + fourier_room.copies(job)
        )
        workspace = max(workspace, needed)
    moved = (prod(g.x_shape) + prod(g.y_shape)) * item
    seconds = rates["kernel"] + max(efforts * rates["fourier"] / job.threads, moved * rates["copy"])
    return Cost(int(efforts), int(workspace), moved, seconds)
