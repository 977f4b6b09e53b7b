"""A hard limit holds in random jobs of every pass, dtype and memory order, in first and later
calls.

`max_workspace` counts all bytes that a call allocates beyond its result, also cached tables. These
are measured in a first call, before which all caches are emptied.
"""

import re
import tracemalloc

import numpy as np
import pytest

import einstride as es
from checks import PYTHON_OVERHEAD
from einstride import _testing
from einstride.codegen import jit

KiB = 2**10
FIRST_CALL_OVERHEAD = 256 * KiB  # bytes of Python objects in a first call, some kept for later
PAIRS = [
    ("float32", "float32"), ("float64", "float64"), ("float16", "float16"),
    ("bfloat16", "bfloat16"), ("complex64", "complex64"), ("complex128", "complex128"),
    ("float32", "float64"), ("float16", "float32"), ("float32", "complex64"),
    ("complex128", "float32"), ("uint8", "float32"), ("int8", "int8"), ("uint8", "int8"),
    ("int16", "int32"), ("bool", "int64"),
]  # fmt: skip
ALGORITHMS = {
    "direct dense": ("direct", ("dense",)),
    "direct channelwise": ("direct", ("channelwise",)),
    "direct grouped": ("direct", ("dense", "channelwise", "grouped")),
    "direct few": ("direct", ("dense", "channelwise", "few")),
    "direct": ("direct", ("dense", "channelwise", "grouped", "few")),
    "winograd": ("winograd", None),
    "fft": ("fft", None),
    "gemm": ("gemm", None),
    "strided": ("strided", None),
    "auto": ("auto", None),
}
"""{name of a case: (algorithm, engines that it may use; None: any)}."""


class PlannedError(Exception):
    """Stop a call after planning, before it computes."""


SLOW = ("fft", "gemm")
JOBS = {"fft": 2, "winograd": 3, "gemm": 4, "strided": 4, "auto": 4}
"""Number of random jobs of an algorithm, 8 for others: compiling the kernels of an FFT takes
seconds. With --all, twice as many."""

ONCE_EXCEEDED = {"fft": 3014814560001, "direct channelwise": 12083855810004,
                 "direct": 12083855810004, "strided": 12083855880003}  # fmt: skip
"""{name in `ALGORITHMS`: seed of a job that once took more than its limit, or was refused one}."""


def clear_caches():
    """Empty the caches for a first call, except compiled kernels, which are no tables."""
    _testing.clear_caches("results", "process")


def plan_only(call):
    """Plan a call without computing; plans are objects of Python, no arrays."""
    with (
        _testing.failing("run a plan", PlannedError, keep_caches=True),
        pytest.raises(PlannedError),
    ):
        call()


def peak_bytes(call, sufficient, prepare=None):
    """Return the peak bytes beyond the result: the least of three calls.

    Stops at the first call that takes at most `sufficient` bytes. In some calls
    Python enlarges an internal table by megabytes.
    """
    found = []
    for _ in range(3):
        if prepare is not None:
            prepare()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            result = call()
            found.append(tracemalloc.get_traced_memory()[1] - before - result.nbytes)
        finally:
            tracemalloc.stop()
        if found[-1] <= sufficient:
            break
    return min(found)


def random_array(rng, shape, dtype):
    """Return small integers in a random memory order."""
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    a = rng.integers(0, 3, shape).astype(dtype)
    kind = rng.integers(8)
    if kind == 0:  # gaps between channels
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), a.dtype)
        wide[..., ::2] = a
        return wide[..., ::2]
    if kind == 1:
        return np.asfortranarray(a)
    if kind == 2 and a.dtype.kind in "iuf" and a.dtype.itemsize > 1:
        return a.astype(a.dtype.newbyteorder())
    if kind == 3 and a.itemsize > 1:
        shifted = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(shape)
        shifted[...] = a
        return shifted
    if kind == 4:
        return np.flip(np.flip(a, 0).copy(), 0)
    return a


def random_job(rng):
    """Draw (function, arguments, keywords) of a call of at most a few million products."""
    rank = int(rng.integers(1, 4))
    groups, inner, outer = 1, int(rng.integers(1, 40)), int(rng.integers(1, 40))
    kind = rng.integers(4)
    if kind == 0:
        groups, inner, outer = int(rng.choice([8, 24, 33, 64])), 1, int(rng.choice([1, 1, 2, 3]))
    elif kind == 1:
        groups, inner, outer = int(rng.choice([2, 4, 9, 16])), *map(int, rng.integers(2, 9, 2))
    elif kind == 2:
        inner, outer = int(rng.integers(1, 5)), int(rng.integers(1, 40))
    channels, filters = groups * inner, groups * outer
    batch = int(rng.integers(1, 7))
    most_taps = {1: 12, 2: 6, 3: 4}[rank]
    kernel = tuple(int(n) for n in rng.integers(1, most_taps, rank))
    positions = max(3e5 / (batch * max(channels, filters)), 8)
    side = max(int(positions ** (1 / rank)), 2)
    stride = tuple(int(n) for n in rng.choice([1, 1, 2, 3], rank))
    dilation = tuple(int(n) for n in rng.choice([1, 1, 1, 2], rank))
    size = tuple(
        int(rng.integers(max(side * 2 // 3, 1), side + 2)) + d * (k - 1)
        for k, d in zip(kernel, dilation, strict=True)
    )
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2)))
    keywords = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    if rng.integers(5) == 0 and min(size) > 3:
        modes = ["reflect", "replicate", "circular", "symmetric"]
        keywords["padding_mode"] = str(rng.choice(modes))
    if rng.integers(6) == 0:
        keywords["input_dilation"] = tuple(int(n) for n in rng.integers(1, 3, rank))
    input_dilation = keywords.get("input_dilation", (1,) * rank)
    out = tuple(
        ((n - 1) * t + 1 + a + b - d * (k - 1) - 1) // s + 1
        for n, t, (a, b), d, k, s in zip(size, input_dilation, padding, dilation, kernel, stride,
                                         strict=True)
    )  # fmt: skip
    first, second = PAIRS[rng.integers(len(PAIRS))]
    x = random_array(rng, (batch, *size, channels), first)
    f = random_array(rng, (*kernel, inner, filters), second)
    gy = random_array(rng, (batch, *out, filters), first if rng.integers(2) else second)
    which = rng.integers(4)
    if which == 0:
        other = str(rng.choice([first, second, "float32" if second == "float64" else "int8"]))
        bias = random_array(rng, (filters,), other) if rng.integers(2) else None
        return es.conv, (x, f, bias), keywords
    if which == 1:
        return es.conv_input_grad, (gy, f, size), keywords
    keywords["per_example"] = bool(which == 2)
    return es.conv_filter_grad, (x, gy, kernel), keywords


ROLES = {es.conv: "xf", es.conv_input_grad: "yf", es.conv_filter_grad: "xy"}
"""{function: roles of its first two arguments}."""


def with_layout(rng, function, args, keywords):
    """Return the call in channels_last, channels_first or a random layout."""
    kind, spatial = rng.integers(4), "UVW"[: len(keywords["stride"])]
    if kind < 2:
        return args
    last = {"x": f"N{spatial}C", "f": f"{spatial}IO", "y": f"N{spatial}C"}
    parts = {"x": f"NC{spatial}", "f": f"OI{spatial}", "y": f"NC{spatial}"}
    keywords["layout"] = "channels_first"
    if kind == 3:
        parts = {role: "".join(rng.permutation([*part])) for role, part in last.items()}
        at = iter(spatial)  # spatial axes of x have the order of stride, padding and sizes
        parts["x"] = "".join(c if c in "NC" else next(at) for c in parts["x"])
        keywords["layout"] = "{x},{f}->{y}".format(**parts)
    moved = [
        a.transpose([last[role].index(c) for c in parts[role]])
        for role, a in zip(ROLES[function], args, strict=False)
    ]
    if rng.integers(4):
        moved = [np.ascontiguousarray(a) for a in moved]
    return (*moved, *args[2:])


def least_limit(call):
    """Return the least `max_workspace`, from the refusal of zero; 0 if zero is accepted."""
    try:
        call(max_workspace=0)
    except ValueError as error:
        found = re.search(r"pass max_workspace=(\d+) bytes", str(error))
        return int(found[1]) if found else None
    return 0


def check(seed, algorithm):
    """Check the limits of the job of a seed; return None if the algorithm refuses the job."""
    rng = np.random.default_rng(seed)
    function, args, keywords = random_job(rng)
    args = with_layout(rng, function, args, keywords)
    if algorithm == "auto":  # excludes FFTs, which have jobs of their own
        keywords["accuracy"] = "elementwise"

    def call(**limits):
        return function(*args, algorithm=algorithm, **keywords, **limits)

    least = least_limit(call)
    if least is None:
        return None  # the algorithm refuses the job
    text = f"seed {seed}: {function.__name__}, {[getattr(a, 'shape', a) for a in args]}, "
    text += f"{[str(a.dtype) for a in args if hasattr(a, 'dtype')]}, {keywords}"
    if least:
        with pytest.raises(ValueError, match="max_workspace"):
            call(max_workspace=least - 1)
    larger = least + int(rng.integers(1, 1 << 20))
    # With the least workspace, blocks are so small that some algorithms take seconds.
    for limit in (larger,) if algorithm in SLOW else (least, larger):

        def limited_call():
            return call(max_workspace=limit)  # noqa: B023

        def plan_with_empty_caches():
            clear_caches()
            plan_only(limited_call)

        limited_call()  # kernels are compiled
        first = peak_bytes(limited_call, limit + FIRST_CALL_OVERHEAD, plan_with_empty_caches)
        assert first <= limit + FIRST_CALL_OVERHEAD, f"first call: {first} > {limit}; {text}"
        later = peak_bytes(limited_call, limit + PYTHON_OVERHEAD)
        assert later <= limit + PYTHON_OVERHEAD, f"{later} > {limit}; {text}"
    return True


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_hard_limit_holds_for_any_job(name, full_length):
    algorithm, engines = ALGORITHMS[name]
    if engines is not None and not jit.available():
        pytest.skip("no compiler")
    number = list(ALGORITHMS).index(name)
    wanted, checked = JOBS.get(name, 8) * (2 if full_length else 1), 0
    first = 10_000 * number
    with _testing.use(engine=engines):
        if name in ONCE_EXCEEDED:
            assert check(ONCE_EXCEEDED[name], algorithm), "the job is refused"
        for seed in range(first, first + 20 * wanted):
            checked += bool(check(seed, algorithm))
            if checked == wanted:
                break
    clear_caches()
    assert checked == wanted


def test_per_example_gradients_of_few_channels_count_their_sums():
    """Partial sums of every example count, and their sum, once 20 to 45% more than predicted."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (10, 11, 11, 7, 128)).astype("f4")
    gy = rng.integers(0, 3, (10, 11, 11, 7, 256)).astype("f4")
    keywords = {"padding": ((3, 3), (1, 1), (2, 2)), "groups": 128, "per_example": True}

    def call(**limits):
        return es.conv_filter_grad(x, gy, (7, 3, 5), algorithm="direct", **keywords, **limits)

    least = least_limit(call)
    result = call(max_workspace=least)
    assert peak_bytes(lambda: call(max_workspace=least), least) <= least + PYTHON_OVERHEAD
    one = es.conv_filter_grad(x[3:4], gy[3:4], (7, 3, 5), algorithm="strided",
                              **{**keywords, "per_example": False})  # fmt: skip
    np.testing.assert_array_equal(result[3], one)
