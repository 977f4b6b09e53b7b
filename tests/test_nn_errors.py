"""Invalid input is refused with an error that names the layer by its index and kind."""

from __future__ import annotations

import numpy as np
import pytest

from einstride import nn

ONES = np.ones


def build(*layers, shape=(8, 8, 2), **keywords):
    return nn.Model(nn.Sequential(*layers), shape, **keywords)


def trained(x, t, loss=None, *layers):
    m = build(*(layers or (nn.Flatten(), nn.Dense(3))))
    return m.fit(x, t, loss or nn.CrossEntropy(), nn.SGD(), epochs=1, progress=False)


X = ONES((4, 8, 8, 2), "float32")
TWICE = nn.ReLU()

CASES = {
    "a kernel too large": (lambda: build(nn.ReLU(), nn.Conv(3, 9)), r"layer 1 \(Conv\)"),
    "groups": (lambda: build(nn.Conv(3, 3, groups=3)), r"layer 0 \(Conv\).*groups"),
    "no spatial axis": (
        lambda: build(nn.Flatten(), nn.Conv(3, 3)), r"layer 1 \(Conv\).*spatial axis"),
    "a pool too large": (lambda: build(nn.MaxPool(9)), r"layer 0 \(MaxPool\).*fit"),
    "nothing but padding": (
        lambda: build(nn.AvgPool(2, padding=2)), r"layer 0 \(AvgPool\).*no padding"),
    "ways of two shapes": (
        lambda: build(nn.ReLU(), nn.Residual(nn.Conv(3, 3))),
        r"layer 1 \(Residual\).*body \(6, 6, 3\), input \(8, 8, 2\)"),
    "inside a body": (
        lambda: build(nn.Residual(nn.Sequential(nn.ReLU(), nn.Conv(2, 11)))),
        r"layer 0 \(Residual\), body, layer 1 \(Conv\)"),
    "a reshape": (lambda: build(nn.Reshape((3, -1))), r"layer 0 \(Reshape\).*128 elements"),
    "a layer twice": (lambda: build(TWICE, TWICE), r"layer 1 \(ReLU\): a layer can be used in"),
    "no channels": (lambda: nn.Conv(0, 3), "channels must be at least 1"),
    "a class": (lambda: nn.Sequential(nn.ReLU), r"nn\.ReLU\(\) with its parentheses"),
    "a shape with a batch": (lambda: build(shape=(0, 8)), "leave the batch axis out"),
    "a dtype": (lambda: build(dtype="int8"), "dtype must be one of"),
    "a library": (lambda: build(library="nonsense"), "cannot be imported"),
    "dropout": (lambda: nn.Dropout(1.0), r"rate must lie in \[0, 1\)"),
    "a rate": (lambda: nn.Adam(-1), "rate must be positive"),
    "a NaN rate": (lambda: nn.SGD(float("nan")), "rate must be positive"),
    "momentum": (lambda: nn.Momentum(momentum=1.0), r"momentum must lie in \[0, 1\)"),
    "another shape": (lambda: build()(ONES((1, 8, 8, 3), "float32")), r"shape \(B, 8, 8, 2\)"),
    "an empty batch": (lambda: build()(X[:0]), "at least one example"),
    "an 8-bit image": (lambda: build()(X.astype("uint8")), r"astype\('float32'\) / 255"),
    "a list": (lambda: build()([1.0]), "plain array"),
    "one value per channel": (
        lambda: trained(X[:1], np.zeros(1, int), None,
                        nn.ReLU(), nn.GlobalAvgPool(), nn.BatchNorm()),
        r"layer 2 \(BatchNorm\).*more than one value"),
    "a label too high": (
        lambda: trained(X, np.array([0, 1, 2, 3])), r"labels must lie in \[0, 3\).*\[0, 3\]"),
    "a label below zero": (lambda: trained(X, np.array([0, 1, 2, -1])), "labels must lie in"),
    "labels of floats": (lambda: trained(X, ONES(4)), "labels must be integers"),
    "labels of bools": (lambda: trained(X, ONES(4, bool)), "labels must be integers"),
    "labels of a wrong shape": (lambda: trained(X, np.zeros((4, 2), int)), "y.shape"),
    "too few labels": (lambda: trained(X, np.zeros(3, int)), "as many examples"),
    "no examples": (lambda: trained(X[:0], np.zeros(0, int)), "must be an example"),
    "targets beyond one": (
        lambda: trained(X, 2 * ONES((4, 3)), nn.BinaryCrossEntropy()), r"t must lie in \[0, 1\]"),
    "targets of another shape": (
        lambda: trained(X, ONES((4, 2)), nn.L2()), "t must have the shape of y"),
    "epochs": (
        lambda: build(nn.Flatten(), nn.Dense(3)).fit(
            X, np.zeros(4, int), nn.CrossEntropy(), nn.SGD(), epochs=0),
        "epochs must be at least 1"),
    "a batch of none": (lambda: nn.Batches(X, X, 0), "size must be at least 1"),
    "a gradient of another shape": (
        lambda: nn.SGD().step({"w": ONES(2)}, {"w": ONES(3)}), "w: gradient"),
    "assigning what is not there": (lambda: build().assign({"w": ONES(2)}), "no such array"),
    "top": (lambda: nn.top_n(0), "n must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(name):
    call, sentence = CASES[name]
    if name == "a layer twice":
        TWICE.place = ""
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        call()
    assert str(caught.value).count("; ") >= 2, "in three parts"


def test_another_library_is_refused():
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(ValueError, match="x must be an array of numpy"):
        build()(xp.asarray(X))


def test_batch_norm_before_any_training_is_the_identity():
    y = build(nn.BatchNorm(), dtype="float64")(X.astype("float64"))
    np.testing.assert_allclose(y, X, atol=1e-5)


def test_a_batch_of_one_trains():
    m = build(nn.Conv(2, 3), nn.BatchNorm(), nn.Flatten(), nn.Dense(3))
    loss = m.step(X[:1], np.zeros(1, int), nn.CrossEntropy(), nn.SGD())
    assert np.isfinite(loss)


def test_a_gradient_of_the_output_is_never_written():
    m = build(nn.ReLU(), nn.BatchNorm(), nn.ReLU(), nn.Residual(nn.ReLU()), nn.Flatten())
    y, tape = m.forward(X)
    gy = ONES(y.shape, "float32")
    gy.flags.writeable = False
    m.backward(gy, tape, inner=True)


def test_numbers_of_all_public_docstrings():
    """Every public name of nn has a docstring in numpydoc's form."""
    from test_docs import IGNORED  # numpydoc rules of the core

    validate = pytest.importorskip("numpydoc.validate").validate
    for name in nn.__all__:
        thing = getattr(nn, name)
        names = [f"einstride.nn.{name}"]
        if isinstance(thing, type):
            names += [f"{names[0]}.{k}" for k, v in vars(thing).items()
                      if callable(v) and not k.startswith("_")]  # fmt: skip
        for one in names:
            found = [e for e in validate(one)["errors"] if e[0] not in IGNORED]
            assert not found, f"{one}: {found}"
