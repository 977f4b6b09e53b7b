"""Pools over any number of axes, with vectors across channels: one page for both kinds and ways.

A window's taps are met in row-major order, so that the first of several maxima is the one that is
found first. The gradient looks for the maximum again instead of keeping where it was. Examples are
independent: whoever works on one (or on some of its channels) writes what nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from einstride.simd import compiler
from einstride.simd.code import Code, Place, Value
from einstride.simd.elementwise import SMALL
from einstride.simd.floats import like, not_below, same, whole
from einstride.simd.host import Call, address, name_of

UNROLLED = 9
"""Taps of a window that are written out where the window lies inside."""


@dataclass(frozen=True)
class Window:
    """The geometry on one axis: x's size, taps, step, padding, distance of taps, y's size."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    def table(self) -> Any:
        """(3, out): the first tap inside, one past the last, and where tap 0 would be."""
        at = np.arange(self.out) * self.stride - self.padding
        taps = at[:, None] + np.arange(self.kernel) * self.dilation
        inside = (taps >= 0) & (taps < self.size)
        low = inside.argmax(axis=1)
        return np.stack([low, low + inside.sum(axis=1), at]).astype(np.int64)

    @property
    def apart(self) -> bool:
        """No element lies in two windows."""
        return self.kernel == 1 or (self.dilation == 1 and self.kernel <= self.stride)

    @property
    def covered(self) -> bool:
        """Every element lies in exactly one window."""
        return (
            self.apart and self.kernel == self.stride and self.padding == 0
            and self.out * self.stride == self.size
        )  # fmt: skip


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
    apart, covered : bool
        Windows share no element; they have every element.
    """

    element: str
    lanes: int
    kernel: tuple[int, ...]
    largest: bool
    inside: bool
    gradient: bool
    apart: bool
    covered: bool


def arguments(rank: int) -> list[str]:
    """The words of the argument block."""
    axes = [f"{name}{a}" for a in range(rank) for name in ("out", "tap", "x_step", "y_step", "at")]
    return ["next", "chunks", "strips", "strip", "rows", "channels", "x_all", "y_all", *axes,
            "x", "y", "gx"]  # fmt: skip


def pool(x: Any, windows: tuple[Window, ...], largest: bool, inside: bool, y: Any, b: Any) -> None:
    """y (B, *O, C) from x (B, *S, C), both dense."""
    call = _call(name_of(x), windows, x.shape[0], x.shape[-1], largest, inside, False, b.threads())
    call(b.launch, x=address(x), y=address(y))


def pool_gradient(
    gy: Any, x: Any | None, windows: tuple[Window, ...], inside: bool, gx: Any, b: Any
) -> None:
    """gx (B, *S, C) from gy (B, *O, C), and of the maximum from x; all dense."""
    largest = x is not None
    call = _call(
        name_of(gy), windows, gy.shape[0], gy.shape[-1], largest, inside, True, b.threads()
    )
    call(b.launch, x=0 if x is None else address(x), y=address(gy), gx=address(gx))


@lru_cache(maxsize=256)
def _call(
    element: str, windows: tuple[Window, ...], batch: int, channels: int, largest: bool,
    inside: bool, gradient: bool, threads: int,
) -> Call:  # fmt: skip
    on = compiler.machine()
    lanes = on.lanes(8 if element == "float64" else 4)
    spec = Spec(
        element, lanes, tuple(w.kernel for w in windows), largest, inside, gradient,
        all(w.apart for w in windows), all(w.covered for w in windows),
    )  # fmt: skip
    # Gradients are cut by channels where there are few examples, the rest by rows of y.
    strips, strip = 1, channels
    if gradient and batch < 2 * threads:
        strip = -(-(-(-channels // lanes)) // (2 * threads)) * lanes
        strips = -(-channels // strip)
    rows = 1 if gradient else windows[0].out
    sizes, outs = ([getattr(w, k) for w in windows] for k in ("size", "out"))
    tables = [w.table() for w in windows]
    words = {
        "chunks": batch * strips * rows, "strips": strips, "strip": strip, "rows": rows,
        "channels": channels, "x_all": prod(sizes), "y_all": prod(outs),
    }  # fmt: skip
    for a, w in enumerate(windows):
        words |= {
            f"out{a}": w.out, f"tap{a}": w.dilation, f"x_step{a}": prod(sizes[a + 1 :]),
            f"y_step{a}": prod(outs[a + 1 :]), f"at{a}": address(tables[a]),
        }  # fmt: skip
    used = threads if batch * prod(sizes) * channels * (64 // lanes) > SMALL else 1
    kernel = compiler.kernel("pool", text, spec, on=on)
    return Call(kernel, arguments(len(windows)), words, min(used, words["chunks"]), tables)


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
        if spec.gradient and not spec.covered:
            _clear(code, spec, gx, x_first, first, last)
        outs = [(row, row + 1) if a == 0 and not spec.gradient else (code.number(0), code[f"out{a}"])
                for a in range(len(spec.kernel))]  # fmt: skip

        def position(o: list[Value]) -> None:
            place = y_first
            for a, number in enumerate(o):
                place = place + number * code[f"y_step{a}"]
            taps = Taps(code, spec, o, x_first)

            def vector(c: Value, mask: Value | None) -> None:
                here = y.at(place * channels + c)
                if spec.gradient:
                    _spread(spec, taps, x.at(c), gx.at(c), here.load(spec.lanes, mask), mask)
                elif spec.largest:
                    here.store(_largest(spec, taps, x.at(c), mask)[0], mask)
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
    code: Code, spec: Spec, first: Value, last: Value, visit: Callable[[Value, Value | None], None]
) -> None:
    """Every vector of channels, the last one under a mask."""
    end = first + (last - first) // spec.lanes * spec.lanes
    with code.loop(first, end, spec.lanes) as c:
        visit(c, None)
    with code.when(end < last):
        visit(end, code.first_lanes(last - end, spec.lanes))


def _clear(code: Code, spec: Spec, gx: Place, start: Value, first: Value, last: Value) -> None:
    """Zeros in an example's gradient."""
    zero = code.zero(spec.element, spec.lanes)
    with code.loop(0, code["x_all"]) as p:
        place = gx.at((start + p) * code["channels"])
        _vectors(code, spec, first, last, lambda c, mask: place.at(c).store(zero, mask))


class Taps:
    """The taps of one window: which are inside, and where."""

    def __init__(self, code: Code, spec: Spec, o: list[Value], start: Value) -> None:
        self.code, self.spec = code, spec
        tables = [code.place(code[f"at{a}"], "int64").at(n) for a, n in enumerate(o)]
        outs = [code[f"out{a}"] for a in range(len(o))]
        self.low = [t.load() for t in tables]
        self.high = [t.at(n).load() for t, n in zip(tables, outs, strict=True)]
        for a, (t, n) in enumerate(zip(tables, outs, strict=True)):
            start = start + t.at(n * 2).load() * code[f"x_step{a}"]
        self.start = start

    def count(self) -> Value:
        """How many are inside."""
        found = self.code.number(1)
        for low, high in zip(self.low, self.high, strict=True):
            found = found * (high - low)
        return found

    def number(self, k: Sequence[Value]) -> Value:
        """A tap's number in row-major order."""
        found = self.code.number(0)
        for size, i in zip(self.spec.kernel, k, strict=True):
            found = found * size + i
        return found

    def visit(self, each: Callable[[Value, Value], None]) -> None:
        """``each(offset in x, number)`` of every tap inside, in order."""
        code, kernel = self.code, self.spec.kernel

        def one(k: Sequence[Value]) -> None:
            offset = self.start
            for a, i in enumerate(k):
                offset = offset + i * (code[f"tap{a}"] * code[f"x_step{a}"])
            each(offset * code["channels"], self.number(k))

        ranges = list(zip(self.low, self.high, strict=True))
        if prod(kernel) > UNROLLED:
            _nested(code, ranges, one)
            return
        with code.builder.if_else(self.count().equals(prod(kernel)).ir) as (all_, some):
            with all_:
                for numbers in np.ndindex(*kernel):
                    one([code.number(n) for n in numbers])
            with some:
                _nested(code, ranges, one)


def _largest(spec: Spec, taps: Taps, x: Place, mask: Value | None) -> tuple[Value, Value]:
    """The maximum and the number of its first tap; the first NaN is larger than all numbers."""
    code = taps.code
    nothing = code.zero(spec.element, spec.lanes)
    best = code.variable(like(nothing, float("-inf")))
    where = code.variable(code.splat(whole(taps.number(taps.low), spec.element), spec.lanes))

    def each(offset: Value, number: Value) -> None:
        value, found = x.at(offset).load(spec.lanes, mask), best.get()
        better = not_below(value, found) & same(found, found)  # no number beats a NaN
        best.set(better.pick(value, found))
        if spec.gradient:
            tap = code.splat(whole(number, spec.element), spec.lanes)
            where.set(better.pick(tap, where.get()))

    taps.visit(each)
    return best.get(), where.get()


def _share(spec: Spec, taps: Taps) -> Value:
    """One over the number of elements of a window."""
    number = taps.count() if spec.inside else taps.code.number(prod(spec.kernel))
    found = whole(number, spec.element)
    return taps.code.splat(like(found, 1.0) // found, spec.lanes)


def _mean(spec: Spec, taps: Taps, x: Place, mask: Value | None) -> Value:
    sums = taps.code.variable(taps.code.zero(spec.element, spec.lanes))

    def each(offset: Value, number: Value) -> None:
        sums.set(sums.get() + x.at(offset).load(spec.lanes, mask))

    taps.visit(each)
    return sums.get() * _share(spec, taps)


def _spread(
    spec: Spec, taps: Taps, x: Place, gx: Place, g: Value, mask: Value | None
) -> None:  # fmt: skip
    """Bring a window's gradient to its taps."""
    code = taps.code
    if spec.largest:
        _, where = _largest(spec, taps, x, mask)
    else:
        g = g * _share(spec, taps)

    def each(offset: Value, number: Value) -> None:
        part, place = g, gx.at(offset)
        if spec.largest:
            tap = code.splat(whole(number, spec.element), spec.lanes)
            part = same(where, tap).pick(g, like(g, 0.0))
        if not spec.apart:
            part = place.load(spec.lanes, mask) + part
        place.store(part, mask)

    taps.visit(each)
