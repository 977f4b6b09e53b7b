"""Runs PyTorch on the CPU: both memory formats, oneDNN's prepared weights, one gradient at a
time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.options import Options
from bench.peers import Unsupported, Variant

# bounds of sums below which integers are exact in float arithmetic
EXACT = {"float32": 2**24, "float64": 2**53}
LARGEST = {"int8": 128 * 128, "uint8": 255 * 255, "int32": 1000 * 1000}


def start(options: Options) -> dict[str, str]:
    """Import PyTorch and fix its threads."""
    import torch

    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    return {"torch": torch.__version__}


def builders(row: Row) -> dict[str, Callable[[Arrays], Variant]]:
    """List the variants: layouts, and conversions of integers and complex numbers to floats."""
    if row.is_integer:
        taps = row.flops // 2 // int(np.prod(row.y_shape))
        casts = [t for t, top in EXACT.items() if taps * LARGEST[row.case.dtype] < top]
        ways = {f"through {t}": _builder(row, "channels_last", cast=t) for t in casts[:1]}
        ways["integers"] = _builder(row, "NCHW", cast=row.result_dtype)
        return ways
    formats = ["NCHW", "channels_last"] if row.rank > 1 else ["NCW"]
    ways = {name: _builder(row, name) for name in formats}
    if row.rank == 1:
        ways["as 2-D, NCHW"] = _builder(row, "NCHW", lift=True)
        ways["as 2-D, channels_last"] = _builder(row, "channels_last", lift=True)
    if row.pass_ == "forward" and row.case.dtype == "float32" and row.rank == 2:
        ways["channels_last, weights prepared"] = _builder(row, "channels_last", prepack=True)
        ways["NCHW, weights prepared"] = _builder(row, "NCHW", prepack=True)
    return ways


def gemm(dtype: str, size: int) -> Callable[[], Any]:
    """Return a call of PyTorch's matrix product."""
    import torch

    a = torch.ones(size, size, dtype=getattr(torch, dtype))
    return lambda: a @ a


def _builder(
    row: Row,
    layout: str,
    *,
    lift: bool = False,
    prepack: bool = False,
    cast: str | None = None,
) -> Callable[[Arrays], Variant]:
    def build(arrays: Arrays) -> Variant:
        import torch

        place = _placer(layout, row.rank + lift)
        x, gy = (_channels_first(torch.from_numpy(a), lift) for a in (arrays.x, arrays.gy))
        f = torch.from_numpy(arrays.f)
        f = f.permute(f.ndim - 1, f.ndim - 2, *range(f.ndim - 2))  # (D, C // groups, *K)
        f = f.unsqueeze(2) if lift else f
        dtype = getattr(torch, cast) if cast else None
        x, f, gy = place(x), place(f.to(dtype) if dtype else f), place(gy)
        dtype = f.dtype if x.dtype != f.dtype else dtype
        run = _prepacked(row, x, f) if prepack else _call(row, x, f, gy, lift, dtype)
        return Variant(run, lambda result: _channels_last(row, result, lift))

    return build


def _placer(layout: str, rank: int) -> Callable[[Any], Any]:
    import torch

    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    chosen = formats[rank] if layout == "channels_last" else torch.contiguous_format
    return lambda tensor: tensor.contiguous(memory_format=chosen)


def _channels_first(tensor: Any, lift: bool) -> Any:
    tensor = tensor.movedim(-1, 1)
    return tensor.unsqueeze(2) if lift else tensor


def _channels_last(row: Row, result: Any, lift: bool) -> np.ndarray:
    if lift:
        result = result.squeeze(2)
    if row.pass_ == "filter_grad":
        result = result.permute(*range(2, result.ndim), 1, 0)
    else:
        result = result.movedim(1, -1)
    return result.resolve_conj().numpy()


def _call(row: Row, x: Any, f: Any, gy: Any, lift: bool, dtype: Any) -> Callable[[], Any]:
    """Return a call of one pass; padding that differs by side is a separate step, as users write
    it."""
    import torch

    ops = torch.ops.aten
    extra = [0] if lift else []
    uneven = any(low != high for low, high in row.pads)
    pads = extra + [0 if uneven else low for low, _ in row.pads]
    ones = [1] if lift else []
    stride, dilation = [*ones, *row.stride], [*ones, *row.dilation]
    margins = [side for pair in reversed(row.pads) for side in pair]
    common = (stride, pads, dilation, False, [0] * len(stride), row.case.groups)

    def widen(tensor: Any) -> Any:
        return torch.nn.functional.pad(tensor, margins) if uneven else tensor

    if row.is_complex:
        if uneven:
            raise Unsupported("complex with even padding only")
        return _complex_call(row, x, f, gy, common)

    def forward() -> Any:
        operand = widen(x.to(dtype) if dtype else x)
        y = ops.convolution(operand, f, None, *common)
        return y.to(getattr(torch, row.result_dtype)) if dtype else y

    if row.pass_ == "forward":
        return forward
    if row.pass_ == "filter_grad":
        mask = [False, True, False]
        return lambda: ops.convolution_backward(gy, widen(x), f, None, *common, mask)[1]

    wide_x = widen(x)  # only its shape is used
    spans = zip(row.pads, row.case.size, strict=True)
    inside = (..., *(slice(low, low + n) for (low, _), n in spans))

    def input_grad() -> Any:
        gx = ops.convolution_backward(gy, wide_x, f, None, *common, [True, False, False])[0]
        return gx[inside] if uneven else gx

    return input_grad


def _complex_call(row: Row, x: Any, f: Any, gy: Any, common: tuple[Any, ...]) -> Callable[[], Any]:
    """Return a call of a complex pass, which PyTorch computes by real convolutions and autograd.

    The graph of a gradient is built once, outside the timing.
    """
    import torch

    stride, pads, dilation, _, _, groups = common
    convolve = getattr(torch, f"conv{len(stride)}d")
    if row.pass_ == "forward":
        return lambda: convolve(x, f, None, stride, pads, dilation, groups)
    wanted = x if row.pass_ == "input_grad" else f
    with torch.enable_grad():
        wanted.requires_grad_(True)
        y = convolve(x, f, None, stride, pads, dilation, groups)

    def gradient() -> Any:
        with torch.enable_grad():
            return torch.autograd.grad(y, wanted, gy, retain_graph=True)[0]

    return gradient


def _prepacked(row: Row, x: Any, f: Any) -> Callable[[], Any]:
    """Return a call of oneDNN with weights reordered once, as torch.compile does for frozen
    models."""
    import torch

    if any(low != high for low, high in row.pads):
        raise Unsupported("prepared weights take even padding only")
    pads = [low for low, _ in row.pads]
    stride, dilation, groups = [*row.stride], [*row.dilation], row.case.groups
    weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
        f.to_mkldnn(), pads, stride, dilation, groups, tuple(x.shape)
    )
    call = torch.ops.mkldnn._convolution_pointwise
    return lambda: call(x, weight, None, pads, stride, dilation, groups, "none", [], "")
