"""max_workspace is never exceeded, measured by tracemalloc, which sees all allocations of NumPy."""

import re
import tracemalloc

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, PYTHON_OVERHEAD, agrees, operands, refused, same
from fuzz.allocator import Allocator
from oracle import Case
from strategies import arrays

KiB, MiB = 2**10, 2**20
RESNET = Case(8, (56, 56), (3, 3), 64, 64, (1, 1), ((1, 1), (1, 1)), (1, 1))  # im2col: 58 MiB
CASES = {
    "padded": Case(2, (28, 28), (3, 3), 32, 32, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "valid": Case(2, (30, 30), (3, 3), 32, 32, (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "strided": Case(2, (33, 32), (3, 3), 32, 24, (2, 2), ((0, 1), (1, 1)), (1, 1)),
    "dilated": Case(2, (28, 29), (3, 3), 16, 24, (1, 1), ((2, 2), (2, 2)), (2, 2)),
    "grouped": Case(2, (28, 29), (3, 3), 32, 32, (1, 1), ((1, 1), (1, 1)), (1, 1), groups=4),
    "line": Case(2, (3000,), (31,), 8, 8, (1,), ((15, 15),), (1,)),
}


def peak(function, *args, enough=-1, **keywords):
    """Return (result, peak bytes allocated beyond the result) of a call that is already planned.

    Takes the least of three calls, or of two that agree: in some calls Python enlarges its table of
    interned strings by megabytes, which are no arrays. A peak of at most `enough` bytes is taken
    at once.
    """
    function(*args, **keywords)
    found = []
    for _ in range(3):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            result = function(*args, **keywords)
            found.append(tracemalloc.get_traced_memory()[1] - before - result.nbytes)
        finally:
            tracemalloc.stop()
        agree = len(found) == 2 and abs(found[0] - found[1]) < KiB
        if agree or found[-1] <= enough:
            break
    return result, min(found)


@pytest.mark.parametrize("which", PASSES)
def test_default_workspace_is_small(which):
    """The default workspace is below 16 MiB, less than a full im2col matrix."""
    function, args, pair = operands(which, RESNET, *arrays(RESNET, "float32", 1))
    result, used = peak(function, *args, algorithm="gemm", **RESNET.explicit)
    assert used < 16 * MiB
    same(result, oracle.FAST[which](*pair, RESNET))


def least_limit(text):
    """Parse the least sufficient number of bytes from the remedy of an error."""
    found = re.search(r"(\d+) bytes", text.split("; ")[-1])
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("limit", [100_000, 300_001, MiB])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("algorithm", ["gemm", "direct", "fft", "winograd", "auto"])
def test_max_workspace_is_never_exceeded(algorithm, which, name, limit):
    case = CASES[name]
    function, args, pair = operands(which, case, *arrays(case, "float32", 2))
    keywords = {"algorithm": algorithm, **case.explicit}
    if algorithm == "auto":
        keywords["accuracy"] = "elementwise"  # all algorithms for it are exact on integer values
    if algorithm == "winograd" and name in ("strided", "line"):
        with refused(function.__name__, ValueError, "winograd: "):
            function(*args, max_workspace=limit, **keywords)
        return

    def measured(limit):
        enough = limit + PYTHON_OVERHEAD
        return peak(function, *args, enough=enough, max_workspace=limit, **keywords)

    try:
        result, used = measured(limit)
    except ValueError:
        with refused(function.__name__, ValueError, "max_workspace") as caught:
            function(*args, max_workspace=limit, **keywords)
        limit = least_limit(str(caught.value))
        result, used = measured(limit)
    assert used <= limit + PYTHON_OVERHEAD
    ran = "fft" if algorithm == "auto" else algorithm  # auto may choose fft, which rounds
    agrees(result, oracle.FAST[which](*pair, case), "float32", ran)


@pytest.mark.parametrize("which", PASSES)
def test_the_least_that_would_is_the_least(which):
    case = CASES["valid"]
    function, args, _ = operands(which, case, *arrays(case, "float32", 3))
    with refused(function.__name__, ValueError, "max_workspace") as caught:
        function(*args, algorithm="gemm", max_workspace=0, **case.explicit)
    limit = least_limit(str(caught.value))
    _, used = peak(function, *args, algorithm="gemm", max_workspace=limit, **case.explicit)
    assert used <= limit + PYTHON_OVERHEAD
    with refused(function.__name__, ValueError, "max_workspace"):
        function(*args, algorithm="gemm", max_workspace=limit - 1, **case.explicit)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_a_bias_of_complex128_takes_no_large_buffer(shift, layout):
    """NumPy's buffer of 128 KiB was not counted, nor one for numbers that are not aligned."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 3, (4, 1621, 4)).astype("c16")
    f = rng.integers(0, 3, (1, 4, 33)).astype("c16")
    bias = np.zeros(33 * 16 + 1, np.uint8)[shift:][: 33 * 16].view("c16")
    bias[...] = range(33)
    assert bias.flags.aligned == (shift == 0)
    right = es.conv(x, f, algorithm="strided") + np.arange(33)
    if layout == "channels_first":
        x, f, right = (np.moveaxis(a, -1, 1).copy() for a in (x, f.swapaxes(0, 2), right))
        f = f.reshape(33, 4, 1)
    keywords = {"algorithm": "strided", "layout": layout, "max_workspace": 0}
    result, used = peak(es.conv, x, f, bias, **keywords)
    assert used <= PYTHON_OVERHEAD
    same(result, right)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("algorithm", ["fft", "gemm"])
def test_the_least_of_a_long_line_is_the_least(algorithm, which):
    """Larger blocks fill any limit: the search once ended at twenty times the least limit."""
    case = Case(29, (3663,), (11,), 1, 2, (2,), ((1, 2),), (2,))
    function, args, _ = operands(which, case, *arrays(case, "complex128", 1))
    keywords = {"algorithm": algorithm, **case.explicit}
    if which == "filter_grad":
        keywords["per_example"] = True
    with pytest.raises(ValueError, match="max_workspace=0") as error:
        function(*args, max_workspace=0, **keywords)
    found = least_limit(str(error.value))
    function(*args, max_workspace=found, **keywords)
    for less in (found - 1, found // 2):
        with pytest.raises(ValueError, match=f"max_workspace={less}"):
            function(*args, max_workspace=less, **keywords)


def test_zero_is_legal():
    """max_workspace=0 is accepted by algorithms without workspace: a view and einsum, no
    padding."""
    case = Case(2, (12, 12), (3, 3), 8, 8, (1, 1), ((0, 0), (0, 0)), (1, 1))
    x, f, _ = arrays(case, "float32", 4)
    for algorithm in ("auto", "strided"):
        result, used = peak(es.conv, x, f, algorithm=algorithm, max_workspace=0)
        assert used <= PYTHON_OVERHEAD
        same(result, oracle.fast_forward(x, f, case))


def test_the_block_size_never_changes_the_result():
    """The block size changes results by rounding at most, since BLAS may sum in another order."""
    rng = np.random.default_rng(0)
    x, f = rng.normal(size=(4, 40, 41, 16)), rng.normal(size=(3, 3, 16, 24))
    reference = es.conv(x, f, padding=1, algorithm="strided")
    for limit in (256 * KiB, 700_000, 3 * MiB, 64 * MiB):
        y = es.conv(x, f, padding=1, algorithm="gemm", max_workspace=limit)
        np.testing.assert_allclose(y, reference, rtol=0, atol=1e-11)


def test_nothing_is_kept():
    x, f, _ = arrays(RESNET, "float32", 5)
    es.conv(x, f, padding=1)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            es.conv(x, f, padding=1)
        assert tracemalloc.get_traced_memory()[0] - before < 1 * MiB
    finally:
        tracemalloc.stop()


def peak_array_bytes(call):
    """Return the most bytes of NumPy's arrays, with the result, that are allocated at once in a
    call."""
    pytest.importorskip("llvmlite")
    allocator = Allocator()
    for _ in range(3):  # the first two calls make tables and kernels
        allocator.restart()
        with allocator.in_use():
            call()
    return allocator.peak


def test_an_integer_bias_copies_no_result():
    """A bias is added without a copy, which NumPy makes if elements might share memory."""
    x, f, bias = np.ones((5, 20, 3, 5), int), np.ones((3, 3, 5, 27), int), np.ones(27, int)
    shape, strides = (5, 19, 5, 27), (20688, 1088, 216, 8)
    out = np.lib.stride_tricks.as_strided(np.zeros(20_000, int), shape, strides)
    for algorithm in ("direct", "gemm"):
        keywords = {"padding": ((-1, 2), (3, 1)), "algorithm": algorithm, "out": out}
        with pytest.raises(ValueError, match="max_workspace") as caught:
            es.conv(x, f, bias, max_workspace=0, **keywords)
        limit = least_limit(str(caught.value))
        taken = peak_array_bytes(
            lambda k=keywords, r=limit: es.conv(x, f, bias, max_workspace=r, **k)
        )
        assert taken <= limit + 8192
        np.testing.assert_array_equal(out, es.conv(x, f, bias, **{**keywords, "out": None}))


@pytest.mark.parametrize("filters", [133, 20_000])
@pytest.mark.parametrize(
    ("dtype", "other"),
    [("complex128", "float32"), ("float64", "float32"), ("float32", "int8"), (">f4", "int16")],
)
def test_a_bias_of_another_dtype_is_not_copied(dtype, other, filters):
    x, f = np.ones((2, 3, 1), dtype), np.ones((1, 1, filters), dtype)
    bias = (np.arange(filters) % 100).astype(other)
    y = es.conv(x, f, bias, algorithm="strided")
    assert (y == 1 + bias.astype(dtype)).all()

    def call(*bias):
        return es.conv(x, f, *bias, algorithm="strided", max_workspace=0)

    assert peak_array_bytes(lambda: call(bias)) - peak_array_bytes(call) <= 1024
    assert peak(call, bias)[1] - peak(call)[1] <= 16 * KiB


BIASES = {
    "wider sums": ("float32", "float32", "float64"),
    "narrower bias": ("float64", "float32", None),
    "real bias": ("complex128", "float32", None),
    "half": ("float16", "float16", None),
    "gaps": ("float32", "float32", None),
}


@pytest.mark.parametrize("which", BIASES)
@pytest.mark.parametrize("algorithm", ["gemm", "direct", "winograd", "fft"])
def test_a_copy_of_the_bias_counts(algorithm, which):
    """Every algorithm but `strided` converts the bias to the dtype of its sums."""
    dtype, other, accumulate = BIASES[which]
    filters = 600 if algorithm == "fft" else 20_000
    x, f = np.ones((2, 5, 1), dtype), np.ones((3, 1, filters), dtype)
    bias = (np.arange(2 * filters) % 100).astype(other)
    bias = bias[::2] if which == "gaps" else bias[:filters]
    keywords = {"algorithm": algorithm, "accumulate": accumulate}
    with pytest.raises(ValueError, match="max_workspace") as caught:
        es.conv(x, f, bias, max_workspace=0, **keywords)
    limit = least_limit(str(caught.value))
    y = es.conv(x, f, bias, max_workspace=limit, **keywords)
    np.testing.assert_allclose(y, np.broadcast_to(3 + bias.astype(dtype), y.shape), rtol=1e-5)
    taken = peak_array_bytes(lambda: es.conv(x, f, bias, max_workspace=limit, **keywords))
    assert taken - y.nbytes <= limit + 8192


@pytest.mark.parametrize("groups", [1, 2])
def test_a_filter_is_copied_once(groups):
    """A filter is converted and brought into matrix order in one copy."""
    gy, f = np.ones((1, 1, 1, 12), "f4"), np.ones((2, 3, 36, 12), ">f4")
    keywords = {"padding": "causal", "output_size": (1, 1), "groups": groups, "algorithm": "gemm"}
    with pytest.raises(ValueError, match="max_workspace") as caught:
        es.conv_transpose(gy, f, max_workspace=0, **keywords)
    limit = least_limit(str(caught.value))
    taken = peak_array_bytes(lambda: es.conv_transpose(gy, f, max_workspace=limit, **keywords))
    assert taken <= limit + 36 * groups * 4 + 8192


@pytest.mark.parametrize("algorithm", ["direct", "fft", "winograd"])
def test_a_layer_keeps_nothing_beyond_its_max_workspace(algorithm):
    """With a limit, a layer does not keep prepared filters, which no call would count."""
    pytest.importorskip("llvmlite")
    x, f = np.ones((1, 12, 12, 32), "f4"), np.ones((3, 3, 32, 48), "f4")
    with pytest.raises(ValueError, match="max_workspace") as caught:
        es.Conv(f, algorithm=algorithm, max_workspace=0)(x)
    limit = least_limit(str(caught.value))
    layer = es.Conv(f, algorithm=algorithm, max_workspace=limit)
    layer(x)  # compiles kernels
    allocator, result = Allocator(), 10 * 10 * 48 * 4
    layer = es.Conv(f, algorithm=algorithm, max_workspace=limit)
    with allocator.in_use():
        for _ in range(4):
            allocator.restart()
            layer(x)
            assert allocator.peak <= limit + result + 8192


@pytest.mark.parametrize(("dtype", "groups"), [("complex128", 1), ("float64", 2), ("complex64", 2)])
def test_phases_count_copies_of_the_whole_filter(dtype, groups):
    """Every phase of an input gradient counts the copy of the full filter."""
    gy = np.ones((1, 1, 1, 2, 64 * groups), "float32")
    f = np.ones((3, 2, 3, 12, 64 * groups), dtype)
    keywords = {"stride": (3, 2, 3), "groups": groups, "algorithm": "direct"}
    with pytest.raises(ValueError, match="max_workspace") as caught:
        es.conv_input_grad(gy, f, (3, 2, 7), max_workspace=0, **keywords)
    limit = least_limit(str(caught.value))
    taken = peak_array_bytes(
        lambda: es.conv_input_grad(gy, f, (3, 2, 7), max_workspace=limit, **keywords)
    )
    result = 3 * 2 * 7 * 12 * groups * max(np.dtype(dtype).itemsize, 4)
    assert taken <= limit + result + 8192


def test_a_plan_of_halves_counts_their_conversion():
    """The kernels of Winograd's algorithm read and write float32."""
    gy, f = np.ones((2, 9, 5, 1), "f2"), np.ones((1, 2, 41, 1), "f2")
    p = es.plan(gy, f, direction="input_grad", input_size=(9, 6), algorithm="winograd")
    taken = peak_array_bytes(lambda: es.conv_input_grad(gy, f, (9, 6), algorithm="winograd"))
    assert taken <= p.workspace + 2 * 9 * 6 * 41 * 2 + 4096


@pytest.mark.parametrize("algorithm", ["auto", "direct", "gemm", "fft"])
@pytest.mark.parametrize(("dtype", "groups"), [("complex128", 1), ("float64", 2)])
def test_a_filter_of_which_no_tap_is_read_is_not_copied(dtype, groups, algorithm):
    """No tap is read where the input gradient is zero, so that the filter is not copied."""
    gy = np.ones((1, 1, 1, 16 * groups), "float32")
    f = np.ones((3, 2, 16, 16 * groups), dtype)
    keywords = {"stride": (1, 2), "dilation": (1, 2), "padding": "same_lower", "groups": groups}
    keywords["algorithm"] = algorithm
    limit = 0
    try:
        es.conv_input_grad(gy, f, (1, 1), max_workspace=0, **keywords)
    except ValueError as error:
        limit = least_limit(str(error))
    taken = peak_array_bytes(
        lambda: es.conv_input_grad(gy, f, (1, 1), max_workspace=limit, **keywords)
    )
    assert taken <= limit + 2048
    assert not es.conv_input_grad(gy, f, (1, 1), **keywords).any()


@pytest.mark.parametrize("extra", [0, 1 << 12, 1 << 16, 1 << 18, 1 << 22])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("which", ["forward", "input_grad"])
@pytest.mark.parametrize(("channels", "filters"), [(3, 40), (20, 20)])
def test_no_array_is_copied_beyond_the_limit(
    which, channels, filters, kernel, stride, layout, extra
):
    """Jobs whose last axis becomes channels copy arrays with gaps only within the limit."""
    x = np.ones((1, 40, 40, channels), "float32")
    f = np.ones((kernel, kernel, channels, filters), "float32")
    if layout == "channels_first":
        x, f = np.ascontiguousarray(np.moveaxis(x, -1, 1)), f.transpose(3, 2, 0, 1).copy()
    keywords = {"stride": stride, "layout": layout, "algorithm": "direct"}
    y = es.conv(x, f, **keywords)

    def call(limit):
        if which == "forward":
            return es.conv(x, f, max_workspace=limit, **keywords)
        return es.conv_input_grad(y, f, (40, 40), max_workspace=limit, **keywords)

    with pytest.raises(ValueError, match="max_workspace") as caught:
        call(0)
    limit = least_limit(str(caught.value)) + extra
    result = y.nbytes if which == "forward" else x.nbytes
    assert peak_array_bytes(lambda: call(limit)) <= limit + result + 4096


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_complex_gradients_count_their_conjugates(per_example, flip):
    x, gy = np.ones((5, 9, 9, 40), "complex128"), np.ones((5, 6, 6, 60), "complex128")
    keywords = {"per_example": per_example, "algorithm": "strided", "flip": flip}
    with pytest.raises(ValueError, match="max_workspace") as caught:
        es.conv_filter_grad(x, gy, (4, 4), max_workspace=0, **keywords)
    limit = least_limit(str(caught.value))
    taken = peak_array_bytes(
        lambda: es.conv_filter_grad(x, gy, (4, 4), max_workspace=limit, **keywords)
    )
    result = es.conv_filter_grad(x, gy, (4, 4), **keywords).nbytes
    assert taken <= limit + result + 8192


def test_a_bias_is_added_to_a_small_result_in_place():
    """A bias is added to a small result with gaps without the copy that NumPy would make."""
    x, f, bias = np.ones((1, 8, 9, 3, 5)), np.ones((2, 3, 2, 5, 10)), np.ones(10)
    strides = (4624, 920, 184, 80, 8)
    out = np.lib.stride_tricks.as_strided(np.zeros(600), (1, 5, 5, 2, 10), strides)
    keywords = {"dilation": (3, 2, 1), "max_workspace": 0, "out": out}
    assert peak_array_bytes(lambda: es.conv(x, f, bias, **keywords)) <= 2048
    assert (out == 61).all()


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("name", ["float32", "float16"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("mode", ["circular", "replicate", "reflect"])
@pytest.mark.parametrize("pads", [((-2, -2), (0, -1)), ((2, 1), (-3, -2)), ((-3, 0), (1, 2))])
def test_gradients_of_cropped_borders_are_counted(pads, mode, dilation, name, placed):
    """With negative padding, folding the border enlarges the input gradient axis by axis:
    counted."""
    x, f = np.ones((1, 24, 28, 11), name), np.ones((3, 3, 11, 1), name)
    keywords = {"padding": pads, "padding_mode": mode, "input_dilation": dilation}
    gy = es.conv(x, f, **keywords)
    keywords |= {"algorithm": "gemm", "out": np.empty_like(x) if placed else None}

    def call(limit):
        return es.conv_input_grad(gy, f, (24, 28), max_workspace=limit, **keywords)

    with pytest.raises(ValueError, match="max_workspace") as caught:
        call(0)
    limit = least_limit(str(caught.value))
    assert peak_array_bytes(lambda: call(limit)) <= limit + (0 if placed else x.nbytes) + 2048


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("mode", ["zeros", "circular", "replicate", "reflect"])
@pytest.mark.parametrize(("dilation", "name"), [(1, "float32"), (2, "float32"), (1, "complex64")])
def test_borders_of_tiles_are_counted(dilation, name, mode, which):
    """Winograd in array code, as for small groups, copies the border to one buffer, and counts
    it."""
    x, f, gy = np.ones((1, 288, 16), name), np.ones((2, 8, 8), name), None
    keywords = {"padding": dilation, "groups": 2, "padding_mode": mode, "dilation": dilation}
    gy = es.conv(x, f, **keywords)
    keywords["algorithm"] = "winograd"
    arguments = {
        "forward": (es.conv, (x, f), {}),
        "input_grad": (es.conv_input_grad, (gy, f, 288), {"input_size": (288,)}),
        "filter_grad": (es.conv_filter_grad, (x, gy, 2), {"kernel_size": (2,)}),
    }
    function, operands, sizes = arguments[which]
    p = es.plan(*operands[:2], direction=which, **sizes, **keywords)
    result = function(*operands, **keywords)
    taken = peak_array_bytes(lambda: function(*operands, **keywords))
    assert taken <= p.workspace + result.nbytes + 2048


@pytest.mark.parametrize("groups", [1, 25])
@pytest.mark.parametrize("name", ["float32", "int8"])
def test_phases_of_a_repeated_call_share_their_memory(name, groups):
    """All phases of a repeated input gradient are one compiled program, and share their memory."""
    gy = np.ones((2, 1, 1, 65 if groups == 1 else 25), name)
    f = np.ones((3, 2, 25 // groups, gy.shape[-1]), name)
    keywords = {"stride": (3, 2), "groups": groups, "algorithm": "direct"}
    p = es.plan(gy, f, direction="input_grad", input_size=(3, 3), **keywords)
    result = es.conv_input_grad(gy, f, (3, 3), **keywords)
    taken = peak_array_bytes(lambda: es.conv_input_grad(gy, f, (3, 3), **keywords))
    assert taken <= p.workspace + result.nbytes + 2048


@pytest.mark.parametrize("algorithm", ["strided", "gemm", "direct", "auto"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("pads", "kernel", "stride"),
    [((-1, 1), 1, 1), ((3, -3), 1, 1), ((5, -1), 3, 1), ((-1, 5), 3, 1), ((0, -9), 2, 9)],
)
def test_a_border_that_keeps_the_size_is_counted(pads, kernel, stride, which, algorithm):
    """A padded copy counts, even if cropping at the other end restores the size."""
    x, f = np.ones((1, 280, 19), "float32"), np.ones((kernel, 19, 17), "float32")
    keywords = {"padding": (pads,), "stride": stride}
    gy = es.conv(x, f, **keywords)
    keywords["algorithm"] = algorithm
    function, operands = {
        "forward": (es.conv, (x, f)),
        "input_grad": (es.conv_input_grad, (gy, f, 280)),
        "filter_grad": (es.conv_filter_grad, (x, gy, kernel)),
    }[which]
    limit = 0
    try:
        function(*operands, max_workspace=0, **keywords)
    except ValueError as error:
        limit = least_limit(str(error))
    result = function(*operands, **keywords)
    taken = peak_array_bytes(lambda: function(*operands, max_workspace=limit, **keywords))
    assert taken <= limit + result.nbytes + 2048
