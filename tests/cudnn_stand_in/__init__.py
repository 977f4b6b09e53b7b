"""A stand-in for nvidia-cudnn-frontend 1.24 on the CuPy host: its names, computed by the loops.

Every graph offers its engines in a fixed order, the worst first: each has cuDNN's notes and an
answer that shows which one ran (an engine that rounds rounds, one that is not deterministic adds
noise). Layouts, alignments, devices and memory are checked as a device would, or more strictly.
`test_cudnn_wheel.py` holds its signatures against those of the real wheel.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .graph import pygraph
from .names import (
    ENGINES,
    Engine,
    State,
    build_plan_policy,
    cudnnGraphNotSupportedError,
    data_type,
    engine,
    heur_mode,
    numerical_note,
)
from .tensors import tensor

__all__ = ["ENGINES", "Engine", "State", "engine", "installed", "pygraph", "tensor"]


@contextmanager
def installed(host: Any) -> Iterator[State]:
    """`import cudnn` finds the stand-in in this block, and einstride knows."""
    import cupy

    from einstride import _testing

    state = State(host)
    module = ModuleType("cudnn")
    module.__spec__ = importlib.machinery.ModuleSpec("cudnn", None)

    def create_handle() -> int:
        host.captures.unsafe("cudnnCreate")
        number = 0xD00 + len(state.handles)
        state.handles[number] = {"device": host.device, "stream": 0}
        return number

    def set_stream(handle: int, stream: int) -> None:
        state.handles[handle]["stream"] = stream

    members = {
        "__version__": "1.24.1",
        "backend_version": lambda: state.version,
        "create_handle": create_handle,
        "destroy_handle": lambda handle: None,
        "set_stream": set_stream,
        "pygraph": type("pygraph", (pygraph,), {"state": state}),
        "tensor": tensor,
        "data_type": data_type,
        "numerical_note": numerical_note,
        "heur_mode": heur_mode,
        "build_plan_policy": build_plan_policy,
        "cudnnGraphNotSupportedError": cudnnGraphNotSupportedError,
    }
    vars(module).update(members)
    before = sys.modules.get("cudnn")

    def forget() -> None:
        _testing.clear_caches("process", "results")

    sys.modules["cudnn"] = module
    forget()
    try:
        yield state
    finally:
        sys.modules.pop("cudnn")
        if before is not None:
            sys.modules["cudnn"] = before
        forget()
        cupy.get_default_memory_pool().free_all_blocks()
