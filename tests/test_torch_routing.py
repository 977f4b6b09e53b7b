"""Convolutions of a model go to einstride where its plan is faster than PyTorch's way, or stay."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("llvmlite", reason="without kernels nothing is routed")
import einstride.torch as est  # noqa: E402


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
