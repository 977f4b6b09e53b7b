"""Describe the functions from which another library's operators for einstride's passes are built.

Operators, of which `Exchange.operator` calls one, are registered with a library of arrays, in this
room; plans and kernels are in rooms above it, which enter their functions in `PASSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from einstride.arrays.backends.adapter import Array, Backend


@dataclass(frozen=True)
class Passes:
    """Hold the functions from which operators of other libraries are built.

    All take a call as ``(where, direction, first, second, bias, k, extra)``: arrays of the library,
    checked keywords `k`, and `extra` as in `einstride.planning.select.plan`.

    Attributes
    ----------
    compute : callable
        ``compute(*call)``: the result, of arrays that have memory to lend.
    call : callable
        ``call(*call, b, out)``: the result of arrays of NumPy or CuPy, on the backend `b`, in `out`
        unless that is None.
    plan : callable
        ``plan(*call)``: the `einstride.planning.select.Decision` about arrays that may have no
        values.
    infer : callable
        ``infer(*call)``: the shape of the result and the name of its dtype, from arrays that may
        have no values, whose sizes may be symbols.
    bilinear : callable
        ``bilinear(apply, *call)``: the result by one call of ``apply(op, first, second)`` with a
        `Bilinear` operation, for a library that transforms functions of two arrays; what is not
        bilinear, such as the bias, is computed by the library's own functions.
    """

    compute: Callable[..., Array]
    call: Callable[..., Array]
    plan: Callable[..., Any]
    infer: Callable[..., tuple[tuple[Any, ...], str]]
    bilinear: Callable[..., Array]


PASSES: list[Passes] = []
"""The functions that operators call, which `einstride.dispatch` enters when it is imported."""


class Bilinear(Protocol):
    """Describe a function of two arrays that is linear in each, for libraries that trace functions.

    Equal operations are equal as keys of a dictionary.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""

    @property
    def dtype(self) -> str:
        """Name of the dtype of the result."""

    @property
    def per_example(self) -> bool:
        """True if the result holds one array for each example, on its first axis."""

    def transposed(self, operand: int) -> tuple[Bilinear, bool]:
        """Return the operation that is the adjoint in one operand, without conjugation.

        Its arguments are the cotangent and the other operand, exchanged if the second value is
        True.
        """

    def canonical(self) -> tuple[Bilinear, Orders]:
        """Return the operation on canonical arrays, and the permutations that lead there."""

    def of_one_example(self) -> Bilinear:
        """Return the operation on one of the examples, as a batch of one, without `per_example`."""

    def batched(self, count: int, first: bool, second: bool) -> tuple[Bilinear, Places]:
        """Return the operation that computes `count` results at once, of canonical arrays.

        `first` and `second` are True for operands that differ between the results. The places say
        where the axis of results is merged into the operands, and found in the result.
        """

    def on_host(self, first: Any, second: Any) -> Any:
        """Compute the result of NumPy arrays with the kernels and algorithms for NumPy."""

    def on_device(self, b: Backend, first: Array, second: Array) -> Array:
        """Compute the result with functions of the library of `b`."""

    def prefers_host(self, b: Backend) -> bool:
        """True if `on_host`, called back from compiled code, is needed or predicted faster."""


Orders = tuple[tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None]
"""Permutations of the first operand, the second and the result into canonical order."""

Place = tuple[int, int]
"""Where an axis is merged into another one: that axis, and the extent of its part before it."""

Places = tuple[Place | None, Place | None, Place | None]
"""The places in the first operand, the second and the result; None where the axis is the first."""
