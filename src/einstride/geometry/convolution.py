"""Describe a convolution by integers, and prove that every window stays within its array.

Canonical shapes: x (B, *S, C), f (*K, C // groups, D), y (B, *O, D). Output o on an axis reads
x[o * stride + k * dilation - low] for k in [0, K); a `Geometry` exists only if that index lies
within the padded axis for every o and k. Geometries are hashable, keys of caches and plans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

from einstride.geometry.keywords import Settings, Shape, modes_per_axis, per_axis
from einstride.geometry.padding import Pads, check_border, is_same, padding_pairs
from einstride.geometry.padding_modes import Border, border_of, repeats
from einstride.support.errors import bad_value

Direction = Literal["forward", "input_grad", "filter_grad"]

ADJOINTS: dict[Direction, tuple[tuple[Direction, bool], tuple[Direction, bool]]] = {
    "forward": (("input_grad", False), ("filter_grad", True)),
    "input_grad": (("forward", False), ("filter_grad", False)),
    "filter_grad": (("input_grad", True), ("forward", True)),
}
"""The adjoint of each pass in its first operand and in its second one, which is the gradient of the
operand from a gradient g of the result. True if it takes the other operand before g:

    pass                 adjoint in the first operand    adjoint in the second operand
    forward(x, f)        input_grad(g, f)                filter_grad(x, g)
    input_grad(gy, f)    forward(g, f)                   filter_grad(g, gy)
    filter_grad(x, gy)   input_grad(gy, g)               forward(x, g)
"""

DEFAULTS = Settings()

LARGEST = 2**58
"""Largest number of elements of any array, x with its padding among them: byte offsets, at 16 bytes
an element, must fit a signed 64-bit integer."""


@dataclass(frozen=True)
class Geometry:
    """Hold the sizes of a convolution, which `Geometry.of` has checked against each other.

    Attributes
    ----------
    batch, channels, filters, groups : int
        B, C, D and the number of groups, which divides C and D.
    size, kernel, out : tuple of int
        S, K and O, one number per spatial axis.
    stride, dilation : tuple of int
        Positions between neighbouring windows, and between neighbouring taps.
    padding : tuple of (int, int)
        Positions added before and after each axis; a negative number crops.
    flip : bool
        True if the filter is reversed on its spatial axes.
    padding_mode : str
        Contents of the padding on all axes: "zeros", or x itself by "reflect", "replicate",
        "circular" or "symmetric".
    input_dilation : tuple of int
        Positions between neighbouring elements of x within `size`, with zeros in between; empty if
        no axis is dilated.
    border : Border or None
        Contents of the padding where they differ by axis, or are a constant other than zero;
        `padding_mode` is then "zeros".
    """

    batch: int
    size: Shape
    channels: int
    kernel: Shape
    filters: int
    groups: int
    stride: Shape
    dilation: Shape
    padding: Pads
    flip: bool
    out: Shape
    padding_mode: str = "zeros"
    input_dilation: Shape = ()
    border: Border | None = None

    @cached_property
    def _hash(self) -> int:
        return hash(
            (
                self.batch,
                self.size,
                self.channels,
                self.kernel,
                self.filters,
                self.groups,
                self.stride,
                self.dilation,
                self.padding,
                self.flip,
                self.padding_mode,
                self.input_dilation,
                self.border,
            )
        )

    def __hash__(self) -> int:  # a geometry is part of every cache key: it is hashed once
        return self._hash

    @staticmethod
    def of(
        where: str,
        x_shape: Shape,
        f_shape: Shape,
        settings: Settings = DEFAULTS,
        got: str = "",
    ) -> Geometry:
        """Make the geometry of ``conv(x, f)`` from canonical shapes; a ValueError names `where`.

        `got` describes the caller's own shapes in errors.
        """
        got = got or f"x {x_shape}, f {f_shape}"
        rank = len(x_shape) - 2
        if rank < 1:
            raise bad_value(
                where,
                "x needs a batch axis, at least one spatial axis and a channel axis",
                got,
                _plain_remedy(len(x_shape), len(f_shape)),
            )
        if len(f_shape) != rank + 2:
            raise bad_value(
                where,
                f"f needs {rank + 2} axes ({rank} spatial, then input and output"
                " channels), as many as x",
                got,
                _plain_remedy(len(x_shape), len(f_shape), x_shape[-1]),
            )
        batch, *given, channels = x_shape
        input_dilation = per_axis(where, "input_dilation", settings.input_dilation, rank, 1)
        size = [max((s - 1) * t + 1, 0) for s, t in zip(given, input_dilation, strict=True)]
        *kernel, inner, filters = f_shape
        _check_groups(where, channels, given[0], inner, filters, settings.groups, got)
        padding, groups = settings.padding, settings.groups
        strides = per_axis(where, "stride", settings.stride, rank, 1)
        dilation = per_axis(where, "dilation", settings.dilation, rank, 1)
        extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
        pads = padding_pairs(where, padding, tuple(size), extent, strides)
        modes = modes_per_axis(where, settings.padding_mode, rank)
        out = []
        for axis, (s, k, e, stride, (low, high)) in enumerate(
            zip(size, kernel, extent, strides, pads, strict=True)
        ):
            if k < 1:
                raise bad_value(
                    where,
                    f"f has no taps on spatial axis {axis}",
                    got,
                    "give every kernel axis at least one tap",
                )
            available = s + low + high
            if available < e and not (s == 0 and available >= 0 and is_same(padding, axis)):
                raise bad_value(
                    where,
                    f"the dilated filter ({e}) is larger than the padded input "
                    f"({max(available, 0)}) on spatial axis {axis}",
                    f"{got}, padding {(low, high)}, dilation {dilation[axis]}",
                    "pad more, dilate less or use a smaller filter",
                )
            check_border(where, modes[axis], axis, s, max(low, high))
            out.append(max((available - e) // stride + 1, 0))
        padded = [s + max(low, 0) + max(high, 0) for s, (low, high) in zip(size, pads, strict=True)]
        for name, n in (
            ("y", batch * prod(out) * filters),
            ("x", batch * prod(size) * channels),
            ("x with its padding", batch * prod(padded) * channels),
        ):
            if n > LARGEST or any(abs(p) > LARGEST for pair in pads for p in pair):
                raise bad_value(
                    where,
                    f"{name} would have more than 2**58 elements",
                    f"{got}, padding {pads}",
                    "use smaller shapes",
                )
        mode, border = border_of(modes, settings.fill, pads)
        return Geometry(
            batch,
            tuple(size),
            channels,
            tuple(kernel),
            filters,
            groups,
            strides,
            dilation,
            pads,
            settings.flip,
            tuple(out),
            mode,
            input_dilation if max(input_dilation) > 1 else (),
            border,
        )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @cached_property
    def extent(self) -> Shape:
        """Positions that the dilated filter spans on each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))

    @cached_property
    def x_shape(self) -> Shape:
        """Shape of x after its input dilation, (B, *S, C)."""
        return (self.batch, *self.size, self.channels)

    @cached_property
    def given_shape(self) -> Shape:
        """Shape of x as the caller gives it, before its input dilation."""
        dilation = self.input_dilation or (1,) * self.rank
        given = (-(-s // t) for s, t in zip(self.size, dilation, strict=True))
        return (self.batch, *given, self.channels)

    @cached_property
    def f_shape(self) -> Shape:
        """Shape of f, (*K, C // groups, D)."""
        return (*self.kernel, self.channels // self.groups, self.filters)

    @cached_property
    def y_shape(self) -> Shape:
        """Shape of y, (B, *O, D)."""
        return (self.batch, *self.out, self.filters)

    def shape_of_result(self, direction: Direction) -> Shape:
        """Return the canonical shape of the array that a direction computes."""
        if direction == "forward":
            return self.y_shape
        return self.given_shape if direction == "input_grad" else self.f_shape

    def terms(self, direction: Direction) -> int:
        """Return the largest number of products that are summed into one element of the result."""
        if direction == "filter_grad":
            return self.batch * prod(self.out)
        if direction == "forward":
            return prod(self.kernel) * (self.channels // self.groups)
        ends = zip(self.padding, self.modes, strict=True)
        folded = prod(repeats(low, high, mode) for (low, high), mode in ends)
        return prod(self.kernel) * (self.filters // self.groups) * folded

    @property
    def modes(self) -> tuple[str, ...]:
        """Padding mode of each axis."""
        return (self.padding_mode,) * self.rank if self.border is None else self.border.modes

    @cached_property
    def repeats_input(self) -> bool:
        """True if a position of the border holds an element of x."""
        ends = zip(self.modes, self.padding, strict=True)
        return any(mode not in ("zeros", "constant") and any(pads) for mode, pads in ends)

    @cached_property
    def extended(self) -> Geometry:
        """Geometry over the padded input as its input, with no padding and no input dilation."""
        size = tuple(s + low + high for s, (low, high) in zip(self.size, self.padding, strict=True))
        none = ((0, 0),) * self.rank
        return replace(
            self, size=size, padding=none, padding_mode="zeros", input_dilation=(), border=None
        )

    @cached_property
    def multiply_adds(self) -> int:
        """Number of products of the direct algorithm, equal in all three directions."""
        return self.batch * prod(self.out) * prod(self.f_shape)


def _plain_remedy(x_axes: int, f_axes: int, last: int = 0) -> str:
    """Propose what was probably meant where x or f lacks its batch or its channels."""
    remedies = {
        (1, 1): "add axes: for a signal write x[None, :, None] and f[:, None, None]",
        (2, 2): "add axes: for an image write x[None, ..., None] and f[..., None, None], or call "
        "einstride.ndimage.correlate(x, f)",
        (3, 2): f"add axes: for a photo with {last} channels and one kernel for each write "
        'x[None], f[..., None, None] and groups="depthwise", or call '
        "einstride.ndimage.correlate(x, f, axes=(0, 1))",
    }
    if (x_axes, f_axes) in remedies:
        return remedies[x_axes, f_axes]
    if f_axes == x_axes + 1:
        return "add axes: for one example write x[None]"
    if x_axes < 3:
        return "add axes: for a signal write x[None, :, None], for an image x[None, ..., None]"
    return f"reshape f to {x_axes} axes, e.g. f[..., None, None] for one channel in and out"


def _check_groups(
    where: str, channels: int, first: int, inner: int, filters: int, groups: int, got: str
) -> None:
    if groups < 1:
        raise bad_value(where, "groups must be at least 1", groups, "use groups=1 for none")
    if channels != inner * groups:
        remedy = "make them agree: f has shape (*kernel, C // groups, D)"
        if channels % groups == 0:
            remedy += f", here (*kernel, {channels // groups}, {filters})"
        if first == inner * groups:
            remedy += '; if the channels come first in memory, pass layout="channels_first"'
        expected = f"{inner} x groups={groups} = {inner * groups}" if groups != 1 else f"{inner}"
        raise bad_value(
            where,
            f"x has {channels} channels but f expects {expected}",
            got,
            remedy,
        )
    if filters % groups:
        raise bad_value(
            where,
            f"groups={groups} must divide the {filters} output channels of f",
            got,
            "choose a divisor",
        )
