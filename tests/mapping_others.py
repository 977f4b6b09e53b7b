"""Registers the tests of the TensorFlow, Keras, ONNX and SciPy cells of docs/mapping.md."""

import os

import numpy as np

import einstride as es
from einstride.interop import onnx_ops
from mapping import (
    BIAS,
    GROUPED,
    GY_PLAIN,
    LINE,
    MODES,
    SMALL,
    TAPS,
    UNGROUPED,
    F,
    X,
    cell,
    first,
    first_filter,
    last,
    library,
    plain,
)  # fmt: skip
from strategies import integer_data


def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return library("tensorflow")


def tf_conv(x, f, **keywords):
    return tensorflow().nn.convolution(x, f, **keywords).numpy()


@cell("forward", "TensorFlow")
def _():
    return plain(stride=2), tf_conv(X, UNGROUPED, strides=2)


@cell("input gradient", "TensorFlow")
def _():
    raw = tensorflow().raw_ops.Conv2DBackpropInput
    theirs = raw(input_sizes=X.shape, filter=UNGROUPED, out_backprop=GY_PLAIN,
                 strides=[1, 2, 2, 1], padding="VALID")  # fmt: skip
    return es.conv_input_grad(GY_PLAIN, UNGROUPED, (9, 8), stride=2), theirs.numpy()


@cell("filter gradient", "TensorFlow")
def _():
    raw = tensorflow().raw_ops.Conv2DBackpropFilter
    theirs = raw(input=X, filter_sizes=UNGROUPED.shape, out_backprop=GY_PLAIN,
                 strides=[1, 2, 2, 1], padding="VALID")  # fmt: skip
    return es.conv_filter_grad(X, GY_PLAIN, (3, 2), stride=2), theirs.numpy()


def tf_transposed(size, padding, stride):
    """Call conv2d_transpose, whose filter is einstride's: (*K, output channels, input channels)."""
    theirs = tensorflow().nn.conv_transpose(
        SMALL, UNGROUPED, (2, *size, 4), strides=stride, padding=padding
    )
    return theirs.numpy()


@cell("transposed", "TensorFlow")
def _():
    return es.conv_transpose(SMALL, UNGROUPED, stride=2), tf_transposed((11, 8), "VALID", 2)


@cell("transposed: same", "TensorFlow")
def _():
    ours = es.conv_transpose(SMALL, UNGROUPED, stride=(3, 2), padding="same")
    return ours, tf_transposed((15, 8), "SAME", (3, 2))


@cell("transposed: output_size", "TensorFlow")
def _():
    ours = es.conv_transpose(SMALL, UNGROUPED, stride=2, padding="same", output_size=(9, 7))
    return ours, tf_transposed((9, 7), "SAME", 2)


@cell("layout", "TensorFlow")
def _():
    return plain(), tf_conv(X, UNGROUPED, data_format="NHWC")


@cell("depthwise", "TensorFlow")
def _():
    f = integer_data((3, 3, 4, 2), "float64", 1)
    theirs = tensorflow().nn.depthwise_conv2d(X, f, [1, 1, 1, 1], "VALID").numpy()
    return es.conv(X, f.reshape(3, 3, 1, 8), groups=4), theirs


cell("valid", "TensorFlow")(lambda: (plain(dilation=2), tf_conv(X, UNGROUPED, dilations=2)))
cell("same", "TensorFlow")(
    lambda: (plain(padding="same", stride=2), tf_conv(X, UNGROUPED, padding="SAME", strides=2))
)


@cell("pairs", "TensorFlow")
def _():
    pairs = [[0, 0], [1, 2], [0, 3], [0, 0]]
    theirs = tensorflow().nn.conv2d(X, UNGROUPED, strides=1, padding=pairs).numpy()
    return plain(padding=((1, 2), (0, 3))), theirs


@cell("padding_mode", "TensorFlow")
def _():
    tf = tensorflow()
    x = tf.pad(X, [[0, 0], [2, 2], [1, 1], [0, 0]], mode="REFLECT")
    return plain(padding=(2, 1), padding_mode="reflect"), tf_conv(x, UNGROUPED)


def keras():
    """Import keras.ops with the backend that Keras finds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return library("keras")


def ops_conv(x, f, **keywords):
    k = keras()
    return k.ops.convert_to_numpy(k.ops.conv(x, f, data_format="channels_last", **keywords))


@cell("forward", "Keras")
def _():
    return plain(stride=2), ops_conv(X, UNGROUPED, strides=2)


@cell("layout", "Keras")
def _():
    return plain(), ops_conv(X, UNGROUPED)


@cell("depthwise", "Keras")
def _():
    k, f = keras(), integer_data((3, 3, 4, 2), "float64", 1)
    theirs = k.ops.depthwise_conv(X, f, data_format="channels_last")
    return es.conv(X, f.reshape(3, 3, 1, 8), groups=4), k.ops.convert_to_numpy(theirs)


cell("valid", "Keras")(lambda: (plain(dilation=2), ops_conv(X, UNGROUPED, dilation_rate=2)))
cell("same", "Keras")(
    lambda: (plain(padding="same", stride=2), ops_conv(X, UNGROUPED, padding="same", strides=2))
)


@cell("causal", "Keras")
def _():
    k = keras()
    layer = k.layers.Conv1D(
        1, 3, padding="causal", dilation_rate=2, use_bias=False, dtype="float64"
    )
    layer.build(LINE.shape)
    layer.set_weights([TAPS])
    return es.conv(LINE, TAPS, padding="causal", dilation=2), k.ops.convert_to_numpy(layer(LINE))


def ops_transposed(**keywords):
    k = keras()
    theirs = k.ops.conv_transpose(SMALL, UNGROUPED, data_format="channels_last", **keywords)
    return k.ops.convert_to_numpy(theirs)


@cell("transposed", "Keras")
def _():
    return es.conv_transpose(SMALL, UNGROUPED, stride=2), ops_transposed(strides=2)


@cell("transposed: same", "Keras")
def _():
    ours = es.conv_transpose(SMALL, UNGROUPED, stride=2, padding="same")
    return ours, ops_transposed(strides=2, padding="same")


def evaluate(operator, arrays, **attributes):
    from test_onnx import evaluate

    return evaluate(library("onnx"), operator, arrays, attributes)


def onnx_conv(**attributes):
    """Compute Conv with ONNX's reference evaluator."""
    x, f = first(X).astype("f4"), first_filter(UNGROUPED).astype("f4")
    return last(evaluate("Conv", [x, f], **attributes)).astype("f8")


@cell("forward", "ONNX")
def _():
    arrays = [first(X), first_filter(F), BIAS]
    theirs = evaluate("Conv", [a.astype("f4") for a in arrays], strides=[2, 1], dilations=[1, 2],
                      group=2)  # fmt: skip
    return es.conv(X, F, BIAS, **GROUPED), last(theirs).astype("f8")


@cell("layout", "ONNX")
def _():
    x, f = first(X).astype("f4"), first_filter(UNGROUPED).astype("f4")
    return es.conv(x, f, layout="channels_first"), evaluate("Conv", [x, f])


@cell("depthwise", "ONNX")
def _():
    f = integer_data((3, 3, 1, 8), "float64", 1)
    theirs = evaluate("Conv", [first(X).astype("f4"), first_filter(f).astype("f4")], group=4)
    return es.conv(X, f, groups=4), last(theirs).astype("f8")


def onnx_named(ours, **attributes):
    return plain(padding=ours, stride=2), onnx_conv(strides=[2, 2], **attributes)


cell("valid", "ONNX")(lambda: onnx_named("valid", auto_pad="VALID"))
cell("same", "ONNX")(lambda: onnx_named("same", auto_pad="SAME_UPPER"))
cell("same_lower", "ONNX")(lambda: onnx_named("same_lower", auto_pad="SAME_LOWER"))
cell("int", "ONNX")(lambda: onnx_named((2, 1), pads=[2, 1, 2, 1]))
cell("pairs", "ONNX")(lambda: onnx_named(((1, 2), (0, 3)), pads=[1, 0, 2, 3]))


def onnx_transposed(ours, **attributes):
    arrays = [first(SMALL).astype("f4"), first_filter(UNGROUPED).astype("f4")]
    theirs = last(evaluate("ConvTranspose", arrays, **attributes)).astype("f8")
    return es.conv_transpose(SMALL, UNGROUPED, **ours), theirs


cell("transposed", "ONNX")(lambda: onnx_transposed({"stride": 2}, strides=[2, 2]))
cell("transposed: crop", "ONNX")(
    lambda: onnx_transposed({"stride": 3, "padding": (1, 0)}, strides=[3, 3], pads=[1, 0, 1, 0])
)
cell("transposed: output_padding", "ONNX")(
    lambda: onnx_transposed(
        {"stride": 3, "output_padding": (2, 1)}, strides=[3, 3], output_padding=[2, 1]
    )
)
cell("transposed: same", "ONNX")(
    lambda: onnx_transposed(
        {"stride": (3, 2), "padding": "same"}, strides=[3, 2], auto_pad="SAME_UPPER"
    )
)


@cell("integers", "ONNX")
def _():
    x, f = first(X).astype("int8"), first_filter(UNGROUPED).astype("int8")
    ours = es.conv(x, f, layout="channels_first")
    np.testing.assert_array_equal(ours, onnx_ops.conv_integer(x, f))
    return ours, evaluate("ConvInteger", [x, f])


def scipy_1d(mode, flip, dtype="float64"):
    signal = library("scipy.signal")
    line, taps = integer_data((9,), dtype, 1), integer_data((3,), dtype, 2)
    ours = es.conv(line[None, :, None], taps[:, None, None], padding=mode, flip=flip)[0, :, 0]
    if flip:
        return ours, signal.convolve(line, taps, mode, method="direct")
    return ours, signal.correlate(line, taps.conj(), mode, method="direct")


cell("forward", "SciPy")(lambda: scipy_1d("valid", False))
cell("valid", "SciPy")(lambda: scipy_1d("valid", True))
cell("same", "SciPy")(lambda: scipy_1d("same", True))
cell("full", "SciPy")(lambda: scipy_1d("full", True))
cell("flip", "SciPy")(lambda: scipy_1d("full", True))
cell("complex", "SciPy")(lambda: scipy_1d("valid", False, "complex128"))
cell("integers", "SciPy")(lambda: scipy_1d("full", True, "int64"))


@cell("padding_mode", "SciPy")
def _():
    ndimage = library("scipy.ndimage")
    names = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap"}
    taps = TAPS[:, 0, 0]
    ours = [es.conv(LINE, TAPS, padding=1, padding_mode=mode)[0, :, 0] for mode in MODES]
    return np.stack(ours), np.stack(
        [ndimage.correlate1d(LINE[0, :, 0], taps, mode=names[mode]) for mode in MODES]
    )


def scipy_border(ours, **theirs):
    ndimage = library("scipy.ndimage")
    y = es.conv(LINE, TAPS, padding=1, **ours)[0, :, 0]
    return y, ndimage.correlate1d(LINE[0, :, 0], TAPS[:, 0, 0], **theirs)


cell("symmetric", "SciPy")(lambda: scipy_border({"padding_mode": "symmetric"}))
cell("constant", "SciPy")(
    lambda: scipy_border({"padding_mode": "constant", "fill": 3.0}, mode="constant", cval=3.0)
)


@cell("symmetric", "TensorFlow")
def _():
    tf = tensorflow()
    x = tf.pad(X, [[0, 0], [2, 2], [1, 1], [0, 0]], mode="SYMMETRIC")
    return plain(padding=(2, 1), padding_mode="symmetric"), tf_conv(x, UNGROUPED)


@cell("constant", "TensorFlow")
def _():
    tf = tensorflow()
    x = tf.pad(X, [[0, 0], [2, 2], [1, 1], [0, 0]], constant_values=3)
    return plain(padding=(2, 1), padding_mode="constant", fill=3), tf_conv(x, UNGROUPED)


@cell("transposed", "SciPy")
def _():
    theirs = library("scipy.signal").upfirdn(TAPS[:, 0, 0], LINE[0, :, 0], up=2)
    return es.conv_transpose(LINE, TAPS, stride=2)[0, :, 0], theirs


@cell("input_dilation", "SciPy")
def _():
    theirs = library("scipy.signal").upfirdn(TAPS[:, 0, 0], LINE[0, :, 0], up=3)
    ours = es.conv(LINE, TAPS, input_dilation=3, padding="full", flip=True)
    return ours[0, :, 0], theirs
