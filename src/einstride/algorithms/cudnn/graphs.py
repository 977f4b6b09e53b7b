"""Describe a convolution to cuDNN, plan it once, and run it on the current stream.

Engines must be deterministic, form sums in float32 at least, not round their inputs (to TF32 only
where the call allows it), multiply and add as the definition says (no Winograd, no FFT: cuDNN
states no error bound), and keep the workspace limit. cuDNN's own heuristics choose among them;
nothing is timed, so equal calls use the same engine.

A handle belongs to one thread and one device, as do the plans made with it: threads share nothing.
The least recently used plans are evicted.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from einstride.algorithms.cudnn.device_memory import Tensor
from einstride.algorithms.cudnn.library import library, line
from einstride.cuda.capture import refuse_capture
from einstride.support.caches import register

KEPT = 128
"""Plans kept for each thread and device; more would hold more memory of the host."""

FIRST, SECOND, BIAS, OUT = 1, 2, 3, 4  # the arrays' identifiers in cuDNN's graph

TYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}
OPERATIONS = {
    "forward": ("conv_fprop", "image", "weight"),
    "input_grad": ("conv_dgrad", "loss", "filter"),
    "filter_grad": ("conv_wgrad", "image", "loss"),
}
NEVER = (
    "NONDETERMINISTIC",
    "REDUCED_PRECISION_REDUCTION",
    "DOWN_CONVERT_INPUTS",
    "FFT",
    "WINOGRAD",
    "WINOGRAD_TILE_4x4",
    "WINOGRAD_TILE_6x6",
    "WINOGRAD_TILE_13x13",
)


@dataclass(frozen=True, slots=True)
class Convolution:
    """The key of a plan: everything that may change which engine is chosen.

    Attributes
    ----------
    direction : str
        A key of `OPERATIONS`.
    first, second, out : Tensor
        The operands and the result.
    padding, stride, dilation : tuple of int
        One integer per spatial axis.
    biased : bool
        A bias (float32) is added before the result is rounded.
    tf32 : bool
        Factors of float32 may be rounded to TF32.
    ceiling : int
        Bytes of workspace that an engine may ask for.
    """

    direction: str
    first: Tensor
    second: Tensor
    out: Tensor
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    biased: bool
    tf32: bool
    ceiling: int


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A graph with its engine, and the bytes of workspace that the engine needs."""

    graph: Any
    workspace: int


class Context:
    """The handle and the plans of one thread on one device."""

    def __init__(self, cudnn: Any) -> None:
        self.handle = cudnn.create_handle()
        self.plans: OrderedDict[Convolution, BuiltPlan | str] = OrderedDict()
        # Not at exit: the driver may be gone by then, and with it the handle.
        weakref.finalize(self, cudnn.destroy_handle, self.handle).atexit = False


_contexts = threading.local()


def contexts() -> dict[int, Context]:
    """Return the calling thread's contexts, by device."""
    if not hasattr(_contexts, "by_device"):
        _contexts.by_device = {}
    by_device: dict[int, Context] = _contexts.by_device
    return by_device


def _plans() -> int:
    return sum(len(context.plans) for context in contexts().values())


register(f"{__name__}._contexts", "process", lambda: contexts().clear(), _plans)


def describe(cudnn: Any, c: Convolution, **where: Any) -> Any:
    """Make the graph of a convolution; `where` names the device (by a handle)."""
    kinds = cudnn.data_type
    compute = kinds.DOUBLE if c.first.dtype == "float64" else kinds.FLOAT
    graph = cudnn.pygraph(
        name="einstride",
        io_data_type=getattr(kinds, TYPES[c.first.dtype]),
        intermediate_data_type=compute,
        compute_data_type=compute,
        **where,
    )

    def tensor(t: Tensor, number: int) -> Any:
        made = graph.tensor(
            dim=list(t.shape),
            stride=list(t.strides),
            data_type=getattr(kinds, TYPES[t.dtype]),
            uid=number,
        )
        return made.set_alignment(t.alignment)

    name, a, b = OPERATIONS[c.direction]
    found = getattr(graph, name)(
        **{a: tensor(c.first, FIRST), b: tensor(c.second, SECOND)},
        padding=list(c.padding),
        stride=list(c.stride),
        dilation=list(c.dilation),
        compute_data_type=compute,
    )
    found.set_dim(list(c.out.shape)).set_stride(list(c.out.strides))
    if c.biased:
        channels = c.out.shape[1]
        shape = (1, channels, *[1] * len(c.padding))
        strides = (channels, 1, *[channels] * len(c.padding))
        bias = tensor(Tensor(shape, strides, "float32"), BIAS)
        found.set_data_type(compute)
        found = graph.bias(input=found, bias=bias, compute_data_type=compute)
        found.set_dim(list(c.out.shape)).set_stride(list(c.out.strides))
    found.set_output(True).set_data_type(getattr(kinds, TYPES[c.out.dtype]))
    found.set_uid(OUT).set_alignment(c.out.alignment)
    graph.validate()
    return graph


def excluded_notes(cudnn: Any, c: Convolution) -> list[Any]:
    """List the numerical notes of cuDNN that an engine must not have."""
    names = list(NEVER)
    if c.first.dtype == "float32" and not c.tf32:
        names.append("TENSOR_CORE")  # of float32 they know no other arithmetic than TF32
    return [getattr(cudnn.numerical_note, name) for name in names]


def build(cudnn: Any, c: Convolution, handle: Any) -> BuiltPlan:
    """Build the plan of a convolution on the current device; raise cuDNN's error if none exists."""
    graph = describe(cudnn, c, handle=handle)
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.deselect_numeric_notes(excluded_notes(cudnn, c))
    graph.deselect_workspace_greater_than(c.ceiling)
    graph.check_support()
    graph.build_plans(cudnn.build_plan_policy.HEURISTICS_CHOICE)
    needed = graph.get_workspace_size()
    if needed > c.ceiling:
        raise RuntimeError(f"the plan needs {needed} bytes of workspace, more than {c.ceiling}")
    return BuiltPlan(graph, needed)


def planned(c: Convolution) -> BuiltPlan | str:
    """Return the plan on the current device, or cuDNN's reason why there is none; keep either."""
    import cupy

    try:
        device = int(cupy.cuda.runtime.getDevice())
        mine = contexts()
        if device not in mine:
            refuse_capture("a handle of cuDNN", cupy)
            mine[device] = Context(library())
    except RuntimeError as error:  # CUDA's own: no device, no memory for the handle
        return f"cuDNN cannot start: {line(error)}"
    context = mine[device]
    if c in context.plans:
        context.plans.move_to_end(c)
        return context.plans[c]
    refuse_capture("a plan of cuDNN", cupy)
    cudnn = library()
    found: BuiltPlan | str
    try:
        found = build(cudnn, c, context.handle)
    except (cudnn.cudnnGraphNotSupportedError, RuntimeError) as error:
        found = f"no engine of cuDNN can do this within {c.ceiling} bytes: {line(error)}"
    context.plans[c] = found
    while len(context.plans) > KEPT:
        context.plans.popitem(last=False)
    return found


def run(built: BuiltPlan, first: Any, second: Any, bias: Any, out: Any) -> None:
    """Launch a plan of `planned` on the current device and stream; workspace from CuPy's pool."""
    import cupy

    cudnn = library()
    handle = contexts()[int(cupy.cuda.runtime.getDevice())].handle
    cudnn.set_stream(handle=handle, stream=cupy.cuda.get_current_stream().ptr)
    arrays = {FIRST: first, SECOND: second, OUT: out, **({} if bias is None else {BIAS: bias})}
    workspace = cupy.empty(built.workspace, "u1") if built.workspace else None
    built.graph.execute(
        {number: int(array.data.ptr) for number, array in arrays.items()},
        0 if workspace is None else int(workspace.data.ptr),
        handle=handle,
    )
