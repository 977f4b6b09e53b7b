"""Program: runs kernels on vector tails, with pages without access or canaries around each array.

    python guarded_tails.py WIDTH FAMILY[,FAMILY] DTYPE[,DTYPE] TAIL[,TAIL]|all

Every operand and result ends, then begins, beside a page without access, where an access of one
byte ends the process. Results are also stored with gaps of canaries between their rows of channels.
Values are small integers, so that results are compared exactly.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

import machine_code
import oracle
from checks import PASSES, operands
from einstride import _testing
from einstride.codegen import jit
from guarded import guarded
from oracle import Case
from strategies import integer_data

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32",
    "uint32", "int64", "uint64", "bool", "complex64", "complex128",
)  # fmt: skip
WIDTHS = ("64", "32", "16", "x86-64-v3", "x86-64-v2")
"""Targets: bytes of a vector with all instructions of this machine, or the name of a CPU."""

GAP = 8
"""Canary elements behind the channels of each position."""


def convolution(
    size: tuple[int, ...], kernel: int, channels: int, filters: int, groups: int = 1
) -> Case:
    n = len(size)
    pads = ((kernel // 2, kernel // 2),) * n
    return Case(1, size, (kernel,) * n, channels, filters, (1,) * n, pads, (1,) * n, groups)


FAMILIES: dict[str, tuple[str, str, Any]] = {
    "depthwise": ("channelwise", "channels_last", lambda n: convolution((4, 7), 3, n, n, n)),
    "line": ("channelwise", "channels_last", lambda n: convolution((40,), 3, n, n, n)),
    "multiplied": ("channelwise", "channels_last", lambda n: convolution((3, 5), 3, n, 2 * n, n)),
    "narrow": ("channelwise", "channels_last", lambda n: convolution((3, 5), 3, 2, n)),
    "positions": ("channelwise", "channels_first", lambda n: convolution((3, n), 3, 2, 2, 2)),
    "dense": ("dense", "channels_last", lambda n: convolution((4, 5), 3, n, n)),
    "grouped": ("grouped", "channels_last", lambda n: convolution((4, 6), 3, 3 * n, 3 * n, n)),
    "few": ("few", "channels_last", lambda n: convolution((6, 8), 3, 3, n)),
    "few filters": ("few", "channels_last", lambda n: convolution((3, n), 3, 3, 2)),
    "winograd": ("winograd", "channels_last", lambda n: convolution((5, 6), 3, n, n)),
    "fourier": ("fft", "channels_last", lambda n: convolution((6, 7), 5, n, n, n)),
    "planes": ("fft", "channels_first", lambda n: replace(convolution((6, 7), 5, 1, 1), batch=n)),
}  # fmt: skip
"""{name: (engine of "direct" or other algorithm, layout, function from channels to the case)}."""


def target_of(width: str) -> Any:
    """Return the target to compile for, or None if this machine cannot execute its code."""
    native = jit.host_target()
    if width.isdigit():
        found = replace(native, vector_bytes=int(width))
        return found if found.vector_bytes <= native.vector_bytes else None
    size = {"x86-64-v3": 32, "x86-64-v2": 16}[width]
    if "sse4.2" not in native.features or size > native.vector_bytes:
        return None
    return jit.Target(width, "", size, 16)


ENGINES = ("dense", "grouped", "few", "channelwise")
"""Engines of direct convolution; every other name in `FAMILIES` is an algorithm."""


def channels_first(array: np.ndarray, role: str) -> np.ndarray:
    """Return a canonical array in the order of channels_first: a filter becomes O, I, *K."""
    order = (-1, -2) if role == "f" else (0, -1)
    moved = {axis % array.ndim for axis in order}
    return np.ascontiguousarray(
        array.transpose(*order, *(i for i in range(array.ndim) if i not in moved))
    )


def with_gaps(shape: tuple[int, ...], dtype: Any, end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (a result with canaries behind each row of its last axis, all memory of both)."""
    rows, row = int(np.prod(shape[:-1])), shape[-1] + GAP
    memory = guarded(np.full(rows * row - GAP, 7, dtype), end)
    strides = [memory.itemsize]
    for i, size in enumerate(reversed(shape[1:])):
        strides.insert(0, strides[0] * (size if i else row))
    return np.lib.stride_tricks.as_strided(memory, shape, strides), memory


def check(which: str, case: Case, algorithm: str, layout: str, dtype: Any) -> bool:
    """Check one pass with a page without access at either end; False if the algorithm refuses
    it."""
    shapes = (case.x_shape, case.f_shape, case.y_shape)
    kind = "int8" if dtype == BFLOAT16 else dtype.name
    x, f, gy = (integer_data(s, kind, i).astype(dtype) for i, s in enumerate(shapes))
    wide_dtype = {"b": "int64", "i": "int64", "u": "int64", "c": "complex128"}.get(
        dtype.kind, "float64"
    )
    exact = [a.astype(wide_dtype) for a in (x, f, gy)]
    exact = exact if dtype.kind not in "biu" else [a.astype(object) for a in exact]
    function, args, pair = operands(which, case, *exact)
    expected = oracle.FAST[which](*pair, case)
    roles = {"forward": "xf", "input_grad": "yf", "filter_grad": "xy"}[which]
    result = {"forward": "y", "input_grad": "x", "filter_grad": "f"}[which]
    first = layout == "channels_first"
    if first:
        expected = channels_first(expected, result)
    function = partial(function, algorithm=algorithm, layout=layout, **case.explicit)
    for end in (True, False):
        _, args, _ = operands(which, case, x, f, gy)
        given = [channels_first(a, r) if first else a for a, r in zip(args, roles, strict=False)]
        given = [guarded(a, end) for a in given]
        try:
            returned = function(*given, *args[2:])
        except ValueError as error:
            if f"algorithm={algorithm!r} cannot do this" not in str(error):
                raise
            return False
        compare = np.testing.assert_array_equal
        if algorithm in ("winograd", "fft"):
            eps = float(ml_dtypes.finfo(returned.dtype).eps)
            scale = float(np.abs(expected).max()) + 4
            compare = partial(np.testing.assert_allclose, rtol=0, atol=64 * eps * scale)
        wanted = expected.astype(returned.dtype)
        out = guarded(np.full(wanted.shape, 7, returned.dtype), end)
        gapped, memory = with_gaps(wanted.shape, returned.dtype, end)
        for found in (out, gapped):
            function(*given, *args[2:], out=found)
        for found in (returned, out, gapped):
            compare(found.astype(wide_dtype), wanted.astype(wide_dtype))
        gapped[...] = 7
        np.testing.assert_array_equal(memory, np.full_like(memory, 7), err_msg="canaries")
    return True


def main(width: str, families: str, dtypes: str, tails: str) -> None:
    target, passes, reader = target_of(width), 0, machine_code.Reader()
    if target is None:
        print(f"not run: this machine has no vectors for {width}")
        return
    with (
        _testing.use(target=target),
        _testing.replacing("optimise a kernel", reader),
    ):
        for family in families.split(","):
            engine, layout, case = FAMILIES[family]
            algorithm = "direct" if engine in ENGINES else engine
            with _testing.use(engine=engine if engine in ENGINES else None):
                for name in dtypes.split(","):
                    dtype = BFLOAT16 if name == "bfloat16" else np.dtype(name)
                    lanes = target.lanes(min(max(dtype.itemsize, 4), 8))
                    tail_lengths = (
                        range(1, lanes) if tails == "all" else [int(t) for t in tails.split(",")]
                    )
                    for tail in tail_lengths:
                        for which in PASSES:
                            print(family, name, tail, which, flush=True)
                            passes += check(which, case(lanes + tail), algorithm, layout, dtype)
    assert not reader.wrong, reader.wrong
    print(f"{passes} passes done, {reader.read} kernels, {reader.masked} masked stores are right")


if __name__ == "__main__":
    main(*sys.argv[1:])
