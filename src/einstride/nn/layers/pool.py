"""Pooling over any number of spatial axes: one axis after the other, a few examples at a time.

The taps of a window on one axis are the slices that `einstride.windows` makes a view of; taking
them one by one keeps inner loops long. Values of x are read again in the backward pass instead of
an index being kept: a block of examples is still in the cache when its maxima are found again.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.geometry.types import Ints
from einstride.nn.arrays import Shape, device, widened
from einstride.nn.cpu import calls
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.nn.layers.taps import added, max_axis, max_axis_grad, padded, spread_axis
from einstride.nn.passes import One, result, sweep
from einstride.nn.pool_axis import Axis
from einstride.support.caches import cached
from einstride.support.errors import bad_value

POOLED = 1 << 20
"""Bytes from which blocks of examples go to the pool of threads: taps have short inner loops, so
that each call takes long enough."""


class _Pool(Layer):
    """What max and average share: geometry, layout, blocks of examples."""

    _outside = 0.0  # what the padding holds
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
        x = self._last(x, b)
        axes = self._axes(tuple(x.shape[1:-1]))
        if self._compiled(x, run):
            y = calls.pool(x, axes, self.largest, self._inside(), b)
            return y, self._kept(x) if run.keep else None
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

        y = sweep(make, x.shape[0], prod(x.shape[1:]) * 4, b, POOLED)[0]
        return self._back(y, b), self._kept(x) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        b, gy = run.b, self._last(gy, run.b)
        shape, x = kept
        axes = self._axes(shape[1:-1])
        if self._compiled(gy, run) and (x is None or calls.ready(b, gy, x)):
            return calls.pool_gradient(gy, x, axes, self._inside(), b), {}
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

        gx = sweep(make, shape[0], prod(shape[1:]) * 4, b, POOLED)[0]
        return self._back(gx, b), {}

    def _kept(self, x: Array) -> tuple[Shape, Array | None]:
        return tuple(x.shape), x

    def _compiled(self, x: Array, run: Run) -> bool:
        return self.layout == "channels_last" and calls.ready(run.b, x)

    def _inside(self) -> bool:
        """Is the mean that of the elements which are no padding?"""
        return False

    def _value(self, x: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        raise TypeError("a pool defines _value")

    def _slope(self, gy: Array, x: Array | None, axes: tuple[Axis, ...], b: Backend) -> Array:
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
        Elements on both sides, so few that no window lies in them alone.
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

    def _slope(self, gy: Array, x: Array | None, axes: tuple[Axis, ...], b: Backend) -> Array:
        # The last axis first: then the first maximum is that of the first row which has it.
        steps = [x]
        for axis in reversed(axes):
            steps.append(max_axis(steps[-1], axis, b))
        for axis in axes:
            y = steps.pop()
            gy = max_axis_grad(steps[-1], y, gy, axis, b)
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
        Zeros on both sides, so few that no window lies in them alone.
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

    def _inside(self) -> bool:
        return not self.count_include_pad

    def _value(self, x: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        for axis in axes:
            x = added(x, axis, b)
        return self._weighted(x, axes, b)

    def _slope(self, gy: Array, x: Array | None, axes: tuple[Axis, ...], b: Backend) -> Array:
        gy = self._weighted(gy, axes, b)
        for axis in reversed(axes):
            gy = spread_axis(gy, axis, b)
        return gy

    def _weighted(self, y: Array, axes: tuple[Axis, ...], b: Backend) -> Array:
        """Sums divided by the number of elements in their windows."""
        padding = any(a.padding for a in axes)
        if self.count_include_pad or not padding:
            return y * (1 / prod(a.kernel for a in axes))
        for a in axes:
            shape = (1,) * a.number + (a.out,) + (1,) * (y.ndim - a.number - 1)
            y = y * b.astype(b.xp.reshape(device(1 / a.counts(), b), shape), b.dtype_name(y))
        return y


@cached(256)
def _axes(
    kind: str, size: Shape, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[Axis, ...]:
    """The geometry of every spatial axis, in which each window has an element of x."""
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
