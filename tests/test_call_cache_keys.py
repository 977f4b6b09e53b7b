"""Keys of the call cache: another layout, dtype, memory order or setting is another key."""

from __future__ import annotations

import os

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import einstride as es
from einstride.dispatch import call_cache
from test_repeated import CASES, cached_calls, empty_call_cache, numbers, passes, uncached

__all__ = ["empty_call_cache"]


def stored_otherwise(x):
    """Return {name: array with the values of x, stored in another way}."""
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    odd[...] = x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return {
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
        "reversed axis": np.flip(np.ascontiguousarray(np.flip(x, x.ndim // 2)), x.ndim // 2),
        "fortran": np.asfortranarray(x),
        "spaced": wide[..., ::2],
        "misaligned": odd,
        "swapped": x.astype(x.dtype.newbyteorder()),
        "read-only": np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
        "double": x.astype("float64"),
    }


@pytest.mark.parametrize("which", ["x", "f", "bias", "gy"])
@pytest.mark.parametrize("case", ["image", "padded", "dense"])
def test_how_an_array_is_stored_is_part_of_the_key(case, which):
    x_shape, f_shape, keywords = CASES[case]
    every = passes(x_shape, f_shape, keywords)
    for name, position in {
        "x": (("forward", 0), ("filter_grad", 0)), "f": (("forward", 1), ("input_grad", 1)),
        "bias": (("bias", 2),), "gy": (("input_grad", 0), ("filter_grad", 1)),
    }[which]:  # fmt: skip
        function, arrays, more = every[name]
        expected = uncached(function, *arrays, **more)
        for way, array in stored_otherwise(arrays[position]).items():
            changed = (*arrays[:position], array, *arrays[position + 1 :])
            call_cache.CACHE.clear()
            for _ in range(3):
                function(*arrays, **more)
            for _ in range(3):
                assert np.array_equal(function(*changed, **more), expected), (name, way)
                assert np.array_equal(function(*arrays, **more), expected), (name, way)


@pytest.mark.parametrize("position", [0, 1])
def test_alignment_is_part_of_the_key(position):
    arrays = [numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))]
    before = cached_calls(*arrays)
    arrays[position] = stored_otherwise(arrays[position])["misaligned"]
    assert cached_calls(*arrays) == before + 1


def test_shapes_of_one_size_have_different_keys():
    for shape in ((1, 6, 8, 2), (3, 6, 8, 2), (1, 8, 6, 2), (2, 6, 4, 2), (1, 4, 12, 2)):
        x, f = numbers(shape), numbers((3, 3, 2, 4))
        for _ in range(3):
            assert es.conv(x, f).shape == (shape[0], shape[1] - 2, shape[2] - 2, 4)
        assert np.array_equal(es.conv(x, f), uncached(es.conv, x, f))


CHANGES = [
    ("stride", 2), ("stride", (1, 2)), ("padding", 1), ("padding", "full"), ("dilation", 2),
    ("input_dilation", 2), ("groups", 2), ("padding_mode", "circular"), ("fill", 2.5),
    ("flip", True),
    ("layout", "NWHC,HWIO->NHWC"), ("accumulate", "float64"), ("batch_invariant", True),
    ("algorithm", "strided"), ("accuracy", "elementwise"), ("max_workspace", 1 << 20),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_every_keyword_is_part_of_the_key(name, value):
    x, f = numbers((2, 8, 8, 2)), numbers((3, 3, 1 if name == "groups" else 2, 4))
    plain = {"padding": 1} if name in ("padding_mode", "fill") else {}
    plain |= {"padding_mode": "constant"} if name == "fill" else {}
    before = cached_calls(x, numbers((3, 3, 2, 4)), **plain)
    expected = uncached(es.conv, x, f, **plain, **{name: value})
    for _ in range(3):
        assert np.array_equal(es.conv(x, f, **plain, **{name: value}), expected)
    assert len(call_cache.CACHE) == before + 1


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"stride": 1}, {"stride": True}),
        ({"stride": 1}, {"stride": 1.0}),
        ({"stride": (1, 1)}, {"stride": (1, True)}),
        ({"stride": (1, 1)}, {"stride": (1.0, 1)}),
        ({"padding": ((1, 1), (0, 1))}, {"padding": ((1, 1), (0, True))}),
        ({"padding": 1}, {"padding": True}),
        ({"groups": 1}, {"groups": True}),
        ({"flip": False}, {"flip": 0}),
        ({"batch_invariant": False}, {"batch_invariant": 0}),
        ({"max_workspace": 1 << 20}, {"max_workspace": float(1 << 20)}),
        ({"algorithm": "auto"}, {"algorithm": np.str_("auto")}),
    ],
)
def test_values_that_are_equal_and_not_the_same(good, bad):
    x, f = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))
    with pytest.raises(TypeError) as first:
        es.conv(x, f, **bad)
    cached_calls(x, f, **good)
    for _ in range(3):
        with pytest.raises(TypeError) as again:
            es.conv(x, f, **bad)
        assert str(again.value) == str(first.value)


def test_an_object_that_changes_its_mind():
    class Stride:
        now = 1

        def __index__(self):
            return self.now

    x, f, stride = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4)), Stride()
    for now in (1, 2, 3):
        stride.now = now
        for _ in range(3):
            assert np.array_equal(es.conv(x, f, stride=stride), es.conv(x, f, stride=now))


def test_sizes_are_part_of_the_key():
    gy, f = numbers((1, 4, 4, 4)), numbers((3, 3, 3, 4))
    for size in (9, 10, (9, 10), (10, 9)):
        wanted = (size, size) if isinstance(size, int) else size
        for _ in range(3):
            found = es.conv_input_grad(gy, f, size, stride=2)
            assert found.shape == (1, *wanted, 3)
            assert np.array_equal(found, uncached(es.conv_input_grad, gy, f, size, stride=2))


def test_errors_are_the_same_each_time():
    x, f = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))
    cached_calls(x, f)
    for _ in range(3):
        es.conv(x, f, f[0, 0, 0])
    for arrays, more in (
        ((x, f[:, :, :2]), {}), ((x, f), {"stride": 0}), ((x, f), {"padding": "some"}),
        ((x, f, f[0, 0, 0, :2]), {}), ((x, f), {"max_workspace": -1}), ((x[:, :2], f), {}),
        ((x.tolist(), f), {}), ((x, f.tolist()), {}), ((x, f, [0, 0, 0, 0]), {}),
        ((x, f), {"stride": [1, "2"]}), ((x.astype(object), f), {}),
    ):  # fmt: skip
        texts = set()
        for _ in range(4):
            with pytest.raises((ValueError, TypeError)) as error:
                es.conv(*arrays, **more)
            texts.add(str(error.value))
        assert len(texts) == 1


def test_the_limit_of_threads_is_part_of_the_key():
    x, f = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))
    with threadpool_limits(1):
        before = cached_calls(x, f)
        expected = es.conv(x, f)
    with threadpool_limits(2):
        for _ in range(3):
            assert np.array_equal(es.conv(x, f), expected)
        assert es.plan(x, f)._decision.job.threads == min(2, os.cpu_count() or 1)
    assert len(call_cache.CACHE) == before + (os.cpu_count() != 1)
