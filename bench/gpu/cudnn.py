"""Runs einstride with ``algorithm="cudnn"``, a peer of its own kernels, with TF32 off and on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.case import Row
from bench.gpu import ours
from bench.gpu.timing import Clock

NAME = "einstride[cudnn]"
checksum = ours.checksum
_open = ExitStack()


def start(small: bool) -> tuple[Clock, dict[str, str]]:
    """Return the clock and the versions; in small sizes over the tests' stand-in for cuDNN."""
    clock, versions = ours.start(small)
    if small:
        import cudnn_stand_in
        import cupy_host

        _open.enter_context(cudnn_stand_in.installed(cupy_host.install()))
    import cudnn

    return clock, {**versions, "frontend": cudnn.__version__, "cudnn": str(cudnn.backend_version())}


def variants(row: Row) -> list[str]:
    """TF32 exists for float32 only; complex numbers it refuses."""
    if row.case.dtype == "complex64":
        return []
    return ["cudnn", "cudnn tf32"] if row.case.dtype == "float32" else ["cudnn"]


def prepare(row: Row, variant: str, arrays: dict[str, Any], sets: int) -> Callable[[int], Any]:
    """Return a function of the number of a set of arrays, which starts a call and returns its
    result."""
    algorithm, _, mode = variant.partition(" ")
    more = {"accuracy": "tf32"} if mode else {}
    return ours.prepare(row, algorithm, arrays, sets, **more)
