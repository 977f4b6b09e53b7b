"""Program: runs channelwise kernels on arrays that begin or end beside a page without access.

A read or write of one byte before the first or after the last element ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

import oracle
from checks import operands

PAGE = mmap.PAGESIZE
KEPT: list[mmap.mmap] = []


def guarded(array: np.ndarray, end: bool) -> np.ndarray:
    """Return a copy that ends (or begins) beside a page without access."""
    pages = -(-array.nbytes // PAGE) + 2
    memory = mmap.mmap(-1, pages * PAGE)
    KEPT.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages - 1):
        if libc.mprotect(ctypes.c_void_p(base + page * PAGE), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    at = (pages - 1) * PAGE - array.nbytes if end else PAGE
    copy = np.frombuffer(memory, array.dtype, array.size, at).reshape(array.shape)
    copy[...] = array
    return copy


def main(which: str, first: bool, width: str) -> None:
    import test_simd_channelwise as tests
    from einstride import _testing

    with _testing.use(target=tests.TARGETS[width], engine="channelwise"):
        check(which, first)


def check(which: str, first: bool) -> None:
    import test_simd_channelwise as tests
    import test_simd_depthwise

    cases = tests.GEOMETRIES | test_simd_depthwise.GEOMETRIES
    cases |= {f"{c} channels": tests.depthwise(c) for c in (1, 3, 15, 16, 17, 33)}
    for name, case in cases.items():
        if case.mode != "zeros" and which == "input_grad":
            continue  # array code folds the border, no kernel
        for dtype in (
            ("float32", "complex64") if name in ("strided", "one channel") else ("float32",)
        ):
            arrays = tests.arrays(case, dtype, 3)
            _, _, pair = operands(which, case, *arrays)
            table = oracle.FAST if case.mode == "zeros" else oracle.PASSES
            expected = table[which](*pair, case)
            roles = {"forward": "xf", "input_grad": "yf", "filter_grad": "xy"}[which]
            if first:
                expected = tests.channels_first(
                    expected, which, "f" if "y" in roles and "x" in roles else "x"
                )
            for end in (True, False):
                given = [guarded(a, end) for a in arrays]
                function, args, _ = operands(which, case, *given)
                keywords = {"algorithm": "direct", **case.explicit}
                args = list(args)
                if first:
                    for i, role in enumerate(roles):
                        args[i] = guarded(tests.channels_first(args[i], which, role), end)
                    keywords["layout"] = "channels_first"
                out = guarded(np.zeros(expected.shape, dtype), end)
                function(*args, out=out, **keywords)
                np.testing.assert_array_equal(out, expected.astype(dtype), err_msg=name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "1", sys.argv[3])
