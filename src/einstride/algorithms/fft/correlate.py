"""Forward convolution by frequencies: y's spectrum is x's times the filter's, tile by tile.

Each worker takes a box of examples, tiles and groups (or filters), and

1. gathers the tiles of x as planes (u, *positions, n * c),
2. transforms them: X (Q, 2, n, c),
3. multiplies: by the filter's spectrum F (Q, 2, c, d), a matrix product for each frequency and
   group, or element by element where each group has one channel,
4. transforms back only the outputs that are wanted, and puts them in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft import work
from einstride.algorithms.fft.axes import Axis
from einstride.algorithms.fft.blocks import assembled, outputs, tiles_of_x
from einstride.algorithms.fft.plan import Plan, correlation, kept_part
from einstride.algorithms.fft.planes import multiplied, planes_of_array
from einstride.algorithms.fft.scratch import Scratch
from einstride.algorithms.fft.transforms import Transform
from einstride.arrays.ops import add
from einstride.geometry.blocking import Box, Boxes
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

Range = tuple[int, int]
REAL = {"complex64": "float32", "complex128": "float64"}


def real_of(job: Job) -> str:
    """The dtype of planes."""
    return REAL.get(job.sums, job.sums)


def correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None = None,
    out: Array | None = None, kept: Array | None = None,
) -> Array:  # fmt: skip
    """y (B, *O, D) = conv(x, f) + bias of a geometry that does not flip; in `out` if given.

    `kept` is what `filter_spectrum` made for the same job, if the caller has it.
    """
    plan = correlation(g, job, b.traits, kept is not None)
    u, dtype, result = work.planes_of(job), real_of(job), job.arithmetic.result
    if kept is None and plan.kept:
        kept = filter_spectrum(f, g, job, plan, b)
    extra = None if bias is None else planes_of_array(b.astype(bias, job.sums), u, dtype, None, b)
    sizes = (g.batch, *(a.tiles for a in plan.axes), g.groups if g.groups > 1 else g.filters)
    boxes = Boxes(sizes, plan.lengths)
    cg, r = g.channels // g.groups, g.filters // g.groups
    steps = [(c, min(c + plan.channels, cg)) for c in range(0, cg, plan.channels)]
    steps = steps if g.groups == 1 else [(0, cg)]

    def make() -> Callable[[Box], Array | None]:
        worker = Worker(g, job, plan, kept is None, x, b)

        def one(box: Box) -> Array | None:
            *where, (lo, hi) = box
            n = prod(stop - start for start, stop in where)
            filters = (lo * r, hi * r) if g.groups > 1 else (lo, hi)
            total: Array = None
            for step in steps:
                channels = (lo * cg, hi * cg) if g.groups > 1 else step
                tiles = tiles_of_x(x, g, plan.axes, tuple(where), channels, dtype, worker.memory, b)
                xs = worker.x.analyse(_flat(tiles, g.rank, b), worker.memory)
                if kept is None:
                    fs = worker.filter(f, step, filters)
                else:
                    fs = kept[:, :, step[0] : step[1], filters[0] : filters[1]]
                groups = hi - lo if g.groups > 1 else 1
                total = multiplied(xs, fs, n, groups, total, worker.memory, b)
            y = worker.y.synthesise(b.xp.reshape(total, (*total.shape[:2], -1)), worker.memory)
            if extra is not None:
                y = _plus(y, extra[:, filters[0] : filters[1]], n, b)
            place = None if out is None else out[..., filters[0] : filters[1]]
            return outputs(y, g, plan.axes, tuple(where), result, place, b)

        return one

    found = b.run(make, boxes, plan.threads)
    if out is not None:
        return out
    counts = tuple(-(-s // n) for s, n in zip(sizes, plan.lengths, strict=True))
    return assembled(found, counts, b)


def filter_spectrum(f: Array, g: Geometry, job: Job, plan: Plan, b: Backend) -> Array:
    """The spectrum (Q, 2, C // G, D) of a filter (*K, C // G, D), in parts side by side."""
    inner, filters = g.f_shape[-2:]
    u, dtype = work.planes_of(job), real_of(job)
    q = work.frequencies(plan.axes, u)
    places = tuple(a.f_places for a in plan.axes)
    each = u * prod(g.kernel) + 2 * work.stages(plan.axes, places, u)
    c, d = kept_part(g, each, b.traits)
    if not b.traits.mutable:
        c, d = inner, filters
    whole = b.empty((q, 2, inner, filters), dtype, f) if b.traits.mutable else None

    def make() -> Callable[[Box], Array | None]:
        worker = Worker(g, job, plan, True, f, b, (c, d))

        def one(box: Box) -> Array | None:
            cs, ds = box
            found = worker.filter(f, cs, ds)
            if whole is None:
                return found
            whole[:, :, cs[0] : cs[1], ds[0] : ds[1]] = found
            return None

        return one

    found = b.run(make, Boxes((inner, filters), (c, d)), plan.threads)
    return whole if whole is not None else found[0]


class Worker:
    """One worker's memory and transforms.

    Parameters
    ----------
    streamed : bool
        Will it transform filters?
    only : (int, int), optional
        Channels and filters at once, of a worker that does nothing else.
    """

    def __init__(
        self, g: Geometry, job: Job, plan: Plan, streamed: bool, like: Array, b: Backend,
        only: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self._g, self._b, self._axes = g, b, plan.axes
        u, dtype = work.planes_of(job), real_of(job)
        self._u, self._dtype = u, dtype
        sizes = only_filters(g, plan.axes, u, *only) if only else sizes_of(g, plan, u, streamed)
        self.memory = Scratch(sizes, u, dtype, like, b)
        axes = plan.axes
        self.x = Transform(axes, tuple(a.x_places for a in axes), u, -1, dtype, like, b)
        self.y = Transform(axes, tuple(a.y_places for a in axes), u, -1, dtype, like, b)
        self.f = Transform(axes, tuple(a.f_places for a in axes), u, 1, dtype, like, b, "cd")

    def filter(self, f: Array, channels: Range, filters: Range) -> Array:
        """The spectrum (Q, 2, c, d) of a part of the filter."""
        part = f[..., channels[0] : channels[1], filters[0] : filters[1]]
        place = self.memory.take("filter", (self._u, *part.shape), self._b)
        p = planes_of_array(part, self._u, self._dtype, place, self._b)
        found = self.f.analyse(_flat(p, self._g.rank, self._b), self.memory)
        return self._b.xp.reshape(found, (found.shape[0], 2, *part.shape[-2:]))


def only_filters(g: Geometry, axes: tuple[Axis, ...], u: int, c: int, d: int) -> dict[str, int]:
    """Elements of the memory that transforms filters."""
    stage = work.stages(axes, tuple(a.f_places for a in axes), u) * c * d
    return {"filter": u * prod(g.kernel) * c * d, "c": stage, "d": stage}


def sizes_of(g: Geometry, plan: Plan, u: int, streamed: bool) -> dict[str, int]:
    """Elements of a worker's memory, by name."""
    cg, r = g.channels // g.groups, g.filters // g.groups
    grouped = g.groups > 1
    c = plan.width * cg if grouped else plan.channels
    d = plan.width * r if grouped else plan.width
    n, axes = plan.signals, plan.axes
    q = work.frequencies(axes, u)
    load = u * n * c * prod(a.inputs for a in axes)
    xs, ys = tuple(a.x_places for a in axes), tuple(a.y_places for a in axes)
    stage = max(work.stages(axes, xs, u) * c, work.stages(axes, ys, u) * d) * n
    sizes = {"load": load, "a": stage, "b": stage, "sum": q * 2 * n * d}
    sizes["product"] = q * 2 * n * d * (1 if g.channels == g.groups else 2)
    if streamed:
        sizes |= only_filters(g, axes, u, cg if grouped else plan.channels, d)
    return sizes


def _flat(p: Array, rank: int, b: Backend) -> Array:
    """(u, *positions, ...) as (u, *positions, m)."""
    return b.xp.reshape(p, (*p.shape[: rank + 1], -1))


def _plus(y: Array, bias: Array, n: int, b: Backend) -> Array:
    """Planes (u, *T, n * d) plus the planes (u, d) of a bias."""
    shape = y.shape
    ones = (1,) * (len(shape) - 2)
    y = b.xp.reshape(y, (*shape[:-1], n, bias.shape[-1]))
    bias = b.xp.reshape(bias, (bias.shape[0], *ones, 1, bias.shape[-1]))
    return b.xp.reshape(add(y, bias, b), shape)
