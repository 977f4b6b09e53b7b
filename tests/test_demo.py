"""The commands demo and info run as a user starts them; the demo's network computes right
gradients."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import einstride as es
import oracle
from einstride import nn
from einstride.algorithms import ALGORITHMS
from einstride.demo import loops, network, story, training
from einstride.demo.digits import Digits
from einstride.demo.libraries import Library

pytestmark = pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is missing")
RNG = np.random.default_rng(3)
CHILD = "import sys; [sys.modules.update({name: None}) for name in %r]; " + (
    "from einstride.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


def einstride(*arguments, without=(), cwd=None):
    """Run ``python -m einstride ...``, in a process that cannot import the packages in
    `without`."""
    start = ["-c", CHILD % (without,)] if without else ["-m", "einstride"]
    return python(*start, *arguments, cwd=cwd)


def python(*arguments, cwd=None):
    """Run a new Python process that finds the einstride under test from any folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(es.__file__).parents[1])},
    )


def test_quick_demo(tmp_path):
    child = einstride("demo", "--quick", cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    for function in ("conv", "conv_input_grad", "conv_filter_grad", "conv_bias_grad"):
        assert re.search(rf"^  {function} .*e-1\d", child.stdout, re.M), child.stdout
    assert "held-out accuracy" in child.stdout
    assert "digit \\ answer" in child.stdout
    assert "with 9,930 parameters, trained in" in child.stdout
    assert "epoch 1/1: loss" in child.stderr
    if find_spec("matplotlib"):
        assert "Picture saved to demo.png." in child.stdout
        assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_full_demo(tmp_path):
    child = einstride("demo", cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    accuracy = re.search(r"^Accuracy (\S+)% \((\d+) of (\d+)\)", child.stdout, re.M)
    assert accuracy, child.stdout
    assert float(accuracy[1]) >= 97
    assert int(accuracy[3]) == 359  # the test set: a fifth of the 1,797 scans


def test_the_seed_projects_network(tmp_path):
    child = einstride("demo", "--twist", cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert "Training: Conv, Conv, Flatten, Dense, Softmax; Adam" in child.stdout
    accuracy = re.search(r"^Accuracy (\S+)% ", child.stdout, re.M)
    assert accuracy
    assert float(accuracy[1]) >= 80
    if find_spec("matplotlib"):
        assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_on_array_api_strict(tmp_path):
    pytest.importorskip("array_api_strict")
    child = einstride("demo", "--quick", "--backend", "strict", cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert "Arrays: array-api-strict." in child.stdout


def test_without_scikit_learn():
    child = einstride("demo", "--quick", without=("sklearn",))
    assert child.returncode == 2
    assert child.stderr == (
        "einstride demo: the digits come with scikit-learn, which is not installed: "
        "pip install 'einstride[demo]'\n"
    )


def test_without_matplotlib_and_tqdm(tmp_path):
    child = einstride("demo", "--quick", without=("matplotlib", "tqdm"), cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert "No picture: matplotlib is not installed (pip install 'einstride[demo]')." in (
        child.stdout
    )
    assert not list(tmp_path.iterdir())


def test_without_cupy():
    child = einstride("demo", "--backend", "cupy", without=("cupy",))
    assert child.returncode == 2
    assert child.stderr == (
        "einstride demo: --backend cupy needs CuPy, which is not installed: "
        "pip install 'einstride[cuda12]' or 'einstride[cuda13]'\n"
    )


def test_without_a_gpu():
    if find_spec("cupy") is None:
        pytest.skip("CuPy is missing")
    question = "import cupy; print(cupy.cuda.is_available())"
    answer = python("-c", question)
    if answer.stdout.strip() != "False":
        pytest.skip(f"there is a GPU, or CuPy cannot be imported: {answer.stderr}")
    child = einstride("demo", "--backend", "cupy")
    assert child.returncode == 2
    assert child.stderr.startswith("einstride demo: --backend cupy needs an NVIDIA GPU")
    assert child.stderr.count("\n") == 1
    assert child.stdout == ""


def test_a_picture_that_cannot_be_written(tmp_path):
    lost = tmp_path / "none" / "demo.png"
    child = einstride("demo", "--picture", str(lost))
    assert child.returncode == 2
    assert child.stderr == (
        f"einstride demo: --picture {lost}: there is no directory {lost.parent}\n"
    )
    child = einstride("demo", "--picture", str(tmp_path))
    assert child.returncode == 2
    assert child.stderr == (
        f"einstride demo: --picture {tmp_path}: this is a directory; name a file\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("demo", "--epochs", "0"), ("demo", "--seed", "-1"),
     ("demo", "--backend", "torch"), ("info", "more")],
)  # fmt: skip
def test_usage(arguments):
    child = einstride(*arguments)
    assert child.returncode == 2
    assert child.stderr.startswith("usage: python -m einstride")


def test_help():
    child = einstride("--help")
    assert child.returncode == 0
    assert "demo" in child.stdout
    assert "info" in child.stdout


def test_info():
    child = einstride("info")
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    assert f"einstride {es.__version__}\n" in child.stdout
    assert f"NumPy {np.__version__}\n" in child.stdout
    assert re.search(r"^  NumPy: up to \d+ blocks at once", child.stdout, re.M)
    layers = re.findall(r"^  3x3, 64 to 64 channels .* (\w+) +(\w+) +(\w+)$", child.stdout, re.M)
    assert len(layers) == 1
    assert set(layers[0]) <= set(ALGORITHMS)


def test_info_without_cupy_and_without_loading_others():
    code = (
        "import sys; sys.modules['cupy'] = None\n"
        "from importlib import util; found = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'cupy' else found(name)\n"
        "from einstride.__main__ import main; main(['info'])\n"
        "print('loaded', *{'torch', 'jax', 'dask', 'array_api_strict'} & set(sys.modules))"
    )
    child = python("-c", code)
    assert child.returncode == 0, child.stderr
    assert "cupy: not installed" in child.stdout
    assert "CuPy is not installed: pip install" in child.stdout
    assert child.stdout.endswith("\nloaded\n")


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 1), (7, 3, 2), (8, 4, 2), (5, 2, 3)])
def test_the_seven_loops_agree_with_the_oracle(size, kernel, stride):
    pads = oracle.pads_of("same", size, kernel, stride, 1)
    case = oracle.Case(
        2, (size,) * 2, (kernel,) * 2, 3, 4, (stride,) * 2, (pads,) * 2, (1,) * 2
    )  # fmt: skip
    x, f, gy = (
        RNG.integers(-9, 9, s).astype(float) for s in (case.x_shape, case.f_shape, case.y_shape)
    )
    bias = np.arange(4.0)
    np.testing.assert_array_equal(
        loops.conv(x, f, bias, stride), oracle.fast_forward(x, f, case) + bias
    )
    np.testing.assert_array_equal(
        loops.conv_input_grad(gy, f, x.shape, stride), oracle.fast_input_grad(gy, f, case)
    )
    np.testing.assert_array_equal(
        loops.conv_filter_grad(x, gy, f.shape, stride), oracle.fast_filter_grad(x, gy, case)
    )


def some_digits(train=96, test=32):
    """Return noise in the shape of the digits, which suffices to compare libraries."""
    images = RNG.random((train + test, 8, 8, 1)).astype(np.float32)
    labels = RNG.integers(0, 10, train + test)
    return Digits(images[:train], labels[:train], images[train:], labels[train:])


NUMPY = Library("NumPy", np, np.asarray)


@pytest.mark.parametrize(
    "function", ["conv", "conv_input_grad", "conv_filter_grad", "conv_bias_grad"]
)
@pytest.mark.parametrize("wrong", [lambda a: a * (1 + 1e-6), lambda a: a * np.nan])
def test_a_wrong_convolution_is_found(function, wrong, monkeypatch, capsys):
    right = getattr(es, function)
    monkeypatch.setattr(es, function, lambda *a, **k: wrong(right(*a, **k)))
    failed = story._check(some_digits(), NUMPY)
    assert failed is not None
    assert failed.startswith(f"{function} deviates from ")
    capsys.readouterr()


@pytest.mark.parametrize("recipe", [network.small, network.twist])
def test_gradients_of_the_whole_network(recipe):
    """Gradients equal central differences of the loss, in float64, for every parameter array."""
    data = some_digits(4)
    net, loss, _, _ = recipe()
    model = nn.Model(net, (8, 8, 1), dtype="float64")
    start = {k: p + 0.1 * RNG.standard_normal(p.shape) for k, p in model.parameters.items()}
    model.assign(start)
    x, labels = data.train_images.astype(float), data.train_labels
    _, gradients = model.gradients(x, labels, loss)
    for name, gradient in gradients.items():
        direction = RNG.standard_normal(gradient.shape)
        ends = []
        for step in (1e-6, -1e-6):
            model.assign({name: start[name] + step * direction})
            ends.append(loss(model(x), labels))
        model.assign(start)
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-5, err_msg=name)


def test_training_is_the_same_on_every_library(backend, capsys):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("the demo has no such --backend")
    data = some_digits()
    library = Library(backend.name, backend.xp, backend.asnumpy)
    ours = training.train(data, network.small(), library, 2, seed=1)
    numpys = training.train(data, network.small(), NUMPY, 2, seed=1)
    np.testing.assert_allclose(ours.curve, numpys.curve, rtol=1e-3)
    for name, expected in numpys.model.parameters.items():
        found = backend.asnumpy(ours.model.parameters[name])
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)
    capsys.readouterr()
