"""Call cuBLAS on a stream that is being captured into a CUDA graph.

CuPy's wrapper of cuBLAS refuses every call during a capture, although cuBLAS allows it. So these
functions bypass the wrapper, and use the handle that CuPy made before the capture.
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
    """True if the current stream is being captured."""
    from cupy.cuda import get_current_stream, runtime

    return bool(runtime.streamIsCapturing(get_current_stream().ptr))


@cached(8, "code")  # all functions: there are 3
def _function(name: str, arguments: tuple[Any, ...]) -> Any:
    from cupy.cuda import runtime

    # CuPy's module is linked with this library, so it is loaded and found by its name.
    library = ctypes.CDLL(f"libcublas.so.{runtime.runtimeGetVersion() // 1000}")
    function = getattr(library, name)
    function.argtypes = arguments
    return function


def call(name: str, handle: int, *arguments: Any) -> None:
    """Call a cuBLAS function on the current stream; raise RuntimeError if it fails."""
    from cupy.cuda import get_current_stream

    set_stream = _function("cublasSetStream_v2", (_POINTER, _POINTER))
    status = set_stream(handle, get_current_stream().ptr)
    status = status or _function(name, tuple(_ARGUMENTS[name]))(handle, *arguments)
    if status:
        raise RuntimeError(f"{name} answers with status {status} during the capture of a graph")
