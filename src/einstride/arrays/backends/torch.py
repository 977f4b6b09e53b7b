"""Adapt PyTorch: a tensor's memory is computed on as an array of NumPy, or of CuPy on a GPU.

    tensor --lend--> array on the tensor's memory --compute--> array --adopt--> tensor on its memory

No call copies a tensor between libraries or devices. PyTorch's own functions differentiate and
transform calls, as `torch_operators` registers them; a call whose tensors need neither goes the
way above at once (`is_plain`). The module is imported only when a caller holds a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from einstride.arrays.backends import generic, numpy, thread_pool, torch_operators
from einstride.arrays.backends.adapter import Array, Backend, Exchange
from einstride.support.errors import bad_type, bad_value

_C: Any = torch._C
_HERE = nullcontext()
_STRIDED = torch.strided
_interpreter, _is_compiling = _C._functorch.peek_interpreter_stack, torch.compiler.is_compiling
_PLAIN = {torch.Tensor, torch.nn.Parameter}
"""Types whose memory may be read at once; subclasses may change the meaning of operations."""

UNSUPPORTED = "convert it, e.g. {name}.float()"

_FORMS: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (lambda t: t.is_nested, "nested", "call the function on each of {name}.unbind()"),
    (lambda t: t.is_quantized, "quantised", "pass {name}.dequantize(), or {name}.int_repr()"),
    (lambda t: t.layout is not torch.strided, "sparse, or of another layout than strides",
     "pass {name}.to_dense()"),
)  # fmt: skip


def check(where: str, names: tuple[str, ...], tensors: tuple[Array | None, ...]) -> None:
    """Raise an error unless operators take the tensors, the last of which is `out`.

    Every tensor must be strided memory of a dtype that has an array, and `out` be None.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None:
            continue
        for has_form, form, remedy in _FORMS:
            if has_form(tensor):
                raise bad_type(
                    where, f"{name} must be a dense, strided tensor", f"a tensor that is {form}",
                    remedy.format(name=name),
                )  # fmt: skip
        if tensor.dtype not in _ARRAY_DTYPES:
            raise bad_type(
                where, f"{name} must have a dtype that arrays have", str(tensor.dtype),
                UNSUPPORTED.format(name=name),
            )  # fmt: skip
    if tensors[-1] is not None:
        raise bad_value(
            where,
            "a call that PyTorch differentiates, transforms or traces cannot write to out",
            "out beside a tensor that requires a gradient, or inside a transformation",
            "leave out= away, or call the function under torch.no_grad()",
        )


_ARRAY_DTYPES = {
    getattr(torch, name)
    for name in (
        "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
        "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip


def is_plain(*tensors: Array | None) -> bool:
    """True if nothing but the values of the tensors matters: no gradient and no transformation.

    The tensors, some of which may be None, are then of PyTorch's own types, strided, on one device.
    False says nothing: the checks that follow find out why.
    """
    if (
        _is_compiling()
        or _C._len_torch_dispatch_stack()
        or _C._len_torch_function_stack()
        or _interpreter() is not None
        or forward_ad._current_level >= 0
        or _C._is_any_autocast_enabled()
        or _C._get_tracing_state() is not None
        or (_C.is_grad_enabled() and _C._any_requires_grad(*tensors))
    ):
        return False
    devices: set[Any] = set()
    for tensor in tensors:
        if tensor is None:
            continue
        if (
            type(tensor) not in _PLAIN
            or tensor.layout is not _STRIDED
            or tensor.dtype not in _ARRAY_DTYPES
            or tensor.is_nested
        ):
            return False
        devices.add("cpu" if tensor.is_cpu else tensor.device)
    return devices == {"cpu"} or (len(devices) == 1 and devices.pop().type == "cuda")


def has_values(tensor: Array) -> bool:
    """True unless a tensor is on the meta device or stands for others while PyTorch traces."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def lend(tensor: Array | None) -> Array | None:
    """Return an array on a tensor's memory; conjugated and negated views are computed first."""
    if tensor is None:
        return None
    if not tensor.is_cpu:
        return _lend_to_cupy(tensor)
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy(force=True).view(ml_dtypes.bfloat16)
    return tensor.numpy(force=True)


def adopt(array: Array, *operands: Array | None) -> Array:
    """Return a tensor on the memory of an array that nobody else holds."""
    if not isinstance(array, np.ndarray):
        return _adopt_from_cupy(array)
    if array.dtype.kind == "V":  # bfloat16, a dtype that NumPy itself does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _lend_to_cupy(tensor: Array) -> Array:
    import cupy

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return cupy.from_dlpack(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
    if tensor.dtype is torch.bool:
        return cupy.from_dlpack(tensor.view(torch.uint8)).view(bool)
    return cupy.from_dlpack(tensor)


def _adopt_from_cupy(array: Array) -> Array:
    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


@contextmanager
def _on_stream(tensor: Array) -> Iterator[None]:
    """Make the tensor's device and PyTorch's current stream the current ones of CuPy."""
    import cupy

    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    with cupy.cuda.Device(tensor.device.index), cupy.cuda.ExternalStream(stream):
        yield


def on(tensor: Array) -> AbstractContextManager[Any]:
    """Return the context in which arrays on the tensor's memory are computed."""
    return _HERE if tensor.is_cpu else _on_stream(tensor)


def written(out: Array) -> None:
    """Tell PyTorch that a tensor was written: a backward pass that needs its old values refuses."""
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)


def threads() -> int:
    """Return the number of blocks that may run at once: PyTorch's threads, at most one a core."""
    found, most = torch.get_num_threads(), thread_pool.cores()
    return found if found < most else most


def computing(where: str, tensor: Array) -> Backend:
    """Return the backend that computes on the memory of a tensor: NumPy's, or CuPy's on a GPU."""
    kind = tensor.device.type
    if kind == "cpu":
        return HOST
    if kind != "cuda":
        raise bad_type(
            where, "tensors must be on a CPU or on a CUDA device", f"device {tensor.device}",
            "move them yourself, e.g. x.cpu(): nothing is copied between devices silently",
        )  # fmt: skip
    try:
        from einstride.arrays.backends import cupy
    except ImportError as error:
        raise bad_type(
            where, "tensors on a CUDA device are computed by CuPy",
            f"device {tensor.device}, and CuPy cannot be imported: {error}",
            "install it: pip install 'einstride[cuda12]', or pass x.cpu()",
        ) from None  # fmt: skip
    return cupy.BACKEND


_GENERAL = generic.of(array_api_compat.torch)

HOST = replace(
    numpy.BACKEND, traits=replace(numpy.BACKEND.traits, library="torch"), threads=threads
)
"""NumPy's backend with PyTorch's name and threads, which computes on the memory of tensors."""

BACKEND = replace(
    _GENERAL,
    traits=replace(_GENERAL.traits, views=True),
    strides=lambda x: x.stride(),
    as_strided=lambda x, shape, strides: x.as_strided(shape, strides),
    device=lambda x: x.device,
    to_host=lambda x: x.detach().cpu().resolve_conj().resolve_neg().numpy(),
    exchange=Exchange(
        host=HOST,
        is_plain=is_plain,
        lend=lend,
        adopt=adopt,
        has_values=has_values,
        check=check,
        operator=torch_operators.call,
        copy=lambda x: x.clone(),
        computing=computing,
        on=on,
        written=written,
    ),
)
