"""Adapt CuPy 14: strided views, block copies and cuBLAS products on the current stream.

The module is imported only when a caller holds a CuPy array. No function here copies between host
and device, except `to_host`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import array_api_compat.cupy as xp
import cupy
import numpy as np
from cupy.lib.stride_tricks import as_strided as _as_strided

from einstride.arrays.backends.adapter import Array, Backend, Make, Traits
from einstride.arrays.backends.einsum_by_matmul import contract
from einstride.cuda.cublas import TYPES, gemm
from einstride.cuda.im2col import copy_rows


def dtype_name(x: Array) -> str:
    """Return the name of the dtype."""
    return str(x.dtype.name)


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return cupy.dtype(ml_dtypes.bfloat16)
    return cupy.dtype(name)


def empty(shape: Sequence[int], name: str, like: Array) -> Array:
    """Allocate an uninitialised array on the device of `like`, from CuPy's pool."""
    with like.device:
        return cupy.empty(tuple(shape), _dtype(name))


def zeros(shape: Sequence[int], name: str, like: Array) -> Array:
    """Allocate zeros on the device of `like`."""
    with like.device:
        return cupy.zeros(tuple(shape), _dtype(name))


def astype(x: Array, name: str) -> Array:
    """Convert x to a dtype; return x itself if it has that dtype."""
    return x.astype(_dtype(name), copy=False)


def as_strided(x: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Return a strided view; an array without elements gives a new empty array."""
    if 0 in shape or x.size == 0:
        return empty(shape, dtype_name(x), x)
    return _as_strided(x, tuple(shape), tuple(strides))


def matmul(a: Array, b: Array, out: Array | None, tf32: bool = False) -> Array:
    """Multiply matrices, or stacks of matrices, by one cuBLAS call that writes into `out`.

    `tf32` lets cuBLAS round factors to TF32. Integers, which cuBLAS does not support, are
    multiplied by CuPy's own kernel. Operands with strides that cuBLAS does not support are copied.
    """
    if out is None:
        shape = (*a.shape[:-1], b.shape[-1])
        out = empty(shape, dtype_name(a), a)
    if gemm(a, b, out, tf32):
        return out
    if dtype_name(a) not in TYPES:
        return cupy.matmul(a, b, out=out)
    left, right, destination = (cupy.ascontiguousarray(m) for m in (a, b, out))
    if not gemm(left, right, destination, tf32):
        return cupy.matmul(a, b, out=out)
    if destination is not out:
        out[...] = destination
    return out


def einsum(
    equation: str, a: Array, b: Array, name: str, out: Array | None, tf32: bool = False
) -> Array:
    """Compute an einsum by one copy of each operand and one product; cupy.einsum copies twice."""
    found = contract(
        equation, astype(a, name), astype(b, name), xp, lambda p, q: matmul(p, q, None, tf32)
    )
    if out is None:
        return found
    out[...] = found
    return out


class _Addresses:
    """Present the addresses of an array's memory to NumPy, which must not read the memory."""

    def __init__(self, x: Array) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": x.shape,
            "strides": x.strides,
            "typestr": f"|V{x.dtype.itemsize}",
            "data": (x.data.ptr, True),
        }


def overlap(a: Array, b: Array) -> bool:
    """True if two arrays share memory; computed on the host from addresses and strides.

    CuPy's own function sorts all addresses on the device and waits for the stream.
    """
    if a.size == 0 or b.size == 0:
        return False
    first, second = np.asarray(_Addresses(a)), np.asarray(_Addresses(b))
    try:
        return np.shares_memory(first, second, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return np.may_share_memory(first, second)


def copy_bytes(*arrays: Array, contiguous: bool = False) -> int:
    """Count the bytes of copies for kernels that read contiguous arrays; others read any strides.

    None counts nothing.
    """
    if not contiguous:
        return 0
    return sum(a.nbytes for a in arrays if a is not None and not a.flags.c_contiguous)


def run(make: Make, boxes: Sequence[Any], threads: int) -> list[Any]:
    """Launch the kernels of one block after another on the caller's current stream."""
    compute = make()
    for box in boxes:
        compute(box)
    return []


def capability() -> int:
    """Return ten times the current device's compute capability; 0 where there is no device."""
    try:
        return int(cupy.cuda.Device().compute_capability)
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0  # plans may be made without a GPU


_STRICT = Backend(
    xp=xp,
    traits=Traits(
        library="cupy",
        views=True,
        mutable=True,
        block_bytes=64 << 20,
        workspace=256 << 20,
        half_sums=True,
        max_rank=11,
        kernels="cuda",
        has_streams=True,
        capability=capability,
    ),
    dtype_name=dtype_name,
    device=lambda x: x.device,
    on=lambda x: x.device,
    empty=empty,
    zeros=zeros,
    astype=astype,
    strides=lambda x: x.strides,
    as_strided=as_strided,
    einsum=einsum,
    matmul=matmul,
    run=run,
    threads=lambda: 1,
    overlap=overlap,
    copied=copy_bytes,
    writeable=lambda x: True,
    native=lambda x: True,
    to_host=lambda x: x.get(),
    finish=lambda x: cupy.cuda.get_current_stream().synchronize(),
    copy_rows=copy_rows,
)

BACKEND = replace(
    _STRICT,
    tf32=replace(_STRICT, matmul=partial(matmul, tf32=True), einsum=partial(einsum, tf32=True)),
)
