"""Record the LLVM IR that the library writes for a target, without compiling it.

Only this module of the package uses private names of the library. Within `recorded` every kernel is
replaced by a function that does nothing, so that kernels for any target can be written on any
machine. Everything else that the choice of a kernel depends on is fixed: threads, calibrated rates,
and for direct convolution the engine. Caches are empty at the beginning and at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from einstride._testing import clear_caches, replacing, use
from einstride.algorithms.direct import few
from einstride.codegen import jit

_AVX2 = "+sse2,+sse4.2,+avx,+avx2,+fma,+f16c"
_AVX512 = f"{_AVX2},+avx512f,+avx512vl,+avx512dq,+avx512bw"
_AMX = "+avx512vnni,+avx512bf16,+amx-tile,+amx-bf16,+amx-int8"

TARGETS = {
    "avx512": jit.Target("skylake-avx512", _AVX512, 64, 32),
    "vnni": jit.Target("cascadelake", f"{_AVX512},+avx512vnni", 64, 32),
    "amx": jit.Target("sapphirerapids", f"{_AVX512},{_AMX}", 64, 32),
    "avx2": jit.Target("x86-64-v3", _AVX2, 32, 16),
    "sse": jit.Target("x86-64-v2", "+sse2,+sse4.2", 16, 16),
    "neon": jit.Target("cortex-a72", "+neon", 16, 32),
}
"""{name in specifications: target for which kernels are written}."""

ENGINES = {
    "dense": ("dense",), "few": ("few", "dense"), "grouped": ("grouped", "dense"),
    "channelwise": ("channelwise",),
}  # fmt: skip
"""{engine of direct convolution: engines that are allowed, so that this one is chosen}."""

RATES = {
    "call": 1.4e-5, "block": 3.8e-5, "thin": 16.0, "grouped": 290.0, "mixed": 9.5, "copy": 7.8e-12,
    "kernel": 1.4e-5, "kernel_again": 3e-6, "vector": 1.4e-10, "transform": 2.1, "tiles": 2.1e-11,
    "winograd_data": 2.6e-10, "winograd_filter": 3.5e-10, "winograd_panel": 1e-11,
    "winograd_line": 1.35, "winograd_plane": 1.1, "fourier": 1.6e-10, "einsum": 3.1e-10,
    "matmul": 4.4e-12, "dft": 6.1e-12, "fft": 8.2e-11, "plane": 2.2e-10, "turn": 1.1e-9,
}  # fmt: skip
"""{name: seconds}, rates for float32 that were measured on 2026-11-23. The tile sizes of
Winograd's transforms depend on them. Later calibrations must not change them, because digests would
change with them."""


class Text(NamedTuple):
    """Hold a kernel's name and its LLVM IR."""

    kernel: str
    ir: str


@contextmanager
def recorded(target: jit.Target, engine: str = "", threads: int = 1) -> Iterator[list[Text]]:
    """Yield a list to which each kernel that the library needs is added, not compiled or run."""
    texts: list[Text] = []

    def record(_: Any, name: str, write: Callable[..., str], *given: Any, target: Any) -> Any:
        texts.append(Text(name, write(*given)))
        return _EMPTY_KERNEL

    def is_supported(_: Any, engine: Any, job: Any, traits: Any) -> bool:
        return few.supports(job, traits) is None

    with ExitStack() as stack:
        enter = stack.enter_context
        numpy = {"calls": {}, "dtypes": {"other": RATES}}
        rates = {"calibration": {"libraries": {"numpy": numpy}}}
        # a helper that started within the block would have no real kernel
        no_helpers: dict[str, object] = {"idle helpers": []}
        enter(use(target=target, threads=threads, calibration=rates, constants=no_helpers))
        if engine:
            enter(use(engine=ENGINES[engine]))
            enter(replacing("prefer few channels", is_supported))
        enter(replacing("get a kernel", record))
        clear_caches("code")
        stack.callback(clear_caches, "code")
        yield texts


_EMPTY_KERNEL = jit._SIGNATURE(lambda block, worker: None)
"""Kernel that returns at once."""
