"""Runs onnxruntime: forward passes as one-node models, with the filter as a prepared
initializer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.options import Options
from bench.peers import Unsupported, Variant

_options = Options()
SILENT = 3
OPSET = 17


def start(options: Options) -> dict[str, str]:
    """Import onnxruntime."""
    global _options
    _options = options
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}


def builders(row: Row) -> dict[str, Callable[[Arrays], Variant]]:
    """List the variants: channels first, the only layout of the operators."""
    if row.pass_ != "forward":
        raise Unsupported("forward only")
    if (row.case.dtype, row.filter_dtype) not in {
        ("float32", "float32"),
        ("int8", "int8"),
        ("uint8", "uint8"),
    }:
        raise Unsupported(f"no {row.case.dtype} convolution")
    return {"channels first": lambda arrays: _build(row, arrays)}


def _build(row: Row, arrays: Arrays) -> Variant:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    kind = "ConvInteger" if row.is_integer else "Conv"
    f = np.ascontiguousarray(np.moveaxis(arrays.f, (-1, -2), (0, 1)))  # (D, C // groups, *K)
    x = np.ascontiguousarray(np.moveaxis(arrays.x, -1, 1))
    y_shape = (row.batch, row.case.filters, *row.out_size)
    node = helper.make_node(
        kind,
        ["x", "f"],
        ["y"],
        strides=row.stride,
        dilations=row.dilation,
        group=row.case.groups,
        pads=[low for low, _ in row.pads] + [high for _, high in row.pads],
    )
    types = {
        name: helper.np_dtype_to_tensor_dtype(np.dtype(name))
        for name in (row.case.dtype, row.result_dtype)
    }
    graph = helper.make_graph(
        [node],
        "row",
        [helper.make_tensor_value_info("x", types[row.case.dtype], x.shape)],
        [helper.make_tensor_value_info("y", types[row.result_dtype], y_shape)],
        [numpy_helper.from_array(f, "f")],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = _options.threads
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    feed = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)}
    return Variant(
        lambda: session.run_with_ort_values(["y"], feed)[
            0
        ],  # the result stays in onnxruntime's memory
        lambda result: np.moveaxis(result.numpy(), 1, -1),
    )
