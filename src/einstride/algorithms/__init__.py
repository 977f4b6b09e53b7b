"""Compute convolutions: a module or a folder for each algorithm, and the table of them all.

What may enter: modules with the functions of `Algorithm`, each with a row in `ALGORITHMS`; none
imports another.
Start with `strided`, the definition of a convolution as one einsum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from einstride.algorithms import cudnn, direct, fft, gemm, implicit_gemm, strided, winograd

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.geometry.problem import Cost, Facts, Job


class Algorithm(Protocol):
    """What the planner and the public functions ask of a module in this table.

    One that makes something of the filter first has ``prepare(f, job, b)`` too, and its `forward`
    and `input_grad` take what that returned as a last argument, `prepared`: layers keep it.
    """

    def forward(
        self,
        x: Array,
        f: Array,
        job: Job,
        b: Backend,
        bias: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """x, f -> y."""

    def input_grad(
        self,
        gy: Array,
        f: Array,
        job: Job,
        b: Backend,
        bias: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """gy, f -> gx."""

    def filter_grad(
        self,
        x: Array,
        gy: Array,
        job: Job,
        b: Backend,
        bias: None = None,
        out: Array | None = None,
    ) -> Array:
        """x, gy -> gf."""

    def supports(self, job: Job, traits: Traits) -> str | None:
        """None, or the reason why it cannot do the job."""

    def cost(self, job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
        """What the job would take."""

    def describe(self, job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
        """How the job would be computed for arrays that lie in memory like these.

        The arrays, and all that `b` allocates, are NumPy's `unallocated` ones, for any library:
        only their shapes, dtypes and strides mean something. The facts are read from the objects
        that the computation uses: its plans, tiles and kernel specifications. Nothing is compiled.
        """


ALGORITHMS: dict[str, Algorithm] = {
    "strided": strided,
    "gemm": gemm,
    "direct": direct,
    "winograd": winograd,
    "implicit_gemm": implicit_gemm,
    "fft": fft,
    "cudnn": cudnn,
}
