"""Measure `einstride.ndimage` and `einstride.signal` against SciPy, OpenCV and scikit-image.

``python -m bench.filters --markdown table.md`` prints, for each row, the time of the fastest peer
that is installed divided by einstride's. Calls are interleaved, so that a busy machine slows all
alike, and the least time of each counts. The photos are those of scikit-learn, of which a volume is
a stack; a sound is a chirp with noise.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from einstride import ndimage, signal
from einstride.codegen import jit

DTYPES = ("uint8", "uint16", "float32", "float64", "complex64")
SIGMAS = (1, 4, 16)
TAPS = (3, 15, 127, 401)
Call = Callable[[], object]


def library(name: str) -> Any:
    """Import a peer, or return None."""
    try:
        return import_module(name)
    except ImportError:
        return None


def photo() -> Any:
    """Return a photo (427, 640, 3) of bytes."""
    images: Any = import_module("sklearn.datasets").load_sample_images().images
    return images[0]


def volume(dtype: str) -> Any:
    """Return the colours of both photos as a stack, (6, 427, 640)."""
    images: Any = import_module("sklearn.datasets").load_sample_images().images
    return np.concatenate([np.moveaxis(i, -1, 0) for i in images]).astype(dtype)


def sound(dtype: str) -> Any:
    """Return two seconds of a chirp with noise, at 48 kHz."""
    t = np.arange(96_000) / 48_000
    values = np.sin(2 * np.pi * (200 + 3000 * t) * t)
    values = values + 0.1 * np.random.default_rng(0).standard_normal(len(t))
    return (values * 1000).astype(dtype)


def image_rows(smoke: bool) -> list[tuple[str, dict[str, Call]]]:
    """List filters of images: a name, and a call for each library that has it."""
    theirs, cv, skimage = library("scipy.ndimage"), library("cv2"), library("skimage.filters")
    whole, rows = photo(), []
    f = np.random.default_rng(1).standard_normal((7, 7))
    for dtype in DTYPES[:1] if smoke else DTYPES:
        grey = whole[..., 1].astype(dtype)
        colours = whole.astype(dtype)
        for sigma in SIGMAS[:1] if smoke else SIGMAS:
            for kind, x in (("grey", grey), ("colours", colours)):
                calls = _gaussian(x, sigma, theirs, cv, skimage)
                rows.append((f"gaussian_filter {kind} {dtype} sigma {sigma}", calls))
        calls = {"einstride": lambda x=grey: ndimage.sobel(x)}
        if theirs:
            calls["SciPy"] = lambda x=grey: theirs.sobel(x)
        rows.append((f"sobel {dtype}", calls))
        calls = {"einstride": lambda x=grey: ndimage.correlate(x, f)}
        if theirs:
            calls["SciPy"] = lambda x=grey: theirs.correlate(x, f)
        if cv and dtype != "complex64":
            calls["OpenCV"] = lambda x=grey: cv.filter2D(x, -1, f, borderType=cv.BORDER_REFLECT)
        rows.append((f"correlate 7x7 {dtype}", calls))
    return rows


def volume_rows(smoke: bool) -> list[tuple[str, dict[str, Call]]]:
    """List filters of volumes, as `image_rows`."""
    theirs, rows = library("scipy.ndimage"), []
    f = np.random.default_rng(1).standard_normal((3, 3, 3))
    for dtype in DTYPES[:1] if smoke else DTYPES:
        x = volume(dtype)
        for name, more in (("gaussian_filter", 2), ("uniform_filter", 5), ("correlate", f)):
            calls: dict[str, Call] = {}
            for peer, module in (("einstride", ndimage), ("SciPy", theirs)):
                if module:
                    calls[peer] = lambda m=module, n=name, x=x, a=more: getattr(m, n)(x, a)
            told = {"gaussian_filter": "sigma 2", "uniform_filter": "5"}.get(name, "3x3x3")
            rows.append((f"{name} volume {dtype} {told}", calls))
    return rows


def _gaussian(x: Any, sigma: int, theirs: Any, cv: Any, skimage: Any) -> dict[str, Call]:
    calls: dict[str, Call] = {"einstride": lambda: ndimage.gaussian_filter(x, sigma, axes=(0, 1))}
    if theirs:
        calls["SciPy"] = lambda: theirs.gaussian_filter(x, sigma, axes=(0, 1))
    if cv and x.dtype.kind != "c":
        size = (2 * int(4 * sigma + 0.5) + 1,) * 2
        calls["OpenCV"] = lambda: cv.GaussianBlur(x, size, sigma, borderType=cv.BORDER_REFLECT)
    if skimage and x.dtype.kind == "f":
        channels = -1 if x.ndim == 3 else None
        calls["scikit-image"] = lambda: skimage.gaussian(
            x, sigma, mode="reflect", channel_axis=channels
        )
    return calls


def sound_rows(smoke: bool) -> list[tuple[str, dict[str, Call]]]:
    """List filters of signals, as `image_rows`."""
    theirs, rows = library("scipy.signal"), []
    for dtype in ("float32", "float64", "complex64"):
        x = sound(dtype)
        for taps in TAPS[:1] if smoke else TAPS:
            h = np.hanning(taps).astype(dtype)
            for name, arguments in (
                ("convolve", (x, h, "same")), ("fftconvolve", (x, h, "same")),
                ("lfilter", (h, 1, x)), ("upfirdn", (h, x, 3, 2)),
            ):  # fmt: skip
                calls: dict[str, Call] = {}
                for peer, module in (("einstride", signal), ("SciPy", theirs)):
                    if module:
                        calls[peer] = lambda m=module, n=name, a=arguments: getattr(m, n)(*a)
                rows.append((f"{name} {dtype} {taps} taps", calls))
    return rows


def times(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Return the least time of each call, measured in turns."""
    found = dict.fromkeys(calls, math.inf)
    for call in calls.values():  # the first calls compile and plan
        call()
        call()
        call()
    stop = perf_counter() + seconds
    while perf_counter() < stop or math.inf in found.values():
        for name, call in calls.items():
            start = perf_counter()
            call()
            found[name] = min(found[name], perf_counter() - start)
    return found


def head() -> list[str]:
    """Describe the machine and the peers, in the lines above the table."""
    names = {"scipy": "SciPy", "cv2": "OpenCV", "skimage": "scikit-image", "numpy": "NumPy"}
    found = {told: library(name) for name, told in names.items()}
    peers = ", ".join(f"{told} {m.__version__}" for told, m in found.items() if m)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    return [
        "# Filters of images, volumes and signals", "",
        f"`python -m bench.filters`, {date}: {jit.host_target()}, {cores} cores; "
        f"{peers}. The ratio is the time of the fastest peer divided by einstride's.", "",
    ]  # fmt: skip


def main() -> int:
    """Measure every row and print, or write, the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.filters", description=__doc__)
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--smoke", action="store_true", help="few rows")
    given = parser.parse_args()
    lines = ["| row | einstride | fastest peer | ratio |", "|---|---|---|---|"]
    ratios = []
    every = (*image_rows(given.smoke), *volume_rows(given.smoke), *sound_rows(given.smoke))
    for name, calls in every:
        found = times(calls, given.seconds)
        ours = found.pop("einstride")
        if not found:
            print(f"{name}: no peer is installed", file=sys.stderr)
            continue
        best = min(found, key=found.__getitem__)
        ratios.append(found[best] / ours)
        both = f"{ours * 1e3:.3f} ms | {best} {found[best] * 1e3:.3f} ms"
        lines.append(f"| {name} | {both} | {ratios[-1]:.2f} |")
        print(lines[-1], flush=True)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lines.append(
            f"\nGeometric mean of {len(ratios)} rows: {mean:.2f}; least {min(ratios):.2f}."
        )
        print(lines[-1])
    if given.markdown:
        given.markdown.write_text("\n".join((*head(), *lines)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
