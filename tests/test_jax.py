"""JAX's transformations of every pass give the passes of NumPy, by each route that may compute
them.

Every transformation of one case is in one compiled function: compilation is what costs time.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import einstride as es
from checks import refused
from einstride import _testing

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy


@pytest.fixture(autouse=True)
def wide():
    jax.config.update("jax_enable_x64", True)


def integers(seed, *shape, dtype="float64"):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


GROUPED = {"groups": 2, "stride": 2, "padding": ((1, -1),), "dilation": 2, "flip": True}
PLANE = {"stride": (2, 1), "padding": ((0, 1), (2, 0)), "padding_mode": "reflect"}
MIXED = {"padding": ((1, 2), (2, 0)), "padding_mode": ("replicate", "symmetric")}
FIRST = {"layout": "channels_first", "input_dilation": (2, 1), "padding": "full"}
CASES = {
    "a line in groups": (GROUPED, (2, 8, 4), (2, 2, 4), 8, 2),
    "a reflected plane": (PLANE, (1, 4, 5, 2), (2, 3, 2, 3), (4, 5), (2, 3)),
    "a plane with two modes": (MIXED, (1, 3, 4, 2), (2, 3, 2, 1), (3, 4), (2, 3)),
    "a dilated plane, channels first": (FIRST, (2, 2, 3, 4), (3, 2, 2, 1), (3, 4), (2, 1)),
}


def passes(case):
    """Yield for each pass: the pass, its adjoints in both operands, and operands and a result."""
    keywords, x_shape, f_shape, size, kernel = CASES[case]

    def forward(x, f):
        return es.conv(x, f, **keywords)

    def input_grad(gy, f):
        return es.conv_input_grad(gy, f, size, **keywords)

    def filter_grad(x, gy):
        return es.conv_filter_grad(x, gy, kernel, **keywords)

    x, f = integers(1, *x_shape), integers(2, *f_shape)
    gy = integers(3, *forward(x, f).shape)
    return {
        "forward": (forward, input_grad, lambda ct, x: filter_grad(x, ct), (x, f), gy),
        "input_grad": (input_grad, forward, filter_grad, (gy, f), x),
        "filter_grad": (
            filter_grad, lambda ct, gy: input_grad(gy, ct), lambda ct, x: forward(x, ct),
            (x, gy), f,
        ),
    }  # fmt: skip


def transformed(function, a, b, da, db, ct):
    """Return the results of all transformations of one pass."""

    def energy(a, b):
        return jnp.sum(function(a, b) ** 2) / 2

    gradient = jax.grad(energy, argnums=(0, 1))
    several = jax.vmap(function, in_axes=(1, None))(jnp.stack([a, da], axis=1), b)
    each = jax.vmap(function)(jnp.stack([a, da]), jnp.stack([b, db]))
    others = jax.vmap(partial(function, a))(jnp.stack([b, db]))
    return {
        "value": function(a, b),
        "jvp": jax.jvp(function, (a, b), (da, db))[1],
        "vjp": jax.vjp(jax.checkpoint(function), a, b)[1](ct),
        "transpose": jax.linear_transpose(partial(function, a), b)(ct)[0],
        "hessian": jax.jvp(gradient, (a, b), (da, db))[1],
        "vmap": (several, others, each),
        "gradients": jax.vmap(jax.grad(lambda b, a: jnp.sum(function(a, b) * ct)), (None, 0))(
            b, jnp.stack([a, da])
        ),
    }


def composed(function, first, second, a, b, da, db, ct):
    """Return the same results as compositions of the three passes."""
    y, dy = function(a, b), function(da, b) + function(a, db)
    return {
        "value": y,
        "jvp": dy,
        "vjp": (first(ct, b), second(ct, a)),
        "transpose": second(ct, a),
        "hessian": (first(dy, b) + first(y, db), second(dy, a) + second(y, da)),
        "vmap": (
            np.stack([y, function(da, b)]),
            np.stack([y, function(a, db)]),
            np.stack([y, function(da, db)]),
        ),
        "gradients": np.stack([second(ct, a), second(ct, da)]),
    }


def agree(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, err_msg=str(path))
        assert one.dtype == other.dtype


ROUTES = {"kernels": True, "XLA": False}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("case", "which"),
    list(zip(CASES, ("forward", "input_grad", "forward", "filter_grad"), strict=True)),
    ids=lambda v: v,
)
def test_every_transformation_under_jit(case, which, route):
    function, first, second, operands, ct = passes(case)[which]
    a, b = operands
    given = (a, b, 2 * a - 1, b + 1, ct)
    with _testing.replacing("prefer a callback to the library", lambda *call: ROUTES[route]):
        lowered = jax.jit(partial(transformed, function)).lower(*map(jnp.asarray, given))
    assert ("callback" in lowered.as_text()) == ROUTES[route]
    found = lowered.compile()(*map(jnp.asarray, given))
    agree(found, composed(function, first, second, *given))


def test_without_jit():
    function, first, second, (a, b), ct = passes("a line in groups")["forward"]
    x, f, gy = map(jnp.asarray, (a, b, ct))
    gradients = jax.vjp(function, x, f)[1](gy)
    agree(gradients, (first(ct, b), second(ct, a)))
    assert jax.eval_shape(function, x, f).shape == ct.shape


@pytest.mark.parametrize("route", ROUTES)
def test_gradients_of_single_examples(route):
    """They, and their gradients, are one operation each."""
    keywords = {"groups": 2, "padding": "same"}
    x, gy = integers(1, 3, 5, 2), integers(2, 3, 5, 4)
    weight = integers(3, 3, 3, 1, 4)

    def gradients(x, gy):
        return jnp.sum(es.conv_filter_grad(x, gy, 3, **keywords, per_example=True) * weight)

    with _testing.replacing("prefer a callback to the library", lambda *call: ROUTES[route]):
        gx, ggy = jax.jit(jax.grad(gradients, argnums=(0, 1)))(jnp.asarray(x), jnp.asarray(gy))
    for i in range(3):
        one = (slice(i, i + 1),)
        expected = es.conv_input_grad(gy[one], weight[i], 5, **keywords)
        np.testing.assert_array_equal(gx[one], expected)
        np.testing.assert_array_equal(ggy[one], es.conv(x[one], weight[i], **keywords))


def test_complex_gradients_conjugate_nothing():
    x = integers(1, 1, 5, 2) + 1j * integers(2, 1, 5, 2)
    f = integers(3, 2, 2, 3) + 1j * integers(4, 2, 2, 3)
    ct = es.conv(x, f)
    gx, gf = jax.vjp(es.conv, jnp.asarray(x), jnp.asarray(f))[1](jnp.asarray(ct))
    np.testing.assert_array_equal(gx, es.conv_input_grad(ct, f.conj(), 5))
    np.testing.assert_array_equal(gf, es.conv_filter_grad(x.conj(), ct, 2))
    real = jax.grad(lambda x: es.conv(x, jnp.asarray(f)).real.sum())(jnp.asarray(x.real))
    assert real.dtype == "float64"


def primitives(jaxpr):
    return [str(equation.primitive) for equation in jaxpr.eqns]


def test_gradients_are_passes():
    """No scatter, slice or pad of array code is left in a gradient."""
    x, f = jnp.ones((2, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    function = jax.grad(lambda x, f: es.conv(x, f, stride=2, padding="same").sum(), argnums=(0, 1))
    found = primitives(jax.make_jaxpr(function)(x, f).jaxpr)
    assert found.count("einstride_convolution") == 3
    assert set(found) <= {"einstride_convolution", "reduce_sum", "broadcast_in_dim"}


def test_memory_is_shared():
    from einstride.arrays import backends

    x = jnp.ones((1, 64, 64, 32), "float32")
    b = backends.of("conv", ("x",), x)
    view = b.exchange.lend(x)
    assert view.ctypes.data == x.unsafe_buffer_pointer()
    assert not view.flags.writeable
    y = es.conv(view, np.ones((1, 1, 32, 32), "float32"))
    assert b.exchange.adopt(y, x).unsafe_buffer_pointer() == y.ctypes.data


def test_promises_that_xla_does_not_give():
    """Calls that ask for more than XLA promises are computed by the kernels under jit too."""
    x, f = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    asked = ({"algorithm": "gemm"}, {"max_workspace": 1 << 20}, {"batch_invariant": True})
    for keywords in (*asked, {"accuracy": "elementwise"}, {}):
        lowered = jax.jit(partial(es.conv, **keywords)).lower(x, f)
        assert ("callback" in lowered.as_text()) == bool(keywords)


def test_a_derivative_by_another_algorithm_than_named():
    """`winograd` has no filter gradient of one tap: the derivative takes another algorithm."""
    x, f = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 2))
    gf = jax.grad(lambda f: es.conv(x, f, stride=1, algorithm="winograd").sum())(f)
    np.testing.assert_allclose(gf, 16)
    with refused("conv", ValueError, "cannot do this"):
        jax.grad(lambda f: es.conv(x, f, stride=2, algorithm="winograd").sum())(f)


def test_a_filter_gradient_beside_a_promise_about_batches():
    x, f = jnp.ones((2, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    gradients = jax.grad(lambda x, f: es.conv(x, f, batch_invariant=True).sum(), argnums=(0, 1))
    gx, gf = gradients(x, f)
    np.testing.assert_array_equal(gf, 8 * jnp.ones_like(f))
    np.testing.assert_array_equal(gx, es.conv_input_grad(jnp.ones((2, 2, 2, 2)), f, 4))


def test_a_bias_is_added_before_halves_are_rounded():
    x, f = jnp.ones((1, 2, 1), "float16"), jnp.asarray([2048, 1], "float16").reshape(2, 1, 1)
    bias = jnp.ones(1, "float16")
    for function in (es.conv, jax.jit(es.conv)):
        assert function(x, f, bias).item() == 2050  # 2049 is no float16


def test_integers():
    small = jnp.ones((1, 5, 1), "int8")
    y = jax.jit(es.conv)(small, small[:, :2].reshape(2, 1, 1))
    assert (y.dtype, y.sum()) == ("int32", 8)
    x, f = jnp.ones((1, 5, 1), "int32"), jnp.ones((2, 1, 1), "int32")
    assert es.conv(x, f).dtype == "int64"
    with refused("conv", TypeError, "without values"):
        jax.jit(es.conv)(x, f)
    jax.config.update("jax_enable_x64", False)
    for function in (es.conv, jax.jit(es.conv)):
        with refused("conv", TypeError, "accumulate='int32'"):
            function(x, f)
    with refused("conv_bias_grad", TypeError, "jax_enable_x64"):
        es.conv_bias_grad(x)
    assert es.conv(x, f, accumulate="int32").dtype == "int32"


def test_sizes_that_are_no_numbers():
    export = pytest.importorskip("jax.export")
    (batch,) = export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 5, 1), "float32")
    with refused("conv", TypeError, "must be numbers"):
        export.export(jax.jit(lambda x: es.conv(x, jnp.ones((2, 1, 1), "float32"))))(x)


def test_empty_arrays_under_jit():
    x, f = jnp.ones((0, 5, 1)), jnp.ones((2, 1, 3))
    value, gradient = jax.jit(jax.value_and_grad(lambda f: es.conv(x, f).sum()))(f)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0 * f)


def test_the_guide_runs_top_to_bottom():
    jax.config.update("jax_enable_x64", False)
    page = (Path(__file__).parents[1] / "docs" / "jax.md").read_text(encoding="utf-8")
    namespace = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page, re.S)):
        exec(compile(block, f"docs/jax.md block {number}", "exec"), namespace)
