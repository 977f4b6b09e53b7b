"""Compute convolutions: a module or a folder for each algorithm, and the table `ALGORITHMS`.

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
    """The functions that the planner and the public functions call in a module of `ALGORITHMS`.

    An algorithm that transforms or packs the filter also has ``prepare(f, job, b)``; its `forward`
    and `input_grad` take the result as a last argument, `prepared`, which layers keep.
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
        """Return None, or the reason why the algorithm cannot do the job."""

    def cost(self, job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
        """Predict the seconds, bytes and multiply-adds of the job."""

    def describe(self, job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
        """Describe how the job would be computed for arrays with these strides and dtypes.

        The arrays, and all that `b` allocates, are stand-ins (`numpy.unallocated`) for any library:
        only their shapes, dtypes and strides have a meaning. The facts are read from the objects
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
