"""Makes the arrays of a row once, in the reference worker; other workers read them from files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.case import Row

# int32 sums are checked against float64, so products stay far below 2**53
INTEGER_RANGES = {"int8": (-128, 128), "uint8": (0, 256), "int32": (-1000, 1000)}


@dataclass(frozen=True)
class Arrays:
    """Hold the operands in channels_last; gy is the output gradient."""

    x: np.ndarray  # (B, *S, C)
    f: np.ndarray  # (*K, C // groups, D)
    gy: np.ndarray  # (B, *O, D)


def make(row: Row) -> Arrays:
    """Draw the operands of a row, which are equal in every run."""
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    return Arrays(
        x=_values(rng, row.x_shape, row.case.dtype),
        f=_filter(rng, row),
        gy=_values(rng, row.y_shape, row.result_dtype if not row.is_integer else "int32"),
    )


def save(folder: Path, arrays: Arrays, answer: np.ndarray) -> None:
    """Write the operands and the float64 result as .npy files."""
    for name, array in (("x", arrays.x), ("f", arrays.f), ("gy", arrays.gy), ("answer", answer)):
        np.save(folder / f"{name}.npy", array)


def load(folder: Path) -> Arrays:
    """Read the operands."""
    return Arrays(*(np.load(folder / f"{name}.npy") for name in ("x", "f", "gy")))


def load_answer(folder: Path) -> np.ndarray:
    """Read the float64 result, mapped into memory."""
    return np.load(folder / "answer.npy", mmap_mode="r")


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype in INTEGER_RANGES:
        return rng.integers(*INTEGER_RANGES[dtype], size=shape).astype(dtype)
    if dtype.startswith("complex"):
        parts = rng.standard_normal((2, *shape))
        return (parts[0] + 1j * parts[1]).astype(dtype)
    real = "float64" if dtype == "float64" else "float32"
    return rng.standard_normal(shape, dtype=real).astype(dtype, copy=False)


def _filter(rng: np.random.Generator, row: Row) -> np.ndarray:
    if row.case.filter_values == "normal":
        return _values(rng, row.f_shape, row.filter_dtype)
    taps = np.ones((1,) * row.rank)
    for axis, size in enumerate(row.case.kernel):
        profile = np.exp(-0.5 * ((np.arange(size) - size // 2) / (size / 6)) ** 2)
        shape = [1] * row.rank
        shape[axis] = size
        taps = taps * (profile / profile.sum()).reshape(shape)
    return np.broadcast_to(taps[..., None, None], row.f_shape).astype(row.filter_dtype)
