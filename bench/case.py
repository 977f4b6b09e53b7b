"""Defines the benchmark's rows: a `Case` is a layer of a real program, a `Row` one pass of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

GROUPS = (
    "dense 3x3",
    "other dense",
    "1x1",
    "depthwise",
    "large filters",
    "1-D",
    "3-D",
    "float64, complex, integers",
    "tiny",
)
PASSES = ("forward", "input_grad", "filter_grad")

PerAxis = int | tuple[int, ...]
Padding = int | tuple[int | tuple[int, int], ...]


@dataclass(frozen=True)
class Case:
    """Hold one convolution of a real program. Sizes are spatial; arrays are channels_last."""

    name: str  # "network/layer"
    group: str  # one of GROUPS
    source: str  # the paper or program, and the layer in it
    size: tuple[int, ...]
    channels: int
    kernel: tuple[int, ...]
    filters: int
    stride: PerAxis = 1
    padding: Padding = 0
    dilation: PerAxis = 1
    groups: int = 1
    dtype: str = "float32"
    filter_dtype: str | None = None  # None: the same as dtype
    batches: tuple[int, ...] = (8,)
    passes: tuple[str, ...] = PASSES
    filter_values: str = "normal"  # or "gaussian": separable, so that a separable peer may try
    smoke: bool = False  # one of the few rows of --smoke


@dataclass(frozen=True)
class Row:
    """Hold one row of the table: a case at one batch size in one pass."""

    case: Case
    batch: int
    pass_: str

    @property
    def name(self) -> str:
        """Return the row's unique name, which ``--case`` matches."""
        return f"{self.case.name} b{self.batch} {self.pass_}"

    @property
    def rank(self) -> int:
        """Return the number of spatial axes."""
        return len(self.case.size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Return the stride of each axis."""
        return _per_axis(self.case.stride, self.rank)

    @property
    def dilation(self) -> tuple[int, ...]:
        """Return the dilation of each axis."""
        return _per_axis(self.case.dilation, self.rank)

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Return the (low, high) padding of each axis."""
        padding = self.case.padding
        entries = (padding,) * self.rank if isinstance(padding, int) else padding
        return tuple((p, p) if isinstance(p, int) else p for p in entries)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Return the spatial size of the output."""
        return tuple(
            (n + low + high - d * (k - 1) - 1) // s + 1
            for n, k, s, d, (low, high) in zip(
                self.case.size, self.case.kernel, self.stride, self.dilation, self.pads, strict=True
            )
        )

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Return the shape of x, (B, *S, C)."""
        return (self.batch, *self.case.size, self.case.channels)

    @property
    def f_shape(self) -> tuple[int, ...]:
        """Return the shape of f, (*K, C // groups, D)."""
        case = self.case
        return (*case.kernel, case.channels // case.groups, case.filters)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Return the shape of y, (B, *O, D)."""
        return (self.batch, *self.out_size, self.case.filters)

    @property
    def filter_dtype(self) -> str:
        """Return the dtype of the filter."""
        return self.case.filter_dtype or self.case.dtype

    @property
    def result_dtype(self) -> str:
        """Return the dtype that einstride documents for the result."""
        if self.filter_dtype != self.case.dtype:
            return self.filter_dtype  # an integer image under a floating-point filter
        return {"int8": "int32", "uint8": "int32", "int32": "int64"}.get(
            self.case.dtype, self.case.dtype
        )

    @property
    def is_integer(self) -> bool:
        """True if the result is an integer, which is checked exactly."""
        return "int" in self.result_dtype

    @property
    def is_complex(self) -> bool:
        """True if the arrays are complex."""
        return self.case.dtype.startswith("complex")

    @property
    def depthwise_simple(self) -> bool:
        """True if each channel has one filter of its own (single-channel images included)."""
        return self.case.groups == self.case.channels == self.case.filters

    @property
    def flops(self) -> int:
        """Return the real operations of the definition, with taps in the padding."""
        case = self.case
        taps = math.prod(case.kernel) * (case.channels // case.groups)
        return math.prod(self.y_shape) * taps * (8 if self.is_complex else 2)

    @property
    def keywords(self) -> dict[str, object]:
        """Return the hyperparameters as keywords of einstride."""
        return {
            "stride": self.stride,
            "padding": self.pads,
            "dilation": self.dilation,
            "groups": self.case.groups,
        }


def _per_axis(value: PerAxis, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else value
