"""Type checkers refuse names that are none, and give results the type of the array passed in."""

import subprocess
import sys

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

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
"""
WRONG = {
    'es.conv(x, f, padding="samee")': "padding",
    'es.conv(x, f, padding_mode="mirror")': "padding_mode",
    'es.conv(x, f, algorithm="fast")': "algorithm",
    'es.conv(x, f, accuracy="high")': "accuracy",
    'es.conv(x, f, accumulate="float128")': "accumulate",
    "text: str = es.conv(x, f)": "assignment",
    'es.conv(x, f, padding=("same", "samee"))': "padding",
}


def test_mypy_accepts_what_is_right_and_refuses_what_is_wrong(tmp_path):
    lines = [*RIGHT.splitlines(), *WRONG]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines) + "\n")
    process = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), script],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    found = {int(line.split(":")[1]) for line in process.stdout.splitlines() if "error:" in line}
    first = len(lines) - len(WRONG) + 1
    assert found == set(range(first, len(lines) + 1)), process.stdout + process.stderr
