"""Training by `fit`: progress, early stopping, interrupts, moves between libraries, and memory."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from einstride import nn

RNG = np.random.default_rng(21)
X = RNG.standard_normal((50, 6, 6, 1)).astype("float32")
T = (X.mean(axis=(1, 2, 3)) > 0).astype("int64")


def network():
    """Return layers without a bias before a norm: Adam would amplify the rounding of its zero
    gradient."""
    first, second = (nn.Conv(4, 3, padding="same", bias=False) for _ in range(2))
    return nn.Sequential(
        first, nn.BatchNorm(), nn.ReLU(), nn.Dropout(0.1),
        nn.Residual(nn.Sequential(second, nn.BatchNorm())),
        nn.ReLU(), nn.MaxPool(2), nn.GlobalAvgPool(), nn.Dense(2),
    )  # fmt: skip


def model(**keywords):
    return nn.Model(network(), (6, 6, 1), **keywords)


def fit(m, *, epochs=3, optimiser=None, x=X, t=T, **keywords):
    keywords = {"progress": False, "batch_size": 16} | keywords
    optimiser = optimiser or nn.Adam(0.01)
    return m.fit(x, t, nn.CrossEntropy(), optimiser, epochs=epochs, **keywords)


def copies(m):
    return {k: np.array(a) for k, a in (m.parameters | m.state).items()}


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[k], b[k]) for k in a)


def test_fit_reduces_the_loss_and_prints_progress(capsys):
    m = model()
    history = fit(m, epochs=30, progress=True, validation=(X, T), metrics=[nn.accuracy])
    assert history is m.history
    assert history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]
    assert history.epochs[-1]["val_accuracy"] > 0.8
    assert (history.held, history.stopped) == (30, "all 30 epochs are done")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 30
    assert re.fullmatch(r"epoch 30/30: loss \S+, val_loss \S+, val_accuracy \S+", lines[-1])
    found = m.evaluate(X, T, nn.CrossEntropy(), metrics=[nn.accuracy, nn.top_n(2)], batch_size=7)
    assert found["top_2"] == 1.0
    assert found["accuracy"] == pytest.approx(nn.accuracy(m.predict(X, batch_size=9), T))


def test_the_same_seed_gives_the_same_bits():
    a, b, c = model(seed=4), model(seed=4), model(seed=5)
    for m in (a, b, c):
        fit(m)
    assert same(copies(a), copies(b))
    assert not same(copies(a), copies(c))


def test_the_same_numbers_on_every_library(backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    library = backend.xp.__name__ if "numpy" not in backend.name else "numpy"
    ours, theirs = model(dtype="float64"), model(dtype="float64", library=library)
    fit(ours)
    fit(theirs)  # data on the host are moved batch by batch
    fit(theirs.to("numpy"), epochs=1)
    fit(ours, epochs=1)
    for name, a in copies(ours).items():
        np.testing.assert_allclose(copies(theirs)[name], a, atol=1e-9, err_msg=name)


def test_moving_to_a_library_and_back(backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    m = model()
    before, y = copies(m), m(X)
    m.to(backend.xp.__name__ if "numpy" not in backend.name else "numpy")
    assert isinstance(m.parameters["0.f"], backend.array_type)
    np.testing.assert_allclose(backend.asnumpy(m(backend.asarray(X))), y, atol=1e-5)
    assert same(copies(m.to("numpy")), before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_train_and_sum_in_float32(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    m = model(dtype=dtype)
    assert m.parameters["0.f"].dtype.name == dtype
    assert m.parameters["1.gamma"].dtype == m.state["1.variance"].dtype == np.float32
    optimiser = nn.Adam(0.01)
    history = fit(m, epochs=25, optimiser=optimiser)
    assert m.parameters["0.f"].dtype.name == dtype
    assert history.epochs[-1]["loss"] < 0.7 * history.epochs[0]["loss"]
    assert {a.dtype.name for r in optimiser.running.values() for a in r.values()} == {"float32"}
    _, gradients = m.gradients(X.astype(dtype), T, nn.CrossEntropy())
    assert {g.dtype.name for g in gradients.values()} == {"float32"}


def test_small_steps_of_half_parameters_are_not_lost():
    p = {"w": np.ones(1, "float16")}
    optimiser = nn.SGD(1e-4)
    for _ in range(100):  # each far below the resolution of float16 at 1
        p = optimiser.step(p, {"w": np.ones(1, "float32")})
    np.testing.assert_allclose(p["w"], np.float16(0.99), atol=1e-3)
    p = optimiser.step({"w": np.ones(1, "float16")}, {"w": np.zeros(1, "float32")})
    assert p["w"] == 1  # a new parameter: the copy of the old one is dropped


def test_early_stopping_keeps_the_best():
    m = model()
    history = fit(m, epochs=200, validation=(X, 1 - T), patience=3)  # wrong labels
    losses = [e["val_loss"] for e in history.epochs]
    assert len(losses) < 200
    assert history.held == 1 + int(np.argmin(losses)) == len(losses) - 3
    assert "no smaller loss for 3 epochs" in history.stopped
    found = m.evaluate(X, 1 - T, nn.CrossEntropy())["loss"]
    assert found == pytest.approx(min(losses), rel=1e-5)


def test_a_schedule_is_followed_and_taken_back():
    optimiser, rates = nn.SGD(0.5), []
    fit(model(), optimiser=optimiser, epochs=2, schedule=lambda done: rates.append(done) or 0.1)
    np.testing.assert_allclose(rates, np.arange(8) / 8)
    assert optimiser.rate == 0.5


@pytest.mark.parametrize("spoiled", ["data", "parameters"])
def test_a_nan_stops_training_and_the_last_good_epoch_is_kept(spoiled):
    m = model()
    fit(m, epochs=2)
    before, optimiser = copies(m), nn.SGD(0.01 if spoiled == "data" else 1e38)
    x = X.copy()
    if spoiled == "data":
        x[7, 0, 0, 0] = np.nan
    with pytest.warns(RuntimeWarning, match=r"in epoch 1; the model holds the parameters from"):
        history = fit(m, x=x, optimiser=optimiser)
    assert same(copies(m), before)
    assert (history.held, history.epochs, optimiser.running) == (0, [], {})
    assert np.isfinite(fit(m, epochs=1).epochs[0]["loss"])


def test_ctrl_c_leaves_the_last_complete_epoch():
    m, other = model(), model()

    class Impatient(nn.Adam):
        def step(self, parameters, gradients):
            if self.steps == 9:  # epochs have 4 steps
                raise KeyboardInterrupt
            return super().step(parameters, gradients)

    with pytest.raises(KeyboardInterrupt, match=r"in epoch 3; the model holds .* after epoch 2"):
        fit(m, epochs=5, optimiser=Impatient(0.01))
    assert m.history.held == 2
    fit(other, epochs=2)
    assert same(copies(m), copies(other))
    fit(m, epochs=1)


def test_inference_keeps_nothing_and_changes_nothing():
    m = model()
    before = copies(m)
    given = X.copy()
    m(given)
    assert np.array_equal(given, X)
    assert same(copies(m), before)
    big = np.zeros((64, 6, 6, 1), "float32")
    for _ in range(4):  # the first calls plan, and compile programs that later calls run
        m(big)
    tracemalloc.start()
    y = m(big)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < y.nbytes + 20_000


def test_a_step_takes_the_memory_that_is_stated():
    """A step takes one array for the input of each layer, and about two of the largest: see the
    README."""
    net = nn.Sequential(
        nn.Conv(16, 3, padding="same"), nn.BatchNorm(), nn.ReLU(),
        nn.Conv(16, 3, padding="same"), nn.BatchNorm(), nn.ReLU(), nn.GlobalAvgPool(), nn.Dense(2),
    )  # fmt: skip
    m = nn.Model(net, (32, 32, 16))
    x, t = RNG.standard_normal((64, 32, 32, 16)).astype("float32"), np.zeros(64, int)
    loss, optimiser = nn.CrossEntropy(), nn.SGD(0.01)
    m.step(x, t, loss, optimiser)
    tracemalloc.start()
    m.step(x, t, loss, optimiser)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one = x.nbytes
    kept = 4 * one  # what the norms and the ReLUs gave on: x itself is the caller's
    assert peak < kept + 2 * one + (16 << 20), peak / one  # and what a convolution works with


def test_odd_memory_and_the_last_small_batch():
    wide = RNG.standard_normal((50, 1, 6, 12)).astype(">f4")
    x = np.moveaxis(wide, 1, -1)[:, :, ::-2]
    x.flags.writeable = False
    a, b = model(), model()
    fit(a, x=x, epochs=1, batch_size=49)
    fit(b, x=np.ascontiguousarray(x, "float32"), epochs=1, batch_size=49)
    for name, array in copies(a).items():
        np.testing.assert_allclose(array, copies(b)[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_labels_of_any_integer_dtype(dtype):
    a, b = model(), model()
    fit(a, epochs=1)
    fit(b, epochs=1, t=T.astype(dtype))
    assert same(copies(a), copies(b))
    onehot = model()
    fit(onehot, epochs=1, t=np.eye(2, dtype="float32")[T])
    for name, array in copies(onehot).items():
        np.testing.assert_allclose(array, copies(a)[name], atol=1e-6)


def test_batches():
    x = np.arange(10.0)
    every = [np.concatenate([b for b, _ in nn.Batches(x, x, 4, seed=s)]) for s in (0, 0, 1)]
    assert np.array_equal(every[0], every[1])
    assert not np.array_equal(every[0], every[2])
    assert sorted(every[0]) == list(x)
    repeated = nn.Batches(x, x, 4)
    assert not np.array_equal(*(np.concatenate([b for b, _ in repeated]) for _ in range(2)))


def test_metrics():
    y = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    assert nn.accuracy(y, np.array([0, 1])) == 0.5
    assert nn.accuracy(y, np.eye(3)[[0, 2]]) == 1.0
    assert nn.top_n(2)(y, np.array([2, 1])) == 0.5
    assert nn.binary_accuracy(np.array([0.3, 0.7]), np.array([0, 1]), threshold=0.5) == 1.0


def test_cross_entropy_of_huge_logits():
    y = np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]], "float32")
    loss, gradient = nn.CrossEntropy().value_and_gradient(y, np.array([0, 0]))
    assert float(loss) == pytest.approx(5e3)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [-0.5, 0.5, 0]])
    loss, gradient = nn.BinaryCrossEntropy().value_and_gradient(y, np.ones_like(y))
    assert float(loss) == pytest.approx((1e4 + 3 * np.log(2)) / 6)
    assert np.isfinite(gradient).all()


def test_dropout(backend):
    """Dropout drops equal elements on every library, keeps the mean, and masks the gradient
    equally."""
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    library = backend.xp.__name__ if "numpy" not in backend.name else "numpy"
    m = nn.Model(nn.Sequential(nn.Dropout(0.25)), (40, 50), dtype="float64", library=library)
    x = np.ones((8, 40, 50))
    y, tape = m.forward(backend.asarray(x))
    gx, _ = m.backward(y, tape, inner=True)
    y, gx = backend.asnumpy(y), backend.asnumpy(gx)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert abs(y.mean() - 1) < 0.02
    np.testing.assert_allclose(gx, y * y)
    again = nn.Model(nn.Sequential(nn.Dropout(0.25)), (40, 50), dtype="float64")
    np.testing.assert_allclose(again.forward(x)[0], y)
    assert np.array_equal(backend.asnumpy(m(backend.asarray(x))), x)
