"""Choose and call the pooling kernels of `pooling_window` for windows on any number of axes.

The work is split by examples, rows of y or channels, so that no two threads write to the same
elements, and results do not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen import jit
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import COARSE, chunk_count
from einstride.nn.cpu.elementwise import SINGLE_THREAD_BYTES
from einstride.nn.cpu.pooling_window import MAX_UNROLLED_TAPS, Spec, arguments, text
from einstride.support.byte_cache import kept


@dataclass(frozen=True, eq=False)  # by identity: a fast cache key
class Window:
    """Windows on one axis: size of x, taps, stride, padding, dilation, size of y."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    def table(self) -> Any:
        """Return a table (3 + kernel, out) of each window's taps and positions.

        Its rows are the first tap inside x, one past the last tap inside, and the position of tap
        0; then the position of each tap, for a tap outside x that of the nearest tap inside.
        """
        first = np.arange(self.out) * self.stride - self.padding
        taps = first[:, None] + np.arange(self.kernel) * self.dilation
        inside = (taps >= 0) & (taps < self.size)
        low = inside.argmax(axis=1)
        high = low + inside.sum(axis=1)
        nearest = np.clip(np.arange(self.kernel), low[:, None], high[:, None] - 1)
        positions = first[:, None] + nearest * self.dilation
        return np.concatenate([[low, high, first], positions.T]).astype(np.int64)

    @property
    def all_inside(self) -> bool:
        """True if every tap of every window lies inside x."""
        low, high = self.table()[:2]
        return bool((high - low == self.kernel).all())

    @property
    def disjoint(self) -> bool:
        """True if no element of x is in two windows, and none is read in place of a tap outside."""
        no_overlap = self.kernel == 1 or (self.dilation == 1 and self.kernel <= self.stride)
        return no_overlap and self.all_inside

    @property
    def stored_from(self) -> int | None:
        """The first tap from which on taps read elements that no window before has read.

        None unless these taps are all inside x and together read every element: then gradients
        are stored for these taps and added for the others, without clearing gx first.
        """
        first = self.kernel - self.stride
        end = (self.out - 1) * self.stride - self.padding + self.kernel
        if self.dilation == 1 and first == self.padding and end == self.size:
            return first
        return None


def pool(
    x: Any, windows: tuple[Window, ...], largest: bool, exclude_padding: bool, y: Any, b: Any
) -> None:
    """Compute y (B, *O, C) from x (B, *S, C), both dense."""
    call = _pooling_call(x, windows, largest, exclude_padding, False, b)
    call(b.launch, x=address(x), y=address(y))


def pool_gradient(
    gy: Any, x: Any | None, windows: tuple[Window, ...], exclude_padding: bool, gx: Any, b: Any
) -> None:
    """Compute gx (B, *S, C) from gy (B, *O, C), and for max pooling from x; all dense."""
    call = _pooling_call(gy, windows, x is not None, exclude_padding, True, b)
    call(b.launch, x=0 if x is None else address(x), y=address(gy), gx=address(gx))


def _stored_from(windows: tuple[Window, ...]) -> tuple[int, ...]:
    first_taps = tuple(w.stored_from for w in windows)
    is_unrolled = prod(w.kernel for w in windows) <= MAX_UNROLLED_TAPS
    return (
        tuple(n for n in first_taps if n is not None)
        if is_unrolled and None not in first_taps
        else ()
    )


def _pooling_call(
    array: Any, windows: tuple[Window, ...], largest: bool, exclude_padding: bool, gradient: bool,
    b: Any,
) -> Call:  # fmt: skip
    """Make the call of the kernel that reads `array`: x, or for a gradient gy."""
    batch, *_, channels = array.shape
    parameters = windows, batch, channels, largest, exclude_padding, gradient, b.threads()
    return _cached_call(dtype_name(array), *parameters)


@kept
def _cached_call(
    element: str, windows: tuple[Window, ...], batch: int, channels: int, largest: bool,
    exclude_padding: bool, gradient: bool, threads: int,
) -> Call:  # fmt: skip
    target = jit.host_target()
    lanes = target.lanes(8 if element == "float64" else 4)
    spec = Spec(
        element, lanes, tuple(w.kernel for w in windows), largest, exclude_padding, gradient,
        all(w.disjoint for w in windows), all(w.all_inside for w in windows), _stored_from(windows),
    )  # fmt: skip
    # Chunks of gradients are examples, or for small batches slices of their channels; other chunks
    # are rows of y.
    strips, strip = 1, channels
    if gradient and batch < (min_chunks := chunk_count(threads, COARSE)):
        vectors = -(-channels // lanes)
        strip = -(-vectors // min_chunks) * lanes
        strips = -(-channels // strip)
    rows = 1 if gradient else windows[0].out
    sizes, outs = ([getattr(w, k) for w in windows] for k in ("size", "out"))
    tables = [w.table() for w in windows]
    values = {
        "chunks": batch * strips * rows, "strips": strips, "strip": strip, "rows": rows,
        "channels": channels, "x_all": prod(sizes), "y_all": prod(outs),
    }  # fmt: skip
    for a, w in enumerate(windows):
        values |= {
            f"out{a}": w.out, f"tap{a}": w.dilation, f"x_stride{a}": prod(sizes[a + 1 :]),
            f"y_stride{a}": prod(outs[a + 1 :]), f"at{a}": address(tables[a]),
        }  # fmt: skip
    threads = threads if batch * prod(sizes) * channels * (64 // lanes) > SINGLE_THREAD_BYTES else 1
    kernel = jit.KernelSpec("pool", text, (spec,), target)
    return Call(kernel, arguments(len(windows)), values, min(threads, values["chunks"]), tables)
