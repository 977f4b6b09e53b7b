"""Operands and `out` may have every kind of memory, here between pages without access.

The result is that of the loops, inputs are not written, and no byte beside operands or in the gaps
between their elements is read or written.
"""

from functools import cache
from itertools import product

import ml_dtypes
import numpy as np
import pytest

import einstride as es
import oracle
from checks import EVERY, PARTIAL, PASSES, agrees, operands
from fuzz.memory import FOR_RESULTS, KINDS, Buffers, Memory, place
from guarded_tails import channels_first
from oracle import Case
from strategies import integer_data

CASES = {
    "dense": Case(2, (6, 5), (3, 2), 5, 4, (1, 2), ((1, 0), (0, 1)), (1, 1)),
    "one filter": Case(1, (7,), (3,), 3, 1, (1,), ((1, 1),), (1,)),
    "depthwise": Case(2, (5, 6), (3, 3), 5, 5, (1, 1), ((1, 1), (1, 1)), (1, 1), groups=5),
    "groups": Case(1, (5, 4), (2, 3), 6, 4, (1, 1), ((0, 1), (1, 1)), (1, 2), groups=2),
}
PAIRS = (
    ("float32", "float32"), ("float64", "float64"), ("uint64", "uint64"), ("int8", "uint8"),
    ("bfloat16", "bfloat16"), ("float16", "float32"), ("float32", "complex64"),
    ("complex128", "float64"), ("complex64", "complex64"), ("int16", "float32"),
)  # fmt: skip
COMPILED = {"auto": 7, "direct": 3, "winograd": 7, "fft": 7}
"""{algorithm: n}: one in n jobs is done, because kernels take long to compile."""

BUFFERS = Buffers()
ODD = [kind for kind in KINDS if kind not in ("c", "overlapping")]


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


@cache
def known(case, which, pair, layout):
    """Return (function, operands, other arguments, exact result)."""
    first, second = (dtype(name) for name in pair)
    kinds = {"forward": (first, second, first), "input_grad": (first, second, first),
             "filter_grad": (first, first, second)}[which]  # fmt: skip
    shapes = (CASES[case].x_shape, CASES[case].f_shape, CASES[case].y_shape)
    names = ["int8" if k.name == "bfloat16" else k.name for k in kinds]
    arrays = [integer_data(s, n, i) for i, (s, n) in enumerate(zip(shapes, names, strict=True))]
    for role, array in enumerate(
        arrays
    ):  # values are equal along the last axis, which may be broadcast
        arrays[role] = np.ascontiguousarray(np.broadcast_to(array[..., :1], array.shape))
    exact = [a.astype("complex128" if a.dtype.kind == "c" else "int64") for a in arrays]
    function, _, (left, right) = operands(which, CASES[case], *exact)
    wanted = oracle.FAST[which](left, right, CASES[case])
    given = [a.astype(k) for a, k in zip(arrays, kinds, strict=True)]
    _, args, _ = operands(which, CASES[case], *given)
    roles = {"forward": "xf", "input_grad": "yf", "filter_grad": "xy"}[which]
    result = {"forward": "y", "input_grad": "x", "filter_grad": "f"}[which]
    given, more = list(args[:2]), args[2:]
    if layout == "channels_first":
        wanted = channels_first(wanted, result)
        given = [channels_first(a, role) for a, role in zip(given, roles, strict=True)]
    last = [1 if layout == "channels_first" and role != "f" else a.ndim - 1
            for a, role in zip(given, roles, strict=True)]  # fmt: skip
    if layout == "channels_first" and "f" in roles:
        last[roles.index("f")] = 0
    return function, given, more, wanted, last


def refuses(function, given, more, algorithm, keywords):
    """True if the algorithm refuses the job, by name."""
    try:
        function(*given, *more, algorithm=algorithm, **keywords)
    except ValueError as error:
        if algorithm not in PARTIAL or f"algorithm={algorithm!r} cannot do this" not in str(error):
            raise
        return True
    return False


def called(function, given, more, keywords, kinds, last, swapped):
    """Call with operands in these kinds of memory; the last kind is that of `out`, or None."""
    placed = [
        place(BUFFERS, a, Memory(kind, seed, bool(seed % 2), swapped), (axis,))
        for seed, (a, kind, axis) in enumerate(zip(given, kinds, last, strict=False), 3)
    ]
    found = function(*(p.array for p in placed), *more, **keywords)
    assert not any(p.changed() for p in placed), "an input, or memory beside it, was written"
    return found


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("algorithm", EVERY)
def test_any_memory_of_any_operand(algorithm, which, layout):
    jobs = list(product(CASES, PAIRS))
    for case, pair in jobs[:: COMPILED.get(algorithm, 1)]:
        function, given, more, wanted, last = known(case, which, pair, layout)
        keywords = {"layout": layout, **CASES[case].explicit}
        if refuses(function, given, more, algorithm, keywords):
            continue
        keywords["algorithm"] = algorithm
        ways = [(kind, "c") for kind in ODD] + [("c", kind) for kind in ODD]
        ways += [(kind, kind) for kind in ODD]
        for kinds, swapped in product(ways, (False, True)):
            found = called(function, given, more, keywords, kinds, last, swapped)
            text = (case, pair, kinds, swapped)
            compare(found, wanted, algorithm, text)
        for kind in FOR_RESULTS:
            start = np.full(wanted.shape, 0, found.dtype)
            out = place(BUFFERS, start, Memory(kind, 5, True))
            function(*given, *more, out=out.array, **keywords)
            compare(out.array, wanted, algorithm, (case, pair, "out", kind))
            out.array[...] = start
            assert not out.changed(), (case, pair, "out", kind)


def compare(found, wanted, algorithm, text):
    name = found.dtype.name
    if name in ("bfloat16", "float16"):  # both can hold the integers of these sums
        name = "float32"
    try:
        agrees(found.astype(name), wanted.astype(name), name, algorithm)
    except AssertionError as error:
        raise AssertionError(f"{text}: {error}") from None


REAL = np.ones((1, 5, 7, 7), "f4")
COMPLEX = np.ones((4, 5, 3, 3), "c8")


@pytest.mark.parametrize("algorithm", ["auto", "direct"])
def test_real_beside_complex_with_channels_first(algorithm):
    """A conversion keeps the memory order, in which channels are not contiguous, and must be
    copied."""
    keywords = {"layout": "channels_first", "algorithm": algorithm, "accuracy": "elementwise"}
    np.testing.assert_array_equal(es.conv(REAL, COMPLEX, **keywords), np.full((1, 4, 5, 5), 45))
    gy = np.ones((1, 4, 5, 5), "f4")
    inner = es.conv_input_grad(gy, COMPLEX, (7, 7), **keywords)[0, 0, 2:5, 2:5]
    np.testing.assert_array_equal(inner, np.full((3, 3), 36))
    inner = es.conv_transpose(gy, COMPLEX, **keywords)[0, 0, 2:5, 2:5]
    np.testing.assert_array_equal(inner, np.full((3, 3), 36))
    gf = es.conv_filter_grad(REAL, gy.astype("c8"), (3, 3), **keywords)
    np.testing.assert_array_equal(gf, np.full((4, 5, 3, 3), 25))
    wide = np.broadcast_to(np.ones((1, 5, 5, 1), "f4"), (1, 5, 5, 4))
    f = np.ones((3, 3, 5, 4), "c8")
    inner = es.conv_input_grad(wide, f, (7, 7), algorithm=algorithm, accuracy="elementwise")
    np.testing.assert_array_equal(inner[0, 2:5, 2:5], np.full((3, 3, 5), 36))


@pytest.mark.parametrize("kind", ["f4", "f8", "u8"])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "gemm", "strided"])
def test_a_filter_that_is_a_field_of_packed_records(algorithm, kind):
    """A filter whose strides are no integer number of elements is read right."""
    rng = np.random.default_rng(0)
    records = np.zeros((3, 3, 4, 6), [("flag", "u1"), ("f", kind)])
    records["f"] = rng.integers(0, 5, records.shape)
    f, x = records["f"], rng.integers(0, 5, (2, 8, 9, 4)).astype(kind)
    packed = np.ascontiguousarray(f)
    np.testing.assert_array_equal(es.conv(x, f, algorithm=algorithm), es.conv(x, packed))
    gy = rng.integers(0, 5, (2, 6, 7, 6)).astype(kind)
    np.testing.assert_array_equal(
        es.conv_input_grad(gy, f, (8, 9), algorithm=algorithm),
        es.conv_input_grad(gy, packed, (8, 9)),
    )
