"""Pools over any number of axes: the geometry of windows, and the kernels that are called for it.

Examples are independent: whoever works on one (or on some of its channels) writes what nobody else
does, so that threads change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen import jit
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import COARSE, chunk_count
from einstride.nn.cpu.elementwise import SMALL
from einstride.nn.cpu.pooling_window import UNROLLED, Spec, arguments, text
from einstride.support.byte_cache import kept


@dataclass(frozen=True, eq=False)  # compared by identity: a quick key of caches
class Window:
    """The geometry on one axis: x's size, taps, step, padding, distance of taps, y's size."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    def table(self) -> Any:
        """(3 + kernel, out): the first tap inside, one past the last, where tap 0 would be; then
        where each tap is, those outside taken to the nearest one inside."""
        at = np.arange(self.out) * self.stride - self.padding
        taps = at[:, None] + np.arange(self.kernel) * self.dilation
        inside = (taps >= 0) & (taps < self.size)
        low = inside.argmax(axis=1)
        high = low + inside.sum(axis=1)
        nearest = np.clip(np.arange(self.kernel), low[:, None], high[:, None] - 1)
        places = at[:, None] + nearest * self.dilation
        return np.concatenate([[low, high, at], places.T]).astype(np.int64)

    @property
    def whole(self) -> bool:
        """Every tap of every window lies inside."""
        low, high = self.table()[:2]
        return bool((high - low == self.kernel).all())

    @property
    def apart(self) -> bool:
        """No element lies in two windows, nor does one stand in for a tap outside."""
        alone = self.kernel == 1 or (self.dilation == 1 and self.kernel <= self.stride)
        return alone and self.whole

    @property
    def fresh(self) -> int | None:
        """The first tap that meets what no window before has met, if such taps are all inside and
        together meet every element."""
        first = self.kernel - self.stride
        end = (self.out - 1) * self.stride - self.padding + self.kernel
        if self.dilation == 1 and first == self.padding and end == self.size:
            return first
        return None


def pool(x: Any, windows: tuple[Window, ...], largest: bool, inside: bool, y: Any, b: Any) -> None:
    """y (B, *O, C) from x (B, *S, C), both dense."""
    call = _call(
        dtype_name(x), windows, x.shape[0], x.shape[-1], largest, inside, False, b.threads()
    )
    call(b.launch, x=address(x), y=address(y))


def pool_gradient(
    gy: Any, x: Any | None, windows: tuple[Window, ...], inside: bool, gx: Any, b: Any
) -> None:
    """gx (B, *S, C) from gy (B, *O, C), and of the maximum from x; all dense."""
    largest = x is not None
    call = _call(
        dtype_name(gy), windows, gy.shape[0], gy.shape[-1], largest, inside, True, b.threads()
    )
    call(b.launch, x=0 if x is None else address(x), y=address(gy), gx=address(gx))


def _fresh(windows: tuple[Window, ...]) -> tuple[int, ...]:
    found = tuple(w.fresh for w in windows)
    small = prod(w.kernel for w in windows) <= UNROLLED
    return tuple(n for n in found if n is not None) if small and None not in found else ()


@kept
def _call(
    element: str, windows: tuple[Window, ...], batch: int, channels: int, largest: bool,
    inside: bool, gradient: bool, threads: int,
) -> Call:  # fmt: skip
    on = jit.machine()
    lanes = on.lanes(8 if element == "float64" else 4)
    spec = Spec(
        element, lanes, tuple(w.kernel for w in windows), largest, inside, gradient,
        all(w.apart for w in windows), all(w.whole for w in windows), _fresh(windows),
    )  # fmt: skip
    # Gradients are cut by channels where there are few examples, the rest by rows of y.
    strips, strip = 1, channels
    if gradient and batch < (wanted := chunk_count(threads, COARSE)):
        vectors = -(-channels // lanes)
        strip = -(-vectors // wanted) * lanes
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
    kernel = jit.KernelSpec("pool", text, (spec,), on)
    return Call(kernel, arguments(len(windows)), words, min(used, words["chunks"]), tables)
