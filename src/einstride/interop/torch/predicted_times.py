"""Predict the times of a convolution by einstride and by PyTorch on the CPU, from measured rates.

For float32 the rates of both are those of `calibration/calibration_torch.json`, in proportion to
this CPU's. For float64, complex numbers and integers, which PyTorch computes by windows and BLAS,
the predicted time of `gemm` stands for PyTorch's. 16-bit floats, whose speed in PyTorch depends on
the processor's instructions for them, have no rates: nothing is predicted.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from einstride import calibration
from einstride.arrays import backends
from einstride.dispatch import execute
from einstride.geometry.arithmetic import HALVES, ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Keywords, Transposed
from einstride.planning.select import Decision
from einstride.support.caches import cached

SMALL_VOLUME = 20480
"""Most elements, last axis aside, of one example in three axes that PyTorch computes by windows.

PyTorch's own limit, in `ConvParams::use_mkldnn` of its `Convolution.cpp`."""

FEW_CHANNELS = 4
"""Most input channels of a first layer, whose kernels have rates of their own in PyTorch."""


class Call(NamedTuple):
    """Hold all that the times of a convolution depend on.

    Attributes
    ----------
    x, f : tuple of int
        The shapes of the operands, channels first, without or with a batch.
    dtype : str
        The dtype of both.
    stride, padding, dilation, groups, padding_mode, output_padding
        The hyperparameters of PyTorch's functions.
    transposed : bool
        True for a transposed convolution.
    channels_last : bool
        True if the input is in a memory format with the channels last.
    trained : bool
        True if gradients are needed: the times are then those of all three passes.
    prepared : bool
        True if the transformed filter is kept from call to call.
    threads : int
        The threads of PyTorch, which einstride takes too.
    """

    x: tuple[int, ...]
    f: tuple[int, ...]
    dtype: str
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    output_padding: Any
    padding_mode: str
    transposed: bool
    channels_last: bool
    trained: bool
    prepared: bool
    threads: int


class Times(NamedTuple):
    """Hold predicted seconds, and the names of einstride's algorithms, joined by commas."""

    einstride: float
    torch: float
    algorithms: str


@cached(4096)
def predict(call: Call) -> Times | None:
    """Predict both times; None where there are no rates. What einstride refuses raises."""
    if call.dtype in HALVES:
        return None
    plans = _plans(call)
    if call.dtype == "float32":
        known = calibration.of_compiled_library("torch")
        ours, theirs = _by_rates(call, plans, known)
    else:
        ours = sum(_seconds(p, p.algorithm) for p in plans)
        theirs = sum(_seconds(p, "gemm") for p in plans)
    return Times(ours, theirs, ", ".join(dict.fromkeys(p.algorithm for p in plans)))


def _by_rates(call: Call, plans: list[Decision], known: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds of einstride and of PyTorch for the passes of a float32 convolution."""
    g = plans[0].job.geometry
    elements, filter_elements = prod(g.x_shape) + prod(g.y_shape), prod(g.f_shape)
    moved = 0 if call.channels_last else elements
    theirs = (
        known["multiply_add"][_kind(g)] * g.multiply_adds
        + known["torch_filter"] * ITEMSIZE["float32"] * filter_elements
        + known["torch_transposed"] * moved
    )
    theirs *= (1 + known["gradients"] * (len(plans) - 1)) / call.threads
    theirs += known["torch_call"] * len(plans)
    ours = known["gradient_call" if call.trained else "call"] * len(plans)
    for p in plans:
        ours += known["slower"] * _seconds(p, p.algorithm)
        ours += (known["filter"] * filter_elements + known["transposed"] * moved) / call.threads
    return ours, theirs


def _seconds(plan: Decision, algorithm: str) -> float:
    """Return an algorithm's predicted time, or the chosen one's where it does not serve."""
    known = {c.algorithm: c.cost.seconds for c in plan.candidates if c.cost is not None}
    return known.get(algorithm, known.get(plan.algorithm, 0.0))


def _kind(g: Geometry) -> str:
    """Return the kind of layer, a key of the measured rates."""
    if g.groups > 1 and g.groups == g.channels:
        return f"depthwise{min(g.rank, 3)}"
    if g.groups > 1:
        return "grouped"
    if prod(g.kernel) == 1:
        return "pointwise"
    size = g.batch * g.channels * prod(g.size[:-1])
    large_kernel = min(g.kernel[-2:]) > 3
    if g.rank == 3 and g.batch == 1 and size <= SMALL_VOLUME and not large_kernel:
        return "windows"
    if g.channels <= FEW_CHANNELS:
        return "few"
    return f"dense{min(g.rank, 3)}"


def _one_for_all(value: Any) -> Any:
    """Return the entry of a tuple with one entry, which PyTorch takes for all axes."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _plans(call: Call) -> list[Decision]:
    """Plan the passes; of a transposed convolution only the forward one."""
    f, x = call.f, call.x if len(call.x) == len(call.f) else (1, *call.x)
    given = (call.stride, call.padding, call.dilation)
    stride, padding, dilation = map(_one_for_all, given)
    k = Keywords(
        stride, padding, dilation, groups=call.groups, padding_mode=call.padding_mode,
        layout="channels_first",
    )  # fmt: skip
    b, names = backends.by_name("plan", "torch"), (call.dtype, call.dtype, None)
    if call.transposed:
        extra = Transposed(_one_for_all(call.output_padding), None)
        return [execute.decide("plan", "input_grad", (x, f), names, k, extra, b, call.prepared)]
    forward = execute.decide("plan", "forward", (x, f), names, k, None, b, call.prepared)
    if not call.trained:
        return [forward]
    g = forward.job.geometry
    y = (g.batch, g.filters, *g.out)
    return [
        forward,
        execute.decide("plan", "input_grad", (y, f), names, k, x[2:], b),
        execute.decide("plan", "filter_grad", (x, y), names, k, f[2:], b),
    ]
