"""Choose an algorithm from shapes, dtypes and the backend's traits, never from values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from einstride import calibration as figures
from einstride.algorithms import ALGORITHMS
from einstride.geometry import arithmetic as dtypes
from einstride.geometry.convolution import Direction, Geometry
from einstride.geometry.infer_shapes import (
    filter_grad_geometry,
    input_grad_geometry,
    transposed_geometry,
)
from einstride.geometry.keywords import PerExample, Settings, Shape, Transposed
from einstride.geometry.layout import Layout, canonical, parse
from einstride.geometry.padding_modes import Border
from einstride.geometry.problem import Cost, Job
from einstride.planning import limits, tuned
from einstride.support.caches import cached
from einstride.support.errors import bad_value, shown

if TYPE_CHECKING:
    from einstride.arrays.backends import Traits


WORTH_ROUNDING = 1 << 19
"""Multiply-adds of a call below which `auto` takes only algorithms that are exact on integers.

FFT and Winograd round their results also where all values are small integers; below this size
their gain in time is too small to be worth that. It changes which algorithm `auto` takes only.
"""


@dataclass(frozen=True)
class Candidate:
    """An algorithm that the planner compared.

    Attributes
    ----------
    algorithm : str
        The name of the algorithm.
    cost : Cost or None
        Its predicted cost; None if it cannot do the job.
    verdict : str
        "chosen", or why it was not.
    """

    algorithm: str
    cost: Cost | None
    verdict: str


@dataclass(frozen=True)
class Decision:
    """The algorithm chosen for a job, with the predicted cost of every other; made to be printed.

    Attributes
    ----------
    algorithm : str
        The algorithm that will run.
    job : Job
        The geometry, the direction, the dtypes and the workspace limit.
    inner : Job
        The part of the job that the algorithm computes; see `Job.inner`.
    orders : tuple
        The permutations of the first operand, the second and the result into canonical order.
    candidates : tuple of Candidate
        Every algorithm, in the order of `ALGORITHMS`.
    library : str
        The array library that the plan is for.
    figures : Figures
        The origin of the calibrated rates behind the predicted times.
    asked : str
        The algorithm that the caller asked for, or "auto".
    """

    algorithm: str
    job: Job
    inner: Job
    orders: tuple[Shape | None, Shape | None, Shape | None]
    candidates: tuple[Candidate, ...]
    library: str
    figures: figures.Figures
    asked: str = "auto"

    def __str__(self) -> str:
        """Format two lines about the job and the table of algorithms."""
        return f"{self.head()}\n{self.table}"

    def head(self, any_batch: bool = False) -> str:
        """Format two lines about the job, with None for its batch if that may be any."""
        j, g = self.job, self.job.geometry
        batch = None if any_batch else g.batch
        limit = "at most" if j.hard else "aimed at"
        return (
            f"{j.direction} on {self.library}: x {(batch, *g.x_shape[1:])}, "
            f"f {g.f_shape} -> y {(batch, *g.y_shape[1:])}, "
            f"stride {g.stride}, padding {g.padding}, dilation {g.dilation}, groups {g.groups}\n"
            f"products in {j.arithmetic.compute}, result {j.arithmetic.result}, up to {j.threads} "
            f"threads, workspace {limit} {_bytes(j.limit)}; {self.figures}"
        )

    @property
    def table(self) -> str:
        """Format a row for each algorithm: its predicted cost, and why it was not chosen."""
        rows = [("algorithm", "multiply-adds", "moved", "workspace", "predicted", "")]
        for c in self.candidates:
            if c.cost is None:
                rows.append((c.algorithm, "-", "-", "-", "-", c.verdict))
            else:
                k = c.cost
                rows.append(
                    (
                        c.algorithm,
                        f"{k.multiply_adds:,}",
                        _bytes(k.moved),
                        _bytes(k.workspace),
                        f"{k.seconds * 1e3:.3f} ms",
                        f"{c.verdict}; {k.note}" if k.note else c.verdict,
                    )
                )
        width = [max(len(r[i]) for r in rows) for i in range(6)]
        lines = (
            "  ".join(
                [r[0].ljust(width[0]), *(r[i].rjust(width[i]) for i in range(1, 5)), r[5]]
            ).rstrip()
            for r in rows
        )
        return "\n".join(lines)


def _bytes(n: int) -> str:
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


@cached(4096)
def plan(
    where: str,
    direction: Direction,
    shapes: tuple[Shape, Shape],
    extra: Any,
    settings: Settings,
    layout: str,
    names: tuple[str, str, str | None],
    algorithm: str,
    accuracy: str,
    accumulate: str | None,
    batch_invariant: bool,
    max_workspace: int | None,
    threads: int,
    traits: Traits,
    prepared: bool = False,
    copied: int = 0,
    packed_bias: bool = True,
) -> Decision:
    """Plan a call, after checks of everything that can be wrong with its shapes and dtypes.

    `shapes` are the shapes of the two operands in the caller's layout; `extra` is the input or
    kernel size of a gradient, or a `Transposed` of a transposed convolution; `prepared` and
    `copied` are as in `Job`; `packed_bias` is True if the bias, if any, is contiguous.
    """
    rank = len(shapes[0]) - 2
    if rank > traits.max_rank:
        raise bad_value(
            where,
            f"{traits.library} arrays can have windows over at most {traits.max_rank} spatial axes",
            f"{rank}",
            "merge axes that the filter does not span",
        )
    order = parse(where, layout, max(rank, 1))
    g = _geometry_for(traits, geometry(where, direction, shapes, extra, settings, order))
    if g.border is not None and direction != "input_grad":
        dtypes.check_fill(where, g.border.fill, names[0])
    per_example = isinstance(extra, PerExample)
    terms = prod(g.out) if per_example else g.terms(direction)
    arithmetic = dtypes.resolve(where, names, terms, accumulate, traits.half_sums)
    job = Job(
        geometry=g,
        direction=direction,
        arithmetic=arithmetic,
        operands=names[:2],
        limit=traits.workspace if max_workspace is None else max_workspace,
        hard=max_workspace is not None,
        threads=threads,
        accuracy=accuracy,
        per_example=per_example,
        batch_invariant=batch_invariant,
        prepared=prepared and max_workspace is None,  # a kept filter would count as workspace
        copied=copied,
    )
    if job.hard and names[2] is not None and not (packed_bias and names[2] == job.sums):
        job = replace(job, copies_bias=True)
    return choose_algorithm(where, job, orders(direction, order, extra), algorithm, traits)


def orders(
    direction: Direction, layout: Layout, extra: Any
) -> tuple[Shape | None, Shape | None, Shape | None]:
    """Return the permutations that bring operands and result into canonical order."""
    if direction == "forward" or isinstance(extra, Transposed):
        return layout.x, layout.f, layout.y
    if direction == "filter_grad":
        order = layout.f
        if order is not None and isinstance(extra, PerExample):
            order = (0, *(i + 1 for i in order))
        return layout.x, layout.y, order
    return layout.y, layout.f, layout.x


def geometry(
    where: str,
    direction: Direction,
    shapes: tuple[Shape, Shape],
    extra: Any,
    settings: Settings,
    order: Layout,
) -> Geometry:
    """Return the geometry of the forward pass that a call belongs to, after its checks.

    An input gradient does not depend on the constant in a border, so `fill` counts as zero there.
    """
    first, second = shapes
    if direction == "input_grad":
        settings = settings._replace(fill=0)
    if direction == "forward":
        if len(first) == len(second):
            first, second = canonical(first, order.x), canonical(second, order.f)
        return Geometry.of(where, first, second, settings, f"x {shapes[0]}, f {shapes[1]}")
    if direction == "filter_grad":
        if len(first) == len(second):
            first, second = canonical(first, order.x), canonical(second, order.y)
        got = f"x {shapes[0]}, gy {shapes[1]}"
        kernel = extra.kernel_size if isinstance(extra, PerExample) else extra
        return filter_grad_geometry(where, first, second, kernel, settings, got)
    transposed = isinstance(extra, Transposed)
    if len(first) == len(second):
        first = canonical(first, order.x if transposed else order.y)
        second = canonical(second, order.f)
    if transposed:
        got = f"x {shapes[0]}, f {shapes[1]}"
        return transposed_geometry(where, first, second, settings, got, extra)
    return input_grad_geometry(
        where, first, second, extra, settings, f"gy {shapes[0]}, f {shapes[1]}"
    )


def _geometry_for(traits: Traits, g: Geometry) -> Geometry:
    """Return a geometry whose border the kernels know, or that is filled in a copy before them.

    Kernels in CUDA C know no "symmetric" border: with one case more, some would spill registers.
    """
    if traits.kernels != "cuda" or g.padding_mode != "symmetric":
        return g
    return replace(g, padding_mode="zeros", border=Border((g.padding_mode,) * g.rank))


def choose_algorithm(
    where: str,
    job: Job,
    orders: tuple[Shape | None, Shape | None, Shape | None],
    algorithm: str,
    traits: Traits,
) -> Decision:
    """Choose the fastest algorithm that can do the job under the limit, or the one asked for."""
    if algorithm != "auto" and algorithm not in ALGORITHMS:
        raise bad_value(
            where,
            "algorithm is unknown",
            shown(algorithm),
            f"use 'auto' or one of {tuple(ALGORITHMS)}",
        )
    origin = figures.of(traits.library)
    if job.empty:
        name = "strided" if algorithm == "auto" else algorithm
        idle = Candidate(name, Cost(0, 0, 0, 0.0), "chosen: nothing is to be multiplied")
        return Decision(name, job, job, orders, (idle,), traits.library, origin, algorithm)
    parts = {name: limits.part(name, job, traits) for name in ALGORITHMS}
    inner = job.inner
    known = figures.rates(traits.library, job.arithmetic.compute, job.accuracy == "tf32")
    costs: dict[str, Cost] = {}
    why: dict[str, str] = {}
    batch = 1 if job.batch_invariant else inner.geometry.batch
    small = replace(inner.geometry, batch=batch).multiply_adds < WORTH_ROUNDING
    proved = figures.auto_algorithms(traits.library) or tuple(ALGORITHMS)
    for name, module in ALGORITHMS.items():
        if algorithm == "auto" and small and not getattr(module, "EXACT", True):
            why[name] = (
                "its rounding is not worth the few products that it saves: ask for it by name"
            )
            continue
        reason = module.supports(parts[name], traits)
        if reason is None and algorithm == "auto" and name not in proved:
            reason = f"not proved on {traits.library} yet: ask for it by name"
        if reason is None:
            spent = module.cost(parts[name], traits, known)
            whole = spent.workspace + limits.outside(name, job, traits)
            costs[name] = replace(spent, workspace=whole)
            if job.hard and costs[name].workspace > job.limit:
                reason = f"needs at least {costs[name].workspace} bytes of workspace"
        if reason is not None:
            why[name] = reason
    fit = [n for n in costs if n not in why]
    measured = tuned.algorithm(job, orders, traits.library) if algorithm == "auto" else None
    asked = list(ALGORITHMS) if algorithm == "auto" else [algorithm]
    if not any(n in fit for n in asked):
        least = [limits.least(n, job, costs[n].workspace, traits) for n in asked if n in costs]
        if least:
            raise bad_value(
                where,
                f"max_workspace is too small for algorithm={algorithm!r}",
                f"max_workspace={job.limit}",
                f"pass max_workspace={min(least)} bytes or more, the least that works",
            )
        raise bad_value(
            where,
            f"algorithm={algorithm!r} cannot do this",
            "; ".join(f"{n}: {why[n]}" for n in asked).replace("; ", ", "),
            "use algorithm='auto'",
        )

    def seconds(name: str) -> float:
        """Predict the seconds of the job; of one example where the choice may not depend on B."""
        if not job.batch_invariant:
            return costs[name].seconds
        one = replace(parts[name], geometry=replace(inner.geometry, batch=1))
        return ALGORITHMS[name].cost(one, traits, known).seconds

    preferred = _preferred(job, asked, fit, traits)
    best = measured if measured in preferred else min(preferred, key=seconds)
    verdicts = _verdicts(costs, best, asked, preferred) | why
    if best == measured:
        verdicts[best] += f": measured as the fastest, in {tuned.SOURCE[0]}"
    table = tuple([Candidate(name, costs.get(name), verdicts[name]) for name in ALGORITHMS])
    return Decision(best, job, parts[best], orders, table, traits.library, origin, algorithm)


def _preferred(job: Job, asked: list[str], fit: list[str], traits: Traits) -> list[str]:
    """Return the algorithms between which the predicted time decides.

    Where each element has a bound of its own, `direct` alone on CPUs: the order of its sums depends
    on no size, so that a part of an array has the bits of the whole.
    """
    can = [name for name in asked if name in fit]
    if job.accuracy == "elementwise" and traits.kernels == "cpu" and "direct" in can:
        return ["direct"]
    return can


def _verdicts(
    costs: dict[str, Cost], best: str, asked: list[str], preferred: list[str]
) -> dict[str, str]:
    """Say of each algorithm that can do the job why it was chosen, or why not."""
    found = dict.fromkeys(costs, "not asked for")
    for name in asked:
        if name in costs:
            found[name] = f"predicted {costs[name].seconds / costs[best].seconds:.1f}x the time"
            if name not in preferred:
                found[name] += ", and the order of its sums depends on sizes"
    found[best] = "asked for" if len(asked) == 1 else "chosen"
    return found
