"""Runs every kind of raw kernel once, without a memory pool, for compute-sanitizer.

``compute-sanitizer --tool memcheck python -m bench.gpu.sanitized``. A pool would hide accesses past
an array's end, so each array is an allocation of its own. Results are compared with NumPy's.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np

from bench.gpu import ours

MODES = ("zeros", "reflect", "replicate", "circular")
DTYPES = ("float32", "float16", "float64", "complex64", "int8")


def arrays(dtype: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and f with small integers, whose sums have equal bits in any order."""
    rng = np.random.default_rng(0)
    shapes = ((2, 9, 7, channels), (3, 2, channels, 4))
    x, f = (rng.integers(-2, 3, shape).astype(dtype) for shape in shapes)
    return x, f


def meant(case: tuple[Any, ...]) -> bool:
    """True if the algorithm supports the case, and the case runs a kernel that no other case
    runs."""
    algorithm, accuracy, dtype = case[:3]
    if accuracy == "tf32":
        return dtype == "float32"
    return algorithm != "implicit_gemm" or dtype not in ("complex64", "int8")


def check(
    algorithm: str, accuracy: str, dtype: str, channels: int, mode: str, layout: str, groups: int
) -> str | None:
    """Run three passes of one geometry; return a description of an error, or None."""
    import cupy

    import einstride as es

    x, f = arrays(dtype, channels)
    f = np.ascontiguousarray(f[:, :, : channels // groups])
    k: dict[str, Any] = {"padding": ((2, 1), (1, 2)), "padding_mode": mode, "stride": (2, 1)}
    k["groups"] = groups
    y = es.conv(x, f, **k)
    gy = np.ones_like(y)
    if layout == "channels_first":
        given = cupy.moveaxis(cupy.asarray(np.ascontiguousarray(np.moveaxis(x, -1, 1))), 1, -1)
    else:
        given = cupy.asarray(x)
    plain = dict(k)
    k["algorithm"], k["accuracy"] = algorithm, accuracy
    on_device = cupy.asarray(f), cupy.asarray(gy)
    pairs = {"forward": (es.conv(given, on_device[0], **k), y)}
    if dtype != "int8" or algorithm == "direct":
        found = es.conv_filter_grad(given, on_device[1], f.shape[:2], **k)
        pairs["filter_grad"] = (found, es.conv_filter_grad(x, gy, f.shape[:2], **plain))
        found = es.conv_input_grad(on_device[1], on_device[0], x.shape[1:3], **k)
        pairs["input_grad"] = (found, es.conv_input_grad(gy, f, x.shape[1:3], **plain))
    wrong = [name for name, (a, b) in pairs.items() if not np.array_equal(a.get(), b)]
    case = f"{algorithm} {accuracy} {dtype} {channels} {mode} {layout} {groups}"
    return f"{case}: {wrong}" if wrong else None


def main() -> int:
    """Return 1 if a result is wrong; compute-sanitizer has its own exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.sanitized", description=__doc__)
    parser.add_argument("--small", action="store_true", help="on the host emulation")
    args = parser.parse_args()
    ours.start(args.small)
    import cupy

    cupy.cuda.set_allocator(None)
    layouts = ("channels_last", "channels_first")
    few = (*DTYPES[::3], DTYPES[1])
    normal = ("normwise",)
    grid = [
        *itertools.product(("gemm",), normal, DTYPES, (4, 3), MODES, layouts, (1,)),
        *itertools.product(("direct",), normal, few, (4, 12), MODES, layouts, (1, 4)),
        *itertools.product(("implicit_gemm",), normal, DTYPES, (8, 3), MODES, layouts, (1,)),
        *itertools.product(("implicit_gemm",), ("tf32",), DTYPES, (8, 3), MODES, layouts, (1,)),
    ]
    grid = [case for case in grid if meant(case)]
    problems = [p for case in grid[:: 23 if args.small else 1] if (p := check(*case))]
    print("\n".join(problems) or "every answer is right")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
