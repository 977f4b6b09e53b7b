"""Program: runs compiled FFTs on arrays that begin or end beside a page without access.

A read or write of one byte before the first or after the last element ends the process.
"""

from __future__ import annotations

import sys

import numpy as np

from checks import operands
from guarded_channelwise import guarded


def main(which: str, width: str) -> None:
    import test_simd_fourier as tests
    from einstride import _testing

    with _testing.use(target=tests.TARGETS[width]):
        check(which)


def check(which: str) -> None:
    import test_simd_fourier as tests

    cases = dict(tests.GEOMETRIES)
    cases |= {f"{c} channels": tests.depthwise(c) for c in (1, 3, 15, 16, 17, 33)}
    for name, case in cases.items():
        if case.mode != "zeros" and which == "input_grad":
            continue  # array code folds the border, no kernel
        given = tests.given(case, "float32")
        for end in (True, False):
            function, args, _ = operands(which, case, *(guarded(a, end) for a in given))
            keywords = {"algorithm": "fft", **case.explicit}
            expected = function(*(a.copy() if hasattr(a, "copy") else a for a in args), **keywords)
            out = guarded(np.zeros(expected.shape, "float32"), end)
            function(*args, out=out, **keywords)
            np.testing.assert_array_equal(out, expected, err_msg=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
