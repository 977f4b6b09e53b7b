"""Runs PyTorch with cuDNN: both layouts, TF32 off and on, with the autotuner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.case import Row
from bench.gpu.timing import Clock, EventClock, WallClock

NAME = "torch"
_device = "cuda"


def start(small: bool) -> tuple[Clock, dict[str, str]]:
    """Return the clock and the versions; in small sizes on the processor where there is no GPU."""
    global _device
    import torch

    versions = {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}
    torch.backends.cudnn.benchmark = True
    if small and not torch.cuda.is_available():
        _device = "cpu"
        return WallClock(), versions
    make = lambda: torch.cuda.Event(enable_timing=True)  # noqa: E731
    return EventClock(make, lambda a, b: float(a.elapsed_time(b))), versions


def variants(row: Row) -> list[str]:
    """List the variants of a row: NCHW and NHWC; for float32 also TF32. 1-D rows have no NHWC.

    Complex rows have the forward pass only: PyTorch's backward operator refuses them.
    """
    if row.case.dtype == "complex64":
        return ["nchw"] if row.pass_ == "forward" else []
    layouts = ["nchw"] if row.rank == 1 else ["nchw", "channels_last"]
    tf32 = ["", " tf32"] if row.case.dtype == "float32" else [""]
    return [layout + mode for layout in layouts for mode in tf32]


def prepare(row: Row, variant: str, arrays: dict[str, Any], sets: int) -> Callable[[int], Any]:
    """Return a function of the number of a set of arrays, which starts a call and returns its
    result."""
    import torch

    layout, _, mode = variant.partition(" ")
    torch.backends.cudnn.allow_tf32 = mode == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
    forms = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
    form = torch.contiguous_format if layout == "nchw" else forms[row.rank]
    kind = getattr(torch, row.case.dtype)
    n = row.rank

    def of(name: str) -> list[Any]:
        tensor = torch.from_numpy(arrays[name])
        order = (n + 1, n, *range(n)) if name == "f" else (0, n + 1, *range(1, n + 1))
        tensor = tensor.permute(order).to(_device, kind).contiguous(memory_format=form)
        return [tensor, *(tensor.clone() for _ in range(sets - 1))]

    if any(low != high for low, high in row.pads):
        raise ValueError("PyTorch pads both ends alike")
    pads = [low for low, _ in row.pads]
    k = (list(row.stride), pads, list(row.dilation), False, [0] * n, row.case.groups)
    a = of("gy" if row.pass_ == "input_grad" else "x")
    b = of("gy" if row.pass_ == "filter_grad" else "f")
    if row.pass_ == "forward":
        if row.case.dtype == "complex64":  # only these functions split complex numbers
            conv = getattr(torch.nn.functional, f"conv{n}d")
            return lambda i: conv(a[i], b[i], None, *k[:3], row.case.groups)
        return lambda i: torch.convolution(a[i], b[i], None, *k)
    grad = torch.ops.aten.convolution_backward
    if row.pass_ == "input_grad":
        like = of("x")[0]
        return lambda i: grad(a[i], like, b[i], None, *k, [True, False, False])[0]
    like = of("f")[0]
    return lambda i: grad(b[i], a[i], like, None, *k, [False, True, False])[1]


def checksum(result: Any) -> float:
    """Return the sum of magnitudes, in float64."""
    return float(result.abs().double().sum())
