"""Predicted times name their origin: "predicted", or the device and date of a measurement."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

import einstride as es
from einstride import _testing, calibration
from einstride.algorithms import ALGORITHMS
from einstride.algorithms.direct import few

MEASURED = {"measured": True, "date": "2031-05-04", "device": "NVIDIA H100 80GB HBM3"}
SHAPES = ((2, 16, 16, 8), (3, 3, 8, 8))
SHAPES_OF_A_LAYER = ((32, 56, 56, 64), (3, 3, 64, 64))


@pytest.fixture
def changed():
    """Return a function that replaces fields of a GPU's calibration."""
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(
            _testing.use(calibration={"calibration_gpu": fields})
        )


def test_without_a_run_on_a_gpu_times_are_called_predictions(gpu, changed):
    changed(measured=False, date="2030-01-02", source="public figures of an H100 (3.35 TB/s)")
    p = es.plan(*SHAPES, library="cupy")
    assert "times are PREDICTIONS from public figures of an H100 (3.35 TB/s)" in str(p)
    assert "not measurements; 2030-01-02" in str(p)
    assert "measured on" not in str(p)
    assert not p.figures["measured"]
    assert json.loads(json.dumps(p.figures)) == p.figures
    assert p.figures["text"] in str(p)


def test_after_one_they_name_the_device_and_the_date(gpu, changed):
    changed(**MEASURED)
    p = es.plan(*SHAPES, library="cupy")
    assert "measured on NVIDIA H100 80GB HBM3, 2031-05-04" in str(p)
    assert "PREDICTIONS" not in str(p)
    assert p.figures["measured"]


def test_what_is_not_proved_runs_only_by_name(gpu, changed):
    changed(auto=["strided"])
    p = es.plan(*SHAPES, library="cupy")
    assert p.algorithm == "strided"
    assert "not proved on cupy yet: ask for it by name" in str(p)
    assert es.plan(*SHAPES, library="cupy", algorithm="direct").algorithm == "direct"


def test_depthwise_on_a_gpu_is_done_directly(gpu):
    p = es.plan((8, 56, 56, 64), (3, 3, 1, 64), groups=64, library="cupy")
    assert p.algorithm == "direct"


@pytest.mark.parametrize(
    ("shapes", "keywords", "expected"),
    [
        (((32, 56, 56, 64), (3, 3, 64, 64)), {}, "implicit_gemm"),
        (((32, 56, 56, 64), (3, 3, 64, 64)), {"dtype": "float16"}, "implicit_gemm"),
        (((32, 56, 56, 64), (3, 3, 64, 64)), {"dtype": "int32"}, "direct"),
        (((32, 56, 56, 64), (3, 3, 64, 64)), {"dtype": "complex64"}, "direct"),
        (((32, 56, 56, 128), (3, 3, 4, 128)), {"groups": 32}, "direct"),
        (((8, 128, 128, 64), (31, 31, 1, 64)), {"groups": 64}, "fft"),
        (((32, 28, 28, 256), (1, 1, 256, 512)), {"dtype": "complex64"}, "gemm"),
    ],
)
def test_what_the_shipped_figures_of_a_gpu_choose(gpu, shapes, keywords, expected):
    if calibration.of("cupy").measured:
        pytest.skip("measured figures choose as the device wants")
    assert es.plan(*shapes, library="cupy", **keywords).algorithm == expected


def test_tf32_has_a_rate_of_its_own(gpu):
    """TF32 is predicted to be faster, and only for calls that allow it."""
    times = {
        accuracy: {
            c.algorithm: c.cost.seconds
            for c in es.plan(
                *SHAPES_OF_A_LAYER, library="cupy", accuracy=accuracy
            )._decision.candidates
            if c.cost
        }
        for accuracy in ("normwise", "tf32")
    }
    for algorithm in ("gemm", "implicit_gemm"):
        assert times["tf32"][algorithm] < times["normwise"][algorithm]
    assert times["tf32"]["direct"] == times["normwise"]["direct"]


def test_the_shipped_file_is_complete():
    shipped = calibration.calibration("calibration_gpu")
    assert set(shipped["auto"]) <= set(ALGORITHMS)
    assert shipped["measured"] or "3.35 TB/s" in shipped["source"]
    numpy = calibration.calibration()["libraries"]["numpy"]
    of_cpus = ("kernel", "vector", "winograd_", "fourier")  # rates of kernels compiled for a CPU
    of_all = {name for name in numpy["calls"] if not name.startswith(of_cpus)}
    assert of_all <= set(shipped["calls"])
    assert set(numpy["dtypes"]) <= set(shipped["dtypes"])
    assert set(calibration.rates("cupy", "float32")) >= {
        "direct",
        "direct_integer",
        "launch",
        "copy",
    }
    for dtype, known in numpy["dtypes"].items():
        assert set(known) <= set(shipped["dtypes"][dtype])


def test_on_a_processor_nothing_changes():
    p = es.plan(*SHAPES)
    known = calibration.calibration()
    assert f"times predicted from figures measured on {known['cpu']}, {known['date']}" in str(p)
    assert p.figures["measured"]


def test_engines_for_few_channels_are_compared_by_the_calibrated_rates():
    known = calibration.rates("numpy", "float32")
    compared = {name: rate for name, rate in few._kernel_rates().items() if rate}
    assert compared == {name: known[name] for name in ("vector", "copy")}
