"""einstride.onnx passes ONNX's cases of Conv, ConvTranspose and ConvInteger.

Random cases equal ONNX's reference evaluator.
"""

import importlib
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from checks import refused
from einstride.interop import onnx_ops
from strategies import integer_data, seeds

OPERATORS = {
    "Conv": onnx_ops.conv,
    "ConvTranspose": onnx_ops.conv_transpose,
    "ConvInteger": onnx_ops.conv_integer,
}
# Fixed here, so that a release of onnx that drops a case fails the test.
KNOWN = {
    "Conv": {
        "test_basic_conv_with_padding", "test_basic_conv_without_padding",
        "test_conv_with_autopad_same", "test_conv_with_strides_and_asymmetric_padding",
        "test_conv_with_strides_no_padding", "test_conv_with_strides_padding",
    },
    "ConvInteger": {"test_convinteger_with_padding", "test_convinteger_without_padding"},
    "ConvTranspose": {
        "test_convtranspose", "test_convtranspose_1d", "test_convtranspose_3d",
        "test_convtranspose_autopad_same", "test_convtranspose_dilations",
        "test_convtranspose_kernel_shape", "test_convtranspose_output_shape",
        "test_convtranspose_pad", "test_convtranspose_pads",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture(scope="module")
def node_cases(onnx):
    """Return {operator: [(name, attributes, inputs, outputs)]} of all cases that onnx generates."""
    found = {name: [] for name in OPERATORS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # computing the cases of other operators may warn
        case = importlib.import_module("onnx.backend.test.case.node")
        collected = case.collect_testcases()
    for one in collected:
        nodes = one.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
            for inputs, outputs in one.data_sets:
                found[nodes[0].op_type].append((one.name, attributes, inputs, outputs))
    return found


def text(attributes):
    return {
        key: value.decode() if isinstance(value, bytes) else value
        for key, value in attributes.items()
    }


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_case_of_onnx(backend, node_cases, operator):
    """Dtypes, shapes and values are equal, as onnx's own runner demands."""
    passed = set()
    for name, attributes, inputs, outputs in node_cases[operator]:
        arrays = [np.asarray(a) for a in inputs]
        found = backend(OPERATORS[operator], *arrays, **text(attributes))
        (expected,) = outputs
        assert found.dtype == expected.dtype, name
        assert found.shape == expected.shape, name
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        passed.add(name)
    assert passed >= KNOWN[operator]


def evaluate(onnx, operator, arrays, attributes):
    """Compute one node with onnx's reference evaluator."""
    names = ["x", "w", "b", "c"][: len(arrays)]
    node = onnx.helper.make_node(operator, names, ["y"], **attributes)
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in zip(
        names, arrays, strict=True)}  # fmt: skip
    result = kinds["x"] if operator != "ConvInteger" else onnx.TensorProto.INT32
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "one", [value(n, kinds[n], None) for n in names], [value("y", result, None)]
    )
    model = onnx.helper.make_model(graph)
    reference = importlib.import_module("onnx.reference").ReferenceEvaluator(model)
    return reference.run(None, dict(zip(names, arrays, strict=True)))[0]


axes = st.lists(st.integers(1, 3), min_size=2, max_size=2)


@settings(max_examples=40)
@given(
    kernel=axes, strides=axes, dilations=axes, group=st.sampled_from([1, 2]), seed=seeds,
    pads=st.one_of(
        st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]),
        st.lists(st.integers(0, 2), min_size=4, max_size=4),
    ),
)  # fmt: skip
@pytest.mark.parametrize("operator", ["Conv", "ConvInteger"])
def test_against_the_reference_evaluator(
    onnx, operator, kernel, strides, dilations, group, pads, seed
):
    eight = operator == "ConvInteger"
    assume(not (isinstance(pads, str) and pads != "VALID" and max(dilations) > 1))
    x = integer_data((2, 2 * group, 9, 8), "uint8" if eight else "float32", seed)
    w = integer_data((3 * group, 2, *kernel), "int8" if eight else "float32", seed + 1)
    zeros = [np.uint8(3), integer_data((3 * group,), "int8", seed + 2)] if eight else []
    extra = zeros if eight else [integer_data((3 * group,), "float32", seed + 2)]
    attributes = {"strides": strides, "dilations": dilations, "group": group}
    attributes |= {"auto_pad": pads} if isinstance(pads, str) else {"pads": pads}
    expected = evaluate(onnx, operator, [x, w, *map(np.asarray, extra)], attributes)
    found = OPERATORS[operator](x, w, *extra, **attributes)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40)
@given(
    kernel=axes, strides=axes, dilations=axes, seed=seeds, extra=st.booleans(),
    pads=st.one_of(
        st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
        st.lists(st.integers(0, 1), min_size=4, max_size=4),
    ),
)  # fmt: skip
def test_transposed_against_the_reference_evaluator(
    onnx, kernel, strides, dilations, extra, pads, seed
):
    x = integer_data((2, 4, 5, 4), "float32", seed)
    w = integer_data((4, 3, *kernel), "float32", seed + 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attributes = {"strides": strides, "dilations": dilations}
    if isinstance(pads, str):
        assume(all(r >= s for r, s in zip(reach, strides, strict=True)))
        attributes |= {"auto_pad": pads}
    else:
        assume(all(r >= 2 for r in reach))
        more = [s - 1 if extra else 0 for s in strides]  # the evaluator allows no more
        attributes |= {"pads": pads, "output_padding": more}
    expected = evaluate(onnx, "ConvTranspose", [x, w], attributes)
    np.testing.assert_array_equal(onnx_ops.conv_transpose(x, w, **attributes), expected)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [8, 9, 10, 11, 12])
def test_output_shape(auto_pad, size):
    """output_shape overrides pads; an odd element is cropped at the end that auto_pad says."""
    x, w = np.arange(1.0, 5).reshape(1, 1, 4), np.ones((1, 1, 3))
    whole = onnx_ops.conv_transpose(x, w, strides=[2])
    y = onnx_ops.conv_transpose(
        x, w, strides=[2], output_shape=[size], auto_pad=auto_pad, pads=[7, 7]
    )
    assert (whole.shape, y.shape) == ((1, 1, 9), (1, 1, size))
    total = 9 - size
    first = max(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2, 0)
    expected = np.concatenate([whole, np.zeros((1, 1, 3))], axis=-1)[..., first : first + size]
    np.testing.assert_array_equal(y, expected)


def test_sums_of_8_bit_integers_never_wrap():
    """Sums of 8-bit integers, which wrap in ONNX, are exact or refused."""
    x, w = np.full((1, 300, 8, 8), 255, "uint8"), np.full((1, 300, 8, 8), 255, "uint8")
    assert onnx_ops.conv_integer(x, w).item() == 300 * 64 * 255 * 255
    x, w = np.full((1, 600, 8, 8), 255, "uint8"), np.full((1, 600, 8, 8), 255, "uint8")
    with refused("conv", ValueError, "int32"):
        onnx_ops.conv_integer(x, w)
    assert onnx_ops.conv_integer(x, w, 254, np.full(1, 254, "uint8")).item() == 600 * 64


X, W = np.ones((1, 2, 5, 5)), np.ones((3, 2, 3, 3))
EIGHT_X, EIGHT_W = X.astype("uint8"), W.astype("int8")


@pytest.mark.parametrize(
    ("operator", "keywords", "kind", "says"),
    [
        ("conv", {"auto_pad": "SAME"}, ValueError, "auto_pad"),
        ("conv", {"auto_pad": "SAME_UPPER", "pads": [0] * 4}, ValueError, "auto_pad and pads"),
        ("conv", {"kernel_shape": [3, 2]}, ValueError, "kernel_shape"),
        ("conv", {"pads": [1, 1]}, ValueError, "pads needs 4"),
        ("conv_transpose", {"output_shape": [9]}, ValueError, "output_shape needs 2"),
        ("conv_transpose", {"auto_pad": "no"}, ValueError, "auto_pad"),
        ("conv_integer", {"x_zero_point": 256}, ValueError, "x_zero_point"),
        ("conv_integer", {"w_zero_point": np.zeros(2, "int8")}, ValueError, "w_zero_point"),
        ("conv_integer", {"w_zero_point": np.zeros(3, "uint8")}, ValueError, "w_zero_point"),
    ],
    ids=str,
)  # fmt: skip
def test_refusals(operator, keywords, kind, says):
    arrays = {"conv": (X, W), "conv_transpose": (np.ones((1, 3, 5, 5)), W)}
    with refused(f"onnx_ops.{operator}", kind, says):
        getattr(onnx_ops, operator)(*arrays.get(operator, (EIGHT_X, EIGHT_W)), **keywords)


def test_only_8_bit_operands_are_quantized():
    with refused("onnx_ops.conv_integer", TypeError, "x must hold int8 or uint8"):
        onnx_ops.conv_integer(X, EIGHT_W)


@pytest.mark.parametrize(
    ("keywords", "says"), [({"strides": [2]}, "stride"), ({"group": 2}, "groups")]
)
def test_the_rest_is_refused_by_the_function_below(keywords, says):
    with refused("conv", ValueError, says):
        onnx_ops.conv(X, W, **keywords)
