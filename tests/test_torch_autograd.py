"""PyTorch differentiates, transforms and compiles calls through four registered operators."""

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest

import einstride as es
from checks import refused

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
CASES = {
    "strided, grouped": {"stride": 2, "padding": ((1, 0),), "groups": 2, "dilation": 2},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": ((3, 0),), "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": 1, "padding_mode": "circular", "groups": 2},
    "filled": {"padding": 2, "padding_mode": ("constant",), "fill": 3.5},
    "dilated input, flipped": {"input_dilation": 2, "padding": "same", "flip": True},
    "by letters": {"layout": "CNX,OXI->XNC", "padding": "full"},
}


def operands(layout="channels_last", groups=1, dtype=torch.float64, **_):
    """Return x (2, 6, 4), f (3, 4 // groups, 2) and a bias (2,), in the order of the layout."""
    torch.manual_seed(0)
    x, f = torch.randn(2, 6, 4, dtype=dtype), torch.randn(3, 4 // groups, 2, dtype=dtype)
    if layout != "channels_last":
        x, f = x.permute(2, 0, 1), f.permute(2, 0, 1)
    return tuple(t.requires_grad_() for t in (x, f, torch.randn(2, dtype=dtype)))


def check(function, arguments, second_order=True):
    arguments = tuple(a.detach().requires_grad_() for a in arguments)
    with warnings.catch_warnings(action="ignore"):  # of PyTorch, when it loads its vmap rules
        assert torch.autograd.gradcheck(
            function, arguments, check_forward_ad=True, check_batched_grad=True, fast_mode=True
        )
        if second_order:
            assert torch.autograd.gradgradcheck(
                function, arguments, check_fwd_over_rev=True, fast_mode=True
            )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float64") for name in CASES),
        ("circular", "complex128"),
        ("by letters", "complex128"),
    ],
)
def test_finite_differences(name, dtype):
    """Of every operator: first and second derivatives, backward and forward."""
    k = CASES[name]
    x, f, bias = operands(**k, dtype=getattr(torch, dtype))
    gy = es.conv(x, f, **k).detach()
    real = dtype == "float64"  # second derivatives are first ones of the other operators
    check(lambda x, f, b: es.conv(x, f, b, **k), (x, f, bias), real)
    check(lambda gy, f: es.conv_input_grad(gy, f, 6, **k), (gy, f), real)
    check(lambda x, gy: es.conv_filter_grad(x, gy, 3, **k), (x, gy), real)
    if "groups" in k or "layout" in k:
        each = lambda x, gy: es.conv_filter_grad(x, gy, 3, **k, per_example=True)  # noqa: E731
        check(each, (x, gy), real)
    if not {"padding_mode", "input_dilation"} & set(k):
        k = dict(k)
        if "->" in k.get("layout", ""):  # a transposed convolution reads x in the part for x
            gy = gy.permute(2, 1, 0)
        bias = torch.randn(4, dtype=x.dtype)
        check(lambda gy, f, b: es.conv_transpose(gy, f, b, **k), (gy, f, bias), real)


def test_mixed_dtypes_and_integers():
    x = torch.ones(1, 5, 2, dtype=torch.int8)
    f = torch.ones(2, 2, 3, requires_grad=True)
    es.conv(x, f).sum().backward()
    assert f.grad.dtype == torch.float32
    assert (f.grad == 4).all()
    real = torch.randn(1, 5, 2, requires_grad=True)
    y = es.conv(real, torch.randn(2, 2, 3, dtype=torch.complex64))
    y.abs().sum().backward()
    assert real.grad.dtype == torch.float32
    half = torch.ones(1, 5, 2, dtype=torch.bfloat16, requires_grad=True)
    es.conv(half, f).sum().backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("keywords", [
    {"algorithm": "winograd"}, {"batch_invariant": True}, {"accumulate": "float64"},
    {"accuracy": "elementwise"}, {"max_workspace": 1 << 20},
])  # fmt: skip
def test_keywords_reach_the_gradients(keywords):
    x, f = torch.randn(2, 12, 12, 16), torch.randn(3, 3, 16, 16, requires_grad=True)
    x.requires_grad_()
    es.conv(x, f, padding="same", **keywords).sum().backward()
    gy = torch.ones(2, 12, 12, 16)
    with torch.no_grad():
        gx = es.conv_input_grad(gy, f, (12, 12), padding="same")
        gf = es.conv_filter_grad(x, gy, (3, 3), padding="same")
    torch.testing.assert_close(x.grad, gx)
    torch.testing.assert_close(f.grad, gf)


def reference(x, f, b):
    """Compute the case "strided, grouped" by PyTorch's own convolution."""
    x = torch.nn.functional.pad(x.movedim(-1, -2), (1, 0))
    y = torch.nn.functional.conv1d(x, f.permute(2, 1, 0), b, 2, 0, 2, 2)
    return y.movedim(-2, -1)


def ours(x, f, b):
    return es.conv(x, f, b, **CASES["strided, grouped"])


DIMS = [(0, None, None), (None, 0, None), (0, 0, None), (0, 0, 0), (None, None, 0), (1, 2, 0)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_vmap(dims):
    """Of the function and of its gradients, over each operand alone and over several."""
    x, f, b = (t.detach() for t in operands(**CASES["strided, grouped"]))
    given = [
        t if d is None else torch.stack([t, 2 * t, t * t], d)
        for t, d in zip((x, f, b), dims, strict=True)
    ]

    def gradients(function):
        energy = lambda *a: (function(*a) ** 2).sum()  # noqa: E731
        return torch.func.vmap(torch.func.grad(energy, argnums=(0, 1, 2)), in_dims=dims)(*given)

    found, expected = (torch.func.vmap(g, in_dims=dims)(*given) for g in (ours, reference))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(ours), gradients(reference))


@pytest.mark.filterwarnings("ignore")
def test_vmap_of_the_gradients_and_the_transposed():
    k = CASES["by letters"]
    x, f, _ = (t.detach() for t in operands(**k))
    gy = es.conv(x, f, **k)
    functions = {
        "input": (lambda gy, f: es.conv_input_grad(gy, f, 6, **k), gy, f),
        "filter": (lambda x, gy: es.conv_filter_grad(x, gy, 3, **k), x, gy),
        "each": (lambda x, gy: es.conv_filter_grad(x, gy, 3, **k, per_example=True), x, gy),
        "one": (
            lambda x, gy: es.conv_filter_grad(x, gy, 3, **k), x[:, :1], gy[:, :1]),
        "transposed": (
            lambda gy, f: es.conv_transpose(gy, f, **k), gy.permute(2, 1, 0), f),
    }  # fmt: skip
    for name, (function, a, b) in functions.items():
        for dims in [(0, None), (None, 0), (0, 0)]:
            several = [
                t if d is None else torch.stack([t, -t, 3 * t])
                for t, d in zip((a, b), dims, strict=True)
            ]
            found = torch.func.vmap(function, in_dims=dims)(*several)
            rows = [several[i] if d is None else several[i][2] for i, d in enumerate(dims)]
            torch.testing.assert_close(found[2], function(*rows), msg=f"{name} {dims}")


@pytest.mark.filterwarnings("ignore")
def test_per_sample_gradients_and_hessians():
    torch.manual_seed(0)
    model = torch.nn.Conv1d(4, 6, 3, stride=2, groups=2, dtype=torch.float64)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    x = torch.randn(5, 4, 9, dtype=torch.float64)

    def theirs(weights, x):
        return (torch.func.functional_call(model, weights, (x[None],)) ** 2).sum()

    def energy(weights, x):
        f, b = weights["weight"], weights["bias"]
        y = es.conv(x[None], f, b, stride=2, groups=2, layout="channels_first")
        return (y**2).sum()

    per_sample = [
        torch.func.vmap(torch.func.grad(g), in_dims=(None, 0))(weights, x) for g in (energy, theirs)
    ]
    torch.testing.assert_close(*per_sample)
    rules = torch.func.jacrev, torch.func.jacfwd
    for outer, inner in itertools.product(rules, rules):
        hessians = [outer(inner(g, argnums=1), argnums=1)(weights, x[0]) for g in (energy, theirs)]
        torch.testing.assert_close(*hessians)
    tangents = {n: torch.ones_like(w) for n, w in weights.items()}
    changes = [
        torch.func.jvp(lambda w, g=g: g(w, x[0]), (weights,), (tangents,)) for g in (energy, theirs)
    ]
    torch.testing.assert_close(*changes)


def test_autocast():
    x, f = torch.randn(2, 8, 8, 16), torch.randn(3, 3, 16, 8, requires_grad=True)
    bias = torch.randn(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = es.conv(x, f, bias, padding=1)
        first = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), f.permute(3, 2, 0, 1))
        assert es.conv_transpose(y, f).dtype == torch.bfloat16
        assert es.conv(x, f.detach()).dtype == torch.bfloat16  # also where nothing is recorded
        assert es.conv(x.double(), f.double()).dtype == torch.float64
    assert y.dtype == first.dtype == torch.bfloat16
    y.sum().backward()
    assert f.grad.dtype == torch.float32
    low = es.conv(x.bfloat16(), f.bfloat16(), bias.bfloat16(), padding=1)
    assert torch.equal(y, low)


def test_nothing_is_detached_silently():
    f = torch.randn(3, 3, 2, 4, requires_grad=True)
    x = torch.randn(1, 8, 8, 2)
    layer = es.Conv(f, padding="same")
    assert layer(x).requires_grad
    plan = es.plan(x, f)
    assert plan(x, f).requires_grad
    assert es.windows(f.permute(3, 0, 1, 2), 2).requires_grad
    assert es.conv_bias_grad(f).requires_grad
    assert es.conv4d_forward(x, f, (1, 1)).requires_grad
    assert es.conv_jvp(x, f, x, None).requires_grad
    with torch.no_grad():
        assert not es.conv(x, f).requires_grad


def test_errors_name_the_function_that_was_called():
    x, f = torch.ones(1, 5, 5, 3), torch.ones(3, 3, 4, 2, requires_grad=True)
    with refused("conv", ValueError, "channels"):
        es.conv(x, f)
    with refused("conv4d_forward", ValueError, "channels"):
        es.conv4d_forward(x, f, (1, 1))
    with refused("conv", ValueError, "bias"):
        es.conv(torch.ones(1, 5, 5, 4), f, torch.ones(3))
    with refused("conv", ValueError, "padding"):
        es.conv(torch.ones(1, 5, 5, 4), f, padding="some")


COMPILED = """
import torch, einstride as es
x, f = torch.randn(2, 9, 8, 4), torch.randn(3, 3, 2, 6, requires_grad=True)
b = torch.randn(6, requires_grad=True)
K = dict(stride=2, padding=((1, 0), "same"), groups=2)

def energy(x, f, b):
    y = es.conv(x, f, b, **K).sin()
    return es.conv_transpose(y, f, **K).cos().sum()

seen = []
def eager(graph, examples):
    seen.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
    return graph.forward

fast = torch.compile(energy, fullgraph=True, backend=eager)
fast(x, f, b)
assert [s for s in seen if "einstride" in s] == ["einstride.conv", "einstride.conv_transpose"], seen
results = []
for function in (torch.compile(energy, fullgraph=True, backend="aot_eager"), energy):
    for _ in range(2):
        f.grad = b.grad = None
        function(x, f, b).backward()
    results.append((f.grad, b.grad))
torch.testing.assert_close(*results)
inside = torch.compile(torch.func.grad(energy, argnums=1), fullgraph=True, backend="aot_eager")
torch.testing.assert_close(inside(x, f.detach(), b.detach()), results[0][0])

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.f = torch.nn.Parameter(f.detach())

    def forward(self, x):
        return es.conv(x, self.f, **K)

sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("height", min=4)}
for strict in (False, True):
    program = torch.export.export(Layer(), (x,), dynamic_shapes={"x": sizes}, strict=strict)
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    assert [str(n.target) for n in nodes] == ["einstride.conv.default"], nodes
    other = torch.randn(5, 12, 8, 4)
    torch.testing.assert_close(program.module()(other), es.conv(other, f.detach(), **K))
"""


def test_compile_and_export_see_one_operator_each():
    """In a process of its own, in which the compiler is the first to meet a tensor."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_operators_pass_the_checks_of_torch():
    x, f = torch.randn(2, 6, 4), torch.randn(3, 4, 2, requires_grad=True)
    gy = torch.randn(2, 4, 2)
    calls = {
        "conv": (x, f, None),
        "conv_input_grad": (gy, f, [6]),
        "conv_filter_grad": (x, gy.requires_grad_(), [3], False),
        "conv_transpose": (gy, f, None, [0], None),
    }
    for name, arguments in calls.items():
        operator = getattr(torch.ops.einstride, name).default
        checks = ("test_schema", "test_faketensor", "test_autograd_registration")
        torch.library.opcheck(operator, arguments, test_utils=checks)


def test_double_backward_is_torchs():
    torch.manual_seed(0)
    x, f, v = torch.randn(2, 3, 7, 7), torch.randn(4, 3, 3, 3), torch.randn(2, 3, 7, 7)
    results = []
    for conv in (
        lambda x, f: es.conv(x, f, padding=1, layout="channels_first"),
        lambda x, f: torch.nn.functional.conv2d(x, f, padding=1),
    ):
        a, g = x.clone().requires_grad_(), f.clone().requires_grad_()
        (gx,) = torch.autograd.grad((conv(a, g) ** 3).sum(), a, create_graph=True)
        results.append(torch.autograd.grad((gx * v).sum(), (a, g)))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-2)
