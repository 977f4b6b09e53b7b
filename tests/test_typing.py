"""Type checkers refuse names that are none, and give results the type of the array passed in."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

RIGHT = """
import numpy as np
import einstride as es
from numpy.typing import NDArray

x: NDArray[np.float32] = np.ones((1, 8, 8, 3), np.float32)
f: NDArray[np.float32] = np.ones((3, 3, 3, 4), np.float32)
y: NDArray[np.float32] = es.conv(x, f, padding="same", padding_mode="symmetric", stride=[1, 2])
es.conv(x, f, padding=("same", (1, 2)), padding_mode=("zeros", "constant"), fill=1.5)
gx: NDArray[np.float32] = es.conv_input_grad(y, f, (8, 8), padding="same", algorithm="gemm")
gf: NDArray[np.float32] = es.conv_filter_grad(x, y, (3, 3), padding="same", accuracy="elementwise")
w: NDArray[np.float32] = es.windows(x, 3, padding=1)
es.conv(x, f[..., :1, :1], groups="depthwise")
p: es.Plan = es.plan((None, 8, 8, 3), f)
"""
WRONG = {
    'es.conv(x, f, padding="samee")': "padding",
    'es.conv(x, f, padding_mode="mirror")': "padding_mode",
    'es.conv(x, f, algorithm="fast")': "algorithm",
    'es.conv(x, f, accuracy="high")': "accuracy",
    'es.conv(x, f, groups="dephtwise")': "groups",
    'es.conv(x, f, accumulate="float128")': "accumulate",
    "text: str = es.conv(x, f)": "assignment",
    'es.conv(x, f, padding=("same", "samee"))': "padding",
}


LINES = [*RIGHT.splitlines(), *WRONG]
REFUSED = set(range(len(LINES) - len(WRONG) + 1, len(LINES) + 1))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_mypy_accepts_what_is_right_and_refuses_what_is_wrong(tmp_path, script):
    pytest.importorskip("mypy", reason="mypy is not installed")
    process = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), script],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    found = {int(line.split(":")[1]) for line in process.stdout.splitlines() if "error:" in line}
    assert found == REFUSED, process.stdout + process.stderr


def test_pyright_accepts_what_is_right_and_refuses_what_is_wrong(tmp_path, script):
    """Run basedpyright: pyright with Node.js, whose 280 MB are too much for every test run."""
    if find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed, see CONTRIBUTING.md")
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "standard"}))
    process = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable,
         "--project", settings],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(process.stdout)["generalDiagnostics"]
    assert {e["range"]["start"]["line"] + 1 for e in found} == REFUSED, process.stdout
