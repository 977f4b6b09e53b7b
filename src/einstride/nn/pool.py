"""Pooling over any number of spatial axes: one axis after the other, a few examples at a time.

The taps of a window on one axis are the slices that `einstride.windows` makes a view of; taking
them one by one keeps inner loops long. Values of x are read again in the backward pass instead of
an index being kept: a block of examples is still in the cache when its maxima are found again.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride import settings as parse
from einstride._errors import bad_value
from einstride.backends import Array, Backend
from einstride.nn.arrays import Shape, widened
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.nn.passes import One, result, sweep
from einstride.nn.taps import Axis, added, max_axis, max_axis_grad, padded, spread_axis
from einstride.signature import Ints
from einstride.sizes import output_size


class _Pool(Layer):
    """What max and average share: geometry, layout, blocks of examples."""

    _outside = 0.0  # what the padding holds

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

    def _axes(self, size: Shape) -> list[Axis]:
        kind, rank = type(self).__name__, len(size)
        if rank < 1:
            raise bad_value(
                kind, "one example needs at least one spatial axis and a channel axis", size,
                "put Reshape before it",
            )  # fmt: skip
        k, s, p, d = (
            parse.per_axis(kind, name, getattr(self, name), rank, least)
            for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
        )
        if any(2 * pad > gap * (n - 1) + 1 for pad, gap, n in zip(p, d, k, strict=True)):
            raise bad_value(
                kind, "padding must be at most half the kernel", f"padding {p}, kernel_size {k}",
                "a window of nothing but padding has no maximum and no average",
            )  # fmt: skip
        out = output_size(size, k, stride=s, padding=p, dilation=d)
        if any(o < 1 for o in out):  # type: ignore[union-attr]
            raise bad_value(
                kind, "the window must fit into every axis", f"size {size}, kernel_size {k}",
                "use a smaller kernel or more padding",
            )  # fmt: skip
        return [
            Axis(i, *numbers)
            for i, numbers in enumerate(zip(size, k, s, p, d, out), start=1)  # type: ignore[arg-type]  # noqa: B905
        ]

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b = run.b
        x = self._last(x, b)
        axes = self._axes(tuple(x.shape[1:-1]))
        given, shape = b.dtype_name(x), (x.shape[0], *(a.out for a in axes), x.shape[-1])
        out = result(shape, given, x, b)

        def make() -> One:
            def one(lo: int, hi: int) -> Array:
                y = self._value(padded(widened(x[lo:hi, ...], b), axes, self._outside, b), axes, b)
                if out is None:
                    return b.astype(y, given)
                out[lo:hi, ...] = y
                return out

            return one

        y = sweep(make, x.shape[0], prod(x.shape[1:]) * 4, b)[0]
        return self._back(y, b), self._kept(x) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        b, gy = run.b, self._last(gy, run.b)
        shape, x = kept
        axes = self._axes(shape[1:-1])
        given = b.dtype_name(gy)
        out = result(shape, given, gy, b)
        inside = (slice(None), *(slice(a.padding, a.padding + a.size) for a in axes), ...)

        def make() -> One:
            def one(lo: int, hi: int) -> Array:
                block = None
                if x is not None:
                    block = padded(widened(x[lo:hi, ...], b), axes, self._outside, b)
                gx = self._slope(widened(gy[lo:hi, ...], b), block, axes, b)[inside]
                if out is None:
                    return b.astype(gx, given)
                out[lo:hi, ...] = gx
                return out

            return one

        gx = sweep(make, shape[0], prod(shape[1:]) * 4, b)[0]
        return self._back(gx, b), {}

    def _kept(self, x: Array) -> tuple[Shape, Array | None]:
        return tuple(x.shape), x

    def _value(self, x: Array, axes: list[Axis], b: Backend) -> Array:
        raise TypeError("a pool defines _value")

    def _slope(self, gy: Array, x: Array | None, axes: list[Axis], b: Backend) -> Array:
        raise TypeError("a pool defines _slope")

    def _last(self, x: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return x
        return b.xp.permute_dims(x, (0, *range(2, x.ndim), 1))

    def _back(self, y: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return y
        return b.xp.permute_dims(y, (0, y.ndim - 1, *range(1, y.ndim - 1)))


class MaxPool(_Pool):
    """The largest element of every window.

    If several are largest, the gradient goes to the first of them in row-major order, as in
    PyTorch. Padding is minus infinity: it never wins.

    Parameters
    ----------
    kernel_size : int or tuple of N ints
        The window.
    stride : int or tuple of N ints, optional
        Its step; `kernel_size` if left out.
    padding : int or tuple of N ints
        Elements on both sides, at most half the window.
    dilation : int or tuple of N ints
        The distance between the window's elements.
    layout : {"channels_last", "channels_first"}
        Where the channels are.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.MaxPool(3, stride=2, padding=1)), (8, 8, 3)).output_shape
    (4, 4, 3)
    """

    _outside = float("-inf")

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

    def _value(self, x: Array, axes: list[Axis], b: Backend) -> Array:
        for axis in axes:
            x = max_axis(x, axis, b)
        return x

    def _slope(self, gy: Array, x: Array | None, axes: list[Axis], b: Backend) -> Array:
        # The last axis first: then the first maximum is that of the first row which has it.
        steps = [x]
        for axis in reversed(axes):
            steps.append(max_axis(steps[-1], axis, b))
        for axis in axes:
            steps.pop()
            gy = max_axis_grad(steps[-1], gy, axis, b)
        return gy


class AvgPool(_Pool):
    """The mean of every window.

    Parameters
    ----------
    kernel_size : int or tuple of N ints
        The window.
    stride : int or tuple of N ints, optional
        Its step; `kernel_size` if left out.
    padding : int or tuple of N ints
        Zeros on both sides, at most half the window.
    count_include_pad : bool
        False: the mean of what lies inside x alone.
    layout : {"channels_last", "channels_first"}
        Where the channels are.

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

    def _value(self, x: Array, axes: list[Axis], b: Backend) -> Array:
        for axis in axes:
            x = added(x, axis, b)
        return self._weighted(x, axes, b)

    def _slope(self, gy: Array, x: Array | None, axes: list[Axis], b: Backend) -> Array:
        gy = self._weighted(gy, axes, b)
        for axis in reversed(axes):
            gy = spread_axis(gy, axis, b)
        return gy

    def _weighted(self, y: Array, axes: list[Axis], b: Backend) -> Array:
        """Sums divided by the number of elements in their windows."""
        padding = any(a.padding for a in axes)
        if self.count_include_pad or not padding:
            return y * (1 / prod(a.kernel for a in axes))
        for a in axes:
            shape = (1,) * a.number + (a.out,) + (1,) * (y.ndim - a.number - 1)
            y = y * b.astype(b.xp.reshape(a.shares(b, y), shape), b.dtype_name(y))
        return y
