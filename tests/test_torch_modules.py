"""`einstride.torch` has PyTorch's functions and modules, with its results on its own samples."""

import re
import warnings

import pytest

from checks import refused

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="PyTorch's samples need expecttest")
import einstride.torch as est  # noqa: E402

with warnings.catch_warnings(action="ignore"):
    from torch.testing._internal.common_methods_invocations import op_db

NAMES = [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]
SAMPLES = {op.name.rpartition(".")[2]: op for op in op_db if op.name.rpartition(".")[2] in NAMES}


def close(found, expected):
    """Compare with PyTorch's result, relative to its largest element."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.is_floating_point or expected.is_complex():
        eps = torch.finfo(expected.dtype).eps
        scale = expected.detach().abs().max().item() if expected.numel() else 0
        torch.testing.assert_close(found, expected, rtol=0, atol=32 * eps * (scale + 1))
    else:
        assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float64") for name in NAMES),
        *(
            (name, dtype)
            for name in NAMES
            if "3" not in name
            for dtype in ("complex64", "bfloat16")
        ),
        ("conv2d", "int64"),
    ],
)
def test_samples_of_torch(name, dtype, full_length):
    """Values, and gradients where there are any; with ``--all`` of every sample, else of some."""
    differentiable = dtype in ("float64", "complex64")
    samples = list(
        SAMPLES[name].sample_inputs("cpu", getattr(torch, dtype), requires_grad=differentiable)
    )
    ours, theirs = getattr(est, name), getattr(torch.nn.functional, name)
    assert len(samples) > 5
    for sample in samples if full_length else samples[::6]:
        arguments = (sample.input, *sample.args)
        expected = theirs(*arguments, **sample.kwargs)
        found = ours(*arguments, **sample.kwargs)
        close(found, expected)
        operands = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
        if operands and expected.numel():
            weight = torch.randn_like(expected)
            pairs = (torch.autograd.grad(y, operands, weight) for y in (found, expected))
            for one, other in zip(*pairs, strict=True):
                close(one, other)


@pytest.mark.parametrize("name", NAMES[:3])
def test_errors_of_torch_are_refused(name):
    errors = list(SAMPLES[name].error_inputs("cpu"))
    assert len(errors) >= 10
    for error in errors:
        sample = error.sample_input
        with pytest.raises((ValueError, TypeError)) as caught:
            getattr(est, name)(sample.input, *sample.args, **sample.kwargs)
        text = str(caught.value)
        assert re.match(rf"{name}: .*; .*; ", text), text


def test_other_arrays_and_shapes_are_refused():
    x, f = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)
    with refused("conv2d", TypeError, "weight must be a tensor"):
        est.conv2d(x, f.numpy())
    with refused("conv2d", ValueError, "axes"):
        est.conv2d(x[0, 0], f)
    with refused("conv_transpose2d", ValueError, "negative"):
        est.conv_transpose2d(x, torch.ones(2, 3, 3, 3), padding=-1)
    with refused("conv2d", ValueError, "unknown"):
        est.conv2d(x, f, padding="causal")


CASES = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1, "groups": 2, "bias": False},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "circular, same": {"padding": "same", "padding_mode": "circular", "dilation": 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d"])
def test_modules(name, case):
    theirs = getattr(torch.nn, name)(4, 6, 3, **CASES[case])
    ours = getattr(est, name)(4, 6, 3, **CASES[case])
    ours.load_state_dict(theirs.state_dict())
    assert str(ours) == str(theirs)
    assert isinstance(ours, type(theirs))
    x = torch.randn(2, 4, *(9, 8, 7)[: int(name[4])])
    close(ours(x), theirs(x))
    close(ours(x[0]), theirs(x[0]))


@pytest.mark.parametrize("name", ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
def test_transposed_modules(name):
    theirs = getattr(torch.nn, name)(4, 6, 3, stride=2, padding=1, groups=2)
    ours = getattr(est, name)(4, 6, 3, stride=2, padding=1, groups=2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, *(5, 4, 3)[: int(name[-2])])
    close(ours(x), theirs(x))
    size = [2 * n for n in x.shape[2:]]
    close(ours(x, output_size=size), theirs(x, output_size=size))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d", "Conv3d"])
def test_channels_last_stays_channels_last(name):
    form = torch.channels_last if "2" in name else torch.channels_last_3d
    module = getattr(est, name)(4, 6, 3, padding=1)
    x = torch.randn(2, 4, *(6, 5, 4)[: int(name[-2])])
    y = module(x.contiguous(memory_format=form))
    assert y.is_contiguous(memory_format=form)
    close(y, module(x))
    assert module(x).is_contiguous()


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_modules_train_and_compile(name):
    torch.manual_seed(0)
    models = []
    for library in (est, torch.nn):
        torch.manual_seed(1)
        models.append(torch.nn.Sequential(getattr(library, name)(3, 4, 3), torch.nn.ReLU()))
    x = torch.randn(2, 3, 8, 8)
    for model in models:
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            (model(x) ** 2).mean().backward()
            optimiser.step()
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(one, other)
    if name == "Conv2d":
        fast = torch.compile(models[0], backend="aot_eager", fullgraph=True)
        close(fast(x), models[0](x))
