"""Every padding mode equals `numpy.pad` before the convolution, and its gradients are adjoints.

The loops compute without padding: forward and filter gradient get an input that NumPy has padded
and cropped, and the input gradient is added up through a padded array of indices.
"""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import EVERY, PASSES, agrees, operands, promoted, refused, result_unless_refused, same
from einstride.geometry.padding_modes import OTHER_NAMES
from oracle import Case, span
from strategies import DTYPES, arrays, cases, integer_data, seeds

NUMPY_NAMES = {
    "zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap",
    "symmetric": "symmetric", "constant": "constant",
}  # fmt: skip
WIDEST = {
    "zeros": lambda n: 4,
    "reflect": lambda n: n - 1,
    "replicate": lambda n: 4,
    "circular": lambda n: n,
    "symmetric": lambda n: n,
    "constant": lambda n: 4,
}
FEW = settings(max_examples=20)


@st.composite
def bordered(draw):
    """Draw a case with any modes, and pads from a crop to the widest that its mode allows."""
    case = draw(cases(max_rank=4, padded=False))
    rank = len(case.input_size)
    one = st.sampled_from(list(WIDEST))
    mode = draw(one | st.tuples(*[one] * rank))
    pads = []
    modes = (mode,) * rank if isinstance(mode, str) else mode
    for n, k, d, mode_of_axis in zip(
        case.input_size, case.kernel_size, case.dilation, modes, strict=True
    ):
        low, high = (draw(st.integers(-1, WIDEST[mode_of_axis](n))) for _ in range(2))
        missing = span(k, d) - n - low - high
        pads.append((low - min(low, 0), high - min(high, 0)) if missing > 0 else (low, high))
    return replace(case, pads=tuple(pads), mode=mode, fill=draw(st.integers(0, 3)), keywords={})


def padded(a, case, first=1, constants=None):
    """Pad the spatial axes, from axis `first` on, by NumPy, one after another; then crop."""
    modes = (case.mode,) * len(case.pads) if isinstance(case.mode, str) else case.mode
    constants = {"zeros": 0, "constant": case.fill} if constants is None else constants
    for axis, (mode, (low, high)) in enumerate(zip(modes, case.pads, strict=True), start=first):
        ends = [(0, 0)] * a.ndim
        ends[axis] = max(low, 0), max(high, 0)
        keywords = {"constant_values": constants[mode]} if mode in constants else {}
        a = np.pad(a, ends, NUMPY_NAMES[mode], **keywords)
    sizes = a.shape[first : first + len(case.pads)]
    cut = [slice(max(-p, 0), n - max(-q, 0)) for (p, q), n in zip(case.pads, sizes, strict=True)]
    return a[(*[slice(None)] * first, *cut)]


def expected(which, case, x, f, gy):
    """Compute the pass by the loops on an input that is already padded."""
    wide = padded(x, case)
    inner = replace(
        case, input_size=wide.shape[1:-1], pads=((0, 0),) * len(case.pads), mode="zeros"
    )
    if which == "forward":
        return oracle.forward(wide, f, inner)
    if which == "filter_grad":
        return oracle.filter_grad(wide, gy, inner)
    numbers = np.arange(prod(case.input_size)).reshape(case.input_size)
    came_from = padded(numbers, case, first=0, constants={"zeros": -1, "constant": -1})
    gx = np.zeros((case.batch, prod(case.input_size), case.channels), object)
    wide = oracle.input_grad(gy, f, inner)
    for position, source in np.ndenumerate(came_from):
        if source >= 0:
            gx[:, source] += wide[(slice(None), *position)]
    return gx.reshape(case.x_shape)


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
@FEW
@given(case=bordered(), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_every_mode_dtype_and_rank(backend, which, algorithm, case, dtype, seed):
    if not backend.supports(dtype):
        dtype = "float32"
    if dtype == "bool":
        case = replace(case, fill=min(case.fill, 1))
    x, f, gy = arrays(case, dtype, seed)
    function, args, _ = operands(which, case, x, f, gy)
    keywords = case.explicit | {"algorithm": algorithm}
    result = result_unless_refused(lambda: backend(function, *args, **keywords), algorithm, dtype)
    if result is not None:
        agrees(result, expected(which, case, x, f, gy), promoted(dtype, dtype), algorithm)


@pytest.mark.parametrize(
    ("mode", "numpys"),
    [("symmetric", "symmetric"), ("reflect", "reflect"), ("replicate", "edge"),
     ("circular", "wrap")],
)  # fmt: skip
def test_a_border_is_that_of_numpy(mode, numpys):
    x, f = np.arange(6)[None, :, None], np.array([1, 10, 100])[:, None, None]
    wide = np.pad(x, ((0, 0), (3, 4), (0, 0)), mode=numpys)
    found = es.conv(x, f, padding=((3, 4),), padding_mode=mode)
    np.testing.assert_array_equal(found, es.conv(wide, f))


@pytest.mark.parametrize("mode", WIDEST)
@given(case=bordered(), seed=seeds)
def test_gradients_are_adjoint_to_the_forward_pass(backend, mode, case, seed):
    """<conv(x, f), gy> = <x, gx> = <f, gf>, exactly, in complex integers."""
    case = replace(case, mode=mode, fill=0)
    if any(max(p) > WIDEST[mode](n) for p, n in zip(case.pads, case.input_size, strict=True)):
        case = replace(case, mode="replicate")
    x, f, gy = arrays(case, "complex128", seed)
    energy = np.sum(backend(es.conv, x, f, **case.explicit) * gy.conj())
    gx = backend(es.conv_input_grad, gy, f, case.input_size, **case.explicit)
    gf = backend(es.conv_filter_grad, x, gy, case.kernel_size, **case.explicit)
    assert energy == np.sum(x * gx.conj()) == np.sum(f * gf.conj())


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("mode", ["reflect", "circular", "symmetric"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, 1])
def test_a_border_wider_than_the_axis_names_the_axis(which, mode, axis, side):
    size = (4, 5, 3)
    pads = [[0, 0], [0, 0], [0, 0]]
    pads[axis][side] = WIDEST[mode](size[axis]) + 1
    ones, frozen = (1, 1, 1), tuple(map(tuple, pads))
    case = Case(1, size, ones, 1, 1, ones, frozen, ones, mode=mode)
    function, args, _ = operands(which, case, *arrays(case, "float64", 1))
    with refused(function.__name__, ValueError, f"axis {axis}"):
        function(*args, **case.explicit)
    pads[axis][side] -= 1
    case = replace(case, pads=tuple(map(tuple, pads)))
    function, args, _ = operands(which, case, *arrays(case, "float64", 1))
    function(*args, **case.explicit)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "symmetric"])
def test_an_empty_axis_has_nothing_to_repeat(mode):
    x, f = np.ones((1, 4, 0, 1)), np.ones((1, 1, 1, 1))
    with refused("conv", ValueError, "axis 1"):
        es.conv(x, f, padding=((0, 0), (1, 0)), padding_mode=mode)


@pytest.mark.parametrize("mode", WIDEST)
@pytest.mark.parametrize(("first", "second"), [("uint8", "int8"), ("int16", "int16")])
def test_integers_at_their_extremes_are_exact(backend, mode, first, second):
    """Sums with the terms of a border are exact at the extremes of integers."""
    case = Case(1, (5, 4), (3, 3), 3, 2, (1, 2), ((3, 2), (1, 3)), (1, 1), mode=mode)
    low, high = np.iinfo(second).min, np.iinfo(first).max
    x, gy = (np.full(s, high, first) for s in (case.x_shape, case.y_shape))
    f = np.full(case.f_shape, low, second)
    for which in ("forward", "input_grad"):
        function, args, _ = operands(which, case, x, f, gy)
        result = backend(function, *args, **case.explicit)
        same(result, expected(which, case, x, f, gy), promoted(first, second))


def test_sums_over_a_border_never_wrap():
    """An input gradient that sums five copies of 2**61 is refused, though one would fit int64."""
    gy, f = np.full((1, 5, 1), 2**61), np.ones((1, 1, 1), "int64")
    with refused("conv_input_grad", ValueError, "int64"):
        es.conv_input_grad(gy, f, 1, padding=((4, 0),), padding_mode="replicate")
    gx = es.conv_input_grad(gy // 8, f, 1, padding=((4, 0),), padding_mode="replicate")
    assert gx.item() == 5 * 2**58


@pytest.mark.parametrize("mode", [m for m in WIDEST if m != "constant"])
@pytest.mark.parametrize("which", ["forward", "filter_grad"])
def test_a_border_is_no_second_input(mode, which):
    """Borders are padded block by block: a limit far below the size of x is enough."""
    case = Case(2, (64, 64), (3, 3), 16, 16, (1, 1), ((1, 1), (1, 1)), (1, 1), mode=mode)
    x, f, gy = arrays(case, "float32", 1)
    function, args, _ = operands(which, case, x, f, gy)
    limited = function(*args, algorithm="gemm", max_workspace=x.nbytes // 8, **case.explicit)
    same(limited, function(*args, algorithm="strided", **case.explicit))


@pytest.mark.parametrize("value", ["ZEROS", "", ("zeros", ""), ("zeros",) * 2])
def test_an_unknown_mode_is_refused(value):
    with refused("conv", ValueError, "padding_mode"):
        es.conv(integer_data((1, 4, 1), "float64", 1), np.ones((1, 1, 1)), padding_mode=value)


@pytest.mark.parametrize("value", [None, 0, True, (1,), b"zeros"])
def test_a_mode_is_a_name(value):
    with refused("conv", TypeError, "padding_mode"):
        es.conv(integer_data((1, 4, 1), "float64", 1), np.ones((1, 1, 1)), padding_mode=value)


FILLED = Case(2, (5, 4), (3, 2), 2, 3, (2, 1), ((2, 1), (0, 3)), (1, 1), mode="constant", fill=3)


def test_a_filled_border_is_no_part_of_a_change(backend):
    """conv(x + dx) - conv(x) is the tangent, to which the constant adds nothing."""
    x, f, gy = arrays(FILLED, "float64", 1)
    dx = arrays(FILLED, "float64", 2)[0]
    y, changed = (backend(es.conv, a, f, **FILLED.explicit) for a in (x, x + dx))
    dy = backend(es.conv_jvp, x, f, dx, None, **FILLED.explicit)
    same(dy, changed - y)
    gx = backend(es.conv_input_grad, gy, f, FILLED.input_size, **FILLED.explicit)
    assert np.sum(dy * gy) == np.sum(dx * gx)


@pytest.mark.parametrize("fill", [np.inf, np.nan])
def test_a_fill_stays_in_the_windows_that_reach_it(backend, fill):
    """A NaN in the border is not multiplied by a zero that stands for it inside."""
    x, f, _ = arrays(FILLED, "float64", 1)
    f = abs(f) + 1
    # OpenBLAS for AVX-512 also multiplies unused lanes, of which NumPy would warn
    with np.errstate(invalid="ignore"):
        y = backend(es.conv, x, f, **FILLED.explicit | {"fill": fill}, accuracy="elementwise")
    inner = backend(es.conv, x, f, **FILLED.explicit, accuracy="elementwise")
    finite = np.isfinite(y)
    assert finite[:, 1:2, :3].all()
    assert not finite[:, 0].any()
    assert not finite[:, :, 3:].any()
    same(np.where(finite, y, 0), np.where(finite, inner, 0))


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("uint8", 256), ("uint8", -1), ("int16", 0.5), ("int8", np.nan), ("bool", 2),
     ("float16", 1e5), ("float32", 1e39), ("float32", 1j), ("int64", 2**63)],
)  # fmt: skip
def test_a_fill_that_x_cannot_hold_is_refused(dtype, fill):
    x, f = np.ones((1, 4, 1), dtype), np.ones((1, 1, 1), dtype)
    with refused("conv", ValueError, "fill"):
        es.conv(x, f, padding=1, padding_mode="constant", fill=fill)
    with refused("conv_filter_grad", ValueError, "fill"):
        es.conv_filter_grad(x, np.ones((1, 6, 1), dtype), 1, padding=1, padding_mode="constant",
                            fill=fill)  # fmt: skip


@pytest.mark.parametrize("fill", ["1", None, [1], np.ones(1), b"1", object()])
def test_a_fill_is_a_number(fill):
    with refused("conv", TypeError, "fill"):
        es.conv(np.ones((1, 4, 1)), np.ones((1, 1, 1)), padding_mode="constant", fill=fill)


def test_a_fill_counts_among_the_integers_that_could_overflow():
    x, f = np.ones((1, 4, 1), "int64"), np.full((2, 1, 1), 2**40)
    with refused("conv", ValueError, "int64"):
        es.conv(x, f, padding=1, padding_mode="constant", fill=2**40)


def test_a_filled_copy_counts_as_workspace():
    """A border that algorithms do not know is filled in a copy, which the limit includes."""
    x, f = np.ones((2, 64, 64, 16), "float32"), np.ones((3, 3, 16, 16), "float32")
    keywords = {"padding": 1, "padding_mode": "constant", "fill": 1.0}
    copy = 2 * 66 * 66 * 16 * 4
    assert es.plan(x, f, **keywords).workspace >= copy
    with refused("conv", ValueError, "max_workspace"):
        es.conv(x, f, max_workspace=copy - 1, **keywords)


@pytest.mark.parametrize(("theirs", "ours"), OTHER_NAMES.items())
def test_the_names_of_other_libraries_are_answered_with_ours(theirs, ours):
    with refused("conv", ValueError, f'padding_mode="{ours}"'):
        es.conv(np.ones((1, 4, 1)), np.ones((1, 1, 1)), padding_mode=theirs)


@pytest.mark.parametrize("fill", [2.5, np.nan, 1 + 2j, np.float32(2.5), np.int8(3)])
def test_a_plan_keeps_the_fill(fill):
    x, f = np.ones((1, 4, 1), "complex128"), np.ones((2, 1, 1), "complex128")
    keywords = {"padding": 1, "padding_mode": ("constant",), "fill": fill}
    p = es.Plan.from_json(es.plan(x, f, **keywords).to_json())
    np.testing.assert_array_equal(p(x, f), es.conv(x, f, **keywords))
    np.testing.assert_array_equal(p(x, f)[0, 0], 1 + fill)
