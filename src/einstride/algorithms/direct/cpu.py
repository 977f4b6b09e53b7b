"""Direct convolution on the CPU: outer products of many channels, or one channel at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct import channelwise, dense
from einstride.job import Cost, Job

if TYPE_CHECKING:
    from einstride.backends import Array, Backend, Traits

_ENGINES: tuple[Any, ...] = (dense, channelwise)

MISSING = "needs llvmlite: pip install 'einstride[fast]'"


@lru_cache(maxsize=4096)
def _engine(job: Job, traits: Traits) -> Any:
    """Outer products where a group has channels enough to fill vectors and tiles with them."""
    from einstride.simd.compiler import machine

    g = dense.joined(job)
    rows, columns = g.channels // g.groups, g.filters // g.groups
    if job.direction == "input_grad":
        rows, columns = columns, rows
    lanes = max(machine().vector_bytes // job.itemsize, 1)
    order = _ENGINES if rows >= 3 and 2 * columns >= lanes else _ENGINES[::-1]
    return next(engine for engine in order if engine.supports(job, traits) is None)


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


def program(
    first: Array, second: Array, bias: Array | None, out: Array, job: Job, b: Backend
) -> Any:
    """A small call as steps that need no Python in between, or None: see `steps`."""
    from einstride.algorithms.direct.steps import steps

    return steps(_engine(job, b.traits) is dense, first, second, bias, out, job, b)


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """The cost of the engine that will do it."""
    found: Cost = _engine(job, traits).cost(job, traits, rates)
    return found
