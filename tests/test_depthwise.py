"""groups="depthwise" is one group for each channel, whose filter may be one for all of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import agrees, promoted, refused, result_unless_refused, same
from oracle import Case
from strategies import arrays, cases, seeds

FEW = settings(max_examples=8)
CASE = Case(2, (7, 6), (3, 2), 3, 3, (2, 1), ((1, 0), (0, 2)), (1, 2), groups=3)
LAYOUTS = {
    "channels_last": (None, None),
    "channels_first": ((0, 3, 1, 2), (3, 2, 0, 1)),
    "HCNW,WOHI->CWNH": ((1, 3, 0, 2), (1, 3, 0, 2)),
}


def of_one_filter(case, dtype, seed):
    """Return x, one filter, gy, and the same filter for each channel as an array of its own."""
    x, f, gy = arrays(case, dtype, seed)
    one = f[..., :1, :1].copy()
    return x, one, gy, np.repeat(one, case.channels, -1)


@pytest.mark.parametrize("algorithm", ["auto", "strided", "gemm", "fft", "direct"])
@FEW
@given(
    case=cases(max_rank=3), channels=st.integers(1, 4), per_example=st.booleans(), seed=seeds,
    dtype=st.sampled_from(["float32", "complex64", "int8", "int64", "float64", "uint8"]),
)  # fmt: skip
def test_one_filter_for_every_channel(backend, algorithm, case, channels, per_example, seed, dtype):
    case = replace(case, channels=channels, filters=channels, groups=channels)
    case = replace(case, keywords={**case.keywords, "groups": "depthwise"})
    x, one, gy, wide = of_one_filter(case, dtype, seed)
    keywords, result = case.keywords | {"algorithm": algorithm}, promoted(dtype, dtype)

    def check(function, expected, *args, **more):
        found = result_unless_refused(
            lambda: backend(function, *args, **keywords, **more), algorithm, dtype
        )
        if found is not None:
            agrees(found, expected, result, algorithm)

    check(es.conv, oracle.forward(x, wide, case), x, one)
    gx = oracle.input_grad(gy, wide, case)
    check(es.conv_input_grad, gx, gy, one, case.input_size)
    if per_example:
        batch_of_one = replace(case, batch=1)
        each = np.stack([
            oracle.filter_grad(x[i : i + 1], gy[i : i + 1], batch_of_one)
            for i in range(case.batch)
        ])  # fmt: skip
    else:
        each = oracle.filter_grad(x, gy, case)
    total = each.sum(-1, keepdims=True)
    check(es.conv_filter_grad, total, x, gy, case.kernel_size, per_example=per_example)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["zeros", "symmetric", ("replicate", "zeros")])
def test_layouts_borders_and_out(backend, layout, mode):
    case = replace(CASE, mode=mode)
    x, one, gy, wide = of_one_filter(case, "float64", 3)
    plain = case.explicit | {"layout": layout}
    keywords = plain | {"groups": "depthwise"}
    move, turn = LAYOUTS[layout]
    if move is not None:
        x, gy = x.transpose(move), gy.transpose(move)
        one, wide = one.transpose(turn), wide.transpose(turn)
    if layout.endswith("CWNH"):
        gy = oracle_order(gy, "HCNW", "CWNH")
    same(backend(es.conv, x, one, **keywords), es.conv(x, wide, **plain))
    gx = es.conv_input_grad(gy, wide, (7, 6), **plain)
    same(backend(es.conv_input_grad, gy, one, (7, 6), **keywords), gx)
    each = es.conv_filter_grad(x, gy, (3, 2), **plain)
    channels = -1 if turn is None else turn.index(3)
    total = each.sum(channels, keepdims=True)
    same(backend(es.conv_filter_grad, x, gy, (3, 2), **keywords), total)
    if backend.name == "numpy":
        out = np.full(total.shape, np.nan)
        assert es.conv_filter_grad(x, gy, (3, 2), out=out, **keywords) is out
        same(out, total)


def oracle_order(a, given, wanted):
    return a.transpose([given.index(c) for c in wanted])


def test_a_filter_for_each_channel_and_several(backend):
    rng = np.random.default_rng(0)
    x, f = (rng.integers(-3, 4, s).astype(float) for s in ((2, 9, 4), (3, 1, 8)))
    y = backend(es.conv, x, f, groups="depthwise")
    same(y, es.conv(x, f, groups=4))
    same(backend(es.conv_input_grad, x[:, :7], f[..., :4], 9, groups="depthwise"),
         es.conv_input_grad(x[:, :7], f[..., :4], 9, groups=4))  # fmt: skip
    turned = {"groups": "depthwise", "stride": 2}
    same(backend(es.conv_transpose, x, f[..., :1], **turned),
         es.conv_transpose(x, np.repeat(f[..., :1], 4, -1), groups=4, stride=2))  # fmt: skip
    df = f[..., 1:2]
    same(backend(es.conv_jvp, x, f[..., :1], x, df, groups="depthwise"),
         es.conv(x, np.repeat(f[..., :1], 4, -1), groups=4)
         + es.conv(x, np.repeat(df, 4, -1), groups=4))  # fmt: skip


@pytest.mark.parametrize("filters", [1, 3, 6])
def test_layers(backend, filters):
    rng = np.random.default_rng(0)
    x, f, bias = rng.integers(-3, 4, (2, 9, 3)), rng.integers(-3, 4, (3, 1, filters)), [1, 2, 3]
    x, f = x.astype(float), f.astype(float)
    bias = np.array(bias if filters < 6 else 2 * bias, float)
    layer = es.Conv(backend.asarray(f), backend.asarray(bias), groups="depthwise")
    wide = np.repeat(f, 3, -1) if filters == 1 else f
    expected = es.Conv(wide, bias, groups=3)
    y = expected.forward(x)
    for _ in range(3):  # of which the last takes the filter that was prepared
        same(backend.asnumpy(layer.forward(backend.asarray(x))), y)
    gx, gf, gb = (backend.asnumpy(g) for g in layer.backward(backend.asarray(y)))
    wanted = expected.backward(y)
    same(gx, wanted.gx)
    same(gf, wanted.gf.sum(-1, keepdims=True) if filters == 1 else wanted.gf)
    same(gb, wanted.gb)
    assert "groups='depthwise'" in repr(layer)


def test_plans(backend):
    rng = np.random.default_rng(0)
    x, f = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((3, 3, 1, 1))
    gy = rng.standard_normal((2, 7, 6, 3))
    for direction, first, second, size in (
        ("forward", x, f, {}), ("input_grad", gy, f, {"input_size": (9, 8)}),
        ("filter_grad", x, gy, {"kernel_size": 3}), ("transpose", gy, f, {}),
    ):  # fmt: skip
        function = {
            "forward": es.conv,
            "input_grad": es.conv_input_grad,
            "filter_grad": es.conv_filter_grad,
            "transpose": es.conv_transpose,
        }[direction]
        given = tuple(backend.asarray(a) for a in (first, second))
        p = es.plan(*given, direction=direction, groups="depthwise", **size)
        y = function(*given, **size, groups="depthwise")
        assert p.output_shape == tuple(y.shape)
        same(backend.asnumpy(p(*given)), backend.asnumpy(y))
        if p.parts is None:
            again = es.Plan.from_json(p.to_json())
            assert again == p
            assert again.output_shape == p.output_shape
    wide = es.plan((2, 9, 8, 3), (3, 3, 1, 3), groups=3)
    assert es.plan((2, 9, 8, 3), (3, 3, 1, 1), groups="depthwise") != wide


def test_memory_of_a_gradient_stays_within_the_limit():
    x, gy = np.ones((4, 30, 5)), np.ones((4, 28, 5))
    p = es.plan(x, gy, direction="filter_grad", kernel_size=3, groups="depthwise",
                algorithm="gemm")  # fmt: skip
    keywords = {"groups": "depthwise", "algorithm": "gemm", "max_workspace": 64}
    with refused("conv_filter_grad", says="max_workspace is too small"):
        es.conv_filter_grad(x, gy, 3, **keywords)
    assert p.workspace > 64


def test_sums_over_channels_never_wrap():
    x, gy = np.full((1, 3, 70_000), 127, np.int8), np.full((1, 1, 70_000), 127, np.int8)
    assert es.conv_filter_grad(x, gy, 3, groups=70_000).dtype == np.int32
    with refused("conv_filter_grad", says="could overflow int32"):
        es.conv_filter_grad(np.repeat(x, 2, -1), np.repeat(gy, 2, -1), 3, groups="depthwise")


def test_errors():
    x, f = np.ones((1, 8, 3)), np.ones((3, 1, 1))
    with refused("conv", says="groups must be a number or a name that is known"):
        es.conv(x, f, groups="dephtwise")
    with refused("conv", says="f must have one input channel"):
        es.conv(x, np.ones((3, 3, 3)), groups="depthwise")
    with refused("Conv", says="f must have one input channel"):
        es.Conv(np.ones((3, 3, 3)), groups="depthwise")
    with refused("conv", says="must divide the 4 output channels"):
        es.conv(x, np.ones((3, 1, 4)), groups="depthwise")
    with refused("conv_filter_grad", says="makes as many channels as x has"):
        es.conv_filter_grad(x, np.ones((1, 6, 6)), 3, groups="depthwise")
    with refused("conv", says="at least one channel"):
        es.conv(x[..., :0], f, groups="depthwise")
    with refused("conv_filter_grad", says="has outputs of size"):
        es.conv_filter_grad(x, np.ones((1, 5, 3)), 3, groups="depthwise")
    with refused("conv_filter_grad", says="out must have the shape"):
        es.conv_filter_grad(x, x[:, :6], 3, groups="depthwise", out=np.ones((3, 1, 3)))
    with refused("conv", says="f needs 3 axes"):
        es.conv(x, f[0], groups="depthwise")
    with refused("conv", says="bias must have one number"):
        es.conv(x, f, np.ones(1), groups="depthwise")
    with pytest.raises(TypeError, match="groups must be an int"):
        es.Stream(f, groups="depthwise")
    with pytest.raises(TypeError, match="f must be a plain array"):
        es.conv(x, f.tolist(), groups="depthwise")


def test_pytorch_differentiates_and_transforms():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    f = torch.randn(3, 1, 1, dtype=torch.float64, requires_grad=True)

    def y(x, f):
        return es.conv(x, f, groups="depthwise", padding="same")

    assert torch.autograd.gradcheck(y, (x, f))
    assert torch.autograd.gradgradcheck(y, (x[:1, :3], f))
    compiled = torch.compile(y, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, f), y(x, f), rtol=0, atol=0)
    gy = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, gy: es.conv_filter_grad(x, gy, 3, groups="depthwise"), (x, gy)
    )
    fs = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    found = torch.func.vmap(y, (None, 0))(x, fs)
    torch.testing.assert_close(found, torch.stack([y(x, f) for f in fs]))
    per_sample = torch.func.vmap(
        torch.func.grad(lambda f, x: y(x[None], f).square().sum()), (None, 0)
    )(f.detach(), x.detach())
    expected = torch.func.grad(lambda f: y(x.detach(), f).square().sum())(f.detach())
    torch.testing.assert_close(per_sample.sum(0), expected)


def test_jax_differentiates_and_transforms():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x, f = (jax.numpy.asarray(rng.standard_normal(s)) for s in ((2, 7, 3), (3, 1, 1)))

    def y(x, f):
        return es.conv(x, f, groups="depthwise", padding=1)

    np.testing.assert_allclose(jax.jit(y)(x, f), y(x, f), rtol=1e-12, atol=1e-12)
    from jax.test_util import check_grads

    check_grads(y, (x, f), 2)
    check_grads(lambda x, gy: es.conv_filter_grad(x, gy, 3, groups="depthwise"), (x, x[:, :5]), 1)
    fs = jax.numpy.stack([f, 2 * f])
    found = jax.vmap(y, (None, 0))(x, fs)
    np.testing.assert_allclose(found, jax.numpy.stack([y(x, f), y(x, 2 * f)]), rtol=1e-12)
