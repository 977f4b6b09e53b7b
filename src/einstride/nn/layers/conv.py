"""Convolution and transposed convolution as layers with a learned filter and bias."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

import einstride.api.gradients as es_gradients
from einstride.api.conv import conv
from einstride.api.conv_transpose import conv_transpose
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from einstride.geometry.types import Ints, Padding
from einstride.nn.arrays import Shape, check_count, to_sum_dtype
from einstride.nn.initialisers import he
from einstride.nn.layer import Gradients, Initialiser, Layer, Maker, Run
from einstride.nn.passes import column_sums
from einstride.support.errors import bad_value, shown


class _Convolution(Layer):
    """Base class of `Conv` and `ConvTranspose`: hyperparameters, a filter and a bias."""

    def __init__(
        self,
        channels: int,
        kernel_size: Ints,
        stride: Ints,
        padding: Padding,
        dilation: Ints,
        groups: int,
        padding_mode: str,
        layout: str,
        bias: bool,
        initialiser: Initialiser,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.channels = check_count(kind, "channels", channels)
        self.kernel_size = parse.ints(kind, "kernel_size", kernel_size)
        self.bias = parse.flag(kind, "bias", bias)
        self.groups = groups
        self.layout = layout
        self._initialiser = initialiser
        self._keywords: dict[str, Any] = {
            "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
            "padding_mode": padding_mode, "layout": layout,
        }  # fmt: skip
        self._kernel: Shape = ()

    def _parse_shape(self, shape: Shape) -> tuple[Shape, int]:
        """Return the spatial size and the channels of one example; sets the kernel's size."""
        kind, rank = type(self).__name__, len(shape) - 1
        if rank < 1:
            raise bad_value(
                kind, "one example needs at least one spatial axis and a channel axis", shape,
                "put Reshape before it",
            )  # fmt: skip
        if self.layout not in ("channels_last", "channels_first"):
            raise bad_value(
                kind, "layout must be 'channels_last' or 'channels_first'", shown(self.layout),
                "permute the input once, before the model",
            )  # fmt: skip
        self._kernel = parse.per_axis(kind, "kernel_size", self.kernel_size, rank, 1)
        first = self.layout == "channels_first"
        size, channels = (shape[1:], shape[0]) if first else (shape[:-1], shape[-1])
        return size, channels

    def _make_parameters(self, inner: int, outer: int, bias: int, maker: Maker) -> None:
        """Make the filter (*K, inner // groups, outer) in the layer's layout, and the bias."""
        canonical = (*self._kernel, inner // self.groups, outer)
        order = layouts.parse(self.place, self.layout, len(self._kernel)).f
        shape = layouts.canonical(canonical, layouts.inverse(order))
        taps = prod(self._kernel)
        fans = taps * inner // self.groups, taps * outer // self.groups
        if type(self) is ConvTranspose:
            fans = fans[1], fans[0]
        self.parameters["f"] = maker.draw(self._initialiser, shape, *fans)
        if self.bias:
            self.parameters["bias"] = maker.fill(np.zeros(bias), maker.dtype)

    def _geometry(self, size: Shape, inner: int, outer: int) -> Geometry:
        k = self._keywords
        kind = type(self).__name__
        settings = Settings(
            parse.ints(kind, "stride", k["stride"]),
            parse.freeze_padding(kind, k["padding"]),
            parse.ints(kind, "dilation", k["dilation"]),
            self.groups,
            k["padding_mode"],
        )
        if inner % self.groups:
            raise bad_value(
                kind, "groups must divide the channels", f"{inner} channels, groups={self.groups}",
                "choose another number",
            )  # fmt: skip
        f_shape = (*self._kernel, inner // self.groups, outer)
        got = f"one example {(*size, inner)}, f {f_shape}"
        return Geometry.of(kind, (1, *size, inner), f_shape, settings, got)

    def _with_channels(self, size: Shape, channels: int) -> Shape:
        first = self.layout == "channels_first"
        return (channels, *size) if first else (*size, channels)

    def _spatial_size(self, x: Array) -> Shape:
        shape = tuple(x.shape)
        return shape[2:] if self.layout == "channels_first" else shape[1:-1]

    def _bias_grad(self, gy: Array, run: Run) -> Array:
        """Sum gy over batch and positions, or for gradients per example over positions alone."""
        b = run.b
        if self.layout == "channels_first":
            gy = b.xp.permute_dims(gy, (0, *range(2, gy.ndim), 1))
        if run.per_example:
            return b.xp.sum(b.xp.reshape(gy, (gy.shape[0], -1, gy.shape[-1])), axis=1)
        return column_sums(gy, b)


class Conv(_Convolution):
    """Convolution: ``einstride.conv(x, f, bias, ...)`` with a filter that is learned.

    Parameters
    ----------
    channels : int
        Output channels D.
    kernel_size : int or tuple of N ints
        The filter's spatial size K.
    stride, padding, dilation, groups, padding_mode : as in `einstride.conv`
        The hyperparameters.
    layout : {"channels_last", "channels_first"}
        As in `einstride.conv`.
    bias : bool
        False: no bias, e.g. if a `BatchNorm` follows.
    initialiser : callable
        Initialises the filter; the bias starts at zero.

    Examples
    --------
    >>> from einstride import nn
    >>> model = nn.Model(nn.Sequential(nn.Conv(8, 3, padding="same")), (28, 28, 1))
    >>> model.output_shape, sorted(model.parameters)
    ((28, 28, 8), ['0.bias', '0.f'])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Ints,
        *,
        stride: Ints = 1,
        padding: Padding = "valid",
        dilation: Ints = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        layout: str = "channels_last",
        bias: bool = True,
        initialiser: Initialiser = he,
    ) -> None:
        super().__init__(
            channels, kernel_size, stride, padding, dilation, groups, padding_mode, layout, bias,
            initialiser,
        )  # fmt: skip

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        size, inner = self._parse_shape(shape)
        g = self._geometry(size, inner, self.channels)
        self._make_parameters(inner, self.channels, self.channels, maker)
        return self._with_channels(g.out, self.channels)

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        p = self.parameters
        y = conv(x, p["f"], p.get("bias"), out=self._out(x, run), **self._keywords)
        return y, x if run.keep else None

    def _reuses_memory(self, x: Array, run: Run) -> bool:
        """True if the result has the dtype of x, and the pass reuses memory of earlier steps."""
        name = run.b.dtype_name
        return run.places and name(x) == name(self.parameters["f"])

    def _out(self, x: Array, run: Run) -> Array | None:
        """Allocate the result if the pass reuses memory; else None: `conv` allocates it."""
        if not self._reuses_memory(x, run):
            return None
        first = self.layout == "channels_first"
        channels = x.shape[1 if first else -1]
        out = self._geometry(self._spatial_size(x), channels, self.channels).out
        shape = (x.shape[0], *self._with_channels(out, self.channels))
        return run.b.empty(shape, run.b.dtype_name(x), x)

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        p, x = self.parameters, kept
        # Gradients of half parameters are left in float32, in which the optimiser adds them.
        keywords = self._keywords
        wide = to_sum_dtype(gy, run.b)
        gf = es_gradients.conv_filter_grad(
            x, wide, self._kernel, per_example=run.per_example, **keywords
        )
        gradients = {"f": gf}
        if "bias" in p:
            gradients["bias"] = self._bias_grad(wide, run)
        del wide  # in float32: it need not live through the input gradient
        if not inner:
            return None, gradients
        out = None
        if self._reuses_memory(gy, run):
            out = run.b.empty(tuple(x.shape), run.b.dtype_name(gy), gy)
        size = self._spatial_size(x)
        gx = es_gradients.conv_input_grad(gy, p["f"], size, out=out, **keywords)
        return gx, gradients


class ConvTranspose(_Convolution):
    """Transposed convolution: ``einstride.conv_transpose`` with a filter that is learned.

    Parameters
    ----------
    channels : int
        Output channels C; the filter is (*K, C // groups, D) where the input has D.
    kernel_size : int or tuple of N ints
        The filter's spatial size K.
    stride, padding, dilation, groups : as in `einstride.conv_transpose`
        The hyperparameters of the forward convolution whose adjoint this is.
    output_padding : int or tuple of N ints
        As in `einstride.conv_transpose`.
    layout : {"channels_last", "channels_first"}
        As in `einstride.conv`.
    bias : bool
        False: no bias.
    initialiser : callable
        Initialises the filter; the bias starts at zero.

    Examples
    --------
    >>> from einstride import nn
    >>> up = nn.ConvTranspose(4, 3, stride=2, padding="same")
    >>> nn.Model(nn.Sequential(up), (7, 7, 8)).output_shape
    (14, 14, 4)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Ints,
        *,
        stride: Ints = 1,
        padding: Padding = "valid",
        dilation: Ints = 1,
        groups: int = 1,
        output_padding: Ints = 0,
        layout: str = "channels_last",
        bias: bool = True,
        initialiser: Initialiser = he,
    ) -> None:
        super().__init__(
            channels, kernel_size, stride, padding, dilation, groups, "zeros", layout, bias,
            initialiser,
        )  # fmt: skip
        self.output_padding = output_padding

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        _, outer = self._parse_shape(shape)
        self._make_parameters(self.channels, outer, self.channels, maker)
        # A call on an array without elements gives the output shape by the same rules.
        probe = maker.b.zeros((0, *shape), maker.dtype, self.parameters["f"])
        return tuple(self._call(probe).shape[1:])

    def _call(self, x: Array) -> Array:
        p = self.parameters
        return conv_transpose(
            x, p["f"], p.get("bias"), output_padding=self.output_padding, **self._keywords
        )

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        return self._call(x), x if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        # y = input_grad(x, f), so in the filter gradient gy stands for the input, and x for the
        # gradient of the output.
        p, x = self.parameters, kept
        wide = to_sum_dtype(gy, run.b)
        gf = es_gradients.conv_filter_grad(
            wide, x, self._kernel, per_example=run.per_example, **self._keywords
        )
        gradients = {"f": gf}
        if "bias" in p:
            gradients["bias"] = self._bias_grad(wide, run)
        del wide  # in float32: it need not live through the input gradient
        return (conv(gy, p["f"], **self._keywords) if inner else None), gradients
