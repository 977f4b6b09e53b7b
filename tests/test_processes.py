"""In new processes: importing einstride loads few modules, and invalid calls do not crash."""

import subprocess
import sys

LIBRARIES = [
    *("numpy", "array_api_compat", "array_api_strict", "cupy", "cupyx", "torch", "jax", "jaxlib"),
    *("dask", "scipy", "numba", "ml_dtypes"),
]


def python(code):
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
    )


def loaded_after(code):
    """Return the array libraries that a new Python process has loaded after running `code`."""
    child = python(f"{code}\nimport sys\nprint(*[m for m in {LIBRARIES} if m in sys.modules])")
    assert child.returncode == 0, child.stderr
    return set(child.stdout.split())


def test_import_loads_no_array_library():
    assert loaded_after("import einstride; einstride.__all__") == set()


def test_a_numpy_call_loads_no_other_library():
    call = "import numpy as np, einstride as es; es.conv(np.ones((1, 4, 1)), np.ones((2, 1, 1)))"
    assert loaded_after(call) <= {"numpy", "array_api_compat"}


def test_networks_load_numpy_only():
    assert loaded_after("from einstride import nn; nn.Model") <= {"numpy", "array_api_compat"}
    assert "einstride.nn" not in python("import sys, einstride; print(*sys.modules)").stdout.split()


HOSTILE = """
import sys
import numpy as np
import einstride as es

A = np.ones
x, f, gy = A((2, 7, 7, 4)), A((3, 3, 4, 6)), A((2, 5, 5, 6))
def still(*shape):  # one element seen from every index: any size, no memory
    return np.lib.stride_tricks.as_strided(x, shape, (0,) * len(shape), writeable=False)
big = sys.maxsize
calls = [
    lambda: es.conv(x[..., :1], f),
    lambda: es.conv(A((2, 7, 7, 400)), f),
    lambda: es.conv(x, A((3, 3, 4000, 6))),
    lambda: es.conv(x, A((30, 30, 4, 6))),
    lambda: es.conv(x, f, stride=0),
    lambda: es.conv(x, f, stride=-1),
    lambda: es.conv(x, f, stride=(1, -big)),
    lambda: es.conv(x, f, dilation=big),
    lambda: es.conv(x, f, dilation=(1, 2**63)),
    lambda: es.conv(x, f, dilation=-1),
    lambda: es.conv(x, f, padding=big),
    lambda: es.conv(x, f, padding=2**64),
    lambda: es.conv(x, f, padding=-big),
    lambda: es.conv(x, f, padding=((-big, big), (0, 0))),
    lambda: es.conv(x, f, padding=((0, 0), (-6, 0))),
    lambda: es.conv(x, f, groups=big),
    lambda: es.conv(x, f, groups=0),
    lambda: es.conv(x, f, groups=-4),
    lambda: es.conv(x, f, A(5)),
    lambda: es.conv(x, f, A(0)),
    lambda: es.conv(x, f, layout="NHWC,HWIO->NHWCC"),
    lambda: es.conv(x, f, layout="N" * 10**6),
    lambda: es.conv(x, f, out=A((2, 5, 5, 5))),
    lambda: es.conv(x, f, out=A((1, 1, 1, 1))),
    lambda: es.conv(x, f, out=x),
    lambda: es.conv(still(1, 2**28, 2**28, 4), still(3, 3, 4, 2**20)),
    lambda: es.conv(still(2, 7, 7, 2**50), f),
    lambda: es.conv(still(2**20, 7, 7, 4), still(3, 3, 4, 2**54)),
    lambda: es.conv(A(()), f),
    lambda: es.conv(x, A(())),
    lambda: es.conv(x.astype(object), f),
    lambda: es.conv(x, f.astype(object)),
    lambda: es.conv(np.array([None] * 4).reshape(1, 1, 1, 4), f),
    lambda: es.conv(x.astype("S8"), f),
    lambda: es.conv(object(), object()),
    lambda: es.conv(None, None),
    lambda: es.conv_input_grad(gy, f, (big, big)),
    lambda: es.conv_input_grad(gy, f, (-7, -7)),
    lambda: es.conv_input_grad(gy, f, (5, 5)),
    lambda: es.conv_input_grad(gy, f, (8, 7)),
    lambda: es.conv_input_grad(gy, f[..., :3], (7, 7)),
    lambda: es.conv_input_grad(gy, A((3, 3, 4, 60)), (7, 7)),
    lambda: es.conv_input_grad(A((2, big // 2**58, 5, 6)), f, (7, 7)),
    lambda: es.conv_filter_grad(x, gy, (big, 1)),
    lambda: es.conv_filter_grad(x, gy, (4, 4)),
    lambda: es.conv_filter_grad(x, gy, (0, 0)),
    lambda: es.conv_filter_grad(x, gy, (-3, -3)),
    lambda: es.conv_filter_grad(x[:1], gy, (3, 3)),
    lambda: es.conv_filter_grad(x, A((2, 50, 50, 6)), (3, 3)),
    lambda: es.conv_transpose(gy, f, stride=big),
    lambda: es.conv_transpose(gy, f, output_size=big),
    lambda: es.conv_transpose(gy, f, output_padding=big),
    lambda: es.conv_transpose(gy, f, padding=big),
    lambda: es.conv_transpose(x, f),
    lambda: es.conv_bias_grad(A(3)),
    lambda: es.conv_bias_grad(object()),
    lambda: es.windows(x, big),
    lambda: es.windows(x, (8, 1)),
    lambda: es.windows(x, (0, 1)),
    lambda: es.windows(x, (-1, 1)),
    lambda: es.windows(x, 3, stride=0),
    lambda: es.windows(x, 3, stride=-1),
    lambda: es.windows(x, 3, dilation=4),
    lambda: es.windows(x, 3, dilation=big),
    lambda: es.conv4d_forward(x[..., :1], f, (1, 1)),
    lambda: es.conv4d_forward(A((2, 7, 7, 1)), A((3, 3, 400, 6)), (1, 1)),
    lambda: es.conv4d_forward(x, f, (0, 0)),
    lambda: es.conv4d_input_gradient(x, f, gy, (2, 2)),
    lambda: es.conv4d_filter_gradient(x, f, gy, (2, 2)),
    lambda: es.Conv(f)(x[..., :1]),
    lambda: es.Conv(f).backward(gy, x=x[:, :3]),
]
wrong = 0
for number, call in enumerate(calls):
    try:
        call()
    except (ValueError, TypeError) as error:
        if str(error).count("; ") < 2:
            wrong += 1
            print(number, "not in three parts:", error)
    except BaseException as error:
        wrong += 1
        print(number, "raised", repr(error))
    else:
        wrong += 1
        print(number, "was accepted")
print(len(calls), "calls", wrong, "wrong")
"""


def test_bad_calls_cannot_crash_the_interpreter():
    child = python(HOSTILE)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip().endswith(" 0 wrong"), child.stdout
