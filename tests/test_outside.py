"""Results equal those of PyTorch, JAX and SciPy, where installed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings

import einstride as es
from strategies import arrays, cases, integer_data, seeds

REAL_AND_COMPLEX = pytest.mark.parametrize("dtype", ["float64", "complex128"])
EXACT = settings(max_examples=40)
COMPILED = settings(max_examples=8)  # JAX compiles every shape


def first(a):
    """Move the axes from channels last to channels first."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def first_filter(f):
    return np.ascontiguousarray(np.moveaxis(f, (-1, -2), (0, 1)))


def last(a):
    return np.moveaxis(a, 1, -1)


def last_filter(f):
    return np.moveaxis(f, (0, 1), (-1, -2))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def jax():
    module = pytest.importorskip("jax", reason="JAX is not installed")
    module.config.update("jax_enable_x64", True)
    return module


def torch_pads(case):
    """Return the pads of a case for torch.nn.functional.pad: last axis first, negative crops."""
    return [side for pad in reversed(case.pads) for side in pad]


@REAL_AND_COMPLEX
@EXACT
@given(case=cases(max_rank=3), seed=seeds)
def test_torch(torch, dtype, case, seed):
    assume(not case.flip)
    F = torch.nn.functional
    x, f, gy = arrays(case, dtype, seed)
    bias = integer_data((case.filters,), dtype, seed)
    tx, tf = (torch.tensor(a, requires_grad=True) for a in (first(x), first_filter(f)))
    tb = torch.tensor(bias, requires_grad=True)
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(case.stride) - 1]
    ty = conv(F.pad(tx, torch_pads(case)), tf, tb, case.stride, 0, case.dilation, case.groups)
    ty.backward(torch.tensor(first(gy)))

    keywords = case.keywords
    close = np.testing.assert_array_equal
    close(es.conv(x, f, bias, **keywords), last(ty.detach().numpy()))
    close(
        es.conv_input_grad(gy, f, case.input_size, **keywords), last(tx.grad.resolve_conj().numpy())
    )
    close(
        es.conv_filter_grad(x, gy, case.kernel_size, **keywords),
        last_filter(tf.grad.resolve_conj().numpy()),
    )
    close(es.conv_bias_grad(gy), tb.grad.numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
@EXACT
@given(case=cases(max_rank=3, padded=False), seed=seeds)
def test_torch_transposed(torch, rank, case, seed):
    assume(not case.flip and len(case.stride) == rank)
    F = torch.nn.functional
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    x, f = (
        integer_data(case.y_shape, "float64", seed),
        integer_data(case.f_shape, "float64", seed + 1),
    )
    bias = integer_data((case.channels,), "float64", seed + 2)
    for padding, extra in ((0, 0), (1, 0), (0, 1), (1, 1)):
        if extra and min(map(max, case.stride, case.dilation)) == 1:
            continue
        size = [(n - 1) * s + (k - 1) * d + 1 + extra - 2 * padding for n, s, k, d in zip(
            case.out_size, case.stride, case.kernel_size, case.dilation, strict=True)]  # fmt: skip
        if min(size) < 1:
            continue
        theirs = transposed(
            torch.tensor(first(x)), torch.tensor(first_filter(f)), torch.tensor(bias),
            case.stride, padding, extra, case.groups, case.dilation,
        )  # fmt: skip
        ours = es.conv_transpose(
            x, f, bias, stride=case.stride, padding=padding, output_padding=extra,
            groups=case.groups, dilation=case.dilation,
        )  # fmt: skip
        np.testing.assert_array_equal(ours, last(theirs.numpy()))


def test_torch_in_its_own_layout(torch):
    x, f = integer_data((2, 4, 9, 8), "float64", 1), integer_data((6, 2, 3, 2), "float64", 2)
    theirs = torch.nn.functional.conv2d(
        torch.tensor(x), torch.tensor(f), stride=2, padding=1, groups=2
    )
    ours = es.conv(x, f, stride=2, padding=1, groups=2, layout="channels_first")
    np.testing.assert_array_equal(ours, theirs.numpy())


def jax_conv(jax, case, padding):
    letters = "DHW"[3 - len(case.stride) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lambda x, f: jax.lax.conv_general_dilated(
        x, f, case.stride, padding, rhs_dilation=case.dilation,
        dimension_numbers=numbers, feature_group_count=case.groups,
    )  # fmt: skip


@REAL_AND_COMPLEX
@COMPILED
@given(case=cases(max_rank=3), seed=seeds)
def test_jax(jax, dtype, case, seed):
    """Passes equal JAX's; its complex gradients are einstride's with the other operand
    conjugated."""
    assume(not case.flip)
    x, f, gy = arrays(case, dtype, seed)
    y, pullback = jax.vjp(jax_conv(jax, case, case.pads), x, f)
    gx, gf = pullback(jax.numpy.asarray(gy))
    equal = np.testing.assert_array_equal
    equal(es.conv(x, f, **case.keywords), y)
    equal(es.conv_input_grad(gy, f.conj(), case.input_size, **case.keywords), gx)
    equal(es.conv_filter_grad(x.conj(), gy, case.kernel_size, **case.keywords), gf)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("same", "SAME"), ("same_lower", "SAME_LOWER"), ("valid", "VALID")]
)
@COMPILED
@given(case=cases(max_rank=3, padded=False), seed=seeds)
def test_jax_padding_names(jax, ours, theirs, case, seed):
    assume(not case.flip)
    x, f, _ = arrays(case, "float64", seed)
    keywords = {key: value for key, value in case.explicit.items() if key != "padding"}
    np.testing.assert_array_equal(
        es.conv(x, f, padding=ours, **keywords), jax_conv(jax, case, theirs)(x, f)
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_jax_transposed(jax, padding, stride):
    """Equals JAX's conv_transpose with transpose_kernel=True, the gradient of its convolution."""
    x, f = integer_data((2, 5, 3), "float64", 1), integer_data((3, 2, 3), "float64", 2)
    theirs = jax.lax.conv_transpose(
        x,
        f,
        (stride,),
        padding.upper(),
        dimension_numbers=("NHC", "HIO", "NHC"),
        transpose_kernel=True,
    )
    ours = es.conv_transpose(x, f, stride=stride, padding=padding)
    n = min(ours.shape[1], theirs.shape[1])  # JAX's VALID adds max(stride - k, 0) zeros
    np.testing.assert_array_equal(ours[:, :n], np.asarray(theirs)[:, :n])


@pytest.mark.parametrize("mode", ["valid", "full"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64"])
def test_scipy(rank, mode, dtype):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, f = integer_data((9, 8, 7)[:rank], dtype, 1), integer_data((4, 3, 2)[:rank], dtype, 2)
    ours = {
        flip: es.conv(x[None, ..., None], f[..., None, None], padding=mode, flip=flip)[0, ..., 0]
        for flip in (False, True)
    }
    np.testing.assert_array_equal(ours[True], signal.convolve(x, f, mode, method="direct"))
    np.testing.assert_array_equal(ours[False], signal.correlate(x, f.conj(), mode, method="direct"))


def test_scipy_same_starts_where_ours_does_for_odd_filters():
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, f = integer_data((9, 8), "float64", 1), integer_data((3, 5), "float64", 2)
    ours = es.conv(x[None, ..., None], f[..., None, None], padding="same", flip=True)[0, ..., 0]
    np.testing.assert_array_equal(ours, signal.convolve(x, f, "same", method="direct"))
