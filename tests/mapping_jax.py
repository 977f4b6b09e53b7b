"""Registers the tests of JAX's cells of docs/mapping.md."""

import numpy as np

import einstride as es
from mapping import (
    COMPLEX,
    GROUPED,
    GY,
    LINE,
    MODES,
    SMALL,
    TAPS,
    UNGROUPED,
    F,
    X,
    cell,
    library,
    plain,
)
from strategies import integer_data


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
    """Return JAX's gradients with respect to x and f."""
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
        SMALL, UNGROUPED, (2, 2), "VALID", dimension_numbers=NUMBERS, transpose_kernel=True
    )
    return es.conv_transpose(SMALL, UNGROUPED, stride=2), theirs


@cell("layout", "JAX")
def _():
    x, f = X.transpose(2, 0, 3, 1), UNGROUPED.transpose(3, 1, 0, 2)
    theirs = general(x, f, dimension_numbers=("WNCH", "OWHI", "HCWN"))
    return es.conv(x, f, layout="WNCH,OWHI->HCWN"), theirs


@cell("depthwise", "JAX")
def _():
    f = integer_data((3, 3, 1, 8), "float64", 1)
    return es.conv(X, f, groups=4), general(X, f, groups=4)


@cell("input_dilation", "JAX")
def _():
    none = [(0, 0), (0, 0)]
    return plain(input_dilation=(2, 3)), general(X, UNGROUPED, padding=none, lhs_dilation=(2, 3))


def named(ours, theirs):
    return plain(padding=ours, stride=(3, 2)), general(X, UNGROUPED, (3, 2), theirs)


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
    theirs = [general(jax.numpy.pad(X, widths, mode=name), UNGROUPED) for name in MODES.values()]
    ours = [plain(padding=(2, 1), padding_mode=mode) for mode in MODES]
    return np.stack(ours), np.stack(theirs)


@cell("symmetric", "JAX")
def _():
    x = lax().numpy.pad(X, [(0, 0), (2, 2), (1, 1), (0, 0)], mode="symmetric")
    return plain(padding=(2, 1), padding_mode="symmetric"), general(x, UNGROUPED)


@cell("constant", "JAX")
def _():
    x = lax().numpy.pad(X, [(0, 0), (2, 2), (1, 1), (0, 0)], constant_values=3)
    return plain(padding=(2, 1), padding_mode="constant", fill=3), general(x, UNGROUPED)


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
        SMALL, UNGROUPED, (3, 2), "SAME", dimension_numbers=NUMBERS, transpose_kernel=True
    )
    return es.conv_transpose(SMALL, UNGROUPED, stride=(3, 2), padding="same"), theirs


@cell("transposed: crop", "JAX")
def _():
    pairs = [(3 - 1 - 1, 3 - 1 - 1), (2 - 1 - 1, 2 - 1 - 1)]  # K - 1 - p
    theirs = lax().lax.conv_transpose(
        SMALL, UNGROUPED, (2, 2), pairs, dimension_numbers=NUMBERS, transpose_kernel=True
    )
    return es.conv_transpose(SMALL, UNGROUPED, stride=2, padding=1), theirs


@cell("integers", "JAX")
def _():
    x, f = X.astype("int8"), UNGROUPED.astype("int8")
    return es.conv(x, f), general(x, f, preferred_element_type="int32")


@cell("accumulate", "JAX")
def _():
    x, f = X.astype("int8"), UNGROUPED.astype("int8")
    return es.conv(x, f, accumulate="int64"), general(x, f, preferred_element_type="int64")
