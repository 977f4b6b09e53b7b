"""The CuPy host installs only where it should, and CuPy computes right results on it.

Tests of its libraries, kernels and memory are in tests/cupy_host.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cupy_host
from cupy_host import versions

pytest_plugins = ["cupy_host.fixtures"]
TESTS = Path(__file__).parent


def kernel(cp, name, code):
    return cp.RawKernel(code, name)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_install_is_idempotent(host):
    assert cupy_host.install() is host


def test_the_code_of_its_page_runs(host):
    text = (TESTS / "cupy_host" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_refuses_when_cupy_is_already_imported(host):
    done = run_python("import cupy, cupy_host; cupy_host.install()")
    assert "CuPy is already imported" in done.stderr


@pytest.mark.parametrize(
    ("name", "version"),
    [("cupy-cuda12x", "13.6.0"), ("cupy-cuda11x", "14.2.0"), ("cupy", "14.2.0")],
)
def test_refuses_other_versions(monkeypatch, name, version):
    def lookup(asked):
        if asked != name:
            raise versions.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(versions.metadata, "version", lookup)
    with pytest.raises(RuntimeError, match=f"not {name} {version}"):
        versions.installed_wheel.__wrapped__()


def test_asserts_capsule_signatures(host):
    from cupy_backends.cuda.api import driver

    from cupy_host import capsules, signatures

    changed = signatures.DRIVER.replace("moduleUnload: object (ptr", "moduleUnload: object (int")
    with pytest.raises(RuntimeError, match="moduleUnload is object"):
        capsules.check_signatures(driver, changed)
    with pytest.raises(RuntimeError, match="newCall"):
        capsules.check_signatures(driver, signatures.DRIVER + "newCall: object (skip)\n")


def test_processes_share_an_empty_cache(host, tmp_path):
    code = (
        "import cupy_host; h = cupy_host.install(); import cupy\n"
        "assert float((cupy.arange(4, dtype='f4') + 1).sum()) == 10; h.check()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    environment["EINSTRIDE_CUPY_HOST_CACHE"] = str(tmp_path)
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(timeout=300) for process in running] == [0, 0]


DTYPES = ["?", "i1", "u1", "i4", "i8", "f2", "f4", "f8", "c8", "c16", "bfloat16"]


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


@pytest.mark.parametrize("name", DTYPES)
def test_elementwise_and_reduction(cp, name):
    x = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype_of(name))
    a = cp.asarray(x)
    assert np.array_equal(cp.asnumpy(a[:, ::-1] * a), x[:, ::-1] * x)
    expected = x.astype("i8" if x.dtype == bool else x.dtype).sum(axis=1)
    assert np.array_equal(cp.asnumpy(a.sum(axis=1)), expected)
    assert cp.asnumpy(a).dtype == x.dtype


@pytest.mark.parametrize("name", DTYPES)
def test_matmul(cp, name):
    x = (np.arange(12).reshape(3, 4) % 3).astype(dtype_of(name))
    a = cp.asarray(x)
    wide = x.astype("f8") if name == "bfloat16" else x
    assert np.array_equal(cp.asnumpy(a @ a.T), (wide @ wide.T).astype(x.dtype))
    if name != "bfloat16":  # CuPy has no batched matmul of bfloat16
        b = cp.stack([a, a + a])
        assert np.array_equal(cp.asnumpy(b @ a.T), cp.asnumpy(b) @ x.T)


def test_array_functions(cp):
    x = np.arange(60, dtype="f4").reshape(3, 4, 5)
    a, index = cp.asarray(x), np.array([2, 0])
    for name, call in {
        "pad": lambda xp, v: xp.pad(v, ((1, 1), (0, 2), (0, 0))),
        "reflect": lambda xp, v: xp.pad(v, ((1, 1), (0, 2), (0, 0)), mode="reflect"),
        "where": lambda xp, v: xp.where(v > 9, v, 0),
        "take": lambda xp, v: xp.take(v, xp.asarray(index), axis=1),
        "concatenate": lambda xp, v: xp.concatenate([v, v], axis=1),
        "stack": lambda xp, v: xp.stack([v, v], axis=1),
        "tensordot": lambda xp, v: xp.tensordot(v, v, ((0, 1), (0, 1))),
        "einsum": lambda xp, v: xp.einsum("abc,adc->abd", v, v),
        "cumsum": lambda xp, v: xp.cumsum(v),
        "transpose": lambda xp, v: xp.ascontiguousarray(v.transpose(2, 0, 1)),
        "mask": lambda xp, v: v[v > 20],
        "argmax": lambda xp, v: v.argmax(axis=1),
    }.items():
        assert np.array_equal(cp.asnumpy(call(cp, a)), call(np, x)), name


def test_dlpack_and_user_kernels(cp):
    a = cp.arange(6, dtype="f4")
    assert cp.from_dlpack(a).data.ptr == a.data.ptr
    square = cp.ElementwiseKernel("T x", "T y", "y = x * x", "square_it")
    norm = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = a", "0", "norm_it")
    assert float(square(a)[5]) == 25
    assert float(norm(a)) == 55


def test_raw_module_with_templates(cp):
    code = """
    template <class T> __global__ void scale(const T *x, T *y, T by, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) y[i] = x[i] * by;
    }
    #define MAKE(name, op) extern "C" __global__ void name(float *x) { x[threadIdx.x] op 2; }
    MAKE(twice, *=)
    """
    module = cp.RawModule(code=code, name_expressions=["scale<float>", "scale<double>"])
    for dtype, name in (("f4", "scale<float>"), ("f8", "scale<double>")):
        x = cp.arange(100, dtype=dtype)
        y = cp.empty_like(x)
        module.get_function(name)((4,), (32,), (x, y, x.dtype.type(3), np.int32(100)))
        assert np.array_equal(cp.asnumpy(y), 3 * np.arange(100))
    x = cp.ones(4, "f4")
    module.get_function("twice")((1,), (4,), (x,))
    assert cp.asnumpy(x).tolist() == [2, 2, 2, 2]


def test_half_precision_kernel(cp):
    code = """
    #include <cuda_fp16.h>
    #include <cuda_bf16.h>
    extern "C" __global__ void mix(const __half *x, __nv_bfloat16 *y, float *z) {
        int i = threadIdx.x;
        y[i] = __float2bfloat16(__half2float(x[i]) * 1.5f);
        z[i] = __half2float(__hfma(x[i], x[i], __float2half(0.5f)));
    }
    """
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.linspace(-3, 3, 32).astype("f2")
    y, z = cp.empty(32, ml_dtypes.bfloat16), cp.empty(32, "f4")
    kernel(cp, "mix", code)((1,), (32,), (cp.asarray(x), y, z))
    wide = x.astype("f4")
    assert np.array_equal(cp.asnumpy(y), (wide * np.float32(1.5)).astype(ml_dtypes.bfloat16))
    assert np.array_equal(cp.asnumpy(z), (wide * wide + np.float32(0.5)).astype("f2").astype("f4"))


def test_float16_conversions_are_exact(cp):
    every = np.arange(65536, dtype="u2").view("f2")
    with np.errstate(over="ignore", invalid="ignore"):
        wide = every.astype("f4")
        between = np.nextafter(wide, np.float32(np.inf)) * np.float32(1.0002)
        expected = between.astype("f2")
    assert np.array_equal(cp.asnumpy(cp.asarray(every).astype("f4")), wide, equal_nan=True)
    assert np.array_equal(cp.asnumpy(cp.asarray(between).astype("f2")), expected, equal_nan=True)
