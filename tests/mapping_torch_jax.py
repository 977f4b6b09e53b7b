"""PyTorch's and JAX's cells of docs/mapping.md."""

import numpy as np

import einstride as es
from mapping import (
    BIAS, COMPLEX, F, GROUPED, GY, LINE, MODES, SMALL, TAPS, WHOLE, X, cell, first, first_filter,
    last, last_filter, library, plain,
)  # fmt: skip
from strategies import integer_data


def functional():
    torch = library("torch")
    return torch, torch.nn.functional


def tensors(torch, *arrays):
    return [torch.tensor(a) for a in arrays]


def conv2d(x, f, *arguments, **keywords):
    torch, functions = functional()
    return last(functions.conv2d(*tensors(torch, first(x), first_filter(f)), *arguments, **keywords))


def transposed2d(x, f, **keywords):
    torch, functions = functional()
    return last(functions.conv_transpose2d(*tensors(torch, first(x), first_filter(f)), **keywords))


@cell("forward", "PyTorch")
def _():
    bias = tensors(functional()[0], BIAS)[0]
    return es.conv(X, F, BIAS, **GROUPED), conv2d(X, F, bias, **GROUPED)


@cell("input gradient", "PyTorch")
def _():
    torch, _ = functional()
    theirs = torch.nn.grad.conv2d_input(
        first(X).shape, *tensors(torch, first_filter(F), first(GY)), **GROUPED
    )
    return es.conv_input_grad(GY, F, (9, 8), **GROUPED), last(theirs)


@cell("filter gradient", "PyTorch")
def _():
    torch, _ = functional()
    theirs = torch.nn.grad.conv2d_weight(
        torch.tensor(first(X)), first_filter(F).shape, torch.tensor(first(GY)), **GROUPED
    )
    return es.conv_filter_grad(X, GY, (3, 2), **GROUPED), last_filter(theirs)


@cell("transposed", "PyTorch")
def _():
    return es.conv_transpose(SMALL, F, **GROUPED), transposed2d(SMALL, F, **GROUPED)


@cell("layout", "PyTorch")
def _():
    torch, functions = functional()
    theirs = functions.conv2d(*tensors(torch, first(X), first_filter(WHOLE)))
    return es.conv(first(X), first_filter(WHOLE), layout="channels_first"), theirs.numpy()


@cell("depthwise", "PyTorch")
def _():
    f = integer_data((3, 3, 1, 8), "float64", 1)
    return es.conv(X, f, groups=4), conv2d(X, f, groups=4)


@cell("valid", "PyTorch")
def _():
    return plain(padding="valid"), conv2d(X, WHOLE, padding="valid")


@cell("same", "PyTorch")
def _():
    return plain(padding="same", dilation=2), conv2d(X, WHOLE, padding="same", dilation=2)


@cell("int", "PyTorch")
def _():
    return plain(padding=(2, 1), stride=2), conv2d(X, WHOLE, padding=(2, 1), stride=2)


@cell("pairs", "PyTorch")
def _():
    torch, functions = functional()
    x = functions.pad(torch.tensor(first(X)), (0, 3, 1, -2)).numpy()
    return plain(padding=((1, -2), (0, 3))), conv2d(last(x), WHOLE)


@cell("padding_mode", "PyTorch")
def _():
    torch, functions = functional()
    ours, theirs = [], []
    for mode in MODES:
        x = functions.pad(torch.tensor(first(X)), (1, 1, 2, 2), mode=mode).numpy()
        ours.append(plain(padding=(2, 1), padding_mode=mode))
        theirs.append(conv2d(last(x), WHOLE))
    return np.stack(ours), np.stack(theirs)


@cell("complex", "PyTorch")
def _():
    x, f = COMPLEX
    return es.conv(x, f), conv2d(x, f)


@cell("complex gradient", "PyTorch")
def _():
    torch, functions = functional()
    x, f = COMPLEX
    gy = es.conv(x, f)
    tx = torch.tensor(first(x), requires_grad=True)
    functions.conv2d(tx, torch.tensor(first_filter(f))).backward(torch.tensor(first(gy)))
    return es.conv_input_grad(gy, f, (9, 8)), last(tx.grad.resolve_conj())


@cell("complex transposed", "PyTorch")
def _():
    x, f = integer_data((2, 5, 4, 6), "complex128", 1), COMPLEX[1]
    return es.conv_transpose(x, f.conj()), transposed2d(x, f)


@cell("transposed: crop", "PyTorch")
def _():
    keywords = {"stride": 3, "padding": (1, 0)}
    return es.conv_transpose(SMALL, WHOLE, **keywords), transposed2d(SMALL, WHOLE, **keywords)


@cell("transposed: output_padding", "PyTorch")
def _():
    keywords = {"stride": 3, "padding": 1, "output_padding": (2, 1)}
    return es.conv_transpose(SMALL, WHOLE, **keywords), transposed2d(SMALL, WHOLE, **keywords)


@cell("transposed: output_size", "PyTorch")
def _():
    torch, _ = functional()
    layer = torch.nn.ConvTranspose2d(6, 4, (3, 2), stride=3, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor(first_filter(WHOLE))
    theirs = layer(torch.tensor(first(SMALL)), output_size=(16, 13)).detach()
    return es.conv_transpose(SMALL, WHOLE, stride=3, output_size=(16, 13)), last(theirs)


@cell("integers", "PyTorch")
def _():
    x, f = X.astype("int64"), WHOLE.astype("int64")
    return es.conv(x, f), conv2d(x, f)


def lax():
    jax = library("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


NUMBERS = ("NHWC", "HWIO", "NHWC")


def general(x, f, stride=(1, 1), padding="VALID", dilation=(1, 1), groups=1, **keywords):
    keywords = {"dimension_numbers": NUMBERS} | keywords
    return lax().lax.conv_general_dilated(
        x, f, stride, padding, rhs_dilation=dilation, feature_group_count=groups, **keywords
    )


def pulled(x, f, gy, **keywords):
    """JAX's two gradients."""
    jax = lax()
    _, pullback = jax.vjp(lambda x, f: general(x, f, **keywords), x, f)
    return [np.asarray(g) for g in pullback(jax.numpy.asarray(gy))]


@cell("forward", "JAX")
def _():
    return es.conv(X, F, **GROUPED), general(X, F, **GROUPED)


@cell("input gradient", "JAX")
def _():
    return es.conv_input_grad(GY, F, (9, 8), **GROUPED), pulled(X, F, GY, **GROUPED)[0]


@cell("filter gradient", "JAX")
def _():
    return es.conv_filter_grad(X, GY, (3, 2), **GROUPED), pulled(X, F, GY, **GROUPED)[1]


@cell("transposed", "JAX")
def _():
    theirs = lax().lax.conv_transpose(
        SMALL, WHOLE, (2, 2), "VALID", dimension_numbers=NUMBERS, transpose_kernel=True
    )
    return es.conv_transpose(SMALL, WHOLE, stride=2), theirs


@cell("layout", "JAX")
def _():
    x, f = X.transpose(2, 0, 3, 1), WHOLE.transpose(3, 1, 0, 2)
    theirs = general(x, f, dimension_numbers=("WNCH", "OWHI", "HCWN"))
    return es.conv(x, f, layout="WNCH,OWHI->HCWN"), theirs


@cell("depthwise", "JAX")
def _():
    f = integer_data((3, 3, 1, 8), "float64", 1)
    return es.conv(X, f, groups=4), general(X, f, groups=4)


@cell("input_dilation", "JAX")
def _():
    return plain(input_dilation=(2, 3)), general(X, WHOLE, lhs_dilation=(2, 3))


def named(ours, theirs):
    return plain(padding=ours, stride=(3, 2)), general(X, WHOLE, (3, 2), theirs)


cell("valid", "JAX")(lambda: named("valid", "VALID"))
cell("same", "JAX")(lambda: named("same", "SAME"))
cell("same_lower", "JAX")(lambda: named("same_lower", "SAME_LOWER"))
cell("int", "JAX")(lambda: named((2, 1), [(2, 2), (1, 1)]))
cell("pairs", "JAX")(lambda: named(((1, -2), (0, 3)), [(1, -2), (0, 3)]))
cell("full", "JAX")(lambda: named("full", [(2, 2), (1, 1)]))
cell("causal", "JAX")(lambda: named("causal", [(2, 0), (1, 0)]))


@cell("padding_mode", "JAX")
def _():
    jax = lax()
    widths = [(0, 0), (2, 2), (1, 1), (0, 0)]
    theirs = [general(jax.numpy.pad(X, widths, mode=name), WHOLE) for name in MODES.values()]
    ours = [plain(padding=(2, 1), padding_mode=mode) for mode in MODES]
    return np.stack(ours), np.stack(theirs)


@cell("flip", "JAX")
def _():
    theirs = lax().numpy.convolve(LINE[0, :, 0], TAPS[:, 0, 0], mode="valid")
    return es.conv(LINE, TAPS, flip=True)[0, :, 0], theirs


@cell("complex", "JAX")
def _():
    return es.conv(*COMPLEX), general(*COMPLEX)


@cell("complex gradient", "JAX")
def _():
    x, f = COMPLEX
    gy = es.conv(x, f)
    gx, gf = pulled(x, f, gy)
    ours = es.conv_input_grad(gy, f.conj(), (9, 8)), es.conv_filter_grad(x.conj(), gy, (3, 2))
    return np.concatenate([a.ravel() for a in ours]), np.concatenate([gx.ravel(), gf.ravel()])


@cell("transposed: same", "JAX")
def _():
    theirs = lax().lax.conv_transpose(
        SMALL, WHOLE, (3, 2), "SAME", dimension_numbers=NUMBERS, transpose_kernel=True
    )
    return es.conv_transpose(SMALL, WHOLE, stride=(3, 2), padding="same"), theirs


@cell("transposed: crop", "JAX")
def _():
    pairs = [(3 - 1 - 1, 3 - 1 - 1), (2 - 1 - 1, 2 - 1 - 1)]  # K - 1 - p
    theirs = lax().lax.conv_transpose(
        SMALL, WHOLE, (2, 2), pairs, dimension_numbers=NUMBERS, transpose_kernel=True
    )
    return es.conv_transpose(SMALL, WHOLE, stride=2, padding=1), theirs


@cell("integers", "JAX")
def _():
    x, f = X.astype("int8"), WHOLE.astype("int8")
    return es.conv(x, f), general(x, f, preferred_element_type="int32")


@cell("accumulate", "JAX")
def _():
    x, f = X.astype("int8"), WHOLE.astype("int8")
    return es.conv(x, f, accumulate="int64"), general(x, f, preferred_element_type="int64")
