"""The text of a pool's kernel: both kinds and ways, any number of axes, vectors across channels.

A window's taps are met in row-major order, so that the first of several maxima is the one that is
found first. The gradient looks for the maximum again instead of keeping where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from einstride.codegen.float_ops import constant_like, equal_or_nan, greater, is_nan, to_float
from einstride.codegen.function_builder import Code, Mask, Pointer, Value

UNROLLED = 9
"""Taps of a window that are written out."""


@dataclass(frozen=True)
class Spec:
    """What a kernel's text depends on.

    Attributes
    ----------
    element : str
        The dtype.
    lanes : int
        Of a vector.
    kernel : tuple of int
        Taps on each axis.
    largest : bool
        The maximum; else the mean.
    inside : bool
        The mean of what lies inside x alone.
    gradient : bool
        The backward pass: gx from gy (and x, for the maximum).
    apart, whole : bool
        Windows share no element; no tap of theirs is outside.
    fresh : tuple of int
        Taps from these numbers on meet elements that no window before has met, and all elements
        are met by such taps; empty if that is not so.
    """

    element: str
    lanes: int
    kernel: tuple[int, ...]
    largest: bool
    inside: bool
    gradient: bool
    apart: bool
    whole: bool
    fresh: tuple[int, ...]


def arguments(rank: int) -> list[str]:
    """The words of the argument block."""
    axes = [f"{name}{a}" for a in range(rank) for name in ("out", "tap", "x_step", "y_step", "at")]
    return ["next", "chunks", "strips", "strip", "rows", "channels", "x_all", "y_all", *axes,
            "x", "y", "gx"]  # fmt: skip


def text(spec: Spec) -> str:
    """A kernel's text."""
    code = Code("pool", arguments(len(spec.kernel)))
    channels = code["channels"]
    x, y, gx = (code.array(k, spec.element) for k in ("x", "y", "gx"))
    with code.chunks(code["chunks"]) as i:
        row, rest = i % code["rows"], i // code["rows"]
        strip, example = rest % code["strips"], rest // code["strips"]
        first = strip * code["strip"]
        last = (first + code["strip"]).least(channels)
        x_first, y_first = example * code["x_all"], example * code["y_all"]
        if spec.gradient and not spec.fresh:
            _clear(code, spec, gx, x_first, first, last)
        outs = [(code.number(0), code[f"out{a}"]) for a in range(len(spec.kernel))]
        if not spec.gradient:
            outs[0] = (row, row + 1)

        def position(o: list[Value]) -> None:
            pointer = y_first
            for a, number in enumerate(o):
                pointer = pointer + number * code[f"y_step{a}"]
            taps = Taps(code, spec, o, x_first)

            def vector(c: Value, mask: Mask | None) -> None:
                here = y.at(pointer * channels + c)
                if spec.gradient:
                    _spread(spec, taps, x.at(c), gx.at(c), here.load(spec.lanes, mask), mask)
                elif spec.largest:
                    here.store(_largest(spec, taps, x.at(c), mask), mask)
                else:
                    here.store(_mean(spec, taps, x.at(c), mask), mask)

            _vectors(code, spec, first, last, vector)

        _nested(code, outs, position)
    return code.text()


def _nested(
    code: Code, ranges: Sequence[tuple[Value, Value]], visit: Callable[[list[Value]], None]
) -> None:
    """Loops inside each other."""

    def level(found: list[Value]) -> None:
        if len(found) == len(ranges):
            visit(found)
            return
        with code.loop(*ranges[len(found)]) as i:
            level([*found, i])

    level([])


def _vectors(
    code: Code, spec: Spec, first: Value, last: Value, visit: Callable[[Value, Mask | None], None]
) -> None:
    """Every vector of channels, the last one under a mask."""
    end = first + (last - first) // spec.lanes * spec.lanes
    with code.loop(first, end, spec.lanes) as c:
        visit(c, None)
    with code.when(end < last):
        visit(end, code.first_lanes(last - end, spec.lanes))


def _clear(code: Code, spec: Spec, gx: Pointer, start: Value, first: Value, last: Value) -> None:
    """Zeros in an example's gradient."""
    zero = code.zero(spec.element, spec.lanes)
    with code.loop(0, code["x_all"]) as p:
        pointer = gx.at((start + p) * code["channels"])
        _vectors(code, spec, first, last, lambda c, mask: pointer.at(c).store(zero, mask))


class Taps:
    """The taps of one window: which are inside, and where."""

    def __init__(self, code: Code, spec: Spec, o: list[Value], start: Value) -> None:
        self.code, self.spec, self._example = code, spec, start
        self._tables = [code.pointer(code[f"at{a}"], "int64").at(n) for a, n in enumerate(o)]
        self.low, self.high = ([self._row(a, i) for a in range(len(o))] for i in (0, 1))

    def _row(self, axis: int, number: int) -> Value:
        return self._tables[axis].at(self.code[f"out{axis}"] * number).load()

    def count(self) -> Value:
        """How many are inside."""
        found = self.code.number(1)
        for low, high in zip(self.low, self.high, strict=True):
            found = found * (high - low)
        return found

    def visit(self, each: Callable[[Value, Value | None, bool], None]) -> None:
        """``each(offset in x, inside, fresh)`` of the taps, in order.

        The taps of small windows are written out, with a condition if some may lie outside; the
        offset of one that does is the nearest tap's. Otherwise only those inside are visited.
        """
        code, kernel = self.code, self.spec.kernel
        axes = range(len(kernel))
        if prod(kernel) > UNROLLED:

            def one(k: list[Value]) -> None:
                offset = self._example
                for a, i in enumerate(k):
                    pointer = self._row(a, 2) + i * code[f"tap{a}"]
                    offset = offset + pointer * code[f"x_step{a}"]
                each(offset * code["channels"], None, False)

            _nested(code, list(zip(self.low, self.high, strict=True)), one)
            return
        steps = [code[f"x_step{a}"] * code["channels"] for a in axes]
        places = [[self._row(a, 3 + i) * steps[a] for i in range(kernel[a])] for a in axes]
        insides = [
            [(low < i + 1) & (high >= i + 1) for i in range(n)]
            for low, high, n in zip(self.low, self.high, kernel, strict=True)
        ]
        for k in np.ndindex(*kernel):
            offset = self._example * code["channels"]
            inside = insides[0][k[0]]
            for a in axes:
                offset = offset + places[a][k[a]]
                inside = inside & insides[a][k[a]]
            first = self.spec.fresh
            fresh = bool(first) and all(i >= n for i, n in zip(k, first, strict=True))
            each(offset, None if self.spec.whole else inside, fresh)


def _largest(spec: Spec, taps: Taps, x: Pointer, mask: Mask | None) -> Value:
    """The maximum; NaN if there is one."""
    code = taps.code
    nothing = code.zero(spec.element, spec.lanes)
    best, lost = (
        code.variable(constant_like(nothing, float("-inf"))),
        code.variable(is_nan(nothing)),
    )

    def each(offset: Value, inside: Value | None, fresh: bool) -> None:
        value, found = x.at(offset).load(spec.lanes, mask), best.get()
        best.set(greater(value, found).pick(value, found))
        lost.set(lost.get() | is_nan(value))

    taps.visit(each)
    return lost.get().pick(constant_like(nothing, float("nan")), best.get())


def _best(spec: Spec, taps: Taps, x: Pointer, mask: Mask | None) -> Value:
    """The maximum of the numbers."""
    best = taps.code.variable(
        constant_like(taps.code.zero(spec.element, spec.lanes), float("-inf"))
    )

    def each(offset: Value, inside: Value | None, fresh: bool) -> None:
        value, found = x.at(offset).load(spec.lanes, mask), best.get()
        best.set(greater(value, found).pick(value, found))

    taps.visit(each)
    return best.get()


def _share(spec: Spec, taps: Taps) -> Value:
    """One over the number of elements of a window."""
    number = taps.count() if spec.inside else taps.code.number(prod(spec.kernel))
    found = to_float(number, spec.element)
    return taps.code.splat(constant_like(found, 1.0) // found, spec.lanes)


def _mean(spec: Spec, taps: Taps, x: Pointer, mask: Mask | None) -> Value:
    sums = taps.code.variable(taps.code.zero(spec.element, spec.lanes))

    def each(offset: Value, inside: Value | None, fresh: bool) -> None:
        value = x.at(offset).load(spec.lanes, mask)
        if inside is not None:
            value = inside.pick(value, constant_like(value, 0.0))
        sums.set(sums.get() + value)

    taps.visit(each)
    return sums.get() * _share(spec, taps)


def _spread(spec: Spec, taps: Taps, x: Pointer, gx: Pointer, g: Value, mask: Mask | None) -> None:
    """Bring a window's gradient to its taps: of the maximum, to the first that has it (or is NaN).

    A tap that stands in for one outside comes before it in the same order, and is met once more
    when the gradient has been taken.
    """
    code, zero = taps.code, constant_like(g, 0.0)
    best = free = None
    if spec.largest:
        best, free = _best(spec, taps, x, mask), code.variable(equal_or_nan(zero, zero))
    else:
        g = g * _share(spec, taps)

    def each(offset: Value, inside: Value | None, fresh: bool) -> None:
        pointer, here = gx.at(offset), inside
        if best is not None and free is not None:
            hit = equal_or_nan(x.at(offset).load(spec.lanes, mask), best)
            if inside is not None and spec.fresh:  # what stands in writes before the first tap
                hit = hit & code.splat(inside, spec.lanes)
            here = hit & free.get()
            free.set(free.get() ^ here)
        alone = fresh or spec.apart
        before = zero if alone else pointer.load(spec.lanes, mask)
        after = g if alone else before + g
        if here is not None and not (fresh and not spec.largest):
            after = here.pick(after, before)
        pointer.store(after, mask)

    taps.visit(each)
