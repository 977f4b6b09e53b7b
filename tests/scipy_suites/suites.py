"""Start pytest on SciPy's test modules with `plugin`, and read the outcomes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

MODULES = {
    "ndimage": ("scipy.ndimage.tests.test_filters",),
    "signal": ("scipy.signal.tests.test_signaltools", "scipy.signal.tests.test_upfirdn"),
}
SELECTED = {
    "ndimage": "not median and not minimum and not maximum and not rank and not percentile"
    " and not generic_filter and not vectorized",
    "signal": "onvolve or orrelat or choose or lags or filter or Linear or Decimate or Filter"
    " or poly or Poly or upfirdn or sepfir",
}
LIBRARIES = {"numpy": "", "array-api": '["array_api_strict", "torch"]'}
"""The values of SciPy's switch SCIPY_ARRAY_API."""

SUITES = tuple(f"{room} {libraries}" for room in MODULES for libraries in LIBRARIES)

_REASONS = tomllib.loads(Path(__file__).with_name("cannot_pass.toml").read_text("utf-8"))


def run(suite: str, every: int = 1) -> dict[str, str]:
    """Run a suite, or each `every`-th test of it; return the outcome of each that calls us."""
    room, libraries = suite.split()
    selected = f"({SELECTED[room]})"
    if libraries != "numpy":
        selected += " and (torch or strict)"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "SCIPY_ARRAY_API": LIBRARIES[libraries], "EINSTRIDE_SUITE_ROOM": room,
            "EINSTRIDE_SUITE_REPORT": str(report), "EINSTRIDE_SUITE_EVERY": str(every),
        }  # fmt: skip
        options = ("-q", "--tb=line", "-p", "no:cacheprovider", "-p", "scipy_suites.plugin")
        process = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "-c", os.devnull, "--rootdir", folder,
             "-k", selected, "--pyargs", *MODULES[room]],
            env=environment, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        if not report.exists():
            raise RuntimeError(process.stdout + process.stderr)
        outcomes: dict[str, str] = json.loads(report.read_text(encoding="utf-8"))
    return outcomes


def failed(outcomes: dict[str, str]) -> list[str]:
    """List the tests that failed."""
    return [name for name, outcome in outcomes.items() if outcome != "passed"]


def reason(name: str) -> str | None:
    """Return why a test cannot pass, or None if it must."""
    found = (r["reason"] for r in _REASONS["tests"] if re.search(r["name"], name))
    return next(found, None)
