"""In GPU kernels, a NaN or an infinity reaches only the sums of its own products.

Holds with the default accuracy, in every kernel that sums products directly. Blocks load more than
they sum: halos, ends of rows, partial boxes. A zero in place of a missing element must not be
multiplied with an element of the caller, since zero times NaN is NaN.
"""

from __future__ import annotations

import numpy as np
import pytest

import oracle
from checks import PASSES, operands
from oracle import Case

CASES = {
    "3x3": Case(2, (19, 21), (3, 3), 6, 6, (1, 1), ((1, 1), (1, 1)), (1, 1), 6),
    "valid 5x4": Case(1, (23, 18), (5, 4), 4, 4, (1, 1), ((0, 0), (0, 0)), (1, 1), 4),
    "strided": Case(1, (29, 26), (5, 3), 4, 4, (3, 2), ((2, 2), (0, 1)), (1, 1), 4),
    "dilated": Case(1, (21, 17), (3, 3), 4, 4, (1, 1), ((0, 2), (2, 0)), (2, 2), 4),
    "cropped": Case(1, (20, 17), (3, 3), 4, 8, (1, 1), ((-2, 0), (0, -3)), (1, 1), 2),
    "line": Case(2, (301,), (9,), 4, 4, (1,), ((8, 0),), (1,), 4),
    "volume": Case(1, (6, 7, 9), (3, 3, 3), 3, 3, (1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 3),
    "dense": Case(1, (11, 12), (3, 3), 10, 20, (2, 1), ((1, 0), (0, 1)), (1, 1)),
}
KERNELS = ("direct", "implicit_gemm")
LAYOUTS = ("channels_last", "channels_first")


def positions(shape):
    """Return the corners of an array, and some positions between them."""
    corner = tuple(n - 1 for n in shape)
    return [(0,) * len(shape), corner, tuple(n // 2 for n in shape), tuple(n // 3 for n in shape)]


@pytest.mark.parametrize("algorithm", KERNELS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", CASES)
def test_nothing_else_is_touched(gpu, name, which, algorithm):
    case = CASES[name]
    arrays = [np.ones(s, "float32") for s in (case.x_shape, case.f_shape, case.y_shape)]
    function, args, pair = operands(which, case, *arrays)
    for number, at in enumerate(positions(pair[0].shape)):
        touched = np.zeros(pair[0].shape)
        touched[at] = 1
        inside = oracle.FAST[which](touched, np.ones(pair[1].shape), case) != 0
        spoilt = pair[0].copy()
        spoilt[at] = (np.nan, np.inf)[number % 2]
        first = gpu.xp.asarray(spoilt)
        if LAYOUTS[number // 2] == "channels_first":  # a permuted view
            whole = np.ascontiguousarray(np.moveaxis(spoilt, -1, 1))
            first = gpu.xp.moveaxis(gpu.xp.asarray(whole), 1, -1)
        rest = [gpu.xp.asarray(a) if isinstance(a, np.ndarray) else a for a in args[1:]]
        found = function(first, *rest, algorithm=algorithm, **case.explicit).get()
        np.testing.assert_array_equal(np.isfinite(found), ~inside, f"{at}")
