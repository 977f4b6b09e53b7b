"""The geometry of a convolution in integers: the proof that every window stays in its array.

Canonical shapes: x (B, *S, C), f (*K, C // groups, D), y (B, *O, D). Output o on an axis reads
x[o * stride + k * dilation - low] for k in [0, K); a `Geometry` exists only if that index lies
within the padded axis for every o and k. Standard library only, cached, and never an array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

from einstride.geometry.keywords import Settings, Shape, per_axis
from einstride.geometry.padding import Pads, check_border, is_same, padding_pairs
from einstride.geometry.padding_modes import repeats
from einstride.support.errors import bad_value

Direction = Literal["forward", "input_grad", "filter_grad"]

PLAIN = Settings()

LARGEST = 2**58
"""No array may have more elements than this, x with its padding among them: byte offsets, at 16
bytes an element, must fit a signed 64-bit integer."""


@dataclass(frozen=True)
class Geometry:
    """A checked convolution. Make one with `Geometry.of`; the fields then fit together.

    Attributes
    ----------
    batch, channels, filters, groups : int
        B, C, D and the number of groups, which divides C and D.
    size, kernel, out : tuple of int
        S, K and O, one number per spatial axis.
    stride, dilation : tuple of int
        The filter's step, and the distance between its taps.
    padding : tuple of (int, int)
        Elements added before and after each axis; a negative number crops.
    flip : bool
        True for the mathematician's convolution.
    padding_mode : str
        What stands around x: "zeros", or x itself by "reflect", "replicate" or "circular".
    input_dilation : tuple of int
        Empty, or the distance between the elements of x within `size`, with zeros in between.
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
            )
        )

    def __hash__(self) -> int:  # a geometry is a key of every cache: hash it once
        return self._hash

    @staticmethod
    def of(
        where: str,
        x_shape: Shape,
        f_shape: Shape,
        settings: Settings = PLAIN,
        got: str = "",
    ) -> Geometry:
        """The geometry of ``conv(x, f)`` from canonical shapes, or a ValueError in `where`'s name.

        `got` describes the caller's own shapes in errors.
        """
        got = got or f"x {x_shape}, f {f_shape}"
        rank = len(x_shape) - 2
        if rank < 1:
            raise bad_value(
                where,
                "x needs a batch axis, at least one spatial axis and a channel axis",
                got,
                "add axes of length 1, e.g. x[None]",
            )
        if len(f_shape) != rank + 2:
            raise bad_value(
                where,
                f"f needs {rank + 2} axes ({rank} spatial, then input and output"
                " channels), as many as x",
                got,
                "reshape f",
            )
        batch, *given, channels = x_shape
        spread = per_axis(where, "input_dilation", settings.input_dilation, rank, 1)
        size = [max((s - 1) * t + 1, 0) for s, t in zip(given, spread, strict=True)]
        *kernel, inner, filters = f_shape
        _check_groups(where, channels, given[0], inner, filters, settings.groups, got)
        padding, groups = settings.padding, settings.groups
        steps = per_axis(where, "stride", settings.stride, rank, 1)
        gaps = per_axis(where, "dilation", settings.dilation, rank, 1)
        extent = tuple(d * (k - 1) + 1 for d, k in zip(gaps, kernel, strict=True))
        pads = padding_pairs(where, padding, tuple(size), extent, steps)
        out = []
        for axis, (s, k, e, step, (low, high)) in enumerate(
            zip(size, kernel, extent, steps, pads, strict=True)
        ):
            if k < 1:
                raise bad_value(
                    where,
                    f"f has no taps on spatial axis {axis}",
                    got,
                    "give every kernel axis at least one tap",
                )
            room = s + low + high
            if room < e and not (s == 0 and room >= 0 and is_same(padding, axis)):
                raise bad_value(
                    where,
                    f"the dilated filter ({e}) is larger than the padded input ({max(room, 0)}) on "
                    f"spatial axis {axis}",
                    f"{got}, padding {(low, high)}, dilation {gaps[axis]}",
                    "pad more, dilate less or use a smaller filter",
                )
            check_border(where, settings.padding_mode, axis, s, max(low, high))
            out.append(max((room - e) // step + 1, 0))
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
        return Geometry(
            batch,
            tuple(size),
            channels,
            tuple(kernel),
            filters,
            groups,
            steps,
            gaps,
            pads,
            settings.flip,
            tuple(out),
            settings.padding_mode,
            spread if max(spread) > 1 else (),
        )

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    @cached_property
    def extent(self) -> Shape:
        """The length of the dilated filter on each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))

    @cached_property
    def x_shape(self) -> Shape:
        """(B, *S, C)."""
        return (self.batch, *self.size, self.channels)

    @cached_property
    def given_shape(self) -> Shape:
        """(B, *S, C) before the input dilation."""
        steps = self.input_dilation or (1,) * self.rank
        given = (-(-s // t) for s, t in zip(self.size, steps, strict=True))
        return (self.batch, *given, self.channels)

    @cached_property
    def f_shape(self) -> Shape:
        """(*K, C // groups, D)."""
        return (*self.kernel, self.channels // self.groups, self.filters)

    @cached_property
    def y_shape(self) -> Shape:
        """(B, *O, D)."""
        return (self.batch, *self.out, self.filters)

    def shape_of_result(self, direction: Direction) -> Shape:
        """The canonical shape of what a direction computes."""
        if direction == "forward":
            return self.y_shape
        return self.given_shape if direction == "input_grad" else self.f_shape

    def terms(self, direction: Direction) -> int:
        """How many products are summed into one element of the result, at most."""
        if direction == "filter_grad":
            return self.batch * prod(self.out)
        if direction == "forward":
            return prod(self.kernel) * (self.channels // self.groups)
        folded = prod(repeats(low, high, self.padding_mode) for low, high in self.padding)
        return prod(self.kernel) * (self.filters // self.groups) * folded

    @cached_property
    def extended(self) -> Geometry:
        """The same convolution over the padded input itself."""
        size = tuple(s + low + high for s, (low, high) in zip(self.size, self.padding, strict=True))
        none = ((0, 0),) * self.rank
        return replace(self, size=size, padding=none, padding_mode="zeros", input_dilation=())

    @cached_property
    def multiply_adds(self) -> int:
        """Products formed by the direct algorithm, the same in all three directions."""
        return self.batch * prod(self.out) * prod(self.f_shape)


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
