"""Choose an engine for direct convolution on the CPU, by channels and groups."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct import channelwise, dense, few, grouped, staged
from einstride.algorithms.direct.description import Work, facts
from einstride.algorithms.direct.shapes import positions_as_channels, taps_as_channels
from einstride.arrays.ops import is_complex
from einstride.codegen import jit
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

_ENGINES: tuple[Any, ...] = (dense, channelwise, grouped, few)
_NAMES = {
    dense: "dense", channelwise: "channelwise", grouped: "grouped", few: "few channels",
}  # fmt: skip
_SPECIAL = (grouped, few)
"""Engines for some shapes only; one of the other engines can do each of their jobs."""

MISSING = "needs llvmlite: pip install 'einstride[fast]'"


@cached(4096)
def _engine(job: Job, traits: Traits, contiguous: bool = True) -> Any:
    """Choose the engine of a job.

    `grouped` for small groups whose channels are contiguous in memory (`contiguous`, as a plan
    assumes); `dense` if a group has enough channels to fill vectors and register tiles, else
    `channelwise`; `few` instead of either if it is predicted to be faster. These three add products
    in one order, by taps and then by channels, and give the same bits. `grouped` has another order,
    and its choice depends on sizes and strides: ``accuracy="elementwise"`` leaves it out, so that
    a part of an array has the bits of the whole.
    """
    if (
        contiguous
        and job.accuracy != "elementwise"
        and grouped in _ENGINES
        and grouped.supports(job, traits) is None
        # Arrays with other strides take another engine, whose workspace must fit the limit, too.
        and (not job.hard or _workspace(_engine(job, traits, False), job, traits) <= job.limit)
    ):
        return grouped
    g = positions_as_channels(job) if job.direction == "input_grad" else taps_as_channels(job)
    rows, columns = g.channels // g.groups, g.filters // g.groups
    if job.direction == "input_grad":
        rows, columns = columns, rows
    lanes = max(jit.host_target().vector_bytes // job.itemsize, 1)
    order = _general() if rows >= 3 and 2 * columns >= lanes else _general()[::-1]
    found = next(engine for engine in order if engine.supports(job, traits) is None)
    return few if few in _ENGINES and few.is_faster(found, job, traits) else found


def _workspace(engine: Any, job: Job, traits: Traits) -> int:
    """Count the bytes of workspace that an engine needs."""
    found: Cost = engine.cost(job, traits, defaultdict(float))
    return found.workspace + job.copied


def _general() -> tuple[Any, ...]:
    return tuple(engine for engine in _ENGINES if engine not in _SPECIAL)


def _engine_for(job: Job, b: Backend, prepared: Any, *arrays: Any) -> tuple[Any, dict[str, Any]]:
    """Return the engine for these arrays, and `prepared` if that was made for this engine."""
    planned = engine = _engine(job, b.traits)
    if engine is grouped and not grouped.fits(*arrays):
        engine = _engine(job, b.traits, False)
    if engine is few and not few.fits(job, *arrays):
        engine = few.fallback_engine(job, b.traits)
    return engine, {} if prepared is None or engine is not planned else {"prepared": prepared}


def forward(
    x: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """See `Algorithm` in `einstride.algorithms`."""
    if _by_blocks(x, f, job, b, bias, out, prepared):
        return out
    engine, keywords = _engine_for(job, b, prepared, x, out)
    return engine.forward(x, f, job, b, bias, out, **keywords)


def _by_blocks(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any
) -> bool:
    """Compute `out` by blocks in staging buffers, if these arrays need it; return False if not."""
    engine = _engine(job, b.traits)
    call = staged.call_for(engine, job, b.traits, x, out, f)
    return call is not None and staged.run(engine, call, x, f, job, b, bias, out, prepared)


def input_grad(
    gy: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """See `Algorithm` in `einstride.algorithms`."""
    if _by_blocks(gy, f, job, b, bias, out, prepared):
        return out
    engine, keywords = _engine_for(job, b, prepared, gy, out)
    return engine.input_grad(gy, f, job, b, bias, out, **keywords)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """See `Algorithm` in `einstride.algorithms`."""
    if staged.filter_gradient(_engine(job, b.traits), job, b, x, gy, out):
        return out
    return _engine_for(job, b, None, x, gy)[0].filter_grad(x, gy, job, b, bias, out)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Return `prepared` for the engine of the job, or None."""
    make = getattr(_engine(job, b.traits), "prepare", None)
    return None if make is None else make(f, job, b)


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the engine for these arrays, its kernel and the kernel's register tile."""
    arrays = (first, second) if job.direction == "filter_grad" else (first, out)
    engine, _ = _engine_for(job, b, None, *arrays)
    name, planned = _NAMES[engine], _engine(job, b.traits)
    call, sums = None, 1
    if job.direction != "filter_grad":
        call = staged.call_for(planned, job, b.traits, first, out, second)
    elif found := staged.gradient_for(planned, job, first, second, out):
        call, sums = found[0], job.geometry.batch * found[1]
    if call is not None:
        return facts(_NAMES[planned], Work(call.largest, sums=sums), call.call)
    work: Work | None = engine.work(job, b, first, second, out)
    if work is None:
        return {
            "engine": name,
            "compiled": True,
            "kernel": "none: no tap meets an element",
        }
    return facts(name, work)


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if one of the engines can do the job, else why the first cannot."""
    if not traits.compiled:
        return MISSING
    reasons = [engine.supports(job, traits) for engine in _general()]
    return None if None in reasons else reasons[0]


def program(
    first: Array, second: Array, bias: Array | None, out: Array, job: Job, b: Backend
) -> Any:
    """Record the kernel calls of a small call, for arrays with these strides; None if it cannot be.

    Complex products need copies of whole arrays, and special engines look at values.
    """
    engine = _engine(job, b.traits)
    if engine in _SPECIAL or is_complex(job.arithmetic.compute):
        return None
    from einstride.cpu.runtime.recorder import Recorder, UnrecordableError

    try:
        recorder = Recorder(b, first=first, second=second, bias=bias, result=out)
        arrays = recorder.stand_ins
        passes: dict[str, Any] = {
            "forward": forward, "input_grad": input_grad, "filter_grad": filter_grad,
        }  # fmt: skip
        passes[job.direction](
            arrays["first"], arrays["second"], job, recorder.backend, arrays["bias"],
            arrays["result"],
        )  # fmt: skip
    except UnrecordableError:
        return None
    return recorder


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict the cost of the engine that does the job."""
    engine = _engine(job, traits)
    found: Cost = engine.cost(job, traits, rates)
    found = replace(found, workspace=found.workspace + job.copied)
    if engine is not grouped:
        return found
    other: Cost = _engine(job, traits, False).cost(job, traits, rates)  # for arrays it cannot read
    return replace(found, workspace=max(found.workspace, other.workspace + job.copied))
