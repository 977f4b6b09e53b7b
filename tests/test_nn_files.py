"""Checkpoints restore what was saved, and other files are refused."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest

from einstride import nn

RNG = np.random.default_rng(2)
X, T = RNG.standard_normal((20, 5, 5, 1)).astype("float32"), RNG.integers(0, 3, 20)
SUFFIXES = [".npz", ".safetensors"]


def model(width=4, **keywords):
    net = nn.Sequential(
        nn.Conv(width, 3), nn.BatchNorm(), nn.ReLU(), nn.Flatten(), nn.Dense(3)
    )  # fmt: skip
    return nn.Model(net, (5, 5, 1), **keywords)


def copies(m):
    return {k: np.array(a) for k, a in (m.parameters | m.state).items()}


def needed(suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_round_trip(tmp_path, suffix, dtype):
    needed(suffix)
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    a, b = model(dtype=dtype, seed=1), model(dtype=dtype, seed=2)
    a.fit(X, T, nn.CrossEntropy(), nn.SGD(0.01), epochs=1, progress=False)
    a.save(tmp_path / f"a{suffix}")
    assert os.listdir(tmp_path) == [f"a{suffix}"]
    b.load(tmp_path / f"a{suffix}")
    for name, array in copies(a).items():
        found = copies(b)[name]
        assert found.dtype == array.dtype
        assert np.array_equal(found, array), name


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("optimiser", [nn.Adam, nn.Momentum, nn.SGD])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_training_goes_on_where_it_was(tmp_path, suffix, optimiser, dtype):
    needed(suffix)
    path, loss = tmp_path / f"a{suffix}", nn.CrossEntropy()
    x = X.astype(dtype)
    a, b = model(dtype=dtype), model(dtype=dtype, seed=9)
    first, second = optimiser(0.01), optimiser(0.01)
    for _ in range(3):
        a.step(x, T, loss, first)
    a.save(path, first)
    b.load(path, second)
    for m, o in ((a, first), (b, second)):
        m.step(x, T, loss, o)
    for name, array in copies(a).items():
        assert np.array_equal(copies(b)[name], array), name


@pytest.mark.parametrize(("saved", "loaded"), [("float64", "float32"), ("float32", "float16"),
                                               ("bfloat16", "float64")])  # fmt: skip
def test_another_dtype_is_converted(tmp_path, saved, loaded):
    pytest.importorskip("ml_dtypes")
    a, b = model(dtype=saved, seed=1), model(dtype=loaded, seed=2)
    a.save(tmp_path / "a.npz")
    b.load(tmp_path / "a.npz")
    assert b.parameters["0.f"].dtype.name == loaded
    for name, array in copies(a).items():
        np.testing.assert_allclose(
            copies(b)[name].astype(float), array.astype(float), atol=1e-3, err_msg=name
        )


def test_on_every_library(tmp_path, backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    library = backend.xp.__name__ if "numpy" not in backend.name else "numpy"
    a, b = model(library=library, seed=1), model(seed=2)
    a.save(tmp_path / "a.npz")
    b.load(tmp_path / "a.npz")
    a.load(tmp_path / "a.npz")
    for name, array in (a.parameters | a.state).items():
        assert np.array_equal(backend.asnumpy(array), copies(b)[name])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_and_the_model_left(tmp_path, suffix, share):
    needed(suffix)
    m, path = model(), tmp_path / f"a{suffix}"
    m.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    before = copies(m)
    with pytest.raises(ValueError, match="load: the file must be a whole checkpoint"):
        m.load(path)
    assert all(np.array_equal(copies(m)[k], a) for k, a in before.items())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_bytes_are_refused_or_harmless(tmp_path, suffix):
    needed(suffix)
    m, path = model(), tmp_path / f"a{suffix}"
    m.save(path)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        spoiled = bytearray(data)
        spoiled[at] ^= 0xFF
        path.write_bytes(spoiled)
        before = copies(m)
        try:
            m.load(path)
        except ValueError as error:
            assert str(error).startswith("load: ")  # noqa: PT017
            assert all(np.array_equal(copies(m)[k], a) for k, a in before.items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    m = model()
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Evil()))
    np.savez(tmp_path / "b.npz", **{"parameter/0.f": np.array([Evil()], object)})
    np.save(tmp_path / "c.npy", np.ones(3))
    os.rename(tmp_path / "c.npy", tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.ones(3))
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as file:
        file.writestr("readme.txt", "hello")
    for name in "abcde":
        with pytest.raises(ValueError, match="load: the file must be a whole checkpoint"):
            m.load(tmp_path / f"{name}.npz")
    assert not (tmp_path / "evil").exists()


def test_a_file_of_another_model_names_the_parameter(tmp_path):
    a, wide = model(), model(width=6)
    other = nn.Model(nn.Sequential(nn.Conv(4, 3), nn.Flatten(), nn.Dense(3)), (5, 5, 1))
    for i, m in enumerate((wide, other)):
        m.save(tmp_path / f"{i}.npz")
    before = copies(a)
    with pytest.raises(ValueError, match=r"parameter 0\.f must have shape \(3, 3, 1, 4\)"):
        a.load(tmp_path / "0.npz")
    with pytest.raises(ValueError, match=r"the file must have parameter 1\.gamma"):
        a.load(tmp_path / "1.npz")
    a.save(tmp_path / "2.npz")
    with pytest.raises(ValueError, match=r"the file must have parameter 2\.w"):
        other.load(tmp_path / "2.npz")
    np.savez(tmp_path / "3.npz", **dict(np.load(tmp_path / "2.npz")), **{"state/9.mean": X})
    with pytest.raises(ValueError, match="whole checkpoint"):  # its note does not know the array
        a.load(tmp_path / "3.npz")
    with pytest.raises(ValueError, match="running arrays of Adam"):
        a.load(tmp_path / "2.npz", nn.Adam())
    with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors"):
        a.save(tmp_path / "a.pkl")
    with pytest.raises(FileNotFoundError):
        a.load(tmp_path / "none.npz")
    assert all(np.array_equal(copies(a)[k], v) for k, v in before.items())


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    m, path = model(), tmp_path / "a.npz"
    m.save(path)
    old = path.read_bytes()

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        m.save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.npz"]


def test_the_best_epoch_is_saved_while_training(tmp_path):
    m, path = model(), tmp_path / "best.npz"
    history = m.fit(
        X, T, nn.CrossEntropy(), nn.SGD(0.05), epochs=12, validation=(X, (T + 1) % 3),
        checkpoint=path, progress=False,
    )  # fmt: skip
    best = min(e["val_loss"] for e in history.epochs)
    m.load(path)
    assert m.evaluate(X, (T + 1) % 3, nn.CrossEntropy())["loss"] == pytest.approx(best, rel=1e-5)
