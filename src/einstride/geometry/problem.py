"""What an algorithm is asked to do, and what it says that would cost. No arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from einstride.geometry.arithmetic import HALVES, ITEMSIZE, Arithmetic
from einstride.geometry.convolution import Direction, Geometry

Fact = str | int | dict[str, int] | dict[str, str]
Facts = dict[str, Fact]
"""How a job is computed, in words and numbers: for people, and plain enough for JSON."""


@dataclass(frozen=True)
class Job:
    """One convolution to do.

    Attributes
    ----------
    geometry : Geometry
        Of the forward convolution, in every direction.
    direction : {"forward", "input_grad", "filter_grad"}
        What to compute from what.
    arithmetic : Arithmetic
        The dtypes of the products and of the result.
    operands : tuple of str
        The dtypes of the two arrays that are multiplied.
    ceiling : int
        Bytes of workspace (beyond operands and result) that may be used.
    hard : bool
        True if the caller set the ceiling: rather an error than a byte more. A default ceiling
        gives way where one row of the smallest block is larger.
    threads : int
        How many blocks may be computed at once.
    accuracy : {"normwise", "elementwise", "tf32"}
        What bound the error must keep; an algorithm that cannot says so in `supports`.
    per_example : bool
        A filter gradient for each example of the batch, instead of their sum.
    batch_invariant : bool
        The bits of an example's result must not depend on the others in its batch.
    prepared : bool
        What the algorithm makes of the filter is kept: its time does not count.
    copied : int
        Bytes of x, y or their gradients that compiled kernels cannot address, and so copy; found
        only where the ceiling is hard, else zero.
    """

    geometry: Geometry
    direction: Direction
    arithmetic: Arithmetic
    operands: tuple[str, str]
    ceiling: int
    hard: bool = False
    threads: int = 1
    per_example: bool = False
    accuracy: str = "normwise"
    batch_invariant: bool = False
    prepared: bool = False
    copied: int = 0

    @property
    def sums(self) -> str:
        """The dtype of sums that go on outside one matrix product: halves are never added up."""
        compute = self.arithmetic.compute
        return "float32" if compute in HALVES else compute

    @property
    def empty(self) -> bool:
        """Is there nothing to multiply, or nowhere to put it?"""
        return self.geometry.multiply_adds == 0 or 0 in self.shape

    @cached_property
    def detour(self) -> bool:
        """Is the input gradient that of a padded or dilated input, to be folded or thinned out?"""
        g = self.geometry
        around = g.padding_mode != "zeros" and any(low or high for low, high in g.padding)
        return self.direction == "input_grad" and (around or bool(g.input_dilation))

    @cached_property
    def inner(self) -> Job:
        """The job an algorithm gets: on a detour, the gradient of the padded and dilated input."""
        if not self.detour:
            return self
        a = self.arithmetic
        result = a.result if a.exact else self.sums  # rounded once, after the folding
        g = self.geometry
        g = replace(g, input_dilation=()) if g.padding_mode == "zeros" else g.extended
        return replace(self, geometry=g, arithmetic=replace(a, result=result))

    @cached_property
    def extra(self) -> int:
        """Bytes outside the algorithm: the dilated input, or a detour's copies of gx.

        While one axis is folded, the whole gradient, the last axis' result and the next one live.
        Negative padding makes them larger from axis to axis.
        """
        g = self.geometry
        if self.detour:
            shape = list(self.inner.geometry.x_shape)
            largest = prod(shape)
            for axis, size in enumerate(g.size, start=1):
                shape[axis] = size
                largest = max(largest, prod(shape))
            copies = 4 if g.input_dilation else 3
            return copies * largest * ITEMSIZE[self.inner.arithmetic.result]
        if not g.input_dilation:
            return 0
        return max(g.input_dilation) * prod(g.x_shape) * ITEMSIZE[self.operands[0]]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape of the result."""
        shape = self.geometry.shape_of_result(self.direction)
        return (self.geometry.batch, *shape) if self.per_example else shape

    @cached_property
    def _hash(self) -> int:
        return hash((self.geometry, self.direction, self.arithmetic, self.operands, self.ceiling))

    def __hash__(self) -> int:
        return self._hash

    @property
    def itemsize(self) -> int:
        """Bytes of one number in the dtype of the products, or of their sums if that is wider."""
        return ITEMSIZE[self.sums]

    @property
    def operand_itemsize(self) -> int:
        """Bytes of one number of the operand that is windowed, at most."""
        return max(ITEMSIZE[name] for name in self.operands)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an algorithm would spend on a job.

    Attributes
    ----------
    multiply_adds : int
        Products formed (of real or complex numbers alike).
    workspace : int
        Bytes beyond the operands and the result, at most.
    moved : int
        Bytes read and written, counting each pass over memory.
    seconds : float
        A prediction from the calibration file: for comparing algorithms, not for believing.
    note : str
        What else is worth knowing, such as the variant that will run and its error.
    """

    multiply_adds: int
    workspace: int
    moved: int
    seconds: float
    note: str = ""
