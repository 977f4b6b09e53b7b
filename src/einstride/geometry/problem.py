"""Define the problem that an algorithm solves (`Job`) and its predicted cost (`Cost`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from einstride.geometry.arithmetic import HALVES, ITEMSIZE, Arithmetic
from einstride.geometry.convolution import Direction, Geometry

Fact = str | int | dict[str, int] | dict[str, str]
Facts = dict[str, Fact]
"""Description of how a job is computed, in texts and integers, which JSON can represent."""


@dataclass(frozen=True)
class Job:
    """Hold everything that the plan of one pass depends on.

    Attributes
    ----------
    geometry : Geometry
        The geometry of the forward convolution, in every direction.
    direction : {"forward", "input_grad", "filter_grad"}
        The pass.
    arithmetic : Arithmetic
        The dtypes of the products and of the result.
    operands : tuple of str
        The dtypes of the two arrays that are multiplied.
    limit : int
        Bytes of workspace, beyond operands and result, that the call may take.
    hard : bool
        True if the caller set the limit: what would exceed it raises an error. A soft limit, the
        default one, may be exceeded where one row of the smallest block is larger.
    threads : int
        Most blocks that are computed at once.
    accuracy : {"normwise", "elementwise", "tf32"}
        The error bound that the result must keep. The `supports` of an algorithm refuses a job
        whose bound it does not keep.
    per_example : bool
        True if a filter gradient is computed for each example of the batch and not for their sum.
    batch_invariant : bool
        True if the bits of an example's result must not depend on the other examples of the batch.
    prepared : bool
        True if the algorithm's transform of the filter is kept between calls, so that the time of
        the transform does not count.
    copied : int
        Bytes of copies of x, y or their gradients, made because compiled kernels do not support
        their strides; zero where the limit is soft, as nobody asks then.
    copies_bias : bool
        True if the bias has another dtype than the sums, or gaps between its numbers, and the limit
        is hard.
    """

    geometry: Geometry
    direction: Direction
    arithmetic: Arithmetic
    operands: tuple[str, str]
    limit: int
    hard: bool = False
    threads: int = 1
    per_example: bool = False
    accuracy: str = "normwise"
    batch_invariant: bool = False
    prepared: bool = False
    copied: int = 0
    copies_bias: bool = False

    @property
    def sums(self) -> str:
        """Dtype of sums across matrix products: float32 instead of float16 and bfloat16."""
        compute = self.arithmetic.compute
        return "float32" if compute in HALVES else compute

    @property
    def blocked(self) -> bool:
        """True if kernels may add the sums of blocks of products; else they add one product after
        the other, in the same order in every kernel."""  # fmt: skip
        return self.accuracy != "elementwise"

    @property
    def empty(self) -> bool:
        """True if there are no products, or if the result has no elements."""
        return self.geometry.multiply_adds == 0 or 0 in self.shape

    @cached_property
    def extends_input(self) -> bool:
        """True if an algorithm computes the gradient of the padded or dilated input instead of x.

        The gradient of x follows from it: the border is folded back, or the elements between those
        of x are dropped.
        """
        g = self.geometry
        return self.direction == "input_grad" and (g.repeats_input or bool(g.input_dilation))

    @property
    def fills_border(self) -> bool:
        """True if the algorithm is given x with its border, as it knows no such border itself."""
        return self.direction != "input_grad" and self.geometry.border is not None

    @cached_property
    def inner(self) -> Job:
        """Job that the algorithm solves: the one over the extended input, or over x with its
        border, if the job `extends_input` or `fills_border`."""  # fmt: skip
        if self.fills_border:
            return replace(self, geometry=self.geometry.extended)
        if not self.extends_input:
            return self
        a = self.arithmetic
        result = a.result if a.exact else self.sums  # rounded once, after the folding
        g = self.geometry
        g = g.extended if g.repeats_input else replace(g, input_dilation=())
        return replace(self, geometry=g, arithmetic=replace(a, result=result))

    def outer_workspace(self, in_place: bool) -> int:
        """Count bytes of workspace outside the algorithm: x dilated, or with its border, or gx.

        The border of gx is folded `in_place` if the library's arrays are mutable: beside the
        gradient of the extended input there is no more than two copies of one side's border.
        Otherwise, and where padding is negative, the whole gradient, the result of the previous
        axis and that of this axis are in memory while one axis is folded. Negative padding makes
        them grow from axis to axis.
        """
        g = self.geometry
        if self.extends_input:
            shape = list(self.inner.geometry.x_shape)
            item = ITEMSIZE[self.inner.arithmetic.result]
            if in_place and all(min(pads) >= 0 for pads in g.padding):
                whole = prod(shape)
                sides = (max(p) * (whole // n) for p, n in zip(g.padding, shape[1:-1], strict=True))
                borders = 2 * max(sides) if g.repeats_input else 0
                return (whole + borders) * item
            largest = prod(shape)
            for axis, size in enumerate(g.size, start=1):
                shape[axis] = size
                largest = max(largest, prod(shape))
            copies = 4 if g.input_dilation else 3
            return copies * largest * item
        copies = max(g.input_dilation, default=0) * prod(g.x_shape)
        if self.fills_border:
            copies += prod(self.inner.geometry.x_shape)
        return copies * ITEMSIZE[self.operands[0]]

    @property
    def bias_bytes(self) -> int:
        """Bytes of the algorithm's copy of the bias; zero if the algorithm is not given the bias.

        The bias is added to a result of integers, and to the gradient of an extended input, after
        the algorithm.
        """
        added_afterwards = self.arithmetic.exact or self.extends_input
        copied = self.copies_bias and not added_afterwards
        return copied * self.shape[-1] * ITEMSIZE[self.sums]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Canonical shape of the result."""
        shape = self.geometry.shape_of_result(self.direction)
        return (self.geometry.batch, *shape) if self.per_example else shape

    @cached_property
    def _hash(self) -> int:
        return hash((self.geometry, self.direction, self.arithmetic, self.operands, self.limit))

    def __hash__(self) -> int:
        return self._hash

    @property
    def itemsize(self) -> int:
        """Bytes of one element in the dtype of the sums."""
        return ITEMSIZE[self.sums]

    @property
    def operand_itemsize(self) -> int:
        """Bytes of one element of the wider operand."""
        return max(ITEMSIZE[name] for name in self.operands)


@dataclass(frozen=True, slots=True)
class Cost:
    """Hold the predicted cost of a job by one algorithm.

    Attributes
    ----------
    multiply_adds : int
        Products, each complex product counted as one.
    workspace : int
        Most bytes beyond the operands and the result.
    moved : int
        Bytes read and written, counting each pass over memory.
    seconds : float
        Predicted time, from the calibration file: good enough to rank algorithms, no measurement.
    note : str
        Further facts for the plan's reader, such as the variant that will run and its error.
    """

    multiply_adds: int
    workspace: int
    moved: int
    seconds: float
    note: str = ""
