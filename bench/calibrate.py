"""Measures the constants of the planner's cost model on this machine.

    python -m bench.calibrate [--write]

prints the table for NumPy, or writes it, dated today, to `calibration/calibration.json`. The
figures serve to compare algorithms; times that are predicted from them are not promises.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
from threadpoolctl import threadpool_limits

import einstride as es
from einstride.geometry.convolution import Geometry
from einstride.geometry.tile_sizes import TileSizes, work

PATH = Path(__file__).parent.parent / "src" / "einstride" / "calibration" / "calibration.json"
NOTE = (
    "Seconds. einsum and matmul: per multiply-add; copy: per byte moved; call and block: fixed; "
    "thin, grouped: matrix products with n columns run (1 + thin / n) times slower, those of "
    "groups (1 + grouped / n) times; mixed: einsum over groups of several channels runs so many "
    "times slower; kernel: a call of a compiled kernel, kernel_again: the same where Python has no "
    "part in it after the first time; vector: its multiply-add of two vectors, "
    "on one core; dft: per multiply-add of a transform by a matrix; fft: per point and binary "
    "logarithm of the period; plane: per element of an elementwise pass; turn: per element "
    "gathered in another order; all on two threads; transform: so many times slower are the small "
    "square products of Winograd's transforms; tiles: per byte of its tiles, each time they are "
    "written or read; winograd_data, winograd_filter: per vector instruction of the compiled "
    "transforms, winograd_panel: per byte of a transformed filter, winograd_line and "
    "winograd_plane: times slower than that says, with one axis and with two; fourier: per vector "
    "instruction of the compiled FFTs; these fitted by hand to timed layers and carried over. "
    "Written by bench/calibrate.py."
)


def fastest(work: Callable[[], Any], repeats: int = 9) -> float:
    """Return the least time of some calls, which other processes disturbed least."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times)


def per_product(dtype: str) -> dict[str, float]:
    """Measure the seconds per multiply-add of BLAS and of NumPy's own einsum."""
    n = 768
    a, b = np.ones((n, n), dtype), np.ones((n, n), dtype)
    matmul = fastest(lambda: a @ b) / n**3
    x, f = np.ones((1, 34, 34, 16), dtype), np.ones((3, 3, 16, 16), dtype)
    work = 32 * 32 * 9 * 16 * 16
    einsum = fastest(lambda: es.conv(x, f, algorithm="strided")) / work
    return {"einsum": einsum, "matmul": matmul, **transforms(dtype)}


def transforms(dtype: str) -> dict[str, float]:
    """Measure the steps of a spectral convolution in the planes of a dtype, on two threads."""
    real = {"float32": "float32", "complex64": "float32"}.get(dtype, "float64")
    rng = np.random.default_rng(0)
    matrix, columns = rng.standard_normal((96, 96)), rng.standard_normal((96, 4096))
    a, z = matrix.astype(real), columns.astype(real)
    lines = rng.standard_normal((64, 2048)).astype(real)
    whole, turned = np.empty_like(z), np.empty((4096, 96), real)
    with threadpool_limits(1):
        dft = fastest(lambda: a @ z) / (96 * 96 * 4096)
    fft = fastest(lambda: np.fft.rfft(lines)) / (lines.size * 11)
    runs, place = z.reshape(48, 2, 64, 64), whole.reshape(48, 2, 64, 64)
    # strided views, like those of mirrored frequencies
    pairs = (runs[:, 0, ::2], runs[:, 1, 1::2], place[:, 0, ::2])
    plane = fastest(lambda: np.add(pairs[0], pairs[1], out=pairs[2])) / pairs[0].size
    turn = fastest(lambda: np.copyto(turned, z.T)) / z.size
    return {"dft": dft / 2, "fft": fft / 2, "plane": plane / 2, "turn": turn / 2}


def calls() -> dict[str, float]:
    """Measure the fixed costs of calls and blocks, and the rate of copying windows."""
    x, f = np.ones((1, 4, 4, 1), "float32"), np.ones((1, 1, 1, 1), "float32")
    call = fastest(lambda: [es.conv(x, f, algorithm="strided") for _ in range(200)]) / 200
    whole = fastest(lambda: [es.conv(x, f, algorithm="gemm") for _ in range(200)]) / 200
    source = np.ones((1, 58, 58, 64), "float32")
    view = es.windows(source, (3, 3))
    buffer = np.empty(view.shape, "float32")
    transform = transforming()
    copy = fastest(lambda: np.copyto(buffer, view)) / (2 * buffer.nbytes)
    return {
        "call": call,
        "block": max(whole - call, 1e-6),
        "thin": thinness(),
        "grouped": groupedness(),
        "mixed": mixedness(),
        "copy": copy,
        **kernels(),
        "transform": transform,
        "tiles": gathering(transform),
    }


def kernels() -> dict[str, float]:
    """Measure a call of a compiled kernel, and the rate of its multiply-adds of vectors."""
    from einstride.codegen.jit import host_target

    x, f = np.ones((1, 4, 4, 1), "float32"), np.ones((1, 1, 1, 1), "float32")
    again = fastest(lambda: [es.conv(x, f, algorithm="direct") for _ in range(200)]) / 200
    y = es.conv(x, f)
    call = fastest(lambda: [es.conv(x, f, algorithm="direct", out=y) for _ in range(200)]) / 200
    x, f = np.ones((1, 30, 30, 128), "float32"), np.ones((3, 3, 128, 128), "float32")
    with threadpool_limits(1):
        seconds = fastest(lambda: es.conv(x, f, algorithm="direct"))
    vector = seconds * host_target().lanes(4) / (28 * 28 * f.size)
    return {"kernel": call, "kernel_again": again, "vector": vector}


def thinness() -> float:
    """Measure by which factor a product with four columns is slower than its multiply-adds
    predict."""
    a, wide = np.ones((2048, 576), "float32"), np.ones((576, 256), "float32")
    narrow = np.ones((576, 4), "float32")
    full = fastest(lambda: a @ wide) / 256
    return max(4 * (fastest(lambda: a @ narrow) / 4 / full - 1), 0.0)


def groupedness() -> float:
    """Measure by which factor a stack of products with one column each is slower than predicted."""
    x, f = np.ones((2, 32, 32, 64), "float32"), np.ones((3, 3, 1, 64), "float32")
    seconds = fastest(lambda: es.conv(x, f, groups=64, algorithm="gemm"))
    work = 2 * 30 * 30 * 64 * 9
    return max(seconds / work / per_product("float32")["matmul"] - 1, 0.0)


def mixedness() -> float:
    """Measure by which factor einsum over groups of four channels is slower than without groups."""
    x, f = np.ones((1, 32, 32, 64), "float32"), np.ones((3, 3, 4, 64), "float32")
    seconds = fastest(lambda: es.conv(x, f, groups=16, algorithm="strided"))
    return max(seconds / (30 * 30 * 64 * 4 * 9) / per_product("float32")["einsum"], 1.0)


def transforming() -> float:
    """Measure by which factor the transforms of F(4x4, 3x3) are slower than predicted."""
    square, large = np.ones((36, 36), "float32"), np.ones((768, 768), "float32")
    tiles = np.ones((36, 2048), "float32")
    place = np.empty_like(tiles)
    with threadpool_limits(1):
        small = fastest(lambda: np.matmul(square, tiles, out=place), 30) / (36 * 36 * 2048)
        return max(small / (fastest(lambda: large @ large) / 768**3), 1.0)


def gathering(transform: float) -> float:
    """Measure the seconds per byte of tiles that F(4x4, 3x3) takes beside products and
    transforms."""
    x, f = np.ones((8, 58, 58, 64), "float32"), np.ones((3, 3, 64, 64), "float32")
    spent = work(Geometry.of("calibrate", x.shape, f.shape), TileSizes((4, 4), (3, 3)), False)
    with patch("einstride.algorithms.winograd._compiled", return_value=False):
        seconds = fastest(lambda: es.conv(x, f, algorithm="winograd"), 30)
    arithmetic = spent.products * (1 + thinness() / 64) + spent.transforms * transform
    rest = seconds - arithmetic * per_product("float32")["matmul"]
    return max(rest, 1e-5) / (spent.moved * x.itemsize)


def table() -> dict[str, Any]:
    """Measure all figures of the file."""
    names = ("float32", "float64", "complex64", "complex128")
    dtypes = {name: per_product(name) for name in names}
    slow = per_product("int64")
    dtypes["other"] = slow
    old = json.loads(PATH.read_text(encoding="utf-8"))["libraries"]["numpy"]["calls"]
    fitted = {name: rate for name, rate in old.items() if name.startswith(("winograd_", "fourier"))}
    libraries = {"numpy": {"calls": calls() | fitted, "dtypes": dtypes}}
    rounded = json.loads(json.dumps(libraries), parse_float=lambda t: float(f"{float(t):.2g}"))
    today = datetime.date.today().isoformat()
    return {"date": today, "note": NOTE, "libraries": rounded}


def main() -> None:
    """Print the figures, or write them to the calibration file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PATH.name}")
    text = json.dumps(table(), indent=2) + "\n"
    if parser.parse_args().write:
        PATH.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
