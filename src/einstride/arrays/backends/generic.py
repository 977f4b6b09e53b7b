"""Adapt any library with an array-API namespace, by slices, stack, reshape and matmul.

Only functions of the standard are used and no array is written, so that immutable arrays and
tracers work too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from inspect import isroutine
from typing import Any

import array_api_compat
import numpy as np

from einstride.arrays.backends.adapter import Array, Backend, Make, Traits
from einstride.arrays.backends.einsum_by_matmul import contract
from einstride.support.caches import cached

_HERE = nullcontext()


def run(make: Make, boxes: Sequence[Any], threads: int) -> list[Any]:
    """Compute one block after another."""
    compute = make()
    return [compute(box) for box in boxes]


def device(x: Array) -> Any:
    """Return the device of x as its library names it; None if x has no single known device.

    A JAX tracer stands for arrays on any device: depending on the version, its `device` is missing,
    raises an error, or is a method. A JAX array that is distributed over devices has a sharding as
    its `device`, and no array of another shape has an equal one.
    """
    try:
        found = array_api_compat.device(x)
        found = found() if isroutine(found) else found
    except (AttributeError, TypeError, RuntimeError):
        return None
    return None if hasattr(found, "device_set") else found


@cached(64, "process")  # more array libraries than a process meets
def of(xp: Any) -> Backend:
    """Return the backend of an array-API namespace."""

    def dtype_name(x: Array) -> str:
        return str(x.dtype).rpartition(".")[2]

    def zeros(shape: Sequence[int], name: str, like: Array) -> Array:
        return xp.zeros(tuple(shape), dtype=getattr(xp, name), device=device(like))

    def astype(x: Array, name: str) -> Array:
        return x if dtype_name(x) == name else xp.astype(x, getattr(xp, name))

    def einsum(equation: str, a: Array, b: Array, name: str, out: Array | None) -> Array:
        return contract(equation, astype(a, name), astype(b, name), xp, xp.matmul)

    def matmul(a: Array, b: Array, out: Array | None) -> Array:
        return xp.matmul(a, b)

    library = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
    return Backend(
        xp=xp,
        traits=Traits(
            library=library,
            views=False,
            mutable=False,
            block_bytes=4 << 20,
            workspace=64 << 20,
            half_sums=False,
            max_rank=12,
        ),
        dtype_name=dtype_name,
        device=device,
        on=lambda x: _HERE,
        empty=zeros,
        zeros=zeros,
        astype=astype,
        strides=None,
        as_strided=None,
        einsum=einsum,
        matmul=matmul,
        run=run,
        threads=lambda: 1,
        overlap=lambda a, b: a is b,
        writeable=lambda x: False,
        native=lambda x: True,
        to_host=np.asarray,
        finish=_finish,
    )


def _finish(y: Array) -> None:
    """Wait for the result of a library that computes asynchronously or lazily."""
    wait = getattr(y, "block_until_ready", None) or getattr(y, "compute", None)
    if wait is not None:
        wait()
