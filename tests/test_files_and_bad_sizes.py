"""Arrays in files are read and written by blocks; absurd sizes are refused with a sentence."""

import tracemalloc

import numpy as np
import pytest

import einstride as es
from checks import refused
from test_workspace import MiB, peak

LENGTH = 6 * MiB  # of float32: 24 MiB, of which the file holds the pages that were written
MODES = ("zeros", "reflect", "replicate", "circular", "symmetric")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a sparse array in a file, opened read-only, and one for results."""
    folder = tmp_path_factory.mktemp("sparse")
    for name in ("x", "y"):
        with (folder / name).open("wb") as file:
            file.truncate(4 * LENGTH)
    written = np.memmap(folder / "x", "float32", "r+", shape=(LENGTH,))
    written[[0, 3, LENGTH // 2, LENGTH - 2, LENGTH - 1]] = [3, 1, 5, 2, 7]
    written.flush()
    return (
        np.memmap(folder / "x", "float32", "r", shape=(1, LENGTH, 1)),
        np.memmap(folder / "y", "float32", "r+", shape=(1, LENGTH, 1)),
    )


def padded(x, start, stop, mode):
    """Return the elements of x, with its border, at the positions [start, stop)."""
    at, n = np.arange(start, stop), len(x)
    if mode == "zeros":
        return np.where((at >= 0) & (at < n), x[at.clip(0, n - 1)], 0)
    outside = {
        "reflect": np.where(at < 0, -at, 2 * (n - 1) - at),
        "symmetric": np.where(at < 0, -1 - at, 2 * n - 1 - at),
        "replicate": at.clip(0, n - 1),
        "circular": at % n,
    }[mode]
    return x[np.where((at < 0) | (at >= n), outside, at)]


def nothing(call):
    """Return a function that calls another one and returns an array without bytes."""

    def called():
        call()
        return np.empty(0)

    return called


@pytest.mark.parametrize(
    ("which", "taps"), [("forward", 3), ("forward", 255), ("filter_grad", 255)]
)
@pytest.mark.parametrize("mode", MODES)
def test_no_array_in_a_file_is_copied(files, mode, which, taps):
    """The workspace stays below a third of the file, and both ends are right."""
    pytest.importorskip("llvmlite")
    x, y = files
    keywords = {"padding": taps // 2, "padding_mode": mode}
    if which == "filter_grad":
        plan = es.plan(x, x, direction="filter_grad", kernel_size=taps, **keywords)
        _, used = peak(es.conv_filter_grad, x, x, taps, **keywords)
    else:
        f = np.arange(1, taps + 1, dtype="float32").reshape(-1, 1, 1)
        plan = es.plan(x, f, **keywords)
        _, used = peak(nothing(lambda: es.conv(x, f, out=y, **keywords)))
        for start in (0, LENGTH // 2 - 300, LENGTH - 600):
            part = padded(x[0, :, 0], start - taps // 2, start + 600 + taps // 2, mode)
            right = np.correlate(part, f[:, 0, 0], "valid")
            np.testing.assert_allclose(y[0, start : start + 600, 0], right, rtol=0, atol=0.05)
    assert used <= plan.workspace + MiB // 4
    assert used < x.nbytes // 3


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("algorithm", ["auto", "gemm"])
def test_the_border_of_an_input_gradient_is_folded_in_place(algorithm, mode):
    """Of the gradient with its border there is one copy, and the prediction says so."""
    gy, f = np.ones((1, 600, 500, 4), "float32"), np.ones((5, 5, 4, 4), "float32")
    keywords = {"padding": 2, "padding_mode": mode, "algorithm": algorithm}
    plan = es.plan(gy, f, direction="input_grad", input_size=(600, 500), **keywords)
    _, used = peak(es.conv_input_grad, gy, f, (600, 500), **keywords)
    wide = 604 * 504 * 4 * 4
    assert wide <= used <= plan.workspace + MiB // 8
    assert plan.workspace < 1.25 * wide + 5 * MiB  # `gemm` has blocks of 4 MiB
    assert used < 1.1 * wide + 5 * MiB


@pytest.mark.parametrize("n", [2**27, 2 * 10**9, 10**12])
def test_a_long_filter_is_transformed_at_any_length(n):
    """A plan of 48,000 taps takes transforms, not sums: beyond 2**26 samples it once took sums."""
    shapes = (1, n, 1), (48_000, 1, 1)
    es.plan((1, 10**6, 1), (48_000, 1, 1))  # imports
    tracemalloc.start()
    try:
        plans = [
            es.plan(*shapes),
            es.plan(*shapes, padding="same", padding_mode="reflect"),
            es.plan(*shapes, direction="input_grad", input_size=n + 47_999),
        ]
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [p.algorithm for p in plans] == ["fft"] * 3
    assert max(p.workspace for p in plans) < 64 * MiB
    assert taken < MiB


@pytest.mark.parametrize("algorithm", ["auto", "direct", "gemm", "fft", "winograd", "strided"])
def test_a_file_that_is_read_only_takes_no_result(tmp_path, algorithm):
    path = tmp_path / "y"
    np.full(100, 7, "float32").tofile(path)
    out = np.memmap(path, "float32", "r", shape=(1, 100, 1))
    x, f = np.ones((1, 100, 1), "float32"), np.ones((3, 1, 1), "float32")
    with refused("conv", ValueError, "out must be writeable"):
        es.conv(x, f, padding=1, algorithm=algorithm, out=out)
    with refused("conv_input_grad", ValueError, "out must be writeable"):
        es.conv_input_grad(x, f, 100, padding=1, algorithm=algorithm, out=out)
    assert (np.fromfile(path, "float32") == 7).all()


HUGE = 2**62


@pytest.mark.parametrize(
    ("name", "says", "call"),
    [
        (
            "conv",
            "larger than the padded input",
            lambda x, f, out: es.conv(x, np.ones((300, 1, 1), "f4"), padding=1, out=out),
        ),
        ("conv", "2**58", lambda x, f, out: es.conv(x, f, padding=HUGE, out=out)),
        (
            "conv",
            "larger than the padded input",
            lambda x, f, out: es.conv(x, f, dilation=HUGE, out=out),
        ),
        ("conv", "2**58", lambda x, f, out: es.conv(x, f, input_dilation=HUGE, out=out)),
        (
            "conv_transpose",
            "2**58",
            lambda x, f, out: es.conv_transpose(x, f, stride=HUGE, out=out),
        ),
        ("conv_input_grad", "2**58", lambda x, f, out: es.conv_input_grad(x, f, HUGE, out=out)),
        (
            "conv_filter_grad",
            "larger than the padded input",
            lambda x, f, out: es.conv_filter_grad(x, x, HUGE),
        ),
        ("plan", "2**58", lambda x, f, out: es.plan((HUGE, 8, 1), (3, 1, 1))),
        ("plan", "2**58", lambda x, f, out: es.plan((1, 8, HUGE), (3, HUGE, 1))),
    ],
)
def test_absurd_sizes_are_refused(name, says, call):
    """A sentence says which size is wrong, and nothing is written."""
    x, f, out = np.ones((1, 100, 1), "f4"), np.ones((3, 1, 1), "f4"), np.full((1, 100, 1), 7, "f4")
    with refused(name, ValueError, says):
        call(x, f, out)
    assert (out == 7).all()
