"""A graph of one convolution: the steps in their order, engines by their notes, the loops."""

from __future__ import annotations

from typing import Any

import numpy as np

import oracle
from cupy_host.events import LibraryCall
from cupy_host.faults import OutOfBounds, WrongDevice

from .names import (
    Engine,
    State,
    build_plan_policy,
    convolution_mode,
    cudnnGraphNotSupportedError,
    data_type,
    heur_mode,
)
from .tensors import tensor


class pygraph:  # noqa: N801 - its name there
    state: State

    def __init__(
        self, name="test_graph", io_data_type=data_type.NOT_SET,
        intermediate_data_type=data_type.NOT_SET, compute_data_type=data_type.NOT_SET, handle=None,
        sm_count=None, sm_version=None, kernel_cache=None, device_property=None,
        is_dynamic_shape_enabled=False, is_override_shape_enabled=False,
    ):  # fmt: skip
        self.compute, self.handle = compute_data_type, handle
        self.operation: tuple[Any, ...] = ()
        self.bias_tensor: tensor | None = None
        self.steps: list[str] = []
        self.barred: set[str] = set()
        self.most: int | None = None
        self.chosen: Engine | None = None

    def tensor(
        self, dim, stride, data_type=data_type.NOT_SET, is_virtual=False, is_pass_by_value=False,
        ragged_offset=None, reordering_type=None, name="", uid=-1,
    ):  # fmt: skip
        made = tensor().set_dim(dim).set_stride(stride).set_data_type(data_type)
        return made.set_uid(uid)

    def _convolution(self, which, a, b, *rest):
        self.operation = (which, a, b, *rest)
        self.out = tensor()
        return self.out

    def conv_fprop(
        self, image, weight, padding=(), stride=(), dilation=(),
        convolution_mode=convolution_mode.CROSS_CORRELATION,
        compute_data_type=data_type.NOT_SET, name="",
    ):  # fmt: skip
        return self._convolution("forward", image, weight, padding, stride, dilation)

    def conv_dgrad(
        self, loss, filter, padding=(), stride=(), dilation=(),
        convolution_mode=convolution_mode.CROSS_CORRELATION,
        compute_data_type=data_type.NOT_SET, name="",
    ):  # fmt: skip
        return self._convolution("input_grad", loss, filter, padding, stride, dilation)

    def conv_wgrad(
        self, image, loss, padding=(), stride=(), dilation=(),
        convolution_mode=convolution_mode.CROSS_CORRELATION,
        compute_data_type=data_type.NOT_SET, name="",
    ):  # fmt: skip
        return self._convolution("filter_grad", image, loss, padding, stride, dilation)

    def bias(self, input, bias, compute_data_type=data_type.NOT_SET, name=""):
        self.bias_tensor, self.out = bias, tensor()
        return self.out

    def _after(self, name, *before):
        assert self.steps[-len(before) :] == list(before) if before else not self.steps, self.steps
        self.steps.append(name)

    def validate(self):
        self._after("validate")

    def build_operation_graph(self):
        """The real one refuses shapes that do not fit; so does `case`."""
        self._after("operations", "validate")
        self.case()

    def create_execution_plans(self, arg0):
        self._after("plans", "operations")
        assert heur_mode.FALLBACK in arg0

    def deselect_numeric_notes(self, arg0):
        assert self.steps[-1] == "plans"
        self.barred |= {note.name for note in arg0}

    def deselect_workspace_greater_than(self, arg0):
        assert self.steps[-1] == "plans"
        self.most = arg0

    def check_support(self):
        self._after("support", "plans")
        _, a, b, *_ = self.operation
        if not a.orders() & b.orders() & self.out.orders() & self.state.orders:
            self.refuse("the tensors' layouts differ")
        if self.bias_tensor is not None and not self.state.fused_bias:
            self.refuse("no fusion here")
        able = [e for e in self.state.engines if not e.notes & self.barred]
        able = [e for e in able if self.most is None or e.workspace <= self.most]
        if not able:
            self.refuse("No valid engine configs")
        self.chosen = able[0]

    def refuse(self, why):
        self.state.refused += 1
        raise cudnnGraphNotSupportedError(why)

    def build_plans(self, policy=build_plan_policy.HEURISTICS_CHOICE):
        self._after("built", "support")
        self.state.built.append((self.operation[0], self.chosen))

    def get_workspace_size(self):
        assert self.steps[-1] == "built"
        return self.chosen.workspace

    # ---- running -------------------------------------------------------------------------------

    def case(self) -> oracle.Case:
        """The convolution, from the shapes of its three tensors."""
        which, a, b, pads, stride, dilation = self.operation
        x, f, y = {
            "forward": (a, b, self.out), "input_grad": (self.out, b, a),
            "filter_grad": (a, self.out, b),
        }[which]  # fmt: skip
        groups = x.dim[1] // f.dim[1]
        case = oracle.Case(
            x.dim[0], tuple(x.dim[2:]), tuple(f.dim[2:]), x.dim[1], f.dim[0], tuple(stride),
            tuple((p, p) for p in pads), tuple(dilation), groups,
        )  # fmt: skip
        if (y.dim[0], *y.dim[2:], y.dim[1]) != case.y_shape or x.dim[1] != groups * f.dim[1]:
            raise RuntimeError("CUDNN_STATUS_BAD_PARAM: shapes do not fit")
        return case

    def execute(
        self, tensor_to_device_buffer, workspace, handle=None, override_uids=None,
        override_shapes=None, override_strides=None,
    ):  # fmt: skip
        state = self.state
        at = state.handles[handle]
        device, stream = state.host.device, at["stream"]
        if at["device"] != device or state.handles[self.handle]["device"] != device:
            raise WrongDevice(f"cuDNN's handle of device {at['device']} works on {device}")
        pointers = dict(tensor_to_device_buffer)
        state.host.captures.submit(stream, lambda there: self._run(pointers, workspace, there))

    def _run(self, pointers, workspace, stream):
        which, a, b, *_ = self.operation
        state, engine = self.state, self.chosen
        state.host.record(LibraryCall(state.host.device, f"cudnn {which} {engine.name}", stream))
        state.ran.append((which, engine, state.host.device, stream))
        if engine.workspace:
            if not state.host.core.host_memory_owned(workspace, engine.workspace):
                raise OutOfBounds(f"{engine} has no workspace at 0x{workspace:x}")
            state.host.core.host_memory_fill(workspace, 0xAB, engine.workspace)
        arrays = [t.array(pointers[t.uid], state) for t in (a, b, self.out)]
        kinds = {"forward": "xfx", "input_grad": "xfx", "filter_grad": "xxf"}[which]
        views = [_canonical(v, k) for v, k in zip(arrays, kinds, strict=True)]
        first, second = (_spoilt(v.astype("float64"), engine) for v in views[:2])
        found = oracle.FAST[which](first, second, self.case())
        if self.bias_tensor is not None:
            found = found + self.bias_tensor.array(pointers[self.bias_tensor.uid], state).ravel()
        if "NONDETERMINISTIC" in engine.notes:
            found = found + 0.5 * len(state.ran)
        views[2][...] = found.astype(views[2].dtype)


def _canonical(v: np.ndarray, kind: str) -> np.ndarray:
    n = v.ndim
    return v.transpose(*range(2, n), 1, 0) if kind == "f" else np.moveaxis(v, 1, -1)


def _spoilt(v: np.ndarray, engine: Engine) -> np.ndarray:
    """Rounded as the engine rounds, or a little wrong where it states no error."""
    if engine.notes & {"DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"}:
        return v.astype("float16").astype("float64")
    if "TENSOR_CORE" in engine.notes:  # 10 bits, as TF32 has them and float16 too
        bits = v.astype("float32").view("uint32")
        return ((bits + 0x1000) & 0xFFFFE000).view("float32").astype("float64")
    return v * 1.001 if engine.notes else v
