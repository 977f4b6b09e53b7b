"""The geometry of a convolution in whole numbers: the proof that every window stays in its array.

Canonical shapes: x (B, *S, C), f (*K, C // groups, D), y (B, *O, D). Output o on an axis reads
x[o * stride + k * dilation - low] for k in [0, K); a `Geometry` exists only if that index lies
within the padded axis for every o and k. Standard library only, cached, and never an array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

from einstride._errors import bad_value
from einstride.borders import repeats
from einstride.settings import PADDING_NAMES, Frozen, Settings, Shape, per_axis

Direction = Literal["forward", "input_grad", "filter_grad"]
Pads = tuple[tuple[int, int], ...]

PLAIN = Settings()

LARGEST = 2**62
"""No array may have more elements than this: byte offsets must fit a signed 64-bit integer."""


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
        batch, *size, channels = x_shape
        *kernel, inner, filters = f_shape
        _check_groups(where, channels, inner, filters, settings.groups, got)
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
            if room < e and not (s == 0 and room >= 0 and _is_same(padding, axis)):
                raise bad_value(
                    where,
                    f"the dilated filter ({e}) is larger than the padded input ({max(room, 0)}) on "
                    f"spatial axis {axis}",
                    f"{got}, padding {(low, high)}, dilation {gaps[axis]}",
                    "pad more, dilate less or use a smaller filter",
                )
            _check_border(where, settings.padding_mode, axis, s, max(low, high))
            out.append(max((room - e) // step + 1, 0))
        for name, n in (("y", batch * prod(out) * filters), ("x", batch * prod(size) * channels)):
            if n > LARGEST or any(abs(p) > LARGEST for pair in pads for p in pair):
                raise bad_value(
                    where,
                    f"{name} would have more than 2**62 elements",
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
        return self.x_shape if direction == "input_grad" else self.f_shape

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
        return replace(self, size=size, padding=none, padding_mode="zeros")

    @cached_property
    def multiply_adds(self) -> int:
        """Products formed by the direct algorithm, the same in all three directions."""
        return self.batch * prod(self.out) * prod(self.f_shape)


def _check_border(where: str, mode: str, axis: int, size: int, border: int) -> None:
    """Reflecting needs an element to reflect, wrapping around one to wrap to."""
    most = {"reflect": size - 1, "circular": size, "replicate": border if size else 0}
    if border > max(most.get(mode, border), 0):
        raise bad_value(
            where,
            f'padding_mode="{mode}" can add at most {max(most[mode], 0)} elements on a side of '
            f"spatial axis {axis}",
            f"padding {border}, size {size}",
            "pad less or use another mode",
        )


def _is_same(padding: Frozen, axis: int) -> bool:
    name = padding[axis] if isinstance(padding, tuple) else padding
    return name in ("same", "same_lower")


def _check_groups(
    where: str, channels: int, inner: int, filters: int, groups: int, got: str
) -> None:
    if groups < 1:
        raise bad_value(where, "groups must be at least 1", groups, "use groups=1 for none")
    if channels != inner * groups:
        expected = f"{inner} x groups={groups} = {inner * groups}" if groups != 1 else f"{inner}"
        raise bad_value(
            where,
            f"x has {channels} channels but f expects {expected}",
            got,
            "make them agree: f has shape (*kernel, C // groups, D) in canonical order",
        )
    if filters % groups:
        raise bad_value(
            where,
            f"groups={groups} must divide the {filters} output channels of f",
            got,
            "choose a divisor",
        )


def padding_pairs(where: str, padding: Frozen, size: Shape, extent: Shape, stride: Shape) -> Pads:
    """(low, high) zeros for each axis, of an int, a name, or one int, name or pair per axis."""
    rank = len(size)
    per = padding if isinstance(padding, tuple) else (padding,) * rank
    if len(per) != rank:
        pair = rank == 1 and len(per) == 2 and all(isinstance(p, int) for p in per)
        remedy = (
            f"write padding=({per},)" if pair else f"pass {rank} entries, e.g. {((1, 1),) * rank}"
        )
        raise bad_value(
            where, f"padding needs one entry for each of the {rank} spatial axes", per, remedy
        )
    return tuple(
        padding_pair(where, p, s, e, step)
        for p, s, e, step in zip(per, size, extent, stride, strict=True)
    )


def padding_pair(where: str, entry: Frozen, size: int, extent: int, stride: int) -> tuple[int, int]:
    """(low, high) zeros of one axis."""
    if isinstance(entry, int):
        return entry, entry
    if isinstance(entry, tuple):
        return entry
    if entry == "valid":
        return 0, 0
    if entry == "full":
        return extent - 1, extent - 1
    if entry == "causal":
        return extent - 1, 0
    if entry in ("same", "same_lower"):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if entry == "same" else (more, less)
    raise bad_value(where, "padding is unknown", repr(entry), f"use one of {PADDING_NAMES}")
