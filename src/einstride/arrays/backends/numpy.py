"""Adapt NumPy: strided views, and blocks on a thread pool with BLAS on one thread in each block."""

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
    """Return the dtype's name, without its byte order, which copies and products convert."""
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
    """Allocate an uninitialised array."""
    return np.empty(shape, _dtype(name))


def result(shape: Sequence[int], name: str, like: Array) -> Array:
    """Allocate an uninitialised result of a call that reads `like`.

    A large result begins at a cache line whose address, modulo the page size, lies just below that
    of `like`: stores to the result then do not delay loads from `like`.
    """
    dtype = _dtype(name)
    if prod(shape) * dtype.itemsize < UNALIASED_FROM:
        return np.empty(shape, dtype)
    return unaliased_empty(shape, dtype, like)


def zeros(shape: Sequence[int], name: str, like: Array) -> Array:
    """Allocate zeros."""
    return np.zeros(shape, _dtype(name))


def frozen(x: Array) -> Array:
    """Copy x, in its own memory order, to a bytes object, which nothing in Python can write.

    Any holder of an array that owns its memory, or of a view of it, can make the array writeable
    again; NumPy refuses that where the base is a bytes object.
    """
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    strides, stride = [0] * x.ndim, x.itemsize
    for axis in reversed(order):
        strides[axis] = stride
        stride *= max(x.shape[axis], 1)
    memory = np.asarray(x).transpose(order).tobytes()
    return np.ndarray(x.shape, x.dtype, memory, 0, tuple(strides))


def astype(x: Array, name: str) -> Array:
    """Convert x to a dtype in native byte order; return x itself if it has both."""
    return x.astype(_dtype(name), copy=False)


def as_strided(x: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Return a read-only strided view."""
    if x.flags.c_contiguous and x.dtype.isbuiltin == 1:
        # This takes a fifth of the time of `as_strided`, and NumPy checks the bounds once more.
        view: Array = np.ndarray(shape, x.dtype, x, 0, strides)
        view.flags.writeable = False
        return view
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def unallocated(shape: Sequence[int], name: str) -> Array:
    """Return an array with the shape, dtype, strides and alignment of a new one, but no memory.

    It must be neither read nor written. Plans describe with it the arguments of a kernel.
    """
    dtype = _dtype(name)
    strides = [dtype.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return np.lib.stride_tricks.as_strided(aligned_empty((1,), dtype), shape, strides)


def einsum(equation: str, a: Array, b: Array, name: str, out: Array | None) -> Array:
    """Compute an einsum by NumPy's own loops, which do not copy an overlapping view."""
    if dtype_name(a) == dtype_name(b) == name and a.dtype.isnative and b.dtype.isnative:
        return np.einsum(equation, a, b, out=out)
    return np.einsum(equation, a, b, dtype=_dtype(name), casting="unsafe", out=out)


def matmul(a: Array, b: Array, out: Array | None) -> Array:
    """Multiply matrices into `out`, by BLAS where the strides allow it."""
    return np.matmul(a, b, out=out)


def overlap(a: Array, b: Array) -> bool:
    """True if two arrays share memory, or if their bounds overlap and an exact test is too slow."""
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
    on=lambda x: np.errstate(all="ignore"),  # as compiled kernels, which raise no warnings
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
    launch_program=spin_helpers.launch_program,
    frozen=frozen,
)

PLANNED = replace(
    BACKEND,
    empty=lambda shape, name, like: unallocated(shape, name),
    zeros=lambda shape, name, like: unallocated(shape, name),
    result=None,
)
"""NumPy backend whose new arrays are `unallocated`, to describe plans without computing."""
