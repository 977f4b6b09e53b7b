"""Error texts are exactly those of this table; no other test fixes the words of an error."""

import numpy as np
import pytest

import einstride as es
from einstride.algorithms import ALGORITHMS

X, F = np.ones((2, 28, 28, 6)), np.ones((3, 3, 4, 10))
LINE, TAPS = np.ones((1, 9, 1)), np.ones((2, 1, 1))
CHANNELS = "make them agree: f has shape (*kernel, C // groups, D), here (*kernel, {}, 10)"

TEXTS = {
    "channels, groups": (
        lambda: es.conv(X, F, groups=2),
        "conv: x has 6 channels but f expects 4 x groups=2 = 8; "
        f"got x (2, 28, 28, 6), f (3, 3, 4, 10); {CHANNELS.format(3)}",
    ),
    "channels": (
        lambda: es.conv4d_forward(X, F, (1, 1)),
        "conv4d_forward: x has 6 channels but f expects 4; "
        f"got x (2, 28, 28, 6), f (3, 3, 4, 10); {CHANNELS.format(6)}",
    ),
    "channels first": (
        lambda: es.conv(np.ones((2, 4, 9, 9)), F),
        "conv: x has 9 channels but f expects 4; got x (2, 4, 9, 9), f (3, 3, 4, 10); "
        f"{CHANNELS.format(9)}; "
        'if the channels come first in memory, pass layout="channels_first"',
    ),
    "bare pair": (
        lambda: es.conv(LINE, TAPS, padding=(1, 2)),
        "conv: padding needs one entry for each of the 1 spatial axes; "
        "got (1, 2); write padding=((1, 2),)",
    ),
    "bool": (
        lambda: es.conv(LINE, TAPS, stride=True),
        "conv: stride must be an int; got True; write stride=1",
    ),
    "zero stride": (
        lambda: es.conv(LINE, TAPS, stride=0),
        "conv: stride must be at least 1 on every axis; got 0; raise it to 1",
    ),
    "list": (
        lambda: es.conv(LINE.tolist(), TAPS),
        "conv: x must be a plain array of NumPy, CuPy or another array-API library; "
        "got builtins.list; convert it, e.g. numpy.asarray(x)",
    ),
    "algorithm": (
        lambda: es.conv(LINE, TAPS, algorithm="magic"),
        f"conv: algorithm is unknown; got 'magic'; use 'auto' or one of {tuple(ALGORITHMS)}",
    ),
    "too large a filter": (
        lambda: es.conv(LINE, TAPS, dilation=9),
        "conv: the dilated filter (10) is larger than the padded input (9) on spatial axis 0; "
        "got x (1, 9, 1), f (2, 1, 1), padding (0, 0), dilation 9; "
        "pad more, dilate less or use a smaller filter",
    ),
    "bias": (
        lambda: es.conv(LINE, TAPS, np.ones(2)),
        "conv: bias must have one number for each of the 1 channels of the result; "
        "got bias (2,); give it shape (1,)",
    ),
    "input_size": (
        lambda: es.conv_input_grad(LINE, TAPS, 9),
        "conv_input_grad: an input of size (9,) has outputs of size (8,), not (9,); "
        "got gy (1, 9, 1), f (2, 1, 1); pass the input_size and the hyperparameters of the "
        "forward call",
    ),
    "eight bits": (
        lambda: es.conv(np.ones((1, 1, 131073), "i1"), np.ones((1, 131073, 1), "i1")),
        "conv: a sum of 131073 products of int8 and int8 could overflow int32; "
        'got up to 2147500032 in magnitude; pass accumulate="int64"',
    ),
    "output_size": (
        lambda: es.conv_transpose(LINE, TAPS, stride=2, output_size=30),
        "conv_transpose: output_size on spatial axis 0 must lie in [18, 19]: only these sizes "
        "have 9 outputs; got 30; or leave output_size out",
    ),
    "no forward": (
        lambda: es.Conv(TAPS).backward(LINE),
        "Conv.backward: there is no input to go back to; got x=None; call forward(x) or pass x",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name):
    call, text = TEXTS[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value) == text
