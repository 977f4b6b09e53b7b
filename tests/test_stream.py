"""Compare signals that arrive in blocks with `conv` of the whole."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import einstride as es
from strategies import integer_data, seeds

RNG = np.random.default_rng(0)
PADS = ("causal", "valid", "full", 0, 2, ((3, 1),), ((1, 3),), ((-2, 0),), ((-1, -3),), ((9, 9),))
LENGTHS = (0, 1, 2, 5, 5, 5, 11, 40)


def blocks(seed: int, n: int, lengths: tuple[int, ...] = LENGTHS) -> list[tuple[int, int]]:
    """Cut n samples into random blocks, with some of length 0 and some of equal lengths."""
    rng, found, start = np.random.default_rng(seed), [], 0
    while start < n:
        length = int(rng.choice(lengths))
        found.append((start, min(start + length, n)))
        start += length
    return found


def streamed(stream: es.Stream, x: Any, cuts: list[tuple[int, int]], axis: int = 1) -> Any:
    """Push x in blocks, and join all outputs."""
    before = (slice(None),) * axis
    parts = [stream.push(x[(*before, slice(*cut))]) for cut in cuts]
    return np.concatenate([*parts, stream.flush()], axis=axis)


@settings(max_examples=15)
@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.sampled_from(PADS),
    st.sampled_from((1, 2)), st.booleans(), seeds,
)  # fmt: skip
def test_blocks_have_the_bits_of_the_whole(taps, stride, dilation, padding, groups, flip, seed):
    pytest.importorskip("llvmlite", reason="the order of sums is that of compiled kernels")
    rng = np.random.default_rng(seed)
    x, f = rng.standard_normal((2, 60, 4)), rng.standard_normal((taps, 4 // groups, 6))
    bias = rng.standard_normal(6) if flip else None
    keywords = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups,
                "flip": flip, "accuracy": "elementwise"}  # fmt: skip
    whole = es.conv(x, f, bias, **keywords)
    found = streamed(es.Stream(f, bias, **keywords), x, blocks(seed, 60))
    assert found.tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("taps", "stride"), [(4, 1), (2, 5), (2, 13)], ids=["overlap", "gaps", "wide gaps"]
)
def test_equal_blocks_between_others(taps, stride):
    """A block of another length comes between equal ones, and samples between windows are skipped,
    whether they end a block or begin one."""
    x, f = integer_data((1, 60, 2), "float64", 3), integer_data((taps, 2, 3), "float64", 4)
    ends = np.cumsum([5, 5, 5, 3, 5, 5, 5, 2, 1, 5, 5, 5, 4, 5])
    cuts = list(zip([0, *ends[:-1]], ends, strict=True))
    found = streamed(es.Stream(f, stride=stride), x, cuts)
    np.testing.assert_array_equal(found, es.conv(x, f, stride=stride, padding="causal"))


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "complex64"])
def test_dtypes(dtype):
    seed = 1
    x, f = integer_data((1, 40, 2), dtype, seed), integer_data((5, 2, 3), dtype, seed + 1)
    found = streamed(es.Stream(f), x, blocks(seed, 40))
    whole = es.conv(x, f, padding="causal")
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(("axis", "layout"), [(0, "channels_last"), (1, "channels_first"),
                                              (1, "NCXYZ,OIXYZ->NXYCZ")])  # fmt: skip
def test_stacks_of_images_and_other_axes(axis, layout):
    """Three axes, of which one is streamed; the others keep their strides and borders."""
    x, f = RNG.standard_normal((2, 9, 12, 7, 2)), RNG.standard_normal((3, 2, 3, 2, 4))
    out = 1
    if layout != "channels_last":
        x, f = np.moveaxis(x, -1, 1), np.moveaxis(f, (-1, -2), (0, 1))
        out = {"channels_first": 3, "NCXYZ,OIXYZ->NXYCZ": 2}[layout]
    place = axis + 1 + (layout != "channels_last")
    keywords = {"stride": (1, 2, 1), "padding": ((1, 1), (0, 3), "same"), "layout": layout,
                "accuracy": "elementwise"}  # fmt: skip
    whole = es.conv(x, f, **keywords)
    stream = es.Stream(f, axis=axis, **keywords)
    parts = np.array_split(x, 5, axis=place)
    found = np.concatenate([*map(stream.push, parts), stream.flush()], axis=out)
    np.testing.assert_array_equal(found, whole)


def test_outputs_come_as_soon_as_their_windows_are_complete():
    stream = es.Stream(np.ones((5, 1, 1)), padding=((2, 2),))
    shapes = [stream.push(np.ones((1, n, 1))).shape[1] for n in (1, 1, 1, 4)]
    assert shapes == [0, 0, 1, 4]
    assert stream.flush().shape[1] == 2


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@settings(max_examples=10)
@given(seeds, st.integers(1, 700), st.sampled_from(("causal", "same", ((3, 200),), ((-5, -9),),
                                                    ((900, 0),))))  # fmt: skip
def test_partitions_against_sums(dtype, seed, taps, padding):
    """In the frequency domain: any lengths of blocks, within the bound of rounding."""
    rng = np.random.default_rng(taps)
    x, f = rng.standard_normal((2, 800, 2)), rng.standard_normal((taps, 1, 4))
    if dtype.startswith("complex"):
        x, f = x + 1j * x[::-1], f - 1j * f[::-1]
    x, f = x.astype(dtype), f.astype(dtype)
    assume(es.output_size((800,), (taps,), padding=padding) != (0,))
    cuts = blocks(seed, 800, (0, 1, 7, 128, 200, 300))
    stream = es.Stream(f, padding=padding, groups=2, flip=True, algorithm="fft")
    found = streamed(stream, x, cuts)
    whole = es.conv(x, f, padding=padding, groups=2, flip=True)
    assert (found.dtype, found.shape) == (whole.dtype, whole.shape)
    size = np.linalg.norm(f) * np.abs(x).max()
    limit = 40 * np.finfo(dtype).eps * size * max(np.sqrt(taps), 4)
    assert np.abs(found - whole).max(initial=0) <= limit


def test_long_filters_are_partitioned():
    f = np.ones((1024, 1, 1))
    assert es.Stream(f)._partitioned
    assert not es.Stream(f[:1023])._partitioned
    assert not es.Stream(f, accuracy="elementwise")._partitioned
    assert not es.Stream(f, stride=2)._partitioned


@pytest.mark.parametrize("taps", [31, 2000])
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_go_on_by_themselves(way, taps):
    f, x = RNG.standard_normal((taps, 1, 2)), RNG.standard_normal((1, 3000, 1))
    stream = es.Stream(f, np.ones(2))
    for i in range(0, 1500, 128):
        stream.push(x[:, i : i + 128])
    other = way(stream)
    other.push(RNG.standard_normal((1, 300, 1)))
    other = way(stream)
    rest = x[:, 1536:]
    np.testing.assert_array_equal(stream.push(rest), other.push(rest))


def test_the_state_is_small():
    stream = es.Stream(np.ones((31, 1, 1)))
    for _ in range(4):
        stream.push(np.ones((1, 100_000, 1)))
    assert len(pickle.dumps(stream)) < 3000


def test_reset_and_flush_begin_another_signal():
    x, f = RNG.standard_normal((1, 50, 1)), RNG.standard_normal((7, 1, 1))
    stream = es.Stream(f, padding="full")
    for _ in range(2):
        found = np.concatenate([stream.push(x), stream.flush()], axis=1)
        np.testing.assert_array_equal(found, es.conv(x, f, padding="full"))
    stream.push(x)
    stream.reset()
    np.testing.assert_array_equal(stream.push(x), es.conv(x, f, padding="causal"))
    stream.reset()
    assert stream.push(np.ones((4, 5, 1), "float32")).shape == (4, 5, 1)


def test_blocks_and_outputs_are_nobody_elses():
    f = np.ones((3, 1, 1))
    stream = es.Stream(f)
    f[:] = 9
    block = np.ones((1, 4, 1))
    first = [stream.push(block) for _ in range(6)]
    kept = [y.copy() for y in first]
    block[:] = 5
    stream.push(block)
    for y, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(y, before)
    assert (first[-1] == 3).all()
    assert (block == 5).all()


def test_a_repeated_block_takes_little_time():
    """The bound is far above the time on an idle machine, and far below that of a new plan."""
    stream, block = es.Stream(np.ones((31, 1, 1), "f4")), np.ones((1, 128, 1), "f4")
    for _ in range(4):
        stream.push(block)
    assert stream._ready is not None
    seconds = []
    for _ in range(20):
        start = time.process_time()
        for _ in range(200):
            stream.push(block)
        seconds.append((time.process_time() - start) / 200)
    assert min(seconds) < 40e-6


def test_on_cupy(gpu):
    x, f = RNG.standard_normal((2, 60, 3)), RNG.standard_normal((5, 3, 4))
    cuts = [(0, 10), (10, 20), (20, 30), (30, 40), (40, 41), (41, 60)]
    for taps, algorithm in ((f, "auto"), (np.tile(f, (40, 1, 1)), "fft")):
        stream = es.Stream(gpu.asarray(taps), algorithm=algorithm)
        parts = [stream.push(gpu.asarray(x[:, a:b])) for a, b in cuts]
        assert all(isinstance(y, gpu.array_type) for y in parts)
        found = np.concatenate([gpu.asnumpy(y) for y in parts], axis=1)
        np.testing.assert_allclose(found, es.conv(x, taps, padding="causal"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"axis": 1}, r"Stream: axis must lie in \[0, 1\); got 1; "),
        ({"stride": 2, "padding": "same"}, 'Stream: padding "same" needs the length of the whole'),
        ({"algorithm": "fft", "stride": 2}, 'Stream: algorithm="fft" needs one spatial axis'),
        ({"algorithm": "fft", "accuracy": "elementwise"}, 'Stream: algorithm="fft" needs one'),
        ({"groups": 2}, "Stream: "),
    ],
)
def test_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        es.Stream(np.ones((3, 1, 1)), **keywords)


def test_blocks_that_do_not_fit_are_refused():
    stream = es.Stream(np.ones((3, 2, 1)))
    with pytest.raises(ValueError, match=r"Stream.flush: there is no signal; got no block; "):
        stream.flush()
    with pytest.raises(ValueError, match=r"Stream.push: a block needs 3 axes; got \(4, 2\); "):
        stream.push(np.ones((4, 2)))
    stream.push(np.ones((1, 4, 2)))
    for block in (np.ones((2, 4, 2)), np.ones((1, 4, 2), "f4")):
        with pytest.raises(ValueError, match=r"Stream.push: all blocks of a signal must have one"):
            stream.push(block)
    with pytest.raises(TypeError, match=r"Stream.push: block must be a plain array"):
        stream.push([[1.0, 2.0]])
    assert stream.push(np.ones((1, 4, 2))).shape == (1, 4, 1)  # a refused block leaves no trace


def test_other_libraries_are_refused():
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="Stream: f must be an array of NumPy or CuPy; "):
        es.Stream(xp.ones((3, 1, 1)))
