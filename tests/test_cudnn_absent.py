"""Without nvidia-cudnn-frontend, or with an old one, cudnn is refused and other algorithms work."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import cudnn_stand_in
import einstride as es
from checks import refused
from einstride import _testing

pytest_plugins = ["cupy_host.fixtures"]


@pytest.fixture
def absent():
    with _testing.use(absent={"cudnn"}):
        yield


def test_the_remedy_is_told(absent, cp):
    x, f = cp.ones((1, 5, 2), "f4"), cp.ones((2, 2, 3), "f4")
    remedy = "nvidia-cudnn-frontend is not installed: pip install 'einstride[cudnn]'"
    with refused("conv", ValueError, f"cudnn: {remedy}"):
        es.conv(x, f, algorithm="cudnn")
    table = str(es.plan(x, f))
    assert remedy in table
    assert es.plan(x, f).algorithm != "cudnn"
    assert es.conv(x, f).get().tolist() == [[[4.0] * 3] * 4]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"__version__": "1.5.2"}, "nvidia-cudnn-frontend 1.5.2 is older than 1.24"),
        ({"backend_version": lambda: 8905}, "cuDNN 8905 is older than 90000"),
        ({"backend_version": None}, "does not work here"),
        ({"__version__": None}, "does not work here"),
    ],
)
def test_what_is_too_old_or_broken_is_told(host, cp, monkeypatch, change, says):
    def broken():
        raise RuntimeError("libcudnn.so.9: cannot open shared object file")

    with cudnn_stand_in.installed(host):
        for name, value in change.items():
            if name == "__version__" and value is None:
                monkeypatch.delattr(sys.modules["cudnn"], name)
            else:
                monkeypatch.setattr(sys.modules["cudnn"], name, value or broken)
        x, f = cp.ones((1, 5, 2), "f4"), cp.ones((2, 2, 3), "f4")
        with refused("conv", ValueError, says):
            es.conv(x, f, algorithm="cudnn")
        assert es.plan(x, f).algorithm != "cudnn"
        monkeypatch.undo()


def test_other_libraries_never_ask_for_it():
    with refused("conv", ValueError, "cuDNN reads arrays of CuPy only"):
        es.conv(np.ones((1, 5, 2)), np.ones((2, 2, 3)), algorithm="cudnn")
    code = (
        "import sys, numpy as np, einstride as es\n"
        "es.conv(np.ones((1, 5, 2)), np.ones((2, 2, 3)))\n"
        "print(es.plan((1, 5, 2), (2, 2, 3)))\n"
        "assert not {'cudnn', 'cupy', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"accuracy": "elementwise"}, "no bound"),
        ({"batch_invariant": True}, "by the batch"),
        ({"accumulate": "float64"}, "in its own way"),
    ],
)
def test_promises_it_cannot_make_are_refused(host, cp, keywords, says):
    with cudnn_stand_in.installed(host), refused("conv", ValueError, says):
        es.conv(cp.ones((1, 5, 2), "f4"), cp.ones((2, 2, 3), "f4"), algorithm="cudnn", **keywords)


@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("complex64",) * 2, ("float32", "float64")])
def test_dtypes_it_does_not_have(host, cp, dtypes):
    x, f = cp.ones((1, 5, 2), dtypes[0]), cp.ones((2, 2, 3), dtypes[1])
    with cudnn_stand_in.installed(host), refused("conv", ValueError, "cuDNN multiplies"):
        es.conv(x, f, algorithm="cudnn")


def test_a_device_that_cannot_start_is_told(host, cp, monkeypatch):
    with cudnn_stand_in.installed(host):

        def no_device():
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

        monkeypatch.setattr(sys.modules["cudnn"], "create_handle", no_device)
        x, f = cp.ones((1, 5, 2), "f4"), cp.ones((2, 2, 3), "f4")
        with refused("conv", ValueError, "no CUDA-capable device"):
            es.conv(x, f, algorithm="cudnn")
        assert es.plan(x, f).algorithm != "cudnn"
