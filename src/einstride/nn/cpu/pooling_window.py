"""Write pooling kernels, maximum and mean, forward and gradient, with vectors across channels.

The taps of a window are visited in row-major order, so that of equal maxima the first is found. The
gradient searches the maximum again: no index is stored in the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from einstride.codegen.float_ops import constant_like, equal_or_nan, greater, is_nan, to_float
from einstride.codegen.function_builder import Code, Mask, Pointer, Value

MAX_UNROLLED_TAPS = 9
"""Most taps of a window whose loop is unrolled; code size grows with it."""


@dataclass(frozen=True)
class Spec:
    """The parameters of a kernel's text.

    Attributes
    ----------
    element : str
        The dtype.
    lanes : int
        Lanes of a vector.
    kernel : tuple of int
        Taps on each axis.
    largest : bool
        True: max pooling; False: average pooling.
    exclude_padding : bool
        True: the mean leaves out padding.
    gradient : bool
        True: the backward pass, gx from gy (and from x, for the maximum).
    disjoint, all_inside : bool
        True if windows share no element, and if all taps lie inside x.
    stored_from : tuple of int
        For each axis, the first tap from which on taps read elements that no window before has
        read; so their gradients are stored, not added. Empty if these taps do not read every
        element: then gx is cleared first.
    """

    element: str
    lanes: int
    kernel: tuple[int, ...]
    largest: bool
    exclude_padding: bool
    gradient: bool
    disjoint: bool
    all_inside: bool
    stored_from: tuple[int, ...]


def arguments(rank: int) -> list[str]:
    """Return the names of the kernel arguments, in the order of the argument block."""
    axes = [
        f"{name}{a}" for a in range(rank) for name in ("out", "tap", "x_stride", "y_stride", "at")
    ]
    return ["next", "chunks", "strips", "strip", "rows", "channels", "x_all", "y_all", *axes,
            "x", "y", "gx"]  # fmt: skip


def text(spec: Spec) -> str:
    """Write the text of a kernel."""
    code = Code("pool", arguments(len(spec.kernel)))
    channels = code["channels"]
    x, y, gx = (code.array(k, spec.element) for k in ("x", "y", "gx"))
    with code.chunks(code["chunks"]) as i:
        row, remaining = i % code["rows"], i // code["rows"]
        strip, example = remaining % code["strips"], remaining // code["strips"]
        first = strip * code["strip"]
        last = (first + code["strip"]).minimum(channels)
        x_first, y_first = example * code["x_all"], example * code["y_all"]
        if spec.gradient and not spec.stored_from:
            _clear_example(code, spec, gx, x_first, first, last)
        outs = [(code.number(0), code[f"out{a}"]) for a in range(len(spec.kernel))]
        if not spec.gradient:
            outs[0] = (row, row + 1)

        def visit_position(o: list[Value]) -> None:
            offset = y_first
            for a, index in enumerate(o):
                offset = offset + index * code[f"y_stride{a}"]
            taps = Taps(code, spec, o, x_first)

            def visit_vector(c: Value, mask: Mask | None) -> None:
                y_vector = y.at(offset * channels + c)
                if spec.gradient:
                    _scatter_gradient(
                        spec, taps, x.at(c), gx.at(c), y_vector.load(spec.lanes, mask), mask
                    )
                elif spec.largest:
                    y_vector.store(_find_maximum(spec, taps, x.at(c), mask), mask)
                else:
                    y_vector.store(_compute_mean(spec, taps, x.at(c), mask), mask)

            _for_each_vector(code, spec, first, last, visit_vector)

        _nested_loops(code, outs, visit_position)
    return code.text()


def _nested_loops(
    code: Code, ranges: Sequence[tuple[Value, Value]], visit: Callable[[list[Value]], None]
) -> None:
    """Emit nested loops, with `visit` getting the list of their counters."""

    def loop_over(counters: list[Value]) -> None:
        if len(counters) == len(ranges):
            visit(counters)
            return
        with code.loop(*ranges[len(counters)]) as i:
            loop_over([*counters, i])

    loop_over([])


def _for_each_vector(
    code: Code, spec: Spec, first: Value, last: Value, visit: Callable[[Value, Mask | None], None]
) -> None:
    """Emit a loop over vectors of channels, the last one with a mask."""
    end = first + (last - first) // spec.lanes * spec.lanes
    with code.loop(first, end, spec.lanes) as c:
        visit(c, None)
    with code.when(end < last):
        visit(end, code.first_lanes(last - end, spec.lanes))


def _clear_example(
    code: Code, spec: Spec, gx: Pointer, start: Value, first: Value, last: Value
) -> None:
    """Emit stores of zeros to the gradient of one example."""
    zero = code.zero(spec.element, spec.lanes)
    with code.loop(0, code["x_all"]) as p:
        pointer = gx.at((start + p) * code["channels"])
        _for_each_vector(code, spec, first, last, lambda c, mask: pointer.at(c).store(zero, mask))


class Taps:
    """Emits code for the taps of one window: which lie inside x, and their offsets."""

    def __init__(self, code: Code, spec: Spec, o: list[Value], start: Value) -> None:
        self.code, self.spec, self._example = code, spec, start
        self._tables = [code.pointer(code[f"at{a}"], "int64").at(n) for a, n in enumerate(o)]
        self.low, self.high = ([self._table_entry(a, i) for a in range(len(o))] for i in (0, 1))

    def _table_entry(self, axis: int, row: int) -> Value:
        return self._tables[axis].at(self.code[f"out{axis}"] * row).load()

    def count(self) -> Value:
        """Emit the number of taps inside x."""
        count = self.code.number(1)
        for low, high in zip(self.low, self.high, strict=True):
            count = count * (high - low)
        return count

    def visit(self, visit_tap: Callable[[Value, Value | None, bool], None]) -> None:
        """Call ``each(offset in x, inside, first_visit)`` for the taps, in row-major order.

        Loops over small windows are unrolled: `inside` is then a condition (None if it always
        holds), and a tap outside has the offset of the nearest tap inside. In larger windows only
        taps inside are visited.
        """
        code, kernel = self.code, self.spec.kernel
        axes = range(len(kernel))
        if prod(kernel) > MAX_UNROLLED_TAPS:

            def visit_inside(k: list[Value]) -> None:
                offset = self._example
                for a, i in enumerate(k):
                    position = self._table_entry(a, 2) + i * code[f"tap{a}"]
                    offset = offset + position * code[f"x_stride{a}"]
                visit_tap(offset * code["channels"], None, False)

            _nested_loops(code, list(zip(self.low, self.high, strict=True)), visit_inside)
            return
        strides = [code[f"x_stride{a}"] * code["channels"] for a in axes]
        offsets = [
            [self._table_entry(a, 3 + i) * strides[a] for i in range(kernel[a])] for a in axes
        ]
        insides = [
            [(low < i + 1) & (high >= i + 1) for i in range(n)]
            for low, high, n in zip(self.low, self.high, kernel, strict=True)
        ]
        for k in np.ndindex(*kernel):
            offset = self._example * code["channels"]
            inside = insides[0][k[0]]
            for a in axes:
                offset = offset + offsets[a][k[a]]
                inside = inside & insides[a][k[a]]
            first = self.spec.stored_from
            first_visit = bool(first) and all(i >= n for i, n in zip(k, first, strict=True))
            visit_tap(offset, None if self.spec.all_inside else inside, first_visit)


def _find_maximum(spec: Spec, taps: Taps, x: Pointer, mask: Mask | None) -> Value:
    """Emit the maximum of a window; NaN if an element is NaN."""
    code = taps.code
    zero = code.zero(spec.element, spec.lanes)
    best, any_nan = (
        code.variable(constant_like(zero, float("-inf"))),
        code.variable(is_nan(zero)),
    )

    def compare(offset: Value, inside: Value | None, first_visit: bool) -> None:
        value, largest = x.at(offset).load(spec.lanes, mask), best.get()
        best.set(greater(value, largest).select(value, largest))
        any_nan.set(any_nan.get() | is_nan(value))

    taps.visit(compare)
    return any_nan.get().select(constant_like(zero, float("nan")), best.get())


def _find_maximum_of_numbers(spec: Spec, taps: Taps, x: Pointer, mask: Mask | None) -> Value:
    """Emit the maximum of a window's elements that are not NaN."""
    best = taps.code.variable(
        constant_like(taps.code.zero(spec.element, spec.lanes), float("-inf"))
    )

    def compare(offset: Value, inside: Value | None, first_visit: bool) -> None:
        value, largest = x.at(offset).load(spec.lanes, mask), best.get()
        best.set(greater(value, largest).select(value, largest))

    taps.visit(compare)
    return best.get()


def _divide_by_count(spec: Spec, taps: Taps) -> Value:
    """Emit one over the number of elements of a window."""
    number = taps.count() if spec.exclude_padding else taps.code.number(prod(spec.kernel))
    count = to_float(number, spec.element)
    return taps.code.splat(constant_like(count, 1.0) // count, spec.lanes)


def _compute_mean(spec: Spec, taps: Taps, x: Pointer, mask: Mask | None) -> Value:
    sums = taps.code.variable(taps.code.zero(spec.element, spec.lanes))

    def add(offset: Value, inside: Value | None, first_visit: bool) -> None:
        value = x.at(offset).load(spec.lanes, mask)
        if inside is not None:
            value = inside.select(value, constant_like(value, 0.0))
        sums.set(sums.get() + value)

    taps.visit(add)
    return sums.get() * _divide_by_count(spec, taps)


def _scatter_gradient(
    spec: Spec, taps: Taps, x: Pointer, gx: Pointer, g: Value, mask: Mask | None
) -> None:
    """Emit adds of a window's gradient to its taps; for the maximum, to the first maximum or NaN.

    The offset of a tap outside x is that of a tap inside, which is then visited more than once;
    after its first visit the gradient is taken, so that it is not added twice.
    """
    code, zero = taps.code, constant_like(g, 0.0)
    best = untaken = None
    if spec.largest:
        best = _find_maximum_of_numbers(spec, taps, x, mask)
        untaken = code.variable(equal_or_nan(zero, zero))
    else:
        g = g * _divide_by_count(spec, taps)

    def add_gradient(offset: Value, inside: Value | None, first_visit: bool) -> None:
        pointer, condition = gx.at(offset), inside
        if best is not None and untaken is not None:
            is_largest = equal_or_nan(x.at(offset).load(spec.lanes, mask), best)
            if inside is not None and spec.stored_from:
                # a tap outside is visited before the tap inside whose offset it has
                is_largest = is_largest & code.splat(inside, spec.lanes)
            condition = is_largest & untaken.get()
            untaken.set(untaken.get() ^ condition)
        overwrite = first_visit or spec.disjoint
        old_gradient = zero if overwrite else pointer.load(spec.lanes, mask)
        new_gradient = g if overwrite else old_gradient + g
        if condition is not None and not (first_visit and not spec.largest):
            new_gradient = condition.select(new_gradient, old_gradient)
        pointer.store(new_gradient, mask)

    taps.visit(add_gradient)
