"""The memory order of inputs never changes the result, and inputs are never written."""

import numpy as np
import pytest

import einstride as es
from checks import EVERY, PASSES, agrees, is_unsupported, operands, refused, same
from oracle import Case
from strategies import arrays, integer_data

CASE = Case(3, (8, 6), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 2)), (1, 2), groups=2)


def reversed_axes(a):
    return np.ascontiguousarray(a[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1]


def every_other(a):
    wide = np.full([2 * n for n in a.shape], np.nan if a.dtype.kind in "fc" else 99, a.dtype)
    wide[::2, ::2, ::2, ::2] = a
    return wide[::2, ::2, ::2, ::2]


def transposed(a):
    return np.ascontiguousarray(a.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2)


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, "u1")
    out = raw[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    assert not out.flags.aligned or a.dtype.itemsize == 1
    return out


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


VIEWS = {
    "fortran": np.asfortranarray,
    "reversed": reversed_axes,
    "every other": every_other,
    "transposed": transposed,
    "unaligned": unaligned,
    "read-only": read_only,
}


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_any_memory_gives_the_result_of_a_copy(which, algorithm, view, dtype):
    contiguous = arrays(CASE, dtype, 1)
    odd = [VIEWS[view](a) for a in contiguous]
    function, args, _ = operands(which, CASE, *contiguous)
    keywords = {"algorithm": algorithm, **CASE.explicit}
    if is_unsupported(lambda: function(*args, **keywords), algorithm, dtype):
        return
    expected = function(*args, **keywords)
    function, args, _ = operands(which, CASE, *odd)
    agrees(np.asarray(function(*args, **keywords)), expected, algorithm=algorithm)
    for array, before in zip(odd, contiguous, strict=True):
        np.testing.assert_array_equal(array, before)


def test_memory_mapped_from_a_file(tmp_path):
    x, f, _ = arrays(CASE, "float32", 1)
    mapped = np.memmap(tmp_path / "x", x.dtype, "w+", shape=x.shape)
    mapped[...] = x
    same(np.asarray(es.conv(mapped, f, **CASE.explicit)), es.conv(x, f, **CASE.explicit))


def test_a_subclass_is_right_or_refused():
    """A subclass, whose elements may have another meaning, gives the plain result or a
    TypeError."""

    class Named(np.ndarray):
        pass

    x, f, _ = arrays(CASE, "float64", 1)
    try:
        y = es.conv(x.view(Named), f, **CASE.explicit)
    except TypeError:
        with refused("conv", TypeError):
            es.conv(x.view(Named), f, **CASE.explicit)
    else:
        same(np.asarray(y), es.conv(x, f, **CASE.explicit))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_broadcast(which, algorithm, axis):
    """Operands may have a stride of zero along any axis."""
    full = arrays(CASE, "float64", 2)
    odd = [np.broadcast_to(a.take([0], axis), a.shape) for a in full]
    keywords = {"algorithm": algorithm, **CASE.explicit}
    function, args, _ = operands(which, CASE, *(a.copy() for a in odd))
    if is_unsupported(lambda: function(*args, **keywords), algorithm, "float64"):
        return
    expected = function(*args, **keywords)
    function, args, _ = operands(which, CASE, *odd)
    same(function(*args, **keywords), expected)


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_overlapping(which, algorithm):
    """Operands may be views whose elements overlap in memory, as sliding windows do."""
    base = integer_data((400,), "float64", 3)

    def overlapping(a):
        strides = [8 * step for step in (5, 3, 2, 1)]
        return np.lib.stride_tricks.as_strided(base, a.shape, strides, writeable=False)

    odd = [overlapping(a) for a in arrays(CASE, "float64", 3)]
    keywords = {"algorithm": algorithm, **CASE.explicit}
    function, args, _ = operands(which, CASE, *(a.copy() for a in odd))
    if is_unsupported(lambda: function(*args, **keywords), algorithm, "float64"):
        return
    expected = function(*args, **keywords)
    function, args, _ = operands(which, CASE, *odd)
    same(function(*args, **keywords), expected)
    same(base, integer_data((400,), "float64", 3))


@pytest.mark.parametrize("algorithm", EVERY)
def test_the_same_array_twice(algorithm):
    a = integer_data((3, 3, 3), "float64", 4)
    same(es.conv(a, a, algorithm=algorithm), es.conv(a.copy(), a.copy(), algorithm=algorithm))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32"])
def test_swapped_bytes_are_right_or_refused(dtype):
    """Swapped bytes give the result of a native copy, or a TypeError that says what to do."""
    x, f, _ = arrays(CASE, dtype, 5)
    expected = es.conv(x, f, **CASE.explicit)
    swapped = x.astype(x.dtype.newbyteorder())
    assert not swapped.dtype.isnative
    try:
        y = es.conv(swapped, f, **CASE.explicit)
    except TypeError:
        with refused("conv", TypeError):
            es.conv(swapped, f, **CASE.explicit)
    else:
        same(y, expected)


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_the_result_is_ours_alone(which, algorithm):
    """A result is writeable and shares no memory with an input, also for a filter of 1x1."""
    case = Case(1, (4,), (1,), 1, 1, (1,), ((0, 0),), (1,))
    x, f, gy = np.ones(case.x_shape), np.ones(case.f_shape), np.ones(case.y_shape)
    function, args, pair = operands(which, case, x, f, gy)
    if is_unsupported(lambda: function(*args, algorithm=algorithm), algorithm, "float64"):
        return
    result = function(*args, algorithm=algorithm)
    assert result.flags.writeable
    assert not any(np.shares_memory(result, a) for a in pair)
    result[...] = 5
    assert all((a == 1).all() for a in (x, f, gy))


@pytest.mark.parametrize("which", PASSES)
def test_deterministic(which):
    """Repeated calls have the same bits, whatever the contents of other memory."""
    rng = np.random.default_rng(0)
    case = Case(4, (40, 41), (3, 3), 16, 24, (1, 1), ((1, 1), (1, 1)), (1, 1))
    x, f, gy = (
        rng.normal(size=s).astype("float32") for s in (case.x_shape, case.f_shape, case.y_shape)
    )
    function, args, _ = operands(which, case, x, f, gy)
    first = function(*args, padding=1)
    for _ in range(4):
        garbage = [np.full(2**k, np.nan, "float32") for k in range(8, 20)]
        del garbage
        same(function(*args, padding=1), first)
