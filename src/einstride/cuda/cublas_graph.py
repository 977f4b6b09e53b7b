"""cuBLAS on a stream that is being captured into a CUDA graph.

CuPy's wrapper refuses every call during a capture, though cuBLAS itself allows it. So the same
functions are called past the wrapper there, by the handle that CuPy made before.
"""

from __future__ import annotations

import ctypes
from typing import Any

from einstride.support.caches import cached

_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_HEAD = [_POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER]  # handle, operations, m, n, k, alpha
_ARGUMENTS = {
    "cublasGemmEx": [
        *_HEAD, _POINTER, _INT, _INT, _POINTER, _INT, _INT, _POINTER, _POINTER, _INT, _INT, _INT,
        _INT,
    ],
    "cublasGemmStridedBatchedEx": [
        *_HEAD, _POINTER, _INT, _INT, _LONG, _POINTER, _INT, _INT, _LONG, _POINTER, _POINTER, _INT,
        _INT, _LONG, _INT, _INT, _INT,
    ],
}  # fmt: skip


def capturing() -> bool:
    """Is the current stream being captured?"""
    from cupy.cuda import get_current_stream, runtime

    return bool(runtime.streamIsCapturing(get_current_stream().ptr))


@cached(8, "code")  # all functions: there are 3
def _function(name: str, arguments: tuple[Any, ...]) -> Any:
    from cupy.cuda import runtime

    # The library that CuPy's module is linked with: already loaded, found by its name.
    library = ctypes.CDLL(f"libcublas.so.{runtime.runtimeGetVersion() // 1000}")
    function = getattr(library, name)
    function.argtypes = arguments
    return function


def call(name: str, handle: int, *arguments: Any) -> None:
    """One call on the current stream; RuntimeError with cuBLAS's status if it fails."""
    from cupy.cuda import get_current_stream

    set_stream = _function("cublasSetStream_v2", (_POINTER, _POINTER))
    status = set_stream(handle, get_current_stream().ptr)
    status = status or _function(name, tuple(_ARGUMENTS[name]))(handle, *arguments)
    if status:
        raise RuntimeError(f"{name} answers with status {status} during the capture of a graph")
