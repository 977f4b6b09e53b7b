"""Train by shards, which Dask computes, as one process does with the same batches."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from einstride import nn

da = pytest.importorskip("dask.array", reason="dask is not installed")

RNG = np.random.default_rng(4)
X = RNG.standard_normal((26, 6, 6, 2))
T = RNG.integers(0, 3, 26)


def network(*norms: nn.Layer) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv(4, 3, padding="same"), *norms, nn.ReLU(), nn.Dropout(0.3), nn.MaxPool(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Dense(3),
    )  # fmt: skip


def model(*norms: nn.Layer, dtype: str = "float64") -> nn.Model:
    return nn.Model(network(*norms), (6, 6, 2), dtype=dtype, seed=3)


def fit(m: nn.Model, *arrays: Any, **keywords: Any) -> nn.History:
    given = {"epochs": 2, "batch_size": 10, "progress": False} | keywords
    x, t = arrays or (None, None)
    return m.fit(x, t, nn.CrossEntropy(), nn.Adam(0.01), **given)


def values(m: nn.Model) -> dict[str, np.ndarray]:
    return {k: np.array(a) for k, a in (m.parameters | m.state).items()}


def same(a: nn.Model, b: nn.Model, error: float) -> None:
    theirs = values(b)
    for name, value in values(a).items():
        np.testing.assert_allclose(value, theirs[name], rtol=error, atol=error, err_msg=name)


def lazy() -> tuple[Any, Any]:
    return da.from_array(X, chunks=(7, 3, 6, 1)), da.from_array(T, chunks=9)


@pytest.mark.parametrize("shards", [1, 3, 10])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shards_give_the_parameters_of_one_process(shards, shuffle):
    """Dropout sets the same elements to zero, and the last batch is smaller."""
    whole, parts = model(), model()
    expected = fit(whole, X, T, shuffle=shuffle)
    keywords = {"shuffle": shuffle, "shards": shards, "cluster": "synchronous"}
    found = fit(parts, *lazy(), **keywords)
    same(parts, whole, 1e-12)
    assert found.epochs[-1]["loss"] == pytest.approx(expected.epochs[-1]["loss"], rel=1e-12)
    fit(whole, X, T)  # the random numbers go on where they were
    fit(parts, X, T)
    same(parts, whole, 1e-11)


def test_equal_shards_give_equal_bits():
    """Whatever scheduler computes them, and wherever the chunks of x end."""
    found = []
    for data, scheduler in (
        (lazy(), "synchronous"), (lazy(), "threads"), ((X, T), "threads"),
        ((da.from_array(X, chunks=26), T), None),
    ):  # fmt: skip
        m = model()
        fit(m, *data, cluster=scheduler, shards=9)
        found.append(values(m))
    for other in found[1:]:
        assert all(np.array_equal(found[0][k], other[k]) for k in other)


def test_sums_of_halves_are_float32():
    whole, parts = model(dtype="float16"), model(dtype="float16")
    x = X.astype("float16")
    fit(whole, x, T)
    fit(parts, x, T, cluster="synchronous", shards=4)
    assert {a.dtype.name for a in values(parts).values()} == {"float16"}
    same(parts, whole, 2e-2)


def test_an_iterable_of_shards():
    """Consecutive shards form a batch, as examples do."""
    ends = [0, 3, 5, 10, 12, 20, 26]  # two shards: batches of 5, 7 and 14
    shards = [(X[a:b], T[a:b]) for a, b in pairwise(ends)]
    shards[1] = tuple(map(da.from_array, shards[1]))
    a, b, c = model(), model(), model()
    fit(a, data=shards, shards=2, cluster="synchronous")
    optimiser = nn.Adam(0.01)
    for _ in range(2):
        for lo, hi in ((0, 5), (5, 12), (12, 26)):
            b.step(X[lo:hi], T[lo:hi], nn.CrossEntropy(), optimiser)
    same(a, b, 1e-12)
    fit(a, data=iter(shards), epochs=1, shards=2)
    fit(b, data=(X[:], T[:]), epochs=1)
    history = fit(c, data=lazy(), shards=1)
    assert history.stopped == "all 2 epochs are done"
    fit(d := model(), *lazy(), shards=1)
    same(c, d, 0)


def test_statistics_of_a_batch_need_one_shard():
    whole, parts = model(nn.BatchNorm()), model(nn.BatchNorm())
    with pytest.raises(ValueError, match=r"fit: a layer with statistics of the whole batch cannot "
                       r"be trained by shards; got layer 1 \(BatchNorm\); .*shards=1"):  # fmt: skip
        fit(parts, *lazy())
    fit(whole, X, T)
    fit(parts, *lazy(), shards=1, cluster="synchronous")
    same(parts, whole, 1e-12)  # the running statistics, too


def test_progress_checkpoints_and_validation(tmp_path, capsys):
    whole, parts = model(), model()
    x, t = lazy()
    keywords = {"epochs": 3, "metrics": [nn.accuracy], "schedule": lambda done: 1 - done}
    expected = fit(whole, X, T, validation=(X, T), **keywords)
    found = fit(parts, x, t, validation=(x, t), cluster="threads", progress=True,
                checkpoint=tmp_path / "best.npz", **keywords)  # fmt: skip
    for ours, theirs in zip(found.epochs, expected.epochs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert len(capsys.readouterr().err.splitlines()) == 3
    (again := model()).load(tmp_path / "best.npz")
    same(again, parts, 0)


def test_a_loss_that_is_not_finite_restores_the_last_epoch():
    m = model()
    before = values(m)
    x = da.from_array(np.where(np.arange(26)[:, None, None, None] == 20, np.inf, X), chunks=9)
    with pytest.warns(RuntimeWarning, match="in epoch 1; the model holds the parameters from bef"):
        fit(m, x, T, cluster="synchronous")
    assert all(np.array_equal(a, before[k]) for k, a in values(m).items())


def test_a_step_reads_the_chunks_of_its_batch():
    read, lock = [], threading.Lock()

    def chunk(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        with lock:
            read.append(block_info[0]["chunk-location"][0])
        return block

    x = da.from_array(X, chunks=(5, 6, 6, 2)).map_blocks(chunk, dtype=X.dtype, meta=X[:0])
    fit(model(), x, T, epochs=1, shuffle=False, shards=2, cluster="synchronous")
    assert sorted(read) == [0, 1, 2, 3, 4, 5]


REFUSED = {
    "neither": ({}, TypeError, "fit: either x and t or data must be given; got none of them; "),
    "a number": ({"data": 3}, TypeError, r"fit: data must be a pair \(x, t\) of arrays, or an it"),
    "no pairs": ({"data": [X]}, TypeError, r"fit: every shard must be a pair \(x, t\) of arrays; "),
    "no shards": ({"data": []}, ValueError, "fit: there must be a shard in each epoch; got none"),
    "read once": ({"data": iter([(X, T)])}, ValueError,
                  "fit: data must be readable once for each epoch; got an iterator and epochs=2"),
    "no length": ({"data": ((X, T) for _ in "a"), "epochs": 1, "schedule": lambda done: 1.0},
                  ValueError, "fit: a schedule needs the number of steps; got data without a len"),
    "another shape": ({"data": [(X, T), (X[:, :3], T)]}, ValueError,
                      r"fit: x must have shape \(B, 6, 6, 2\); got \(26, 3, 6, 2\)"),
    "targets too few": ({"data": [(X, T[:3])]}, ValueError, "fit: x and t must have as many exam"),
    "labels": ({"data": (da.from_array(X), da.from_array(T + 3))}, ValueError,
               r"CrossEntropy: labels must lie in \[0, 3\)"),
    "lazy labels of floats": ({"data": (X, da.from_array(T * 1.0))}, TypeError, "must be integers"),
    "unknown chunks": ({"data": (lazy()[0][lazy()[1] > 0], T)}, ValueError,
                       "fit: the chunks of x must have known sizes"),
    "no count": ({"data": (X, T), "cluster": "threads", "shards": 0}, ValueError,
                 "fit: shards must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    keywords, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        fit(model(), **keywords)
    with pytest.raises(TypeError, match="fit: either x and t or data must be given; got x; "):
        fit(model(), X, None)
    with pytest.raises(TypeError, match="fit: loss must be given"):
        model().fit(X, T)
