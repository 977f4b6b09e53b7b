"""Refuse work that CUDA does not allow while a stream is captured into a CUDA graph."""

from __future__ import annotations

from typing import Any

from einstride.support.errors import bad_value


def refuse_capture(what: str, cupy: Any) -> None:
    """Raise ValueError if the current stream is being captured: `what` has to be made before."""
    if cupy.cuda.runtime.streamIsCapturing(cupy.cuda.get_current_stream().ptr):
        raise bad_value(
            "CUDA graph",
            "everything that a call needs must be made before its stream is captured",
            f"{what}, which is not made yet",
            "make the same call once on this stream, with the same arrays, then begin_capture()",
        )
