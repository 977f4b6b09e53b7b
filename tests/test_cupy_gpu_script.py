"""ci/gpu, the command for a machine with a GPU, is run here in small sizes, so that it stays
valid."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cupy_host

SCRIPT = Path(__file__).parents[1] / "ci" / "gpu"


@pytest.fixture
def script():
    loader = importlib.machinery.SourceFileLoader("ci_gpu", str(SCRIPT))
    spec = importlib.util.spec_from_loader("ci_gpu", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ci_gpu"] = module
    loader.exec_module(module)
    yield module
    del sys.modules["ci_gpu"]


def python(code):
    return [sys.executable, "-c", code]


def go(script, parts, todo, seconds=60, fresh=False):
    state = script.State(parts, fresh)
    script.run_all(todo, parts, state, time.monotonic() + seconds, dict(os.environ))
    return {name: step["verdict"] for name, step in state.known["steps"].items()}


def test_dry_run(tmp_path):
    for needed in ("torch", "jax"):
        pytest.importorskip(needed)
    reason = cupy_host.unavailable_reason()
    if reason:
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dry-run"],
        env={
            **os.environ,
            "OUT": str(tmp_path / "out"),
            "EINSTRIDE_GPU_PARTS": str(tmp_path / "p"),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "out" / "calibration_gpu.json").read_text())
    assert figures["measured"]
    assert (
        figures["device"]
        == json.loads((tmp_path / "p" / "ceilings.json").read_text())["about"]["device"]
    )
    shipped = SCRIPT.parents[1] / "src" / "einstride" / "calibration" / "calibration_gpu.json"
    assert set(figures) == set(json.loads(shipped.read_text()))
    assert not json.loads(shipped.read_text())["measured"], "a dry run leaves the sources alone"
    [result] = (path for path in (tmp_path / "out").glob("*.json") if path.name != shipped.name)
    assert "target float32 dense 3x3" in result.with_suffix(".txt").read_text()
    logs = {path.stem for path in (tmp_path / "out" / "logs").iterdir()}
    assert logs >= {"ours", "torch", "suite", "calibrate"}
    found = json.loads(result.read_text())
    assert {step["verdict"] for step in found["state"]["steps"].values()} == {"ok"}
    assert {row["library"] for row in found["rows"]} == {
        "einstride",
        "einstride[cudnn]",
        "torch",
        "jax",
    }
    assert all(row["ms"] > 0 and row["host_us"] > 0 for row in found["rows"])
    assert found["ceilings"]["copy_bytes_per_second"] > 0
    assert "ANSWERS DIFFER" not in done.stdout


def test_a_failing_or_endless_step_stops_nothing_else(script, tmp_path):
    todo = [
        script.Step("fails", 20, python("raise SystemExit(5)")),
        script.Step("absent", 20, ["/nowhere/to/be/found"]),
        script.Step("endless", 5, python("import time; time.sleep(60)")),
        script.Step("partly", 20, python("raise SystemExit(3)")),
        script.Step("works", 20, python("print('fine')")),
    ]
    assert go(script, tmp_path, todo) == {
        "fails": "failed (5)",
        "absent": "cannot start",
        "endless": "time limit",
        "partly": "unfinished",
        "works": "ok",
    }


def test_it_goes_on_where_it_stopped(script, tmp_path):
    count = tmp_path / "count"
    step = script.Step("counts", 20, python(f"open({str(count)!r}, 'a').write('x')"))
    late = script.Step("late", 20, python("pass"))
    parts = tmp_path / "parts"
    assert go(script, parts, [step]) == {"counts": "ok"}
    assert go(script, parts, [step, late], seconds=1) == {"counts": "ok", "late": "not reached"}
    assert go(script, parts, [step, late])["late"] == "ok"
    assert count.read_text() == "x"
    go(script, parts, [step], fresh=True)
    assert count.read_text() == "xx"


def test_results_of_other_sources_are_not_kept(script, tmp_path, monkeypatch):
    step = script.Step("one", 20, python("pass"))
    go(script, tmp_path, [step])
    assert script.State(tmp_path, False).done("one")
    monkeypatch.setattr(script, "fingerprint", lambda: "other")
    assert not script.State(tmp_path, False).done("one")


def test_steps_fit_nine_minutes_one_by_one(script, tmp_path):
    """No step of ci/gpu takes longer than nine minutes."""
    for step in script.steps(tmp_path, dry=False):
        assert step.limit <= script.TOTAL - script.LAST
    assert script.TOTAL <= 9 * 60
