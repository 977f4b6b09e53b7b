"""Compute a forward convolution by frequencies: y's spectrum is x's times the filter's, per tile.

Each worker takes a box of examples, tiles and groups (or filters), and

1. gathers the tiles of x as planes (u, *positions, n * c),
2. transforms them: X (Q, 2, n, c),
3. multiplies by the filter's spectrum F (Q, 2, c, d): a matrix product for each frequency and
   group, or element by element where each group has one channel,
4. transforms back only the outputs that are needed, and writes them to the result.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft import work
from einstride.algorithms.fft.axes import Axis
from einstride.algorithms.fft.blocks import assemble, outputs, tiles_of_x
from einstride.algorithms.fft.plan import TilePlan, correlation, spectrum_part
from einstride.algorithms.fft.planes import multiply, planes_of_array
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
    """Return the real dtype of planes."""
    return REAL.get(job.sums, job.sums)


def correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None = None,
    out: Array | None = None, spectrum: Array | None = None,
) -> Array:  # fmt: skip
    """Compute y (B, *O, D) = conv(x, f) + bias without flip; the result lies in `out` if given.

    `spectrum` is the result of `filter_spectrum` for this job, if the caller has it.
    """
    plan = correlation(g, job, b.traits, spectrum is not None)
    dtype, result = real_of(job), job.arithmetic.result
    if spectrum is None and plan.kept:
        spectrum = filter_spectrum(f, g, job, plan, b)
    bias = None if bias is None else b.astype(bias, job.sums)
    sizes = (g.batch, *(a.tiles for a in plan.axes), g.groups if g.groups > 1 else g.filters)
    boxes = Boxes(sizes, plan.lengths)
    cg, r = g.channels // g.groups, g.filters // g.groups
    steps = [(c, min(c + plan.channels, cg)) for c in range(0, cg, plan.channels)]
    steps = steps if g.groups == 1 else [(0, cg)]

    def make() -> Callable[[Box], Array | None]:
        worker = Worker(g, job, plan, spectrum is None, x, b)

        def one(box: Box) -> Array | None:
            *where, (lo, hi) = box
            n = prod(stop - start for start, stop in where)
            filters = (lo * r, hi * r) if g.groups > 1 else (lo, hi)
            total: Array = None
            for step in steps:
                channels = (lo * cg, hi * cg) if g.groups > 1 else step
                tiles = tiles_of_x(x, g, plan.axes, tuple(where), channels, dtype, worker.memory, b)
                xs = worker.x.analyse(_flat(tiles, g.rank, b), worker.memory)
                if spectrum is None:
                    fs = worker.filter(f, step, filters)
                else:
                    fs = spectrum[:, :, step[0] : step[1], filters[0] : filters[1]]
                groups = hi - lo if g.groups > 1 else 1
                total = multiply(xs, fs, n, groups, total, worker.memory, b)
            y = worker.y.synthesise(b.xp.reshape(total, (*total.shape[:2], -1)), worker.memory)
            if bias is not None:
                y = _plus(y, bias[filters[0] : filters[1]], n, b)
            destination = None if out is None else out[..., filters[0] : filters[1]]
            return outputs(y, g, plan.axes, tuple(where), result, destination, b)

        return one

    found = b.run(make, boxes, plan.threads)
    if out is not None:
        return out
    counts = tuple(-(-s // n) for s, n in zip(sizes, plan.lengths, strict=True))
    return assemble(found, counts, b)


def filter_spectrum(f: Array, g: Geometry, job: Job, plan: TilePlan, b: Backend) -> Array:
    """Transform a filter (*K, C // G, D) to its spectrum (Q, 2, C // G, D), in parallel."""
    inner, filters = g.f_shape[-2:]
    u, dtype = work.planes_of(job), real_of(job)
    q = work.frequencies(plan.axes, u)
    positions = tuple(a.f_positions for a in plan.axes)
    each = u * prod(g.kernel) + 2 * work.buffer_elements(plan.axes, positions, u)
    c, d = spectrum_part(g, each, b.traits)
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
    transforms_filter : bool
        True if the worker transforms filters.
    filters_only : (int, int), optional
        Channels and filters at once, of a worker that transforms nothing but filters.
    """

    def __init__(
        self, g: Geometry, job: Job, plan: TilePlan, transforms_filter: bool, like: Array,
        b: Backend, filters_only: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self._g, self._b, self._axes = g, b, plan.axes
        u, dtype = work.planes_of(job), real_of(job)
        self._u, self._dtype = u, dtype
        sizes = (
            only_filters(g, plan.axes, u, *filters_only)
            if filters_only
            else sizes_of(g, plan, u, transforms_filter)
        )
        self.memory = Scratch(sizes, u, dtype, like, b)
        axes = plan.axes
        self.x = Transform(axes, tuple(a.x_positions for a in axes), u, -1, dtype, like, b)
        self.y = Transform(axes, tuple(a.y_positions for a in axes), u, -1, dtype, like, b)
        self.f = Transform(axes, tuple(a.f_positions for a in axes), u, 1, dtype, like, b, "cd")

    def filter(self, f: Array, channels: Range, filters: Range) -> Array:
        """Transform a part of the filter to its spectrum (Q, 2, c, d)."""
        part = f[..., channels[0] : channels[1], filters[0] : filters[1]]
        destination = self.memory.take("filter", (self._u, *part.shape), self._b)
        p = planes_of_array(part, self._u, self._dtype, destination, self._b)
        found = self.f.analyse(_flat(p, self._g.rank, self._b), self.memory)
        return self._b.xp.reshape(found, (found.shape[0], 2, *part.shape[-2:]))


def only_filters(g: Geometry, axes: tuple[Axis, ...], u: int, c: int, d: int) -> dict[str, int]:
    """Count the elements of the buffers that transform c * d filters, by name."""
    stage = work.buffer_elements(axes, tuple(a.f_positions for a in axes), u) * c * d
    return {"filter": u * prod(g.kernel) * c * d, "c": stage, "d": stage}


def sizes_of(g: Geometry, plan: TilePlan, u: int, transforms_filter: bool) -> dict[str, int]:
    """Count the elements of a worker's buffers, by name."""
    cg, r = g.channels // g.groups, g.filters // g.groups
    grouped = g.groups > 1
    c = plan.width * cg if grouped else plan.channels
    d = plan.width * r if grouped else plan.width
    n, axes = plan.signals, plan.axes
    q = work.frequencies(axes, u)
    load = u * n * c * prod(a.inputs for a in axes)
    xs, ys = tuple(a.x_positions for a in axes), tuple(a.y_positions for a in axes)
    stage = max(work.buffer_elements(axes, xs, u) * c, work.buffer_elements(axes, ys, u) * d) * n
    sizes = {"load": load, "a": stage, "b": stage, "sum": q * 2 * n * d}
    sizes["product"] = q * 2 * n * d * (1 if g.channels == g.groups else 2)
    if transforms_filter:
        sizes |= only_filters(g, axes, u, cg if grouped else plan.channels, d)
    return sizes


def _flat(p: Array, rank: int, b: Backend) -> Array:
    """Return (u, *positions, ...) as (u, *positions, m)."""
    return b.xp.reshape(p, (*p.shape[: rank + 1], -1))


def _plus(y: Array, bias: Array, n: int, b: Backend) -> Array:
    """Add a bias (d,) to planes (u, *T, n * d), one plane after another."""
    shape = y.shape
    y = b.xp.reshape(y, (*shape[:-1], n, bias.shape[-1]))
    parts = (bias,) if shape[0] == 1 else (b.xp.real(bias), b.xp.imag(bias))
    planes = [add(y[i, ...], part, b) for i, part in enumerate(parts)]
    return b.xp.reshape(y if b.traits.mutable else b.xp.stack(planes), shape)
