"""JAX traces and differentiates the public functions; PyTorch's autograd goes through them."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import einstride as es
from checks import EVERY, agrees, refused, same, unless_refused
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


SMALL = Case(2, (6,), (2,), 2, 4, (2,), ((1, 0),), (1,), groups=2)
X_1, F_1, GY_1 = arrays(SMALL, "float64", 1)
K = SMALL.explicit
GF_1 = es.conv_filter_grad(X_1, GY_1, SMALL.kernel_size, **K)
FOUR = (np.ones((2, 5, 6, 3)), np.ones((2, 3, 3, 4)), np.ones((2, 4, 4, 4)))
# Functions that are linear in each of their arrays.
LINEAR = {
    "conv": (lambda x, f: es.conv(x, f, **K), (X_1, F_1)),
    "conv_input_grad": (lambda gy, f: es.conv_input_grad(gy, f, 6, **K), (GY_1, F_1)),
    "conv_filter_grad": (lambda x, gy: es.conv_filter_grad(x, gy, 2, **K), (X_1, GY_1)),
    "conv_transpose": (lambda x, f: es.conv_transpose(x, f, **K), (GY_1, F_1)),
    "conv_jvp, dx": (lambda dx, f: es.conv_jvp(X_LIKE(f), f, dx, None, **K), (X_1, F_1)),
    "conv_jvp, df": (lambda x, df: es.conv_jvp(x, F_LIKE(x), None, df, **K), (X_1, F_1)),
    "conv_bias_grad": (lambda gy: es.conv_bias_grad(gy), (GY_1,)),
    "windows": (lambda x: es.windows(x, 2), (X_1,)),
    "conv4d_forward": (lambda x, f: es.conv4d_forward(x, f, (1, 1)), FOUR[:2]),
    "conv4d_input_gradient": (
        lambda f, gy: es.conv4d_input_gradient(LIKE(FOUR[0], f), f, gy, (1, 1)), FOUR[1:]),
    "conv4d_filter_gradient": (
        lambda x, gy: es.conv4d_filter_gradient(x, LIKE(FOUR[1], x), gy, (1, 1)), FOUR[::2]),
}  # fmt: skip


def LIKE(a, _):  # noqa: N802
    import jax.numpy as jnp

    return jnp.asarray(a)


def X_LIKE(f):  # noqa: N802
    return LIKE(X_1, f)


def F_LIKE(x):  # noqa: N802
    return LIKE(F_1, x)


def traced_one_by_one(jax, name):
    """Yield (function of one array, that array, result) for each array of a linear function.

    The other arrays are concrete.
    """
    function, arrays = LINEAR[name]
    arrays = [jax.numpy.asarray(a) for a in arrays]
    result = function(*arrays)
    for which, array in enumerate(arrays):
        yield (
            lambda a, which=which: function(*arrays[:which], a, *arrays[which + 1 :]),
            array,
            result,
        )


@pytest.mark.parametrize("name", LINEAR)
def test_jax_jit_of_one_array(jax, name):
    for one, array, result in traced_one_by_one(jax, name):
        np.testing.assert_allclose(jax.jit(one)(array), result, rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_jax_vmap_of_one_array(jax, name):
    for one, array, result in traced_one_by_one(jax, name):
        several = jax.numpy.stack([array, 2 * array, 0 * array])
        expected = np.stack([result, 2 * result, 0 * result])
        np.testing.assert_allclose(jax.jit(jax.vmap(one))(several), expected, rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_jax_jvp_of_one_array(jax, name):
    for one, array, result in traced_one_by_one(jax, name):
        value, change = jax.jit(lambda a: jax.jvp(one, (a,), (3 * a,)))(array)  # noqa: B023
        np.testing.assert_allclose(value, result, rtol=1e-12)
        np.testing.assert_allclose(change, 3 * result, rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_jax_grad_of_one_array(jax, name):
    """The gradient of <g(a), weight>, times a, is <g(a), weight>, because g is linear."""
    for one, array, result in traced_one_by_one(jax, name):
        weight = jax.numpy.arange(result.size).reshape(result.shape) % 5 - 2.0
        gradient = jax.jit(jax.grad(lambda a: (one(a) * weight).sum()))(array)  # noqa: B023
        np.testing.assert_allclose((gradient * array).sum(), (result * weight).sum())


def test_jax_without_jit(jax):
    """Each transformation of JAX works without jit: it has tracers of its own."""
    x, f = jax.numpy.asarray(X_1), jax.numpy.asarray(F_1)
    y = es.conv(x, f, **K)
    np.testing.assert_array_equal(jax.vmap(lambda x: es.conv(x, f, **K))(x[None])[0], y)
    np.testing.assert_array_equal(jax.jvp(lambda f: es.conv(x, f, **K), (f,), (2 * f,))[1], 2 * y)
    gf = jax.grad(lambda f: (es.conv(x, f, **K) * GY_1).sum())(f)
    np.testing.assert_array_equal(gf, GF_1)


def test_jax_bias_and_layer_beside_tracers(jax):
    x, f, b = (jax.numpy.asarray(a) for a in (X_1, F_1, np.arange(4.0)))
    right = es.conv(x, f, b, **K)
    layer = es.Conv(f, b, **K)
    np.testing.assert_array_equal(jax.jit(lambda b: es.conv(x, f, b, **K))(b), right)
    np.testing.assert_array_equal(jax.jit(lambda x: es.conv(x, f, b, **K))(x), right)
    np.testing.assert_array_equal(jax.jit(layer)(x), right)
    gx, gf, gb = jax.jit(lambda gy: layer.backward(gy, x))(right)
    expected = layer.backward(right, x)
    for found, wanted in zip((gx, gf, gb), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(jax.grad(lambda b: es.conv(x, f, b, **K).sum())(b), [6] * 4)


def test_jax_integers_without_values(jax):
    """Checks of values cannot be traced: an error of einstride says so, not the tracer."""
    x, f = jax.numpy.ones((1, 9, 1), "int64"), jax.numpy.ones((2, 1, 1), "int64")
    assert es.conv(x, f).sum() == 16
    with refused("conv", TypeError, "values"):
        jax.jit(lambda x: es.conv(x, f))(x)


TWO_DEVICES = """
import numpy as np, jax, jax.numpy as jnp, einstride as es
one, two = jax.devices()[:2]
x, f = jnp.ones((2, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
here, there = jax.device_put(f, one), jax.device_put(f, two)
jax.jit(lambda x: es.conv(x, there))(x)
assert jax.grad(lambda f: es.conv(jax.device_put(x, two), f).sum())(there).devices() == {two}
for bias in (None, jax.device_put(jnp.ones(4), two)):
    other = there if bias is None else here
    try:
        es.conv(jax.device_put(x, one), other, bias)
    except TypeError as error:
        print(error)
mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
assert es.conv(x, there).devices() == {two}  # nobody placed x
part = jax.sharding.PartitionSpec
local = jax.shard_map(es.conv, mesh=mesh, in_specs=(part("batch"), part()), out_specs=part("batch"))
gradient = jax.jit(jax.grad(lambda f: local(x, f).sum()))(f)
assert (gradient == jax.grad(lambda f: es.conv(x, f).sum())(f)).all()
y = es.conv(jax.device_put(x, spread), jax.device_put(f, same), padding="same")
right = es.conv(x, f, padding="same")
assert y.devices() == {one, two} and (np.asarray(y) == np.asarray(right)).all()
"""


def test_jax_two_devices(jax):
    """Arrays on two devices are refused; arrays sharded over both work where JAX accepts them."""
    environment = dict(os.environ) | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    for line, other in zip(done.stdout.splitlines(), ("f", "bias"), strict=True):
        assert "conv: all arrays must be on one device; got x on" in line
        assert f", {other} on" in line


def test_torch_tensors_without_values():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, f = torch.tensor(X_1), torch.tensor(F_1)
    shape = es.conv(x, f, **K).shape
    assert es.conv(x.to("meta"), f.to("meta"), **K).shape == shape
    with FakeTensorMode() as mode:
        assert es.conv(mode.from_tensor(x), mode.from_tensor(f), **K).shape == shape
    with refused("conv", TypeError, "device"):
        es.conv(x.to("meta"), f, **K)
    with refused("conv", TypeError, "values"):
        es.conv(*(torch.ones(s, dtype=torch.int64, device="meta") for s in ((1, 9, 1), (2, 1, 1))))


def test_torch_func_of_one_tensor():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, f = torch.tensor(X_1), torch.tensor(F_1)
    y = es.conv(x, f, **K)
    np.testing.assert_array_equal(
        torch.func.grad(lambda f: (es.conv(x, f, **K) * torch.tensor(GY_1)).sum())(f), GF_1
    )
    np.testing.assert_array_equal(torch.func.vmap(lambda x: es.conv(x, f, **K))(x[None])[0], y)
    with warnings.catch_warnings(action="ignore"):  # of PyTorch, when it loads its vmap rules
        torch.func.jvp(torch.sin, (x,), (x,))
    np.testing.assert_array_equal(torch.func.jvp(lambda x: es.conv(x, f, **K), (x,), (x,))[1], y)


@pytest.mark.parametrize("error", [AttributeError, TypeError, RuntimeError, NotImplementedError])
def test_arrays_that_cannot_tell_their_device(monkeypatch, error):
    """An array without a device, in any library, is not refused as one of another device."""
    xp = pytest.importorskip("array_api_strict", reason="its arrays are of plain Python")
    import array_api_compat

    x, f, elsewhere = (
        xp.ones((1, 4, 2)),
        xp.ones((2, 2, 3)),
        xp.ones(3, device=xp.Device("device2")),
    )

    def unknown(a):
        if a is x:
            raise error("a tracer")
        return a.device if a is f else lambda: a.device  # a method in old versions of JAX

    monkeypatch.setattr(array_api_compat, "device", unknown)
    assert es.conv(x, f).shape == (1, 3, 3)
    with refused("conv", TypeError, "got f on"):
        es.conv(x, f, elsewhere)
