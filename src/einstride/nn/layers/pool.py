"""Max and average pooling over any number of spatial axes, one axis after the other.

With array functions, each tap of all windows on an axis is one strided slice of x, which keeps
inner loops long. The backward pass searches the maxima again instead of keeping their indices: it
works on a few examples at a time, which are then in the cache.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.geometry.types import Ints
from einstride.nn.arrays import Shape, from_host, to_sum_dtype
from einstride.nn.cpu import calls
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.nn.layers.taps import max_axis, max_axis_grad, pad, sum_axis, sum_axis_grad
from einstride.nn.passes import RangeFunction, result, sweep
from einstride.nn.pool_axis import Axis
from einstride.support.caches import cached
from einstride.support.errors import bad_value

THREADED_BYTES = 1 << 20
"""Size of x in bytes from which blocks of examples run on the pool of threads. Smaller than
`passes.POOLED`, because the short inner loops of taps make each call take longer."""


class _Pool(Layer):
    """Base class of `MaxPool` and `AvgPool`: geometry, layout, and blocks of examples."""

    _padding_value = 0.0
    largest = False

    def __init__(
        self, kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints, layout: str
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.kernel_size = parse.ints(kind, "kernel_size", kernel_size)
        given = kernel_size if stride is None else stride
        self.stride = parse.ints(kind, "stride", given)
        self.padding = parse.ints(kind, "padding", padding)
        self.dilation = parse.ints(kind, "dilation", dilation)
        self.layout = parse.choice(kind, "layout", layout, ("channels_last", "channels_first"))

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        first = self.layout == "channels_first"
        size, channels = (shape[1:], shape[0]) if first else (shape[:-1], shape[-1])
        out = tuple(a.out for a in self._axes(size))
        return (channels, *out) if first else (*out, channels)

    def _axes(self, size: Shape) -> tuple[Axis, ...]:
        return _axes(
            type(self).__name__, size, self.kernel_size, self.stride, self.padding, self.dilation
        )

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b = run.b
        x = self._channels_last(x, b)
        axes = self._axes(tuple(x.shape[1:-1]))
        if self._can_compile(x, run):
            y = calls.pool(x, axes, self.largest, self._excludes_padding(), b)
            return y, self._kept(x) if run.keep else None
        given, shape = b.dtype_name(x), (x.shape[0], *(a.out for a in axes), x.shape[-1])
        out = result(shape, given, x, b)

        def make() -> RangeFunction:
            def compute(lo: int, hi: int) -> Array:
                y = self._value(
                    pad(to_sum_dtype(x[lo:hi, ...], b), axes, self._padding_value, b), axes, b
                )
                if out is None:
                    return b.astype(y, given)
                out[lo:hi, ...] = y
                return out

            return compute

        y = sweep(make, x.shape[0], prod(x.shape[1:]) * 4, b, THREADED_BYTES)[0]
        return self._to_layout(y, b), self._kept(x) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        b, gy = run.b, self._channels_last(gy, run.b)
        shape, x = kept
        axes = self._axes(shape[1:-1])
        if self._can_compile(gy, run) and (x is None or calls.ready(b, gy, x)):
            return calls.pool_gradient(gy, x, axes, self._excludes_padding(), b), {}
        given = b.dtype_name(gy)
        out = result(shape, given, gy, b)
        unpadded = (slice(None), *(slice(a.padding, a.padding + a.size) for a in axes), ...)

        def make() -> RangeFunction:
            def compute(lo: int, hi: int) -> Array:
                block = None
                if x is not None:
                    block = pad(to_sum_dtype(x[lo:hi, ...], b), axes, self._padding_value, b)
                gx = self._gradient(to_sum_dtype(gy[lo:hi, ...], b), block, axes, b)[unpadded]
                if out is None:
                    return b.astype(gx, given)
                out[lo:hi, ...] = gx
                return out

            return compute

        gx = sweep(make, shape[0], prod(shape[1:]) * 4, b, THREADED_BYTES)[0]
        return self._to_layout(gx, b), {}

    def _kept(self, x: Array) -> tuple[Shape, Array | None]:
        return tuple(x.shape), x

    def _can_compile(self, x: Array, run: Run) -> bool:
        return self.layout == "channels_last" and calls.ready(run.b, x)

    def _excludes_padding(self) -> bool:
        """True if the mean leaves out padding."""
        return False

    def _value(self, x: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        raise TypeError("a pool defines _value")

    def _gradient(self, gy: Array, x: Array | None, axes: tuple[Axis, ...], b: Backend) -> Array:
        raise TypeError("a pool defines _slope")

    def _channels_last(self, x: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return x
        return b.xp.permute_dims(x, (0, *range(2, x.ndim), 1))

    def _to_layout(self, y: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return y
        return b.xp.permute_dims(y, (0, y.ndim - 1, *range(1, y.ndim - 1)))


class MaxPool(_Pool):
    """Max pooling: the largest element of every window.

    Of several equal maxima, the first in row-major order gets the gradient, as in PyTorch. Padding
    is minus infinity, so it is never the maximum.

    Parameters
    ----------
    kernel_size : int or tuple of N ints
        Size of the window.
    stride : int or tuple of N ints, optional
        Positions between windows; `kernel_size` if left out.
    padding : int or tuple of N ints
        Elements on both sides; no window may consist of padding alone.
    dilation : int or tuple of N ints
        Positions between neighbouring elements of a window.
    layout : {"channels_last", "channels_first"}
        Layout of x and y.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.MaxPool(3, stride=2, padding=1)), (8, 8, 3)).output_shape
    (4, 4, 3)
    """

    _padding_value = float("-inf")
    largest = True

    def __init__(
        self,
        kernel_size: Ints,
        *,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        layout: str = "channels_last",
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, layout)

    def _value(self, x: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        for axis in axes:
            x = max_axis(x, axis, b)
        return x

    def _gradient(self, gy: Array, x: Array | None, axes: tuple[Axis, ...], b: Backend) -> Array:
        # Last axis first, so that of equal maxima the first in row-major order is found.
        maxima = [x]
        for axis in reversed(axes):
            maxima.append(max_axis(maxima[-1], axis, b))
        for axis in axes:
            y = maxima.pop()
            gy = max_axis_grad(maxima[-1], y, gy, axis, b)
        return gy


class AvgPool(_Pool):
    """Average pooling: the mean of every window.

    Parameters
    ----------
    kernel_size : int or tuple of N ints
        Size of the window.
    stride : int or tuple of N ints, optional
        Positions between windows; `kernel_size` if left out.
    padding : int or tuple of N ints
        Zeros on both sides; no window may consist of padding alone.
    count_include_pad : bool
        False: the mean over the elements of x alone, without padding.
    layout : {"channels_last", "channels_first"}
        Layout of x and y.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.AvgPool(2)), (8, 8, 3)).output_shape
    (4, 4, 3)
    """

    def __init__(
        self,
        kernel_size: Ints,
        *,
        stride: Ints | None = None,
        padding: Ints = 0,
        count_include_pad: bool = True,
        layout: str = "channels_last",
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, layout)
        self.count_include_pad = parse.flag("AvgPool", "count_include_pad", count_include_pad)

    def _kept(self, x: Array) -> tuple[Shape, Array | None]:
        return tuple(x.shape), None

    def _excludes_padding(self) -> bool:
        return not self.count_include_pad

    def _value(self, x: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        for axis in axes:
            x = sum_axis(x, axis, b)
        return self._divide_by_counts(x, axes, b)

    def _gradient(self, gy: Array, x: Array | None, axes: tuple[Axis, ...], b: Backend) -> Array:
        gy = self._divide_by_counts(gy, axes, b)
        for axis in reversed(axes):
            gy = sum_axis_grad(gy, axis, b)
        return gy

    def _divide_by_counts(self, y: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        """Divide y by the number of elements in each window."""
        if self.count_include_pad or not any(a.padding for a in axes):
            return y * (1 / prod(a.kernel for a in axes))
        for a in axes:
            shape = (1,) * a.number + (a.out,) + (1,) * (y.ndim - a.number - 1)
            y = y * b.astype(b.xp.reshape(from_host(1 / a.counts(), b), shape), b.dtype_name(y))
        return y


@cached(256)
def _axes(
    kind: str, size: Shape, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[Axis, ...]:
    """Return the windows on every spatial axis; raise ValueError for a window of padding alone."""
    rank = len(size)
    if rank < 1:
        raise bad_value(
            kind, "one example needs at least one spatial axis and a channel axis", size,
            "put Reshape before it",
        )  # fmt: skip
    k = parse.per_axis(kind, "kernel_size", kernel, rank, 1)
    s = parse.per_axis(kind, "stride", stride, rank, 1)
    p = parse.per_axis(kind, "padding", padding, rank, 0)
    d = parse.per_axis(kind, "dilation", dilation, rank, 1)
    outs = tuple(
        (n + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for n, taps, step, pad, gap in zip(size, k, s, p, d, strict=True)
    )
    if any(o < 1 for o in outs):
        raise bad_value(
            kind, "the window must fit into every axis", f"size {size}, kernel_size {k}",
            "use a smaller kernel or more padding",
        )  # fmt: skip
    axes = tuple(Axis(i + 1, size[i], k[i], s[i], p[i], d[i], outs[i]) for i in range(rank))
    if any((a.counts() == 0).any() for a in axes):
        raise bad_value(
            kind, "every window must have an element that is no padding",
            f"size {size}, kernel_size {k}, padding {p}, dilation {d}",
            "use less padding: nothing has no maximum and no average",
        )  # fmt: skip
    return axes
