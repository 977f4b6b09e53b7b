"""Ten steps of training from equal weights give PyTorch's parameters, to 1e-9 in float64."""

from __future__ import annotations

import numpy as np
import pytest

import nn_cases
from einstride import nn
from nn_cases import CASES, first, last, to_torch

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(5)
STEPS, BATCH = 10, 6


def our_model(layers, shape, backend=None):
    library = {"strict": "array_api_strict", "cupy-host": "cupy"}.get(
        backend.name if backend else "numpy", backend.name if backend else "numpy"
    )
    library = "numpy" if library.startswith("numpy") else library
    model = nn.Model(nn.Sequential(*layers), shape, dtype="float64", library=library)
    rng = np.random.default_rng(9)
    asarray = backend.asarray if backend else np.asarray
    every = model.parameters | model.state
    model.assign(
        {k: asarray(rng.random(tuple(a.shape)) * 0.6 - 0.3 * ("variance" not in k))
         for k, a in every.items()}
    )  # fmt: skip
    return model


def copy_to_torch(model, modules, asnumpy):
    """Copy parameters and statistics of a model into the corresponding PyTorch modules."""
    for name, a in (model.parameters | model.state).items():
        place, _, kind = name.rpartition(".")
        target = getattr(modules[int(place)], nn_cases.TORCH_NAMES[kind])
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(to_torch(name, asnumpy(a)))))


def compare(model, modules, asnumpy):
    for name, a in (model.parameters | model.state).items():
        place, _, kind = name.rpartition(".")
        theirs = getattr(modules[int(place)], nn_cases.TORCH_NAMES[kind]).detach().numpy()
        np.testing.assert_allclose(
            to_torch(name, asnumpy(a)), theirs, rtol=1e-9, atol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("name", CASES)
def test_every_layer(name, backend):
    """Train with each kind of layer inside a network, so that its input gradient is used too."""
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    case = CASES[name]
    width = case.shape[-1]
    model = our_model(
        [nn.Dense(width), case.ours(), nn.Flatten(), nn.Dense(4)], case.shape, backend
    )
    inner, layer = torch.nn.Linear(width, width), case.theirs(torch)
    size = model.net.layers[3].parameters["w"].shape[0]
    modules = [inner, layer, None, torch.nn.Linear(size, 4)]
    for m in modules:
        if m is not None:
            m.double()
    copy_to_torch(model, modules, backend.asnumpy)
    descent = torch.optim.SGD([p for m in modules if m for p in m.parameters()], 0.05)
    ours = nn.SGD(0.05)
    x, t = RNG.standard_normal((BATCH, *case.shape)), RNG.standard_normal((BATCH, 4))
    mine = backend.asarray(x), backend.asarray(t)
    for _ in range(STEPS):
        value = model.step(*mine, nn.L2(), ours)
        moved = case.channels_first and x.ndim > 2
        h = inner(torch.from_numpy(x))
        h = layer(torch.movedim(h, -1, 1) if moved else h)
        h = torch.movedim(h, 1, -1) if moved else h
        loss = torch.nn.functional.mse_loss(modules[3](h.reshape(BATCH, -1)), torch.from_numpy(t))
        descent.zero_grad()
        loss.backward()
        descent.step()
        np.testing.assert_allclose(float(value), loss.item(), rtol=1e-9)
    compare(model, modules, backend.asnumpy)


@pytest.mark.parametrize("name", CASES)
def test_inference(name):
    case = CASES[name]
    model, layer = our_model([case.ours()], case.shape), case.theirs(torch).double().eval()
    copy_to_torch(model, [layer], np.asarray)
    x = RNG.standard_normal((BATCH, *case.shape))
    theirs = layer(torch.from_numpy(first(x) if case.channels_first else x)).detach().numpy()
    theirs = last(theirs) if case.channels_first else theirs
    np.testing.assert_allclose(
        model(x), theirs.reshape(BATCH, *model.output_shape), rtol=1e-9, atol=1e-12
    )


OPTIMISERS = {
    "sgd": (lambda: nn.SGD(0.1, decay=0.02), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.02)),
    "momentum": (lambda: nn.Momentum(0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, 0.8)),
    "nesterov": (
        lambda: nn.Momentum(0.1, 0.8, nesterov=True, decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, 0.8, weight_decay=0.01, nesterov=True),
    ),
    "adagrad": (lambda: nn.AdaGrad(0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
    "rmsprop": (lambda: nn.RMSProp(0.1, 0.9), lambda p: torch.optim.RMSprop(p, 0.1, 0.9)),
    "adam": (lambda: nn.Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    "adam-decay": (
        lambda: nn.Adam(0.1, 0.7, 0.9, epsilon=1e-4, decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1, (0.7, 0.9), 1e-4, 0.1),
    ),
    "adamw": (
        lambda: nn.AdamW(0.1, decay=0.2), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser(name, backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    ours, theirs = OPTIMISERS[name]
    model = our_model([nn.Dense(7), nn.Tanh(), nn.Dense(3)], (5,), backend)
    modules = [torch.nn.Linear(5, 7).double(), None, torch.nn.Linear(7, 3).double()]
    copy_to_torch(model, modules, backend.asnumpy)
    descent = theirs([p for m in modules if m for p in m.parameters()])
    optimiser = ours()
    for _ in range(STEPS):
        x, t = RNG.standard_normal((BATCH, 5)), RNG.standard_normal((BATCH, 3))
        model.step(backend.asarray(x), backend.asarray(t), nn.L2(), optimiser)
        y = modules[2](torch.tanh(modules[0](torch.from_numpy(x))))
        descent.zero_grad()
        torch.nn.functional.mse_loss(y, torch.from_numpy(t)).backward()
        descent.step()
    compare(model, modules, backend.asnumpy)


def probabilities(shape):
    t = RNG.random(shape)
    return t / t.sum(-1, keepdims=True)


F = torch.nn.functional
LOSSES = {
    "l2": (nn.L2(), F.mse_loss, lambda: RNG.random((BATCH, 4)), None),
    "bce": (
        nn.BinaryCrossEntropy(), F.binary_cross_entropy_with_logits,
        lambda: RNG.random((BATCH, 4)), None,
    ),
    "bce-probabilities": (
        nn.BinaryCrossEntropy(from_logits=False), F.binary_cross_entropy,
        lambda: RNG.random((BATCH, 4)), "Sigmoid",
    ),
    "labels": (nn.CrossEntropy(), F.cross_entropy, lambda: RNG.integers(0, 4, BATCH), None),
    "one-hot": (
        nn.CrossEntropy(), F.cross_entropy, lambda: probabilities((BATCH, 4)), None
    ),
    "after-softmax": (
        nn.CrossEntropy(from_logits=False), lambda p, t: F.nll_loss(torch.log(p), t),
        lambda: RNG.integers(0, 4, BATCH), "Softmax",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("trained on NumPy, CuPy and array-api-strict")
    loss, theirs, targets, end = LOSSES[name]
    ends = {"Sigmoid": torch.sigmoid, "Softmax": lambda y: torch.softmax(y, 1), None: lambda y: y}
    model = our_model([nn.Dense(4), *([getattr(nn, end)()] if end else [])], (5,), backend)
    module = torch.nn.Linear(5, 4).double()
    copy_to_torch(model, [module], backend.asnumpy)
    descent, optimiser = torch.optim.SGD(module.parameters(), 0.2), nn.SGD(0.2)
    for _ in range(STEPS):
        x, t = RNG.standard_normal((BATCH, 5)), targets()
        value = model.step(backend.asarray(x), backend.asarray(t), loss, optimiser)
        other = theirs(ends[end](module(torch.from_numpy(x))), torch.from_numpy(t))
        descent.zero_grad()
        other.backward()
        descent.step()
        np.testing.assert_allclose(float(value), other.item(), rtol=1e-9)
    compare(model, [module], backend.asnumpy)
