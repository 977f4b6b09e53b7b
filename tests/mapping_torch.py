"""Registers the tests of PyTorch's cells of docs/mapping.md."""

import numpy as np

import einstride as es
from mapping import (
    BIAS,
    COMPLEX,
    GROUPED,
    GY,
    MODES,
    SMALL,
    UNGROUPED,
    F,
    X,
    cell,
    first,
    first_filter,
    last,
    last_filter,
    library,
    plain,
)
from strategies import integer_data


def functional():
    torch = library("torch")
    return torch, torch.nn.functional


def tensors(torch, *arrays):
    return [torch.tensor(a) for a in arrays]


def conv2d(x, f, *arguments, **keywords):
    torch, functions = functional()
    return last(
        functions.conv2d(*tensors(torch, first(x), first_filter(f)), *arguments, **keywords)
    )


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
    theirs = functions.conv2d(*tensors(torch, first(X), first_filter(UNGROUPED)))
    return es.conv(first(X), first_filter(UNGROUPED), layout="channels_first"), theirs.numpy()


@cell("depthwise", "PyTorch")
def _():
    f = integer_data((3, 3, 1, 8), "float64", 1)
    return es.conv(X, f, groups=4), conv2d(X, f, groups=4)


@cell("valid", "PyTorch")
def _():
    return plain(padding="valid"), conv2d(X, UNGROUPED, padding="valid")


@cell("same", "PyTorch")
def _():
    return plain(padding="same", dilation=2), conv2d(X, UNGROUPED, padding="same", dilation=2)


@cell("int", "PyTorch")
def _():
    return plain(padding=(2, 1), stride=2), conv2d(X, UNGROUPED, padding=(2, 1), stride=2)


@cell("pairs", "PyTorch")
def _():
    torch, functions = functional()
    x = functions.pad(torch.tensor(first(X)), (0, 3, 1, -2)).numpy()
    return plain(padding=((1, -2), (0, 3))), conv2d(last(x), UNGROUPED)


@cell("padding_mode", "PyTorch")
def _():
    torch, functions = functional()
    ours, theirs = [], []
    for mode in MODES:
        x = functions.pad(torch.tensor(first(X)), (1, 1, 2, 2), mode=mode).numpy()
        ours.append(plain(padding=(2, 1), padding_mode=mode))
        theirs.append(conv2d(last(x), UNGROUPED))
    return np.stack(ours), np.stack(theirs)


@cell("constant", "PyTorch")
def _():
    torch, functions = functional()
    x = functions.pad(torch.tensor(first(X)), (1, 1, 2, 2), value=3).numpy()
    ours = plain(padding=(2, 1), padding_mode="constant", fill=3)
    return ours, conv2d(last(x), UNGROUPED)


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
    return es.conv_transpose(SMALL, UNGROUPED, **keywords), transposed2d(
        SMALL, UNGROUPED, **keywords
    )


@cell("transposed: output_padding", "PyTorch")
def _():
    keywords = {"stride": 3, "padding": 1, "output_padding": (2, 1)}
    return es.conv_transpose(SMALL, UNGROUPED, **keywords), transposed2d(
        SMALL, UNGROUPED, **keywords
    )


@cell("transposed: output_size", "PyTorch")
def _():
    torch, _ = functional()
    layer = torch.nn.ConvTranspose2d(6, 4, (3, 2), stride=3, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor(first_filter(UNGROUPED))
    theirs = layer(torch.tensor(first(SMALL)), output_size=(16, 13)).detach()
    return es.conv_transpose(SMALL, UNGROUPED, stride=3, output_size=(16, 13)), last(theirs)


@cell("integers", "PyTorch")
def _():
    x, f = X.astype("int64"), UNGROUPED.astype("int64")
    return es.conv(x, f), conv2d(x, f)
