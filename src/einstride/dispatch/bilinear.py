"""Describe a pass as a bilinear operation, whose derivatives are the other passes.

A convolution is linear in the input and in the filter. So its derivative in a direction is a
convolution of that direction, and its adjoint in one operand is the input gradient or the filter
gradient. The same holds for these two passes, so that the three form a closed system: `ADJOINTS`.

Operations here are bilinear over complex numbers too: nothing is conjugated. `compute` conjugates
the factor that a public gradient conjugates, before the operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from einstride import calibration
from einstride.algorithms import ALGORITHMS
from einstride.arrays import backends, ops
from einstride.arrays.backends import Array, Backend, Traits
from einstride.arrays.backends.passes import Bilinear, Orders, Place, Places
from einstride.dispatch import array_checks, execute, run_plan
from einstride.geometry import layout as layouts
from einstride.geometry.arithmetic import COMPLEXES, HALVES, INTEGERS, ITEMSIZE, Arithmetic
from einstride.geometry.convolution import ADJOINTS, Direction, Geometry
from einstride.geometry.keywords import Keywords
from einstride.geometry.problem import Job
from einstride.planning import limits, select
from einstride.planning.select import Decision
from einstride.support.caches import cached

CANONICAL: Orders = (None, None, None)


@dataclass(frozen=True)
class Operation:
    """Hold a pass on arrays of known shapes and dtypes, as `Bilinear`.

    Attributes
    ----------
    where : str
        The public function, for errors.
    job : Job
        The pass, its geometry, its dtypes and the caller's limits.
    orders : tuple
        The permutations of the first operand, the second and the result into canonical order.
    algorithm : str
        The algorithm that the caller asked for, or "auto".
    derived : bool
        True if the caller asked for another operation, from which this one follows by a derivative
        or by `batched`: an algorithm that does not support this one is then replaced by "auto".
    """

    where: str
    job: Job
    orders: Orders
    algorithm: str
    derived: bool = False

    def __repr__(self) -> str:
        """Name the pass shortly, because JAX prints it with every traced function."""
        return f"{self.job.direction}{self.shape}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result, in the caller's layout."""
        return layouts.canonical(self.job.shape, layouts.inverse(self.orders[2]))

    @property
    def dtype(self) -> str:
        """Name of the dtype of the result."""
        return self.job.arithmetic.result

    @property
    def per_example(self) -> bool:
        """True if the result holds one filter gradient for each example, on its first axis."""
        return self.job.per_example

    def transposed(self, operand: int) -> tuple[Operation, bool]:
        """Return the adjoint in one operand; True if its arguments are (other, cotangent)."""
        direction, other_first = ADJOINTS[self.job.direction][operand]
        names = (self.dtype, self.job.operands[1 - operand])
        one, two = self.orders[2], self.orders[1 - operand]
        if other_first:
            names, one, two = names[::-1], two, one
        # No sum over the batch is batch invariant: the promise is that of the caller's own pass.
        invariant = self.job.batch_invariant and direction != "filter_grad"
        job = replace(self.job, direction=direction, operands=names, batch_invariant=invariant)
        orders = (one, two, self.orders[operand])
        return replace(self, job=job, orders=orders, derived=True), other_first

    def canonical(self) -> tuple[Operation, Orders]:
        """Return the operation on canonical arrays, and the permutations that lead there."""
        return replace(self, orders=CANONICAL), self.orders

    def of_one_example(self) -> Operation:
        """Return the filter gradient of a batch of one."""
        one = replace(self.job.geometry, batch=1)
        return replace(self, job=replace(self.job, geometry=one, per_example=False))

    def batched(self, count: int, first: bool, second: bool) -> tuple[Operation, Places]:
        """Return the operation that computes `count` results at once, of canonical arrays.

        Where all arrays have a batch, the new axis joins the batch. An axis of one operand and the
        result alone joins their channels, inside each group. An axis of all three arrays makes
        `count` times as many groups; filter gradients of single examples are `per_example`.
        """
        g, direction = self.job.geometry, self.job.direction
        batch: Place = (0, 1)
        inside: Place = (-1, g.groups)
        each: Place = (-1, 1)
        filters_of_input: Place = (-2, 1)
        places: Places
        if first and second and direction == "filter_grad" and (self.per_example or g.batch == 1):
            g = replace(g, batch=g.batch * count)
            places = (batch, batch, batch if self.per_example else None)
            job = replace(self.job, geometry=g, per_example=True)
            return replace(self, job=job, derived=True), places
        if first and second:
            g = replace(
                g, groups=g.groups * count, channels=g.channels * count, filters=g.filters * count
            )
            places = (each, each, each)
        elif first and direction != "filter_grad":
            g = replace(g, batch=g.batch * count)
            places = (batch, None, batch)
        elif direction == "forward" or (direction == "filter_grad" and second):
            g = replace(g, filters=g.filters * count)
            places = (None, inside, inside)
        else:
            g = replace(g, channels=g.channels * count)
            in_x, in_f = inside, filters_of_input
            places = (in_x, None, in_f) if direction == "filter_grad" else (None, in_f, in_x)
        return replace(self, job=replace(self.job, geometry=g), derived=True), places

    def plan(self, threads: int, traits: Traits) -> Decision:
        """Choose the algorithm, for as many threads as there are at this moment."""
        return _plan(self, threads, traits)

    def on_host(self, first: Any, second: Any) -> Any:
        """Compute the result of NumPy arrays with the kernels and algorithms for NumPy."""
        b = backends.by_name(self.where, "numpy")
        return self._by_algorithm(b, first, second)

    def on_device(self, b: Backend, first: Array, second: Array) -> Array:
        """Compute the result with functions of the library of `b`."""
        if self.job.empty:
            return b.zeros(self.shape, self.dtype, first)
        if b.convolve is None or not self._library_serves:
            return self._by_algorithm(b, first, second)
        return self._by_library(b, first, second)

    def _by_algorithm(self, b: Backend, first: Array, second: Array) -> Array:
        first, second = _conjugated(self.job.direction, first, second, b)
        plan = self.plan(b.threads(), b.traits)
        return run_plan.run(self.where, plan, b, first, second, None, None)

    def _by_library(self, b: Backend, first: Array, second: Array) -> Array:
        """Pad, convolve and fold as the library does; sums are formed in the job's dtype."""
        order_1, order_2, order_out = self.orders
        first = first if order_1 is None else b.xp.permute_dims(first, order_1)
        second = second if order_2 is None else b.xp.permute_dims(second, order_2)
        job, g = self.job, self.job.geometry
        first, second = (b.astype(a, job.arithmetic.compute) for a in (first, second))
        bordered = g.repeats_input
        if bordered and job.direction != "input_grad":
            if g.input_dilation:
                first = ops.dilate(first, g.input_dilation, b)
            first = ops.pad(first, g.padding, g.modes, b)
        convolve: Any = b.convolve
        found = convolve(g.extended if bordered else g, job.direction, first, second)
        if bordered and job.direction == "input_grad":
            found = ops.fold(found, g.size, g.padding, g.modes, b)
            if g.input_dilation:
                found = found[(slice(None), *(slice(None, None, t) for t in g.input_dilation), ...)]
        found = b.astype(found, job.arithmetic.result)
        back = layouts.inverse(order_out)
        return found if back is None else b.xp.permute_dims(found, back)

    @property
    def _library_serves(self) -> bool:
        """True if the library's own convolution keeps every promise that the caller asked for."""
        job, a = self.job, self.job.arithmetic
        plain = a.compute == ("float32" if a.result in HALVES else a.result)
        return (
            self.algorithm == "auto"
            and plain
            and not a.exact
            and not job.hard
            and not job.batch_invariant
            and not job.per_example
            and job.accuracy != "elementwise"
        )

    def prefers_host(self, b: Backend) -> bool:
        """True if `on_host`, called back from compiled code, is needed or predicted faster."""
        if self.job.empty:
            return False
        return not self._library_serves or _callback_is_faster(self, b)


def _callback_is_faster(op: Operation, b: Backend) -> bool:
    """Compare the predicted times of NumPy's kernels and of the library's own convolution.

    The former includes the call back to Python and the copies of all arrays that XLA makes for it.
    """
    host = backends.by_name(op.where, "numpy")
    plan = op.plan(host.threads(), host.traits)
    ours = next(c.cost for c in plan.candidates if c.algorithm == plan.algorithm)
    known = calibration.of_compiled_library(b.traits.library)
    seconds: float = known["callback"] + _moved(op.job) * known["byte"]
    seconds += 0.0 if ours is None else ours.seconds
    return seconds < _library_seconds(op.job, known)


def _moved(job: Job) -> int:
    """Return the bytes of the two operands and of the result."""
    g = job.geometry
    x, f, y = g.given_shape, g.f_shape, g.y_shape
    operands = {"forward": (x, f), "input_grad": (y, f), "filter_grad": (x, y)}[job.direction]
    names = (*job.operands, job.arithmetic.result)
    shapes = (*operands, job.shape)
    return sum(prod(s) * ITEMSIZE[n] for s, n in zip(shapes, names, strict=True))


def _library_seconds(job: Job, known: dict[str, Any]) -> float:
    """Predict the time of the library's own convolution inside a compiled function."""
    g = job.geometry
    each = known["other"]
    if g.groups > 1 and g.groups == g.channels:
        each = known["depthwise"]
    elif g.groups == 1 and g.rank <= 2 and job.arithmetic.compute == "float32":
        each = known["dense"] * (1 + known["thin"] / job.shape[-1])
        each *= known["filter_grad"] if job.direction == "filter_grad" else 1
    return float(known["call"] + g.multiply_adds * each)


@cached(1024)
def _plan(op: Operation, threads: int, traits: Traits) -> Decision:
    job = replace(op.job, threads=threads)
    algorithm = op.algorithm
    if op.derived and algorithm != "auto":
        part = limits.part(algorithm, job, traits)
        if not job.empty and ALGORITHMS[algorithm].supports(part, traits) is not None:
            algorithm = "auto"
    return select.choose_algorithm(op.where, job, op.orders, algorithm, traits)


def _conjugated(
    direction: Direction, first: Array, second: Array, b: Backend
) -> tuple[Array, Array]:
    """Conjugate the factor that gradients conjugate: the filter, or the input."""
    if direction == "input_grad":
        return first, ops.conjugate(second, b)
    return (ops.conjugate(first, b) if direction == "filter_grad" else first), second


def compute(
    apply: Callable[[Bilinear, Array, Array], Array],
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    k: Keywords,
    extra: Any,
) -> Array:
    """Compute a call by one operation that the library can transform, as `Passes.bilinear`."""
    b = backends.of(where, execute.NAMES[direction][:1], first)
    _, plan = execute.prepare(where, direction, first, second, bias, None, k, extra, b=b)
    job, a = plan.job, plan.job.arithmetic
    execute.check_result(where, b, a.result, execute.ACCUMULATE)
    if a.check_values:
        array_checks.values(where, plan, b, first, second, bias)
    # the bias of halves is added in float32, before the one rounding
    result = "float32" if bias is not None and a.result in HALVES else a.result
    first, second = (_converted(operand, result, b) for operand in (first, second))
    first, second = _conjugated(job.direction, first, second, b)
    orders = plan.orders
    if job.fills_border:  # a constant in the border is no linear function of x: it stays outside
        first = first if orders[0] is None else b.xp.permute_dims(first, orders[0])
        first = _filled(first, job.geometry, b)
        job, orders = job.inner, (None, *orders[1:])
    job = replace(
        job,
        arithmetic=Arithmetic(a.compute, result),
        operands=(b.dtype_name(first), b.dtype_name(second)),
        threads=1,
        prepared=False,
        copied=0,
        copies_bias=False,
    )
    found = apply(Operation(where, job, orders, plan.asked), first, second)
    if bias is not None:
        shape = [1] * found.ndim
        order = plan.orders[2]
        shape[-1 if order is None else order[-1]] = bias.shape[0]
        found = found + b.xp.reshape(b.astype(bias, result), tuple(shape))
    return b.astype(found, a.result)


def _filled(x: Array, g: Geometry, b: Backend) -> Array:
    """Return x with its input dilation and its border, by functions that the library transforms."""
    fill = 0 if g.border is None else g.border.fill
    x = ops.dilate(x, g.input_dilation, b) if g.input_dilation else x
    return ops.pad(x, g.padding, g.modes, b, fill)


def _converted(operand: Array, result: str, b: Backend) -> Array:
    """Convert an operand to the dtype of the result, so that adjoints have the operand's dtype.

    Integers have no derivative: they are converted to complex numbers only, of which kernels
    multiply no integers.
    """
    stays = b.dtype_name(operand) in INTEGERS and result not in COMPLEXES
    return operand if stays else b.astype(operand, result)
