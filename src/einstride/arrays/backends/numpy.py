"""NumPy: byte strides, a thread pool for blocks, BLAS on one thread inside each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from einstride.arrays.backends import spin_helpers, thread_pool
from einstride.arrays.backends.adapter import Array, Backend, Traits
from einstride.codegen.jit import available
from einstride.cpu.runtime.aligned_memory import UNALIASED_FROM, aligned_empty, unaliased_empty
from einstride.cpu.runtime.operands import copy_bytes
from einstride.support.caches import cached, register

_NAMES: dict[np.dtype[np.generic], str] = {}
register(f"{__name__}._NAMES", "process", _NAMES.clear, _NAMES.__len__)


def dtype_name(x: Array) -> str:
    """The dtype's name; byte order does not matter, since copies and products convert it."""
    name = _NAMES.get(x.dtype)
    if name is None:
        name = _NAMES[x.dtype] = x.dtype.name
    return name


@cached(64, "process")
def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def empty(shape: Sequence[int], name: str, like: Array) -> Array:
    """Uninitialised."""
    return np.empty(shape, _dtype(name))


def result(shape: Sequence[int], name: str, like: Array) -> Array:
    """Uninitialised, where neither vectors nor `like` get in the way of writing it."""
    dtype = _dtype(name)
    if prod(shape) * dtype.itemsize < UNALIASED_FROM:
        return np.empty(shape, dtype)
    return unaliased_empty(shape, dtype, like)


def zeros(shape: Sequence[int], name: str, like: Array) -> Array:
    """Zeros."""
    return np.zeros(shape, _dtype(name))


def frozen(x: Array) -> Array:
    """A copy in the memory of a bytes object, in the order of x's own axes.

    An array that owns its memory can be made writeable again by whoever holds it, or a view of it;
    one whose base is a bytes object cannot.
    """
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    strides, step = [0] * x.ndim, x.itemsize
    for axis in reversed(order):
        strides[axis] = step
        step *= max(x.shape[axis], 1)
    memory = np.asarray(x).transpose(order).tobytes()
    return np.ndarray(x.shape, x.dtype, memory, 0, tuple(strides))


def astype(x: Array, name: str) -> Array:
    """In another dtype and native byte order; x itself if it is so already."""
    return x.astype(_dtype(name), copy=False)


def as_strided(x: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """A read-only view."""
    if x.flags.c_contiguous and x.dtype.isbuiltin == 1:
        # the same view in a fifth of the time, and NumPy looks at the bounds once more
        view: Array = np.ndarray(shape, x.dtype, x, 0, strides)
        view.flags.writeable = False
        return view
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def unread(shape: Sequence[int], name: str) -> Array:
    """An array that lies in memory as a new one would, takes none, and must never be read.

    Plans describe with it what a kernel would be given: its shape, dtype, strides and alignment.
    """
    dtype = _dtype(name)
    strides = [dtype.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return np.lib.stride_tricks.as_strided(aligned_empty((1,), dtype), shape, strides)


def einsum(equation: str, a: Array, b: Array, name: str, out: Array | None) -> Array:
    """NumPy's own loops: no copy of an overlapping view, no BLAS."""
    if dtype_name(a) == dtype_name(b) == name and a.dtype.isnative and b.dtype.isnative:
        return np.einsum(equation, a, b, out=out)
    return np.einsum(equation, a, b, dtype=_dtype(name), casting="unsafe", out=out)


def matmul(a: Array, b: Array, out: Array | None) -> Array:
    """A BLAS product where the memory order allows it, straight into `out`."""
    return np.matmul(a, b, out=out)


def overlap(a: Array, b: Array) -> bool:
    """Exact where that is quick, else by the bounds of the memory."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return np.may_share_memory(a, b)


BACKEND = Backend(
    xp=np,
    traits=Traits(
        library="numpy",
        views=True,
        mutable=True,
        block_bytes=2 << 20,
        workspace=16 << 20,
        half_sums=False,
        max_rank=24,
        kernels="cpu",
        compiled=available(),
        on_host=True,
        einsum_copies=False,
    ),
    dtype_name=dtype_name,
    device=None,
    on=lambda x: np.errstate(all="ignore"),  # compiled kernels do not tell: nobody does
    empty=empty,
    result=result,
    zeros=zeros,
    astype=astype,
    strides=lambda x: x.strides,
    as_strided=as_strided,
    einsum=einsum,
    matmul=matmul,
    run=thread_pool.run,
    threads=thread_pool.threads,
    overlap=overlap,
    writeable=lambda x: bool(x.flags.writeable),
    native=lambda x: bool(x.dtype.isnative),
    to_host=np.asarray,
    copied=copy_bytes,
    launch=spin_helpers.launch,
    frozen=frozen,
)

PLANNED = replace(
    BACKEND,
    empty=lambda shape, name, like: unread(shape, name),
    zeros=lambda shape, name, like: unread(shape, name),
    result=None,
)
"""NumPy whose new arrays are `unread`: for descriptions of plans, which compute nothing."""
