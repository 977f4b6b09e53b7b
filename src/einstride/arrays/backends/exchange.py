"""Describe how a library's arrays lend their memory to the backend of another library.

A *plain* call, in which nothing but the values of the arrays matters, is computed on lent memory:

    array --lend--> array on its memory --compute--> array --adopt--> array of the caller's library

Any other call, in which the library differentiates, transforms or traces, goes through the
library's `operator`, which is built from the functions of `PASSES`. `einstride.dispatch.exchange`
is the one place that chooses between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from einstride.arrays.backends.adapter import Array, Backend

_HERE = nullcontext()


@dataclass(frozen=True)
class Exchange:
    """Hold the functions of a library whose arrays lend their memory to arrays of NumPy or CuPy.

    Attributes
    ----------
    host : Backend
        The backend of NumPy with the library's name and threads, for memory of the CPU. Calls on
        arrays without values are planned for it.
    is_plain : callable
        ``is_plain(*arrays)``: True if the arrays, some of which may be None, have memory to lend on
        one device, and the library neither differentiates, transforms nor traces the call; then no
        other check of them is needed.
    lend : callable
        ``lend(x)``: an array on the memory of x, whose values alone matter; None of None.
    adopt : callable
        ``adopt(y, *operands)``: an array of the library, on the device of the operands, on the
        memory of `y`, which nobody else holds. It is a copy where the library cannot use the
        memory.
    has_values : callable
        ``has_values(x)``: False for arrays that have a shape and a dtype only.
    check : callable
        ``check(where, names, arrays)``: raise an error unless `operator` takes the operands and
        `out`, the last of the arrays.
    operator : callable
        ``operator(where, direction, first, second, bias, k, extra)``: compute a call with checked
        keywords `k` by an operator that the library differentiates, transforms and traces as a
        whole, by the functions of `PASSES`.
    copy : callable
        ``copy(x)``: a copy of x through which gradients flow.
    computing : callable or None
        ``computing(where, x)``: the backend that computes on the memory of x, or an error; None if
        it is always `host`.
    on : callable
        ``with on(x):`` makes the device and the stream of x the current ones of the computing
        library.
    written : callable or None
        ``written(out)``: tell the library that the memory of `out` was written; None if its arrays
        are immutable, so that there is no `out`.
    refusal : callable
        ``refusal(dtype_name)``: the remedy for a user whose results would have a dtype that the
        library cannot hold at present; None if it can hold the dtype.
    """

    host: Backend
    is_plain: Callable[..., bool]
    lend: Callable[[Array | None], Array | None]
    adopt: Callable[..., Array]
    has_values: Callable[[Array], bool]
    check: Callable[[str, tuple[str, ...], tuple[Array | None, ...]], None]
    operator: Callable[..., Array]
    copy: Callable[[Array], Array]
    computing: Callable[[str, Array], Backend] | None = None
    on: Callable[[Array], AbstractContextManager[Any]] = lambda x: _HERE
    written: Callable[[Array], None] | None = None
    refusal: Callable[[str], str | None] = lambda dtype_name: None


@dataclass(frozen=True)
class Passes:
    """Hold the functions from which operators of other libraries are built.

    All take a call as ``(where, direction, first, second, bias, k, extra)``: arrays of the library,
    checked keywords `k`, and `extra` as in `einstride.planning.select.plan`.

    Attributes
    ----------
    compute : callable
        ``compute(*call)``: the result, of arrays that have memory to lend.
    infer : callable
        ``infer(*call)``: the shape of the result and the name of its dtype, from arrays that may
        have no values, whose sizes may be symbols.
    bilinear : callable
        ``bilinear(apply, *call)``: the result by one call of ``apply(op, first, second)`` with a
        `Bilinear` operation, for a library that transforms functions of two arrays; what is not
        bilinear, such as the bias, is computed by the library's own functions.
    """

    compute: Callable[..., Array]
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
