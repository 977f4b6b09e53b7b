"""Direct convolution on the CPU: many channels, small groups, few channels, or one at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct import channelwise, dense, few, grouped, steps
from einstride.algorithms.direct.description import Work, facts
from einstride.algorithms.direct.shapes import gathered, joined
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
"""Engines for some jobs, which one of the others can do as well."""

MISSING = "needs llvmlite: pip install 'einstride[fast]'"


@cached(4096)
def _engine(job: Job, traits: Traits, neighbours: bool = True) -> Any:
    """Outer products where a group has channels enough to fill vectors and tiles with them.

    Small groups side by side where channels are `neighbours` in memory, as plans take them to be.
    The engine for few channels is taken where it expects to be faster than that.
    """
    if (
        neighbours
        and grouped in _ENGINES
        and grouped.supports(job, traits) is None
        # Its plan counts what the engine for other arrays needs: both fit, or it is that one's job.
        and (not job.hard or _least(_engine(job, traits, False), job, traits) <= job.limit)
    ):
        return grouped
    g = gathered(job) if job.direction == "input_grad" else joined(job)
    rows, columns = g.channels // g.groups, g.filters // g.groups
    if job.direction == "input_grad":
        rows, columns = columns, rows
    lanes = max(jit.machine().vector_bytes // job.itemsize, 1)
    order = _general() if rows >= 3 and 2 * columns >= lanes else _general()[::-1]
    found = next(engine for engine in order if engine.supports(job, traits) is None)
    return few if few in _ENGINES and few.better(found, job, traits) else found


def _least(engine: Any, job: Job, traits: Traits) -> int:
    """Bytes of workspace that an engine needs; times are of no interest."""
    found: Cost = engine.cost(job, traits, defaultdict(float))
    return found.workspace + job.copied


def _general() -> tuple[Any, ...]:
    return tuple(engine for engine in _ENGINES if engine not in _SPECIAL)


def _chosen(job: Job, b: Backend, prepared: Any, *arrays: Any) -> tuple[Any, dict[str, Any]]:
    """The engine for these arrays, and what was prepared if that was for it."""
    planned = engine = _engine(job, b.traits)
    if engine is grouped and not grouped.fits(*arrays):
        engine = _engine(job, b.traits, False)
    if engine is few and not few.fits(job, *arrays):
        engine = few.other(job, b.traits)
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
    """As the table of algorithms says."""
    engine, more = _chosen(job, b, prepared, x, out)
    return engine.forward(x, f, job, b, bias, out, **more)


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
    engine, more = _chosen(job, b, prepared, gy, out)
    return engine.input_grad(gy, f, job, b, bias, out, **more)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """As the table of algorithms says."""
    return _chosen(job, b, None, x, gy)[0].filter_grad(x, gy, job, b, bias, out)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """What `prepared` may be, for the engine that will do the job."""
    make = getattr(_engine(job, b.traits), "prepare", None)
    return None if make is None else make(f, job, b)


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """The engine for these arrays, its kernel and the kernel's register tile."""
    arrays = (first, second) if job.direction == "filter_grad" else (first, out)
    engine, _ = _chosen(job, b, None, *arrays)
    name = _NAMES[engine]
    work: Work | None = engine.work(job, b, first, second, out)
    if work is None:
        return {
            "engine": name,
            "compiled": True,
            "kernel": "none: no tap meets an element",
        }
    return facts(name, work)


def supports(job: Job, traits: Traits) -> str | None:
    """None if one of the engines can do the job, else why the first cannot."""
    if not traits.compiled:
        return MISSING
    reasons = [engine.supports(job, traits) for engine in _general()]
    return None if None in reasons else reasons[0]


def program(
    first: Array, second: Array, bias: Array | None, out: Array, job: Job, b: Backend
) -> Any:
    """A small call as steps that need no Python in between, or None: see `steps`."""
    engine = _engine(job, b.traits)
    if engine in _SPECIAL:
        return None
    return steps.steps(engine is dense, first, second, bias, out, job, b)


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """The cost of the engine that will do it."""
    engine = _engine(job, traits)
    found: Cost = engine.cost(job, traits, rates)
    found = replace(found, workspace=found.workspace + job.copied)
    if engine is not grouped:
        return found
    other: Cost = _engine(job, traits, False).cost(job, traits, rates)  # for arrays it cannot read
    return replace(found, workspace=max(found.workspace, other.workspace + job.copied))
