"""Records the LLVM IR that the library writes for a target machine, and compiles none of it.

All that the corpus knows of the library's private names stands in this module. A kernel that is
asked for while `recorded` is active is a function that does nothing, so that kernels for any target
can be written on any machine. What else could decide which kernel is chosen is fixed: threads,
calibrated rates, and for direct convolution the engine. Nothing that was cached before is seen, and
nothing that is cached meanwhile stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from einstride import calibration
from einstride.algorithms.direct import channelwise, cpu, dense, few, grouped
from einstride.arrays.backends import spin_helpers
from einstride.arrays.backends.numpy import BACKEND
from einstride.codegen import jit
from einstride.dispatch import call_cache

_AVX2 = "+sse2,+sse4.2,+avx,+avx2,+fma,+f16c"
_AVX512 = f"{_AVX2},+avx512f,+avx512vl,+avx512dq,+avx512bw"

TARGETS = {
    "avx512": jit.Machine("skylake-avx512", _AVX512, 64, 32),
    "vnni": jit.Machine("cascadelake", f"{_AVX512},+avx512vnni", 64, 32),
    "avx2": jit.Machine("x86-64-v3", _AVX2, 32, 16),
    "sse": jit.Machine("x86-64-v2", "+sse2,+sse4.2", 16, 16),
    "neon": jit.Machine("cortex-a72", "+neon", 16, 32),
}
"""The machines that texts are written for, by the names that specifications use."""

ENGINES = {
    "dense": (dense,), "few": (few, dense), "grouped": (grouped, dense),
    "channelwise": (channelwise,),
}  # fmt: skip
"""Engines of direct convolution to choose from, so that the named one is taken."""

RATES = {
    "call": 1.4e-5, "block": 3.8e-5, "thin": 16.0, "grouped": 290.0, "mixed": 9.5, "copy": 7.8e-12,
    "kernel": 1.4e-5, "kernel_again": 3e-6, "vector": 1.4e-10, "transform": 2.1, "tiles": 2.1e-11,
    "winograd_data": 2.6e-10, "winograd_filter": 3.5e-10, "winograd_panel": 1e-11,
    "winograd_line": 1.35, "winograd_plane": 1.1, "fourier": 1.6e-10, "einsum": 3.1e-10,
    "matmul": 4.4e-12, "dft": 6.1e-12, "fft": 8.2e-11, "plane": 2.2e-10, "turn": 1.1e-9,
}  # fmt: skip
"""Seconds, as calibration.json had them for float32 on 2026-11-23. They decide the tile sizes of
Winograd's transforms, and shall not follow later calibrations."""


class Text(NamedTuple):
    """A kernel's name and its LLVM IR."""

    kernel: str
    ir: str


@contextmanager
def recorded(on: jit.Machine, engine: str = "", threads: int = 1) -> Iterator[list[Text]]:
    """Record the kernels that are asked for, in a list; None of them is compiled or run."""
    found: list[Text] = []

    def record(name: str, write: Callable[..., str], given: tuple[Any, ...], _: Any) -> Any:
        found.append(Text(name, write(*given)))
        return _NOTHING

    changes: list[tuple[Any, str, Any]] = [
        (jit, "_machine", lambda: on),
        (jit, "_made", record),
        (jit, "_kernels", {}),
        (BACKEND, "threads", lambda: threads),
        (spin_helpers, "_idle", []),  # helpers that start meanwhile would not know a real kernel
        (calibration, "table", lambda library: {"calls": {}, "dtypes": {"other": RATES}}),
    ]
    if engine:
        changes.append((cpu, "_ENGINES", ENGINES[engine]))
        changes.append((few, "better", lambda _, job, traits: few.supports(job, traits) is None))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        _change(changes)
        yield found
    finally:
        _change(before)


_NOTHING = jit._SIGNATURE(lambda block, worker: None)
"""A kernel that does nothing."""


def _change(values: list[tuple[Any, str, Any]]) -> None:
    for owner, name, value in values:
        vars(owner)[name] = value  # some owners are frozen dataclasses
    _forget()


def _forget() -> None:
    """Empty every cache of the library."""
    call_cache.ANSWERS.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("einstride."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear") and not isinstance(value, type):
                    value.cache_clear()
