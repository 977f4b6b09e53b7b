"""Checks the cudnn algorithm with the real nvidia-cudnn-frontend, where installed, without a GPU.

The stand-in of other tests has the signatures of the real package, which accepts einstride's
graphs. If cuDNN's libraries are installed too, cuDNN itself checks shapes, strides and overlaps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

import cudnn_stand_in.graph
import cudnn_stand_in.names
import cudnn_stand_in.tensors

pytestmark = pytest.mark.skipif(
    find_spec("cudnn") is None, reason="nvidia-cudnn-frontend is not installed"
)

SIGNATURES = """
import cudnn, json
names = json.loads(input())
print(json.dumps({
    **{n: getattr(cudnn.pygraph, n).__doc__ for n in names["graph"]},
    **{"tensor." + n: getattr(cudnn.tensor, n).__doc__ for n in names["tensor"]},
    **{n: getattr(cudnn, n).__doc__ for n in names["module"]},
    **{e: sorted(getattr(cudnn, e).__members__) for e in names["enums"]},
    "version": cudnn.__version__,
}))
"""
GRAPH = [
    "conv_fprop", "conv_dgrad", "conv_wgrad", "bias", "validate", "build_operation_graph",
    "create_execution_plans", "deselect_numeric_notes", "deselect_workspace_greater_than",
    "check_support", "build_plans", "get_workspace_size", "__init__", "_make_tensor",
]  # fmt: skip
TENSOR = ["set_dim", "set_stride", "set_uid", "set_alignment", "set_output", "_set_data_type"]
ENUMS = ["data_type", "numerical_note", "heur_mode", "build_plan_policy"]


def python(code, text="", **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def real():
    names = {
        "graph": GRAPH, "tensor": TENSOR, "module": ["create_handle", "set_stream"], "enums": ENUMS,
    }  # fmt: skip
    return json.loads(python(SIGNATURES, json.dumps(names)))


def parameters(doc):
    """List the parameter names of each overload in a docstring of pybind11."""
    found = []
    for line in doc.splitlines():
        head, _, rest = line.strip().partition("(")
        if ") -> " not in rest or " " in head.partition(". ")[2]:
            continue
        depth, names, word = 0, [], ""
        for c in rest[: rest.rindex(") -> ")] + ",":
            depth += c in "[(<{"
            depth -= c in "])>}"
            if c == "," and not depth:
                names.append(word.partition(":")[0].strip())
                word = ""
            else:
                word += c
        found.append([n for n in names if n not in ("self", "")])
    return found


def ours(function):
    code = function.__code__
    return [n for n in code.co_varnames[: code.co_argcount] if n != "self"]


@pytest.mark.parametrize("name", [n for n in GRAPH if n != "_make_tensor"])
def test_the_stand_in_has_the_signatures_of_the_wheel(real, name):
    mine = ours(getattr(cudnn_stand_in.graph.pygraph, name))
    overloads = parameters(real[name])
    assert mine in overloads, (mine, overloads)


def test_tensors_and_functions(real):
    [made] = parameters(real["_make_tensor"])
    assert ours(cudnn_stand_in.graph.pygraph.tensor) == made
    for name in TENSOR[:-1]:
        mine = ours(getattr(cudnn_stand_in.tensors.tensor, name))
        assert [mine] == parameters(real[f"tensor.{name}"])
    assert parameters(real["set_stream"]) == [["handle", "stream"]]
    assert parameters(real["create_handle"]) == [[]]


@pytest.mark.parametrize("name", ENUMS)
def test_every_name_of_the_stand_in_exists(real, name):
    assert set(getattr(cudnn_stand_in.names, name).__members__) <= set(real[name])


DESCRIBE = """
import sys
import cudnn
from einstride.algorithms.cudnn.graphs import NEVER, OPERATIONS, TYPES
from einstride.algorithms.cudnn.graphs import Convolution, describe, excluded_notes
from einstride.algorithms.cudnn.device_memory import Tensor

def packed(shape, last, name):
    steps, step = [0] * len(shape), 1
    for axis in reversed((0, *range(2, len(shape)), 1) if last else range(len(shape))):
        steps[axis], step = step, step * shape[axis]
    return Tensor(tuple(shape), tuple(steps), name)

deep = sys.argv[1] == "deep"
count = 0
for which in OPERATIONS:
    for name in TYPES:
        for last in (True, False):
            for groups in (1, 2, 4):
                for biased in (False, True):
                    if biased and (which == "filter_grad" or name not in ("float16", "bfloat16")):
                        continue
                    x = packed((3, 8, 11, 10), last, name)
                    f = packed((12, 8 // groups, 3, 2), last, name)
                    y = packed((3, 12, 5, 10), last, name)
                    a, b, out = {"forward": (x, f, y), "input_grad": (y, f, x),
                                 "filter_grad": (x, y, f)}[which]
                    c = Convolution(which, a, b, out, (1, 1), (2, 1), (2, 2), biased, False, 0)
                    where = {"sm_version": 90, "sm_count": 132} if deep else {}
                    graph = describe(cudnn, c, **where)
                    assert len(excluded_notes(cudnn, c)) == len(NEVER) + (name == "float32")
                    if deep:
                        graph.build_operation_graph()
                    count += 1

import einstride as es
from einstride.algorithms import cudnn as algorithm

MORE = [
    ((2, 31, 4), (5, 4, 6), {"stride": 2, "padding": ((3, 1),)}),
    ((2, 9, 8, 7, 4), (3, 2, 3, 2, 6), {"groups": 2, "padding": 1}),
    ((2, 9, 8, 16), (3, 3, 1, 16), {"groups": 16, "padding": 1}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 6, 7, 1), (3, 3, 1, 1), {"padding": ((-1, 2), (2, 2))}),
    ((3, 1, 9, 5), (1, 4, 5, 1), {"padding_mode": "reflect", "padding": ((0, 0), (3, 2))}),
]
for x, f, more in MORE:
    y = es.plan(x, f, **more).output_shape
    for which, first, second, size in (
        ("forward", x, f, {}),
        ("input_grad", y, f, {"input_size": x[1:-1]}),
        ("filter_grad", x, y, {"kernel_size": f[:-2]}),
    ):
        for dtype in ("float16", "float32", "float64"):
            plan = es.plan(first, second, direction=which, dtype=dtype, **size, **more)
            for c in algorithm._probes(plan._decision.inner):
                graph = describe(cudnn, c, **where)
                if deep:
                    graph.build_operation_graph()
                count += 1
print(count)
"""


def wheel_folders(*names):
    """Return the folders of NVIDIA's wheels, or skip the test."""
    spec = find_spec("nvidia")
    found = [
        f"{root}/{name}/lib"
        for root in (spec.submodule_search_locations or [] if spec else [])
        for name in names
    ]
    if len(list(filter(os.path.isdir, found))) < len(names):
        pytest.skip(f"NVIDIA's wheels of {', '.join(names)} are not installed")
    return found


def test_our_graphs_are_valid():
    code = DESCRIBE.replace("sys.argv[1]", "'shallow'")
    assert int(python(code, LD_LIBRARY_PATH=os.pathsep.join(wheel_folders("cudnn")))) == 96 + 65


def test_cudnn_itself_accepts_shapes_and_strides(tmp_path):
    """cuDNN's libraries need a driver; an empty one suffices, since nothing is launched."""
    folders = wheel_folders("cudnn", "cuda_nvrtc", "cublas")
    driver, source = tmp_path / "libcuda.so.1", tmp_path / "none.c"
    names = ("cuGetErrorString", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload",
             "cuTensorMapEncodeIm2col", "cuTensorMapEncodeTiled")  # fmt: skip
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names))
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", driver, source]
    subprocess.run(command, check=True)
    path = os.pathsep.join([str(tmp_path), *folders])
    text = python(DESCRIBE.replace("sys.argv[1]", "'deep'"), LD_LIBRARY_PATH=path)
    assert int(text.splitlines()[-1]) == 96 + 65
