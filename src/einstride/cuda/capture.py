"""What may not happen while a stream is being captured into a CUDA graph, said before CUDA does."""

from __future__ import annotations

from typing import Any

from einstride.support.errors import bad_value


def refuse_capture(what: str, cupy: Any) -> None:
    """ValueError if the current stream is being captured: `what` can only be made outside."""
    if cupy.cuda.runtime.streamIsCapturing(cupy.cuda.get_current_stream().ptr):
        raise bad_value(
            "CUDA graph",
            "everything that a call needs must be made before its stream is captured",
            f"{what}, which is not made yet",
            "make the same call once on this stream, with the same arrays, then begin_capture()",
        )
