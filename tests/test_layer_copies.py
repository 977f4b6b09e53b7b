"""A layer computes with its filter at the time of the call, after copies and writes too."""

import copy
import pickle

import numpy as np
import pytest

import einstride as es
from checks import same
from einstride import _testing
from einstride.dispatch.filter_cache import MOST_JOBS, Prepared

FULL = {1: 576.0, 3: 1728.0}  # result for a filter of this value: nine taps of sixty-four channels
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "pickle 0": lambda layer: pickle.loads(pickle.dumps(layer, 0)),
    "of a copy": lambda layer: copy.deepcopy(pickle.loads(pickle.dumps(copy.copy(layer)))),
}


def used_layer(**keywords):
    """Return (layer, x) after enough calls to fill the caches of the layer."""
    layer = es.Conv(np.ones((3, 3, 64, 64), "f4"), np.zeros(64, "f4"), padding=1, **keywords)
    x = np.ones((2, 12, 12, 64), "f4")
    for _ in range(3):
        assert round(float(layer.forward(x)[0, 5, 5, 5]), 2) == FULL[1]
    layer.backward(x)
    return layer, x


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "fft", "gemm"])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_has_a_filter_of_its_own(how, algorithm):
    layer, x = used_layer(algorithm=algorithm)
    other = COPIES[how](layer)
    same(other.f, layer.f)
    same(other(x), layer(x))
    assert not np.shares_memory(other.f, layer.f)
    other.f = np.full((3, 3, 64, 64), 3, "f4")
    np.testing.assert_allclose(other(x)[0, 5, 5, 5], FULL[3], rtol=1e-6)
    np.testing.assert_allclose(other.backward(x, x).gx[0, 5, 5, 5], FULL[3], rtol=1e-6)
    np.testing.assert_allclose(layer(x)[0, 5, 5, 5], FULL[1], rtol=1e-6)


def writers():
    """Return {name: function that tries to write the memory of an array} with plain Python."""

    def flag(f):
        f.flags.writeable = True
        f[...] = 3

    def setflags(f):
        f.setflags(write=True)
        f[...] = 3

    def base(f):
        while isinstance(f.base, np.ndarray):
            f = f.base
        flag(f)

    def buffer(f):
        memoryview(f).cast("B")[:4] = b"1234"

    def bytes_behind(f):
        f.base[:4] = b"1234"

    def copied(f):
        np.copyto(f, 3)

    def out(f):
        np.add(f, 1, out=f)

    return {w.__name__: w for w in (flag, setflags, base, buffer, bytes_behind, copied, out)}


@pytest.mark.parametrize("how", ["the layer", *COPIES])
@pytest.mark.parametrize("writer", writers())
def test_nobody_writes_the_filter(writer, how):
    layer, x = used_layer()
    layer = COPIES.get(how, lambda layer: layer)(layer)
    layer(x)
    early = layer.f[...]
    for f in (layer.f, early, layer.f.view(), layer.f[::-1], np.asarray(layer.f), layer.bias):
        with pytest.raises((ValueError, TypeError, AttributeError, BufferError)):
            writers()[writer](f)
    assert layer(x)[0, 5, 5, 5] == FULL[1]
    assert layer(x).max() == FULL[1]


def test_an_array_that_is_given_out_is_not_the_layers():
    """Changes that NumPy allows on read-only arrays (strides, dtype, data) leave the layer
    alone."""
    layer, x = used_layer()
    y = layer(x)
    layer.f.shape = (9, 64, 64)
    layer.f.dtype = ">f4"
    f = layer.f
    f.__setstate__((1, f.shape, np.dtype("f4"), False, np.full(f.shape, 3, "f4").tobytes()))
    same(layer(x), y)
    assert layer.f.shape == (3, 3, 64, 64)


def test_a_pickle_is_as_large_as_its_arrays():
    layer = es.Conv(np.ones((3, 3, 8, 8), "f4"), padding=1)
    plain = len(pickle.dumps(layer))
    x = np.ones((4, 128, 128, 8), "f4")  # 2 MiB
    layer.forward(x)
    layer.backward(x)
    for kept in (layer, copy.deepcopy(layer), copy.copy(layer)):
        assert len(pickle.dumps(kept)) <= plain
    assert plain < 2 * layer.f.nbytes + 1000


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_remembers_no_input(how):
    layer, x = used_layer()
    with pytest.raises(ValueError, match="forward"):
        COPIES[how](layer).backward(x)
    layer.backward(x)


class Named(es.Conv):
    """A layer with an additional attribute."""

    def __init__(self, name, *args, **keywords):
        super().__init__(*args, **keywords)
        self.name = [name]


@pytest.mark.parametrize("how", COPIES)
def test_a_subclass_keeps_what_it_adds(how):
    layer = Named("one", np.ones((3, 2, 4)), np.arange(4.0), stride=2)
    other = COPIES[how](layer)
    assert type(other) is Named
    assert other.name == ["one"]
    x = np.arange(14.0).reshape(1, 7, 2)
    same(other(x), layer(x))
    same(other.bias, layer.bias)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", ">f4", "complex64", "int8", "bool"])
@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 1, 5), (3, 0, 4)])
def test_any_filter_keeps_its_memory_order(dtype, shape):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    f = np.arange(np.prod(shape)).reshape(shape).astype(bfloat16 if dtype == "bfloat16" else dtype)
    for given in (f, np.asfortranarray(f), f[::-1], f.swapaxes(0, -1)[..., :1].swapaxes(0, -1)):
        layer = es.Conv(given)
        assert layer.f.dtype == f.dtype
        np.testing.assert_array_equal(layer.f, given)
        assert layer.f.strides == np.array(given, order="K", copy=True).strides or {0, 1} & {*shape}


def test_written_filters_of_other_libraries_are_seen(backend):
    """Nothing that is derived from a writeable filter is cached."""
    x, f = backend.asarray(np.ones((1, 8, 8, 16), "f4")), np.ones((3, 3, 16, 16), "f4")
    layer = es.Conv(backend.asarray(f))
    for _ in range(3):
        layer(x)
    try:
        layer.f[...] = 3
        value = 3
    except (ValueError, TypeError):
        value = 1
    assert (backend.asnumpy(layer(x)) == value * 144).all()
    other = copy.deepcopy(layer)
    other.f = backend.asarray(5 * f)
    assert (backend.asnumpy(other(x)) == 5 * 144).all()
    assert (backend.asnumpy(layer(x)) == value * 144).all()


class Meeting:
    """Stand in for a job as a key: each look-up calls `then`, as another thread might."""

    def __init__(self, number, then=None):
        self.number, self.then = number, then

    def __hash__(self):
        then, self.then = self.then, None
        if then is not None:
            then()
            self.then = then
        return hash(self.number)

    def __eq__(self, other):
        return self.number == other.number


def test_transforms_may_be_given_up_while_they_are_looked_up():
    """A transform may be dropped between its look-up and its use, which once raised `KeyError`."""
    made = []
    kept = Prepared()

    def others():
        made.append(kept.of("direct", None, Meeting(len(made) + 10), None))

    with _testing.replacing("prepare a filter", lambda real, f, job, b: job.number):
        for _ in range(3):
            assert kept.of("direct", None, Meeting(1), None) == 1
            for _ in range(2 * MOST_JOBS):
                assert kept.of("direct", None, Meeting(1, others), None) == 1
    assert len(kept._kept) <= MOST_JOBS
    assert len(made) >= 6 * MOST_JOBS
    assert not pickle.loads(pickle.dumps(kept))._kept
