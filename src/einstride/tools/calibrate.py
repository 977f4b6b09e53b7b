"""Implement ``python -m einstride calibrate``: measure this machine's rates for the planner.

The planner compares algorithms by seconds per product, byte and call. The package ships figures for
some CPUs (`einstride.calibration`); this command measures those of the machine at hand, and keeps
them in the user's folder, where every later process finds them. The figures serve to compare
algorithms; times that are predicted from them are not promises.

Rates of BLAS, NumPy and calls are measured directly. The rates of compiled transforms are fitted
ones, which are scaled to timed layers.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

import einstride as es
from einstride import calibration
from einstride.algorithms.winograd import array_passes
from einstride.algorithms.winograd.plan import choose_plan
from einstride.arrays.backends.numpy import BACKEND
from einstride.codegen import jit
from einstride.geometry.convolution import Geometry
from einstride.geometry.tile_sizes import TileSizes, work
from einstride.geometry.types import Algorithm
from einstride.support.caches import REGISTRY

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
    "instruction of the compiled FFTs. Those of Winograd and fourier are scaled to timed layers. "
    "Written by python -m einstride calibrate."
)

SECONDS = 0.25
"""Seconds that each measurement repeats its work, about; 30 s for all of them together."""

REPEATS = 5
"""Times that each work is repeated at least; the least time counts, which others disturb least."""


class Layer(NamedTuple):
    """Hold a layer whose time the rates of compiled transforms are scaled to.

    Attributes
    ----------
    algorithm : Algorithm
        The algorithm that is timed.
    x, f : tuple of int
        The shapes of the arrays.
    groups : int
        The number of groups.
    """

    algorithm: Algorithm
    x: tuple[int, ...]
    f: tuple[int, ...]
    groups: int = 1


SCALED: dict[str, tuple[Layer, ...]] = {
    "winograd_plane": (
        Layer("winograd", (4, 30, 30, 64), (3, 3, 64, 64)),
        Layer("winograd", (8, 14, 14, 192), (3, 3, 192, 192)),
    ),
    "winograd_line": (
        Layer("winograd", (4, 1024, 64), (5, 64, 64)),
        Layer("winograd", (4, 2048, 96), (3, 96, 96)),
    ),
    "fourier": (
        Layer("fft", (1, 65536, 1), (1024, 1, 1)),
        Layer("fft", (2, 96, 96, 8), (31, 31, 1, 8), 8),
    ),
}
"""{rate: layers}: the rate is scaled until predicted and measured times of its layers agree in the
geometric mean."""

DTYPES = {
    "float32": "float32", "float64": "float64", "complex64": "complex64",
    "complex128": "complex128", "other": "int64",
}  # fmt: skip
"""{key of the figures: the dtype that is measured}."""


def run(output: Path | None) -> int:
    """Measure all figures, write them to `output` or the user's folder; return the exit status."""
    path = output or calibration.user_file(calibration.cpu())
    if path is None:
        print("calibrate: there is no folder to keep the figures in; name a file by --output PATH",
              file=sys.stderr)  # fmt: skip
        return 2
    start = perf_counter()
    figures = measure(show)
    try:
        write(path, figures)
    except OSError as error:
        print(f"\ncalibrate: the figures cannot be written; {error}", file=sys.stderr)
        return 2
    kept = f"{path}, for {figures['cpu']}"
    print(f"\rmeasured in {perf_counter() - start:.0f} s, kept in {kept}".ljust(60))
    return 0


def show(done: int, count: int, what: str) -> None:
    """Print a progress bar."""
    bar = "#" * (20 * done // count)
    print(f"\r[{bar:20}] {done}/{count} {what:32}", end="", flush=True)


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write figures to a file, which appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def measure(progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all figures of a file; call ``progress(done, count, what)`` before each part."""
    shipped = calibration.calibration()["libraries"]["numpy"]
    dtypes: dict[str, dict[str, float]] = {}
    calls: dict[str, float] = dict(shipped["calls"])
    parts: list[tuple[str, Callable[[], None]]] = [
        *((f"products of {name}", partial(_measure_dtype, name, dtypes)) for name in DTYPES),
        ("calls and copies", lambda: calls.update(call_rates())),
        ("shapes of products", lambda: calls.update(shape_factors())),
    ]
    if jit.available():
        parts.append(("compiled kernels", lambda: calls.update(kernel_rates(shipped["calls"]))))
        parts += [
            (f"layers of {layers[0].algorithm}", partial(scale, name, calls, dtypes))
            for name, layers in SCALED.items()
        ]
    for done, (what, part) in enumerate(parts):
        progress(done, len(parts), what)
        part()
    progress(len(parts), len(parts), "")
    return _file(calls, dtypes)


def _measure_dtype(name: str, dtypes: dict[str, dict[str, float]]) -> None:
    dtypes[name] = per_product(DTYPES[name])


def _file(calls: dict[str, float], dtypes: dict[str, dict[str, float]]) -> dict[str, Any]:
    libraries = {"numpy": {"calls": calls, "dtypes": dtypes}}
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": str(calibration.cpu()),
        "note": NOTE,
        "libraries": json.loads(
            json.dumps(libraries), parse_float=lambda text: float(f"{float(text):.2g}")
        ),
    }


def fastest(work: Callable[[], Any], repeats: int = 1) -> float:
    """Return the least seconds of one of `repeats` runs of a work, over `SECONDS`."""
    work()
    times: list[float] = []
    stop = perf_counter() + SECONDS
    while len(times) < REPEATS or perf_counter() < stop:
        start = perf_counter()
        for _ in range(repeats):
            work()
        times.append((perf_counter() - start) / repeats)
    return max(min(times), 1e-9)


def per_product(dtype: str) -> dict[str, float]:
    """Measure the seconds per multiply-add of BLAS and of NumPy's own einsum."""
    n = 768 if np.dtype(dtype).kind in "fc" else 192  # integers have no BLAS
    a, b = np.ones((n, n), dtype), np.ones((n, n), dtype)
    matmul = fastest(lambda: a @ b) / n**3
    x, f = np.ones((1, 34, 34, 16), dtype), np.ones((3, 3, 16, 16), dtype)
    einsum = fastest(lambda: es.conv(x, f, algorithm="strided")) / (32 * 32 * 9 * 16 * 16)
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


def call_rates() -> dict[str, float]:
    """Measure the fixed costs of calls and blocks, and the rate of copying windows."""
    x, f = np.ones((1, 4, 4, 1), "float32"), np.ones((1, 1, 1, 1), "float32")
    call = fastest(lambda: es.conv(x, f, algorithm="strided"), 200)
    whole = fastest(lambda: es.conv(x, f, algorithm="gemm"), 200)
    source = np.ones((1, 58, 58, 64), "float32")
    view = es.windows(source, (3, 3))
    buffer = np.empty(view.shape, "float32")
    copy = fastest(lambda: np.copyto(buffer, view)) / (2 * buffer.nbytes)
    return {"call": call, "block": max(whole - call, 1e-6), "copy": copy}


def kernel_rates(before: dict[str, float]) -> dict[str, float]:
    """Measure a call of a compiled kernel, and the rate of its multiply-adds of vectors.

    `before`: other rates, among them those per vector instruction, which are scaled like
    multiply-adds.
    """
    x, f = np.ones((1, 4, 4, 1), "float32"), np.ones((1, 1, 1, 1), "float32")
    again = fastest(lambda: es.conv(x, f, algorithm="direct"), 200)
    y = es.conv(x, f)
    call = fastest(lambda: es.conv(x, f, algorithm="direct", out=y), 200)
    x, f = np.ones((1, 30, 30, 128), "float32"), np.ones((3, 3, 128, 128), "float32")
    with threadpool_limits(1):
        seconds = fastest(lambda: es.conv(x, f, algorithm="direct"))
    vector = seconds * jit.host_target().lanes(4) / (28 * 28 * f.size)
    per_vector = ("winograd_data", "winograd_filter", "winograd_panel", "fourier")
    scaled = {name: before[name] * vector / before["vector"] for name in per_vector}
    return {"kernel": call, "kernel_again": again, "vector": vector, **scaled}


def shape_factors() -> dict[str, float]:
    """Measure by which factors products of unusual shapes are slower than their multiply-adds."""
    transform = transforming()
    return {
        "thin": thinness(),
        "grouped": groupedness(),
        "mixed": mixedness(),
        "transform": transform,
        "tiles": gathering(transform),
    }


def _matmul() -> float:
    """Measure the seconds per multiply-add of a large product in float32."""
    large = np.ones((768, 768), "float32")
    return fastest(lambda: large @ large) / 768**3


def thinness() -> float:
    """Measure by which factor a product with four columns is slower than its multiply-adds
    predict."""
    a, wide = np.ones((2048, 576), "float32"), np.ones((576, 256), "float32")
    narrow = np.ones((576, 4), "float32")
    full = fastest(lambda: a @ wide) / 256
    return max(4 * (fastest(lambda: a @ narrow) / 4 / full - 1), 0.1)


def groupedness() -> float:
    """Measure by which factor a stack of products with one column each is slower than predicted."""
    x, f = np.ones((2, 32, 32, 64), "float32"), np.ones((3, 3, 1, 64), "float32")
    seconds = fastest(lambda: es.conv(x, f, groups=64, algorithm="gemm"))
    return max(seconds / (2 * 30 * 30 * 64 * 9) / _matmul() - 1, 0.1)


def mixedness() -> float:
    """Measure by which factor einsum over groups of four channels is slower than without groups."""
    x, f = np.ones((1, 32, 32, 64), "float32"), np.ones((3, 3, 4, 64), "float32")
    seconds = fastest(lambda: es.conv(x, f, groups=16, algorithm="strided"))
    whole, per = np.ones((1, 34, 34, 16), "float32"), np.ones((3, 3, 16, 16), "float32")
    einsum = fastest(lambda: es.conv(whole, per, algorithm="strided")) / (32 * 32 * 9 * 16 * 16)
    return max(seconds / (30 * 30 * 64 * 4 * 9) / einsum, 1.0)


def transforming() -> float:
    """Measure by which factor the transforms of F(4x4, 3x3) are slower than predicted."""
    square, large = np.ones((36, 36), "float32"), np.ones((768, 768), "float32")
    tiles = np.ones((36, 2048), "float32")
    place = np.empty_like(tiles)
    with threadpool_limits(1):
        small = fastest(lambda: np.matmul(square, tiles, out=place)) / (36 * 36 * 2048)
        return max(small / (fastest(lambda: large @ large) / 768**3), 1.0)


def gathering(transform: float) -> float:
    """Measure the seconds per byte of tiles that F(4x4, 3x3) takes on arrays, beside products and
    transforms."""
    x, f = np.ones((8, 58, 58, 64), "float32"), np.ones((3, 3, 64, 64), "float32")
    sizes = TileSizes((4, 4), (3, 3))
    spent = work(Geometry.of("calibrate", x.shape, f.shape), sizes, False)
    job = es.plan(x, f, algorithm="winograd")._decision.job
    plan = choose_plan(job.geometry, job, BACKEND.traits)
    if isinstance(plan, str):
        raise RuntimeError(f"Winograd's algorithm on arrays does a layer of 3x3 taps: {plan}")
    y = np.empty(job.geometry.y_shape, "float32")
    seconds = fastest(
        lambda: array_passes.correlate(x, f, plan, job.geometry, job, BACKEND, None, y, None)
    )
    arithmetic = spent.products * (1 + thinness() / 64) + spent.transforms * transform
    return max(seconds - arithmetic * _matmul(), 1e-5) / (spent.moved * x.itemsize)


def scale(name: str, calls: dict[str, float], dtypes: dict[str, dict[str, float]]) -> None:
    """Scale one of the rates `calls` by the measured times of its layers over the predicted."""
    rng = np.random.default_rng(0)
    ratios = []
    with _in_force(_file(calls, dtypes)):
        for layer in SCALED[name]:
            x, f = (rng.standard_normal(shape, "float32") for shape in (layer.x, layer.f))
            plan = es.plan(x, f, groups=layer.groups, algorithm=layer.algorithm)
            (predicted,) = (
                c.cost.seconds
                for c in plan._decision.candidates
                if c.algorithm == layer.algorithm and c.cost is not None
            )
            ratios.append(fastest(partial(plan, x, f)) / predicted)
    calls[name] *= geometric_mean(ratios)


@contextmanager
def _in_force(figures: dict[str, Any]) -> Iterator[None]:
    """Make plans from some figures."""
    before = os.environ.get(calibration.SETTING)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        write(path, figures)
        os.environ[calibration.SETTING] = str(path)
        try:
            _forget()
            yield
        finally:
            if before is None:
                del os.environ[calibration.SETTING]
            else:
                os.environ[calibration.SETTING] = before
            _forget()


def _forget() -> None:
    """Empty all caches but that of compiled kernels."""
    for cache in REGISTRY:
        if cache.kind != "code":
            cache.clear()
