"""Measures the planner's figures for this device.

    python -m bench.gpu.calibrate --ceilings FILE --out FILE

Writes the entries of `calibration/calibration_gpu.json`, with the date and the device. Rates of
products and copies are read from the file of `bench.gpu.ceilings`; calls and the direct kernels are
timed here. Factors for unusual shapes (thin, grouped, mixed) and the figures of fft keep their
values.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.gpu import ours
from bench.gpu.timing import Clock, sample

SHIPPED = Path(__file__).parents[2] / "src" / "einstride" / "calibration" / "calibration_gpu.json"
NOTE = (
    "Seconds, as in the files of CPUs; launch: of a kernel; direct, direct_integer: per "
    "multiply-add of the direct kernels; dft, fft, plane, turn: guesses, of fft; tf32: a "
    "multiply-add of float32 where TF32 is allowed. auto: what algorithm='auto' may choose, "
    "because tests prove it right. Written by bench/gpu/calibrate.py."
)
# (batch, side, channels) of a dense layer, and of the one that is timed without a GPU.
LAYER, SMALL = (8, 56, 64), (1, 6, 4)


def seconds(call: Callable[[], Any], clock: Clock, small: bool) -> float:
    """Return the seconds of one call on the device."""
    return sample(lambda _: call(), 1, clock, small).ms / 1e3


def layer(dtype: str, clock: Clock, small: bool) -> float:
    """Measure the seconds per multiply-add of the direct kernels, on a dense 3x3 layer."""
    import cupy

    import einstride as es

    kind: Any = dtype
    if dtype == "bfloat16":
        import ml_dtypes

        kind = ml_dtypes.bfloat16
    batch, side, channels = SMALL if small else LAYER
    x = cupy.ones((batch, side, side, channels), "float32").astype(kind)
    f = cupy.ones((3, 3, channels, channels), "float32").astype(kind)
    once = seconds(lambda: es.conv(x, f, algorithm="direct"), clock, small)
    return once / (batch * (side - 2) ** 2 * channels * channels * 9)


def calls(clock: Clock, small: bool) -> dict[str, float]:
    """Measure the fixed costs of a launch, of a call, and of an additional block."""
    import cupy

    import einstride as es

    x, f = cupy.ones((1, 4, 4, 1), "float32"), cupy.ones((1, 1, 1, 1), "float32")
    one = cupy.ElementwiseKernel("", "float32 y", "y = 1", "einstride_launch")
    y = cupy.empty(1, "float32")
    launch = seconds(lambda: one(y), clock, small)
    direct = seconds(lambda: es.conv(x, f, algorithm="direct"), clock, small)
    gemm = seconds(lambda: es.conv(x, f, padding=1, algorithm="gemm"), clock, small)
    call = max(direct - launch, 1e-6)
    return {"launch": launch, "call": call, "block": max(gemm - call, 1e-6)}


def measured(ceilings: dict[str, Any], clock: Clock, small: bool) -> dict[str, Any]:
    """Return the contents of the file."""
    old = json.loads(SHIPPED.read_text(encoding="utf-8"))
    dtypes = {}
    for name, entry in old["dtypes"].items():
        rate = ceilings.get(name)
        complex_of = {"complex64": "float32", "complex128": "float64"}.get(name)
        if complex_of and ceilings.get(complex_of):
            rate = ceilings[complex_of] / 4  # a complex product is four real ones
        product = 2 / rate if rate else entry["matmul"]
        direct = layer("int64" if name == "other" else name, clock, small)
        einsum = product * entry["einsum"] / entry["matmul"]
        dtypes[name] = {**entry, "einsum": einsum, "matmul": product, "direct": direct}
    copy = ceilings.get("copy_bytes_per_second")
    of_calls = {**old["calls"], **calls(clock, small)}
    of_calls["direct_integer"] = layer("int32", clock, small)
    if copy:
        of_calls["copy"] = 1 / copy
    if ceilings.get("tf32"):
        of_calls["tf32"] = 2 / ceilings["tf32"]
    found = {
        "date": datetime.date.today().isoformat(),
        "library": "cupy",
        "measured": True,
        "device": (ceilings.get("about") or {}).get("device", "an unnamed device"),
        "source": "python -m bench.gpu.calibrate",
        "note": NOTE,
        "auto": old["auto"],
        "calls": of_calls,
        "dtypes": dtypes,
    }
    rounded: dict[str, Any] = json.loads(
        json.dumps(found), parse_float=lambda t: float(f"{float(t):.2g}")
    )
    return rounded


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.calibrate", description=__doc__)
    parser.add_argument("--ceilings", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="tiny sizes, without a GPU")
    args = parser.parse_args()
    clock, _ = ours.start(args.small)
    found = measured(json.loads(args.ceilings.read_text()), clock, args.small)
    args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
