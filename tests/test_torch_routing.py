"""Convolutions of a model go to einstride where its plan is faster than PyTorch's way, or stay."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("llvmlite", reason="without kernels nothing is routed")
import einstride.torch as est  # noqa: E402
from checks import slow_dense_torch  # noqa: E402


@pytest.fixture
def slow_dense():
    with slow_dense_torch():
        yield


with_slow_dense = pytest.mark.usefixtures("slow_dense")


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"),
        torch.nn.Conv2d(64, 64, 3, padding=1, groups=64),
        torch.nn.ConvTranspose2d(64, 8, 3, stride=2, output_padding=1),
    )


X = torch.ones(4, 3, 112, 112).cumsum(2).remainder(7)


@with_slow_dense
def test_convert_routes_layers_where_a_win_is_predicted():
    theirs = model()
    ours = est.convert(theirs)
    expected = theirs(X)
    torch.testing.assert_close(ours(X), expected, rtol=1e-3, atol=1e-4)
    taken = {r.layer: r for r in est.routes(ours)}
    assert list(taken) == ["0", "2", "3", "4"]
    assert taken["2"].einstride
    assert "winograd" in taken["2"].reason
    assert not taken["0"].einstride
    assert not taken["3"].einstride
    table = str(est.routes(ours))
    assert "4x64x56x56" in table
    assert "PyTorch" in table
    assert not any(type(m).__module__.startswith("einstride") for m in theirs.modules())


def test_a_converted_model_shares_its_parameters():
    theirs = model()
    ours = est.convert(theirs)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one is other
    (ours(X) ** 2).mean().backward()
    gradients = [p.grad.clone() for p in theirs.parameters()]
    theirs.zero_grad()
    (theirs(X) ** 2).mean().backward()
    for one, other in zip(gradients, theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-2, atol=1e-3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    again = copy.deepcopy(ours)
    assert str(again) == str(theirs)


def test_a_converted_model_compiles():
    ours = est.convert(model())
    fast = torch.compile(ours, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for x in (X, X[:2], X[:3, :, 10:]):  # each input size is compiled anew
            torch.testing.assert_close(fast(x), ours(x))


@with_slow_dense
def test_accelerate_routes_any_convolution_inside():
    theirs = model()
    with torch.no_grad():
        expected = theirs(X)
        with est.accelerate() as a:
            found = theirs(X)
            torch.nn.functional.conv1d(
                input=torch.ones(1, 4, 200, dtype=torch.float64),
                weight=torch.ones(8, 4, 9, dtype=torch.float64),
            )
            with torch.autocast("cpu"):
                theirs[0](X)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    taken = [(r.layer, r.einstride) for r in a.routes]
    assert ("conv2d", True) in taken
    assert ("conv2d", False) in taken
    assert [r.reason for r in a.routes if r.reason == "under autocast"]
    assert {r.layer for r in a.routes} == {"conv2d", "conv_transpose2d", "conv1d"}
    assert torch.equal(theirs(X), expected)


def test_float64_goes_to_the_kernels():
    layer = est.convert(torch.nn.Conv2d(16, 16, 3, groups=16, dtype=torch.float64))
    layer(torch.ones(1, 16, 32, 32, dtype=torch.float64))
    (taken,) = est.routes(layer)
    assert taken.einstride


def test_what_einstride_refuses_stays_with_torch():
    layer = est.convert(torch.nn.Conv2d(4, 4, 3))
    with pytest.raises(RuntimeError):
        layer(torch.ones(1, 3, 8, 8))
    (taken,) = est.routes(layer)
    assert not taken.einstride
    assert "cannot plan it: plan: x has 3 channels" in taken.reason


def test_what_has_no_array_stays_with_torch():
    x, f = torch.ones(8, 64, 56, 56), torch.ones(64, 64, 3, 3)
    with torch.no_grad(), est.accelerate() as a:
        assert torch.nn.functional.conv2d(x.to("meta"), f.to("meta")).is_meta
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.nn.functional.conv2d(x.to_sparse(), f)
    assert [(r.einstride, r.reason) for r in a.routes] == [
        (False, "on meta"),
        (False, "no dense tensor of plain numbers"),
    ]


def layer():
    torch.manual_seed(0)
    return torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).eval()


def kept(module):
    state = module._weight_kept._state
    return None if state is None else state[-1]


@with_slow_dense
@torch.no_grad()
def test_inference_transforms_a_weight_once():
    ours = est.convert(layer(), fixed_weights=True)
    x = torch.randn(8, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    first = ours(x)
    prepared = kept(ours)
    assert len(prepared._kept) == 1
    assert torch.equal(ours(x), first)
    assert kept(ours) is prepared
    assert kept(copy.deepcopy(ours)) is None


WRITES = {
    "a step of an optimiser": lambda m, new: m.weight.copy_(new),
    "load_state_dict": lambda m, new: m.load_state_dict({"weight": new}),
    "other data": lambda m, new: setattr(m.weight, "data", new.clone()),
    "another parameter": lambda m, new: setattr(m, "weight", torch.nn.Parameter(new.clone())),
}
UNCOUNTED = {
    "through data": lambda m, new: m.weight.data.copy_(new),
    "through NumPy": lambda m, new: m.weight.numpy().__setitem__(..., new.numpy()),
}


@with_slow_dense
@pytest.mark.parametrize("how", [*WRITES, *UNCOUNTED])
@torch.no_grad()
def test_a_changed_weight_is_transformed_anew(how):
    """Writes that PyTorch does not count are noticed unless weights are promised to be fixed."""
    theirs, fixed = layer(), how in WRITES
    ours = est.convert(theirs, fixed_weights=fixed)
    x = torch.randn(8, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    ours(x)
    assert not fixed or kept(ours) is not None
    new = torch.randn(64, 64, 3, 3)
    (WRITES | UNCOUNTED)[how](ours, new)
    expected = torch.nn.functional.conv2d(x, new, padding=1)
    torch.testing.assert_close(ours(x), expected, rtol=1e-3, atol=1e-2)


@with_slow_dense
def test_nothing_is_kept_in_training_or_of_uncounted_weights():
    x = torch.randn(8, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    ours = est.convert(layer(), fixed_weights=True).train()
    ours(x)
    with torch.no_grad():
        ours(x)
    assert kept(ours) is None
    with torch.inference_mode():
        theirs = layer()
        ours = est.convert(theirs, fixed_weights=True)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-3)
    assert kept(ours) is None


def test_layers_that_measured_no_faster_stay_with_torch():
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(256, 64, 1),
        torch.nn.Conv2d(64, 64, 3, padding=1, stride=2),
        torch.nn.Conv2d(64, 64, 3, padding=1, groups=64),
        torch.nn.Conv2d(64, 64, 3, padding=1, dtype=torch.bfloat16),
    ).eval()
    ours = est.convert(theirs)
    with torch.no_grad():
        x = ours[:3](torch.randn(1, 256, 28, 28))
        ours[3](x.bfloat16())
    assert [(r.layer, r.einstride) for r in est.routes(ours)] == [(str(i), False) for i in range(4)]
    assert "bfloat16 is not known" in list(est.routes(ours))[3].reason


@with_slow_dense
def test_a_converted_layer_under_transformations_and_symbols():
    from torch.fx.experimental.proxy_tensor import make_fx

    theirs, x = layer(), torch.randn(8, 64, 56, 56)
    ours = est.convert(theirs)
    weights = torch.stack([theirs.weight.detach(), 2 * theirs.weight.detach()])
    with torch.no_grad():
        found = torch.func.vmap(
            lambda w: torch.func.functional_call(ours, {"weight": w}, (x,)), out_dims=0
        )(weights)
        torch.testing.assert_close(found[0], theirs(x), rtol=1e-3, atol=1e-3)
        traced = make_fx(
            lambda x, w: torch.func.functional_call(ours, {"weight": w}, (x,)),
            tracing_mode="symbolic",
        )(x, weights[0])
        torch.testing.assert_close(traced(x, weights[0]), theirs(x), rtol=1e-3, atol=1e-3)
        with pytest.raises(RuntimeError):
            ours(x.to_sparse())


def test_a_long_depthwise_filter_and_volumes_go_to_einstride():
    with torch.no_grad(), est.accelerate() as a:
        torch.nn.functional.conv1d(
            torch.ones(1, 256, 400), torch.ones(256, 1, 31), padding=15, groups=256
        )
        torch.nn.functional.conv3d(
            torch.ones(1, 64, 8, 32, 32), torch.ones(64, 64, 3, 3, 3), padding=1
        )
    assert all(r.einstride for r in a.routes)
