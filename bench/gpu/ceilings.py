"""Measures the peak rates of the device: of a copy, and of cuBLAS in each precision.

``python -m bench.gpu.ceilings --out FILE`` writes versions and peak rates as JSON. Fractions in the
table are fractions of these rates, not of a data sheet.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from bench.gpu import ours
from bench.gpu.timing import Clock, sample


def copy_bandwidth(clock: Clock, small: bool) -> float:
    """Measure the bytes per second, read and written, of a copy larger than the cache."""
    import cupy

    n = 1 << (12 if small else 28)
    pairs = [(cupy.ones(n, "u1"), cupy.empty(n, "u1")) for _ in range(2)]

    def call(i: int) -> None:
        source, target = pairs[i]
        target.data.copy_from_device_async(source.data, n)

    return 2 * n / (sample(call, 2, clock, small).ms / 1e3)


def gemm(clock: Clock, small: bool, dtype: str, tf32: bool = False) -> float:
    """Measure the operations per second of a square matrix product."""
    import cupy
    from cupy import _core as core
    from cupy._core import _routines_linalg as routines

    n = 32 if small else 8192
    kind: Any = dtype
    if dtype == "bfloat16":
        import ml_dtypes

        kind = ml_dtypes.bfloat16
    a = _random(n, kind)
    before = core.get_compute_type(cupy.float32)
    if tf32:
        core.set_compute_type(cupy.float32, routines.COMPUTE_TYPE_TF32)
    try:
        return 2 * n**3 / (sample(lambda i: a @ a, 2, clock, small).ms / 1e3)
    finally:
        core.set_compute_type(cupy.float32, before)


def _random(n: int, kind: Any) -> Any:
    import cupy
    import numpy as np

    return cupy.asarray(np.random.default_rng(0).standard_normal((n, n), "float32").astype(kind))


def device() -> dict[str, Any]:
    """Return the device's name, architecture and memory."""
    import cupy

    found = cupy.cuda.runtime.getDeviceProperties(0)
    name = found["name"]
    return {
        "device": name.decode() if isinstance(name, bytes) else str(name),
        "architecture": f"{found['major']}.{found['minor']}",
        "multiprocessors": found["multiProcessorCount"],
        "memory_bytes": found["totalGlobalMem"],
        "l2_bytes": found["l2CacheSize"],
        "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cuda_driver": cupy.cuda.runtime.driverGetVersion(),
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.ceilings", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="tiny sizes, without a GPU")
    args = parser.parse_args()
    clock, versions = ours.start(args.small)
    found: dict[str, Any] = {"python": platform.python_version(), **versions}
    status = 0
    measures = {
        "copy_bytes_per_second": lambda: copy_bandwidth(clock, args.small),
        "float32": lambda: gemm(clock, args.small, "float32"),
        "tf32": lambda: gemm(clock, args.small, "float32", tf32=True),
        "bfloat16": lambda: gemm(clock, args.small, "bfloat16"),
        "float16": lambda: gemm(clock, args.small, "float16"),
        "float64": lambda: gemm(clock, args.small, "float64"),
    }
    for name, get in {"about": device, **measures}.items():
        try:
            found[name] = get()
        except Exception as error:  # one failure does not end the run
            found[name] = None
            found[f"{name} problem"] = f"{type(error).__name__}: {error}"
            status = 1
        args.out.write_text(json.dumps(found, indent=1))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
