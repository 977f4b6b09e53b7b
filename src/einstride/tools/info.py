"""Implement ``python -m einstride info``: print versions, libraries, devices, chosen algorithms."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

import einstride
from einstride import calibration
from einstride.arrays.backends.numpy import BACKEND
from einstride.codegen import disk_cache, jit
from einstride.dispatch import execute
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import Keywords
from einstride.support.caches import REGISTRY

LIBRARIES = ("numpy", "cupy", "torch", "jax", "array_api_strict", "dask")

# A name, the shapes of x and f, and the keywords of the layer.
LAYERS: tuple[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ("first layer, 7x7, stride 2", (8, 224, 224, 3), (7, 7, 3, 64), {"stride": 2}),
    ("3x3, 64 to 64 channels", (8, 56, 56, 64), (3, 3, 64, 64), {}),
    ("3x3, 256 to 256, stride 2", (8, 28, 28, 256), (3, 3, 256, 256), {"stride": 2}),
    ("1x1, 256 to 64 channels", (8, 56, 56, 256), (1, 1, 256, 64), {}),
    ("depthwise 3x3, 128 channels", (8, 56, 56, 128), (3, 3, 1, 128), {"groups": 128}),
    ("1-D, 1,024 taps", (1, 65536, 1), (1024, 1, 1), {}),
    ("3-D, 3x3x3, 16 to 32", (2, 32, 32, 32, 16), (3, 3, 3, 16, 32), {}),
    ("a tiny one, 3x3", (1, 8, 8, 3), (3, 3, 3, 4), {}),
)


def text() -> str:
    """Return the whole text."""
    sections = {
        "Versions": _versions(),
        "Array libraries": _libraries(),
        "CuPy devices": _devices(),
        "Threads": _threads(),
        "Compiled kernels": _kernels(),
        "Figures of the planner": _figures(),
        "Caches (es.clear_caches() empties those of results)": _caches(),
        'Choices of algorithm="auto" (NumPy, float32, padding="same")': _choices(),
    }
    return "\n\n".join(
        f"{title}\n" + textwrap.indent("\n".join(lines), "  ") for title, lines in sections.items()
    )


def _caches() -> Iterator[str]:
    for cache in sorted(REGISTRY, key=lambda c: (c.kind, c.name)):
        size = cache.nbytes() if cache.nbytes is not None else cache.entries()
        yield f"{cache.kind}: {cache.name.removeprefix('einstride.')}: {size:,}; {cache.bound}"


def _versions() -> Iterator[str]:
    yield f"einstride {einstride.__version__}"
    yield f"Python {platform.python_version()} ({platform.system()}, {platform.machine()})"
    yield f"NumPy {np.__version__}"
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    for library in blas:
        details = [f"{library['num_threads']} threads"]
        if library.get("architecture"):
            details.insert(0, f"architecture {library['architecture']}")
        yield f"BLAS: {library['internal_api']} {library['version']}, {', '.join(details)}"
    if not blas:
        yield "BLAS: unknown to threadpoolctl"
    yield f"array-api-compat {metadata.version('array-api-compat')}"


def _libraries() -> Iterator[str]:
    """Describe each library without importing it, as some libraries take seconds to load."""
    providers = metadata.packages_distributions()
    for library in LIBRARIES:
        if find_spec(library) is None:
            yield f"{library}: not installed"
            continue
        packages = sorted(set(providers.get(library, [])))
        versions = [f"{package} {metadata.version(package)}" for package in packages]
        yield f"{library}: {', '.join(versions) or 'installed, version unknown'}"


def _devices() -> Iterator[str]:
    if find_spec("cupy") is None:
        yield "CuPy is not installed: pip install 'einstride[cuda12]' or 'einstride[cuda13]'"
        return
    try:
        runtime = import_module("cupy").cuda.runtime
    except ImportError as error:
        yield f"CuPy cannot be imported: {' '.join(str(error).split())}"
        return
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        yield f"No GPU: CUDA says {error}"
        return
    for number in range(count):
        p = runtime.getDeviceProperties(number)
        yield (
            f"{number}: {p['name'].decode()}, compute capability {p['major']}.{p['minor']}, "
            f"{p['totalGlobalMem'] / 2**30:.0f} GiB"
        )
    if count == 0:
        yield "No GPU: CUDA finds none"


def _threads() -> Iterator[str]:
    yield f"NumPy: up to {BACKEND.threads()} blocks at once, BLAS on one thread in each"


def _kernels() -> Iterator[str]:
    if not jit.available():
        yield jit.MISSING
        return
    try:
        where, limit = disk_cache.folder(), disk_cache.limit()
    except ValueError as error:  # EINSTRIDE_CACHE_BYTES is no number of bytes
        yield str(error)
        return
    if limit == 0:
        yield "not kept on disk: EINSTRIDE_CACHE_BYTES is 0"
    elif where is None:
        yield "not kept on disk: there is no folder that only this user may write"
    elif disk_cache.package_digest() is None:
        yield "not kept on disk: the package is no folder, or was changed after its import"
    else:
        yield f"kept in {where}: {disk_cache.size() / 2**20:.1f} of {limit / 2**20:.1f} MiB"


def _figures() -> Iterator[str]:
    yield f"this process: {calibration.cpu()}"
    try:
        yield f"in force: {calibration.of('numpy')}"
    except ValueError as error:  # the user's file is damaged
        yield str(error)


def _choices() -> Iterator[str]:
    try:
        calibration.of("numpy")
    except ValueError:
        yield "none: the figures of the planner cannot be read"
        return
    rows = [("layer", "x", "f", "forward", "input grad", "filter grad")]
    for name, x, f, keywords in LAYERS:
        chosen = _algorithms(x, f, Keywords(padding="same", **keywords))
        rows.append((name, _shape(x), _shape(f), *chosen))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _algorithms(
    x_shape: tuple[int, ...], f_shape: tuple[int, ...], keywords: Keywords
) -> tuple[str, str, str]:
    """Return the planner's choice for each pass, as calls with arrays of these shapes make it."""

    def planned(direction: Direction, first: Any, second: Any, extra: Any = None) -> Any:
        return execute.prepare("info", direction, first, second, None, None, keywords, extra)[1]

    x, f = _broadcast_zero(x_shape), _broadcast_zero(f_shape)
    forward = planned("forward", x, f)
    gy = _broadcast_zero(forward.job.geometry.y_shape)
    input_grad = planned("input_grad", gy, f, x_shape[1:-1])
    filter_grad = planned("filter_grad", x, gy, f_shape[:-2])
    return forward.algorithm, input_grad.algorithm, filter_grad.algorithm


def _broadcast_zero(shape: tuple[int, ...]) -> Any:
    """Return an array of zeros that takes no memory: plans do not depend on values."""
    return np.broadcast_to(np.float32(0), shape)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
