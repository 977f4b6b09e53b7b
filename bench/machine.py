"""Reads the properties of the machine that figures depend on: processor, threads, BLAS kernels."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

BLAS_CHOICES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""Environment that makes glibc keep freed memory, as onnxruntime's own allocator does."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


def processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def vector_width() -> str:
    """Return the widest vector instructions that the processor reports."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return "unknown"
    return next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "unknown")


def cores(count: int) -> list[int]:
    """List at most `count` processors that this process may use, one per physical core first."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = sorted(os.sched_getaffinity(0))
    first, rest, seen = [], [], set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text() if path.exists() else str(cpu)
        (rest if core in seen else first).append(cpu)
        seen.add(core)
    return (first + rest)[:count]


def environment(threads: int, native_blas: bool, fresh_memory: bool = False) -> dict[str, str]:
    """Return the environment of a worker, which sets thread counts before a library starts threads.

    Freed memory is kept: otherwise the system clears the pages of large results, which takes longer
    than many convolutions and is no property of a library.
    """
    env = dict(os.environ)
    if not fresh_memory:
        env.update(KEPT_MEMORY)
    env.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    env["JAX_PLATFORMS"] = "cpu"
    if native_blas:
        for name in BLAS_CHOICES:
            env.pop(name, None)
    return env


def blas() -> list[str]:
    """List the BLAS and OpenMP libraries of this process, with the kernel that each one runs."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ["threadpoolctl is not installed"]
    return sorted(
        {
            " ".join(
                str(part)
                for part in (
                    pool["internal_api"],
                    pool.get("version") or "",
                    f"kernel {pool['architecture']}" if pool.get("architecture") else "",
                    f"({pool['num_threads']} threads)",
                )
                if part
            )
            for pool in threadpool_info()
        }
    )


def waiting_seconds() -> float:
    """Return the seconds that threads of this process waited for a core; 0.0 where unknown."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue  # the thread has ended
    return total / 1e9


def preemptions() -> int:
    """Count the involuntary context switches of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
