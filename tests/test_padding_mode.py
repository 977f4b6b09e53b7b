"""reflect, replicate and circular borders, each with its exact gradient."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import einstride as es
from checks import ALGORITHMS, PASSES, check_pass, operands, refused, same
from oracle import Case
from strategies import arrays, cases, integer_data, seeds

NUMPY_NAMES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
WIDEST = {"reflect": lambda n: n - 1, "replicate": lambda n: n + 100, "circular": lambda n: n}


@st.composite
def bordered(draw):
    """Draw a case whose input is large enough for the pads of its padding mode."""
    case = draw(cases(max_rank=3))
    widest = [max(pad) for pad in case.pads]
    assume(min(min(pad) for pad in case.pads) >= 0 < max(widest))
    sizes = list(zip(widest, case.input_size, strict=True))
    fitting = [
        mode for mode, widest_pad in WIDEST.items() if all(w <= widest_pad(n) for w, n in sizes)
    ]
    mode = draw(st.sampled_from(fitting))
    return replace(case, mode=mode, keywords=case.keywords | {"padding_mode": mode})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
@given(case=bordered(), dtype=st.sampled_from(["float32", "complex128", "int64"]), seed=seeds)
def test_against_the_loops(backend, which, algorithm, case, dtype, seed):
    check_pass(backend, which, case, dtype, seed, algorithm=algorithm)


@pytest.mark.parametrize("mode", NUMPY_NAMES)
@pytest.mark.parametrize("pads", [((2, 1), (0, 3)), ((3, 3), (3, 3)), ((0, 0), (1, 0))])
def test_is_numpy_pad(backend, mode, pads):
    x, f = integer_data((2, 4, 5, 3), "float64", 1), integer_data((3, 2, 3, 4), "float64", 2)
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], NUMPY_NAMES[mode])
    same(backend(es.conv, x, f, padding=pads, padding_mode=mode), es.conv(padded, f))


@pytest.mark.parametrize("mode", NUMPY_NAMES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_are_adjoints(backend, mode, dtype):
    case = Case(2, (9, 8), (3, 4), 4, 6, (2, 1), ((2, 3), (4, 1)), (2, 1), groups=2, mode=mode)
    x, f, gy = arrays(case, dtype, 3)
    energy = np.sum(backend(es.conv, x, f, **case.explicit) * gy.conj())
    gx = backend(es.conv_input_grad, gy, f, case.input_size, **case.explicit)
    gf = backend(es.conv_filter_grad, x, gy, case.kernel_size, **case.explicit)
    assert energy == np.sum(x * gx.conj()) == np.sum(f * gf.conj())


@pytest.mark.parametrize("mode", NUMPY_NAMES)
def test_every_gradient_of_a_large_input(mode):
    """Blocks, phases and borders together: adjoint at a size where each of them matters."""
    case = Case(3, (61, 47), (5, 3), 8, 12, (2, 1), ((4, 4), (3, 2)), (1, 2), mode=mode)
    x, f, gy = arrays(case, "float64", 4)
    for algorithm in ("strided", "gemm"):
        keywords = case.explicit | {"algorithm": algorithm}
        energy = np.sum(es.conv(x, f, **keywords) * gy)
        assert energy == np.sum(x * es.conv_input_grad(gy, f, case.input_size, **keywords))
        assert energy == np.sum(f * es.conv_filter_grad(x, gy, case.kernel_size, **keywords))


@pytest.mark.parametrize("mode", NUMPY_NAMES)
def test_padding_names(mode):
    x, f = integer_data((1, 6, 2), "float64", 1), integer_data((3, 2, 4), "float64", 2)
    for name, pads in {"same": (1, 1), "full": (2, 2), "causal": (2, 0), "valid": (0, 0)}.items():
        expected = es.conv(x, f, padding=(pads,), padding_mode=mode)
        same(es.conv(x, f, padding=name, padding_mode=mode), expected)


def test_layout_and_layer():
    x, f = integer_data((2, 5, 6, 3), "float64", 1), integer_data((3, 3, 3, 4), "float64", 2)
    y = es.conv(x, f, padding="same", padding_mode="circular")
    first = es.conv(
        x.transpose(0, 3, 1, 2), f.transpose(3, 2, 0, 1), padding="same", padding_mode="circular",
        layout="channels_first",
    )  # fmt: skip
    same(first, y.transpose(0, 3, 1, 2))
    layer = es.Conv(f, padding="same", padding_mode="circular")
    same(layer.forward(x), y)
    gx = es.conv_input_grad(y, f, (5, 6), padding="same", padding_mode="circular")
    same(layer.backward(y).gx, gx)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
@pytest.mark.parametrize("which", PASSES)
def test_a_border_wider_than_the_input_is_refused(which, mode):
    widest = WIDEST[mode](4)
    for pads, fits in [((widest, 0), True), ((0, widest + 1), False), ((widest + 1, 0), False)]:
        case = Case(1, (4,), (2,), 1, 1, (1,), (pads,), (1,), mode=mode)
        function, args, _ = operands(which, case, *arrays(case, "float64", 1))
        if fits:
            function(*args, **case.explicit)
        else:
            with refused(function.__name__, ValueError, "axis"):
                function(*args, **case.explicit)


def test_replicate_has_no_limit():
    x, f = np.arange(1.0, 3).reshape(1, 2, 1), np.ones((1, 1, 1))
    y = es.conv(x, f, padding=((4, 3),), padding_mode="replicate")
    assert y.ravel().tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("mode", NUMPY_NAMES)
def test_a_transposed_convolution_has_zeros_only(mode):
    with refused("conv_transpose", ValueError, "padding_mode"):
        es.conv_transpose(np.ones((1, 4, 1)), np.ones((3, 1, 1)), padding=1, padding_mode=mode)
