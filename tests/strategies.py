"""Draws random valid convolutions, and integer values for which float results are exact."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from oracle import Case, pads_of, span

FLOATS = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
DTYPES = (*FLOATS, *COMPLEX, "float16", "bool", *INTEGERS)

NAMES = ("valid", "same", "same_lower", "full", "causal")
WORK = 3000  # most products in one case: the loops take about a microsecond for each

seeds = st.integers(0, 2**32 - 1)


def integer_data(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Return small random integers in any dtype, whose sums of products are exact even in
    float16."""
    rng = np.random.default_rng(seed)
    low = 0 if dtype == "bool" or dtype.startswith("uint") else -2
    values = rng.integers(low, 2 if dtype == "bool" else 3, shape)
    if dtype.startswith("complex"):
        return (values + 1j * rng.integers(-2, 3, shape)).astype(dtype)
    return values.astype(dtype)


def arrays(case: Case, dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, f and gy of a case."""
    shapes = (case.x_shape, case.f_shape, case.y_shape)
    x, f, gy = (integer_data(shape, dtype, seed + i) for i, shape in enumerate(shapes))
    return x, f, gy


@st.composite
def _per_axis(draw: Any, rank: int, high: int) -> tuple[Any, tuple[int, ...]]:
    """Draw a stride or dilation: (as a caller writes it, one value per axis)."""
    if draw(st.booleans()):
        one = draw(st.integers(1, high))
        return one, (one,) * rank
    each = tuple(draw(st.lists(st.integers(1, high), min_size=rank, max_size=rank)))
    return each, each


@st.composite
def _padding(draw: Any, rank: int, reach: int) -> Any:
    """Draw a padding in any form that callers may write; a sequence may mix forms of entries."""
    width = st.integers(-1, reach)
    entry = st.one_of(width, st.tuples(width, width), st.sampled_from(NAMES))
    form = draw(st.sampled_from(("name", "int", "sequence", "default")))
    if form == "sequence":
        entries = draw(st.lists(entry, min_size=rank, max_size=rank))
        return tuple(entries) if draw(st.booleans()) else entries
    return draw({"name": st.sampled_from(NAMES), "int": width, "default": st.none()}[form])


def _entries(padding: Any, rank: int) -> list[Any]:
    if padding is None:
        return ["valid"] * rank
    return list(padding) if isinstance(padding, (tuple, list)) else [padding] * rank


def resolve(entry: Any, n: int, k: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the (low, high) pads of one axis from one entry of a padding."""
    if isinstance(entry, str):
        return pads_of(entry, n, k, stride, dilation)
    return (entry, entry) if isinstance(entry, int) else entry


@st.composite
def cases(
    draw: Any, max_rank: int = 5, padded: bool = True, strided: bool = True, grouped: bool = True
) -> Case:
    """Draw a valid convolution of rank 1 to `max_rank`, small enough for the loops."""
    rank = draw(st.integers(1, max_rank))
    most_taps = (5, 3, 3, 2, 2)[rank - 1]
    kernel_size = tuple(draw(st.lists(st.integers(1, most_taps), min_size=rank, max_size=rank)))
    largest_step = 3 if rank < 3 else 2
    stride_as, stride = draw(_per_axis(rank, largest_step)) if strided else (1, (1,) * rank)
    dilation_as, dilation = draw(_per_axis(rank, largest_step)) if strided else (1, (1,) * rank)
    padding = draw(_padding(rank, 2)) if padded else None

    sizes, pads = [], []
    for entry, k, s, d in zip(_entries(padding, rank), kernel_size, stride, dilation, strict=True):
        low, high = (0, 0) if isinstance(entry, str) else resolve(entry, 0, k, s, d)
        crop = max(0, -low) + max(0, -high)
        fits_any = isinstance(entry, str) and entry != "valid"  # these names fit any filter
        least = max(1 + crop, 1 if fits_any else span(k, d) - low - high)
        n = draw(st.integers(least, least + (6, 4, 3, 1, 1)[rank - 1]))
        sizes.append(n)
        pads.append(resolve(entry, n, k, s, d))

    groups = draw(st.integers(1, 3)) if grouped else 1
    per_group = draw(st.integers(1, 3 if groups == 1 else 2))
    filters = draw(st.integers(1, 3 if groups == 1 else 2)) * groups
    flip = draw(st.booleans())
    batch = draw(st.integers(1, 2))

    keywords = {"stride": stride_as, "dilation": dilation_as, "groups": groups, "flip": flip}
    keywords |= {} if padding is None else {"padding": padding}
    if draw(st.booleans()):  # omit defaults, as most callers do
        defaults = {"stride": 1, "dilation": 1, "groups": 1, "flip": False}
        keywords = {key: value for key, value in keywords.items() if defaults.get(key) != value}
    channels = per_group * groups
    shape = (batch, tuple(sizes), kernel_size, channels, filters)
    case = Case(*shape, stride, tuple(pads), dilation, groups, flip, keywords=keywords)
    assume(prod(case.y_shape) * prod(kernel_size) * per_group <= WORK)
    return case
