"""Functions are pure: JAX traces and differentiates them, PyTorch's gradients flow through."""

import numpy as np
import pytest

import einstride as es
from checks import EVERY, agrees, same, unless_refused
from oracle import Case
from strategies import arrays

CASE = Case(2, (7, 6), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 1)), (1, 2), groups=2)
X, F, GY = arrays(CASE, "float64", 1)
GX = es.conv_input_grad(GY, F, CASE.input_size, **CASE.explicit)
GF = es.conv_filter_grad(X, GY, CASE.kernel_size, **CASE.explicit)


@pytest.mark.parametrize("algorithm", EVERY)
def test_torch_autograd(algorithm):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, f = torch.tensor(X, requires_grad=True), torch.tensor(F, requires_grad=True)
    with unless_refused(algorithm):
        es.conv(x, f, **CASE.explicit, algorithm=algorithm).backward(torch.tensor(GY))
        agrees(x.grad.numpy(), GX, algorithm=algorithm)
        agrees(f.grad.numpy(), GF, algorithm=algorithm)


def test_torch_autograd_of_the_gradients():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    gy, f = torch.tensor(GY, requires_grad=True), torch.tensor(F, requires_grad=True)
    es.conv_input_grad(gy, f, CASE.input_size, **CASE.explicit).backward(torch.tensor(X))
    same(gy.grad.numpy(), es.conv(X, F, **CASE.explicit))
    same(f.grad.numpy(), GF)


@pytest.fixture
def jax():
    module = pytest.importorskip("jax", reason="JAX is not installed")
    module.config.update("jax_enable_x64", True)
    return module


@pytest.mark.parametrize("algorithm", EVERY)
def test_jax_jit(jax, algorithm):
    keywords = CASE.explicit | {"algorithm": algorithm}
    forward = jax.jit(lambda x, f: es.conv(x, f, **keywords))
    input_grad = jax.jit(lambda gy, f: es.conv_input_grad(gy, f, CASE.input_size, **keywords))
    filter_grad = jax.jit(lambda x, gy: es.conv_filter_grad(x, gy, CASE.kernel_size, **keywords))
    x, f, gy = map(jax.numpy.asarray, (X, F, GY))
    with unless_refused(algorithm):
        agrees(np.asarray(forward(x, f)), es.conv(X, F, **CASE.explicit), algorithm=algorithm)
        agrees(np.asarray(input_grad(gy, f)), GX, algorithm=algorithm)
        agrees(np.asarray(filter_grad(x, gy)), GF, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", EVERY)
def test_jax_grad(jax, algorithm):
    def energy(x, f):
        return jax.numpy.sum(es.conv(x, f, **CASE.explicit, algorithm=algorithm) * GY)

    with unless_refused(algorithm):
        gx, gf = jax.grad(energy, argnums=(0, 1))(*map(jax.numpy.asarray, (X, F)))
        agrees(np.asarray(gx), GX, algorithm=algorithm)
        agrees(np.asarray(gf), GF, algorithm=algorithm)
