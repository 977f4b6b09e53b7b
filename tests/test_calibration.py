"""Figures belong to a kind of CPU: those that are shipped, and those that a user has measured."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import einstride as es
from checks import well_formed
from einstride import calibration
from einstride.__main__ import main
from einstride._testing import clear_caches, replacing, use, vector_widths
from einstride.calibration import SHIPPED, Cpu, complete, nearest
from einstride.tools import calibrate, info

compiled = pytest.mark.skipif(not find_spec("llvmlite"), reason="llvmlite is missing")
FOLDER = Path(calibration.__file__).parent
SHAPES = ((8, 30, 30, 64), (3, 3, 64, 64))


def shipped(of):
    return json.loads((FOLDER / f"{of.file}.json").read_text(encoding="utf-8"))


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Return a function that sets the variable of the file in force; the folder is empty."""
    with use(kernel_folder=tmp_path):

        def set_to(value):
            monkeypatch.setenv(calibration.SETTING, value)
            clear_caches("process", "results")

        set_to("")
        yield set_to
        monkeypatch.undo()
        clear_caches("process", "results")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        *zip(SHIPPED, SHIPPED, strict=True),
        (Cpu(64, "avx2"), Cpu(64, "avx512")),
        (Cpu(32, "other"), Cpu(32, "avx2")),
        (Cpu(16, "avx2"), Cpu(16, "other")),
    ],
)
def test_the_nearest_file_has_the_vectors_of_the_kernels(wanted, expected):
    assert nearest(wanted) == expected


def test_every_shipped_file_is_complete_and_names_its_cpu():
    files = {of: shipped(of) for of in SHIPPED}
    for of, found in files.items():
        assert found["cpu"] == str(of)
        assert all(complete(found, other) for other in files.values())
    assert {path.stem for path in FOLDER.glob("cpu_*.json")} == {of.file for of in SHIPPED}


@compiled
@pytest.mark.parametrize("of", [Cpu(32, "avx2"), Cpu(16, "other")])
def test_kernels_of_other_vectors_have_other_figures(of):
    target = vector_widths().get(f"{of.vector_bytes} bytes")
    if target is None:
        pytest.skip("this machine has no AVX2")
    with use(target=target):
        assert calibration.cpu().vector_bytes == of.vector_bytes
        assert (
            calibration.rates("numpy", "float32")["vector"]
            == (shipped(nearest(calibration.cpu()))["libraries"]["numpy"]["calls"]["vector"])
        )


def changed(**calls):
    figures = shipped(nearest(calibration.cpu()))
    figures["libraries"]["numpy"]["calls"].update(calls)
    return {**figures, "date": "2222-02-02", "cpu": "a machine of tomorrow"}


def test_a_users_file_is_in_force_and_plans_name_it(environment):
    path = calibration.user_file(calibration.cpu())
    path.write_text(json.dumps(changed(vector=1.0)), encoding="utf-8")
    environment("")
    text = str(es.plan(*SHAPES))
    assert f"measured on a machine of tomorrow, 2222-02-02, from {path}" in text
    # no compiled kernel that takes a second for each multiply-add
    assert es.plan(*SHAPES).algorithm in ("gemm", "fft", "strided")
    assert "a machine of tomorrow" in info.text()
    environment("shipped")
    assert "tomorrow" not in str(es.plan(*SHAPES))


def test_a_file_may_be_named(environment, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed()), encoding="utf-8")
    environment(str(path))
    assert "a machine of tomorrow" in str(es.plan(*SHAPES))


@pytest.mark.parametrize(
    "damaged",
    ["", "{", "[]", "nothing", changed(vector=-1), changed(vector=True), changed(vector="fast"),
     changed(vector=float("nan")), {"libraries": {}}],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_every_call(environment, tmp_path, damaged):
    path = tmp_path / "mine.json"
    if damaged != "nothing":
        text = damaged if isinstance(damaged, str) else json.dumps(damaged)
        path.write_text(text, encoding="utf-8")
    environment(str(path))
    x, f = (np.ones(shape, "float32") for shape in SHAPES)
    for work in (lambda: es.conv(x, f), lambda: es.plan(*SHAPES)):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            work()
        well_formed("calibration", str(caught.value))
    assert str(path) in info.text()


def test_the_command_writes_a_file_that_is_then_in_force(environment, capsys):
    before = calibration.calibration()
    quick = {"seconds of a measurement": 0.0, "repeats of a measurement": 1}
    with use(constants=quick):
        assert main(["calibrate"]) == 0
    path = calibration.user_file(calibration.cpu())
    assert f"kept in {path}, for {calibration.cpu()}" in capsys.readouterr().out
    assert os.environ[calibration.SETTING] == ""
    environment("")
    assert complete(calibration.calibration(), before)
    assert str(path) in str(es.plan(*SHAPES))


def three_times_as_long(_, work):
    """Return three times the predicted seconds of a call of a plan, which is not run."""
    decision = work.func._decision
    (cost,) = (c.cost for c in decision.candidates if c.algorithm == decision.algorithm)
    return 3 * cost.seconds


@compiled
@pytest.mark.parametrize("name", ["winograd_plane", "winograd_line"])
def test_rates_of_transforms_are_scaled_to_measured_times(environment, name):
    figures = calibration.calibration()["libraries"]["numpy"]
    calls = dict(figures["calls"])
    with replacing("time a measurement", three_times_as_long):
        calibrate.scale(name, calls, figures["dtypes"])
    assert calls.pop(name) == pytest.approx(3 * figures["calls"][name])
    assert calls.items() <= figures["calls"].items()


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "figures.json"
    calibrate.write(path, {"a": 1})
    with pytest.raises(TypeError):
        calibrate.write(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]


def test_a_file_that_cannot_be_written_ends_in_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    with replacing("measure the planner's figures", lambda real, progress: shipped(SHIPPED[0])):
        assert main(["calibrate", "--output", str(tmp_path / "file" / "figures.json")]) == 2
    assert "calibrate: the figures cannot be written" in capsys.readouterr().err


def test_without_a_folder_the_command_asks_for_a_file(capsys):
    with replacing("name the user's figures", lambda real, of: None):
        assert main(["calibrate"]) == 2
    assert "--output PATH" in capsys.readouterr().err
