"""Direct convolution on the CPU: the cheapest of the engines that can do a job."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from einstride import figures
from einstride.algorithms.direct import channelwise, dense
from einstride.job import Cost, Job

if TYPE_CHECKING:
    from einstride.backends import Array, Backend, Traits

_ENGINES: tuple[Any, ...] = (dense, channelwise)

MISSING = "needs llvmlite: pip install 'einstride[fast]'"


@lru_cache(maxsize=4096)
def _engine(job: Job, traits: Traits) -> Any:
    """The cheapest engine."""
    able = [e for e in _ENGINES if e.supports(job, traits) is None]
    if len(able) == 1:
        return able[0]
    if job.batch_invariant:  # the batch has no say in it
        job = replace(job, geometry=replace(job.geometry, batch=1))
    known = figures.rates(traits.library, job.arithmetic.compute)
    return min(able, key=lambda e: e.cost(job, traits, known).seconds)


def forward(
    x: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """As the table of algorithms says."""
    more = {} if prepared is None else {"prepared": prepared}
    return _engine(job, b.traits).forward(x, f, job, b, bias, out, **more)


def input_grad(
    gy: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """As the table of algorithms says."""
    more = {} if prepared is None else {"prepared": prepared}
    return _engine(job, b.traits).input_grad(gy, f, job, b, bias, out, **more)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """As the table of algorithms says."""
    return _engine(job, b.traits).filter_grad(x, gy, job, b, bias, out)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """What `prepared` may be, for the engine that will do the job."""
    make = getattr(_engine(job, b.traits), "prepare", None)
    return None if make is None else make(f, job, b)


def supports(job: Job, traits: Traits) -> str | None:
    """None if one of the engines can do the job, else why the first cannot."""
    if not traits.compiled:
        return MISSING
    reasons = [engine.supports(job, traits) for engine in _ENGINES]
    return None if None in reasons else reasons[0]


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """The cost of the engine that will do it."""
    found: Cost = _engine(job, traits).cost(job, traits, rates)
    return found
