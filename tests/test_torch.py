"""PyTorch's tensors are read where they are, and give the bits of NumPy's arrays."""

import os
import signal
import sys
import types
import warnings

import numpy as np
import pytest

import einstride as es
from checks import refused
from einstride.arrays import backends
from strategies import integer_data

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
adapter = pytest.importorskip("einstride.arrays.backends.torch")

X, F, BIAS = (integer_data(s, "float32", i) for i, s in enumerate([(2, 9, 8, 4), (3, 2, 2, 6), 6]))
K = {"stride": (2, 1), "padding": ((1, 0), "same"), "dilation": (1, 2), "groups": 2}
Y = es.conv(X, F, BIAS, **K)
FOUR = integer_data((3, 2, 4, 6), "float32", 4)
GY_4 = es.conv4d_forward(X, FOUR, (2, 1))

CALLS = {
    "conv": lambda x, f, b, gy, four: es.conv(x, f, b, **K),
    "conv_input_grad": lambda x, f, b, gy, four: es.conv_input_grad(gy, f, (9, 8), **K),
    "conv_filter_grad": lambda x, f, b, gy, four: es.conv_filter_grad(x, gy, (3, 2), **K),
    "conv_filter_grad, per example": lambda x, f, b, gy, four: es.conv_filter_grad(
        x, gy, (3, 2), **K, per_example=True),
    "conv_bias_grad": lambda x, f, b, gy, four: es.conv_bias_grad(gy),
    "conv_transpose": lambda x, f, b, gy, four: es.conv_transpose(gy, f, b[:4], **K),
    "conv_jvp": lambda x, f, b, gy, four: es.conv_jvp(x, f, 2 * x, f, **K),
    "windows": lambda x, f, b, gy, four: es.windows(x, 3, dilation=2),
    "conv4d_forward": lambda x, f, b, gy, four: es.conv4d_forward(x, four, (2, 1)),
    "conv4d_input_gradient": lambda x, f, b, gy, four: es.conv4d_input_gradient(
        x, four, es.conv4d_forward(x, four, (2, 1)), (2, 1)),
    "conv4d_filter_gradient": lambda x, f, b, gy, four: es.conv4d_filter_gradient(
        x, four, es.conv4d_forward(x, four, (2, 1)), (2, 1)),
    "Conv": lambda x, f, b, gy, four: es.Conv(f, b, **K)(x),
    "Conv.backward": lambda x, f, b, gy, four: es.Conv(f, b, **K).backward(gy, x).gf,
    "Plan": lambda x, f, b, gy, four: es.plan(x, f, **K)(x, f, b),
    "tune": lambda x, f, b, gy, four: es.tune(x, f, **K, seconds=0)(x, f),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_every_function_gives_the_bits_of_numpy(name):
    arrays = (X, F, BIAS, Y, FOUR)
    expected = CALLS[name](*arrays)
    for _ in range(3):  # the second and the third call find plans in the call cache
        given = [torch.from_numpy(a.copy()) for a in arrays]
        found = CALLS[name](*given)
        assert type(found) is torch.Tensor
        np.testing.assert_array_equal(found.numpy(), expected)
        assert found.numpy().dtype == expected.dtype
        assert all((t.numpy() == a).all() for t, a in zip(given, arrays, strict=True))
        if name != "windows":
            found.zero_()  # the caller may write it, and nothing else is written
        assert all((t.numpy() == a).all() for t, a in zip(given, arrays, strict=True))


MEMORY = {
    "plain": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other row": lambda t: t.repeat_interleave(2, 2)[:, :, ::2],
    "broadcast": lambda t: t[:1].expand(2, *t.shape[1:]),
    "parameter": torch.nn.Parameter,
    "flipped": lambda t: t.flip(2),
    "subtracted": lambda t: torch.complex(0 * t, t).conj().imag,  # its negative bit is set
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64", "int16"])
@pytest.mark.parametrize("memory", MEMORY)
def test_any_memory_is_read_where_it_is(memory, dtype):
    if memory == "subtracted" and dtype != "float32":
        pytest.skip("made from complex64")
    if memory == "parameter" and dtype == "int16":
        pytest.skip("parameters are floats")
    first = torch.from_numpy(X.transpose(0, 3, 1, 2).copy()).to(getattr(torch, dtype))
    x, f = (
        MEMORY[memory](first),
        torch.from_numpy(FOUR).to(getattr(torch, dtype)).permute(3, 2, 0, 1),
    )
    with torch.no_grad():
        lent = adapter.lend(x)
        found = es.conv(x, f, layout="channels_first", padding=1)
        expected = es.conv(lent.copy(), adapter.lend(f).copy(), layout="channels_first", padding=1)
    assert lent.dtype.name == dtype
    if memory != "subtracted":
        assert lent.__array_interface__["data"][0] == x.data_ptr()
        assert lent.strides == tuple(s * x.itemsize for s in x.stride())
    assert adapter.lend(found).tobytes() == expected.tobytes()
    assert found.dtype == (torch.int64 if dtype == "int16" else x.dtype)


def test_conjugates_are_computed_first():
    x, f = (torch.from_numpy(a).to(torch.complex64) * (1 + 2j) for a in (X, FOUR))
    found = es.conv(x.conj(), f)
    np.testing.assert_array_equal(found.numpy(), es.conv(x.numpy().conj(), f.numpy()))


def test_empty_results_and_zero_dimensional_batches():
    x, f = torch.zeros(0, 5, 5, 3), torch.ones(2, 2, 3, 4)
    assert es.conv(x, f).shape == (0, 4, 4, 4)
    assert es.conv_filter_grad(x, torch.zeros(0, 4, 4, 4), 2).abs().max() == 0


@pytest.mark.parametrize("count", [1, 2])
def test_threads_are_those_of_torch(count):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        plan = es.plan(torch.ones(8, 56, 56, 64), torch.ones(3, 3, 64, 64))
        expected = min(count, len(os.sched_getaffinity(0)))
        assert f"{expected} thread" in str(plan)
    finally:
        torch.set_num_threads(before)


def test_plans_of_tensors_are_plans_of_the_kernels():
    theirs, ours = (es.plan((8, 56, 56, 64), (3, 3, 64, 64), library=n) for n in ("torch", "numpy"))
    assert theirs.algorithm == ours.algorithm
    assert es.Plan.from_json(theirs.to_json()).algorithm == ours.algorithm


def test_out_is_written_and_torch_is_told():
    x, f = torch.from_numpy(X), torch.from_numpy(FOUR)
    out = torch.empty(2, 7, 7, 6)
    weight = torch.ones(2, 7, 7, 6, requires_grad=True)
    product = out * weight  # whose gradient needs the old values of out
    assert es.conv(x, f, out=out) is out
    np.testing.assert_array_equal(out.numpy(), es.conv(X, FOUR))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    with refused("conv", ValueError, "out must share no memory"):
        es.conv(x, torch.ones(1, 1, 4, 4), out=x)
    with torch.inference_mode():
        assert es.conv(x, f, out=torch.empty(2, 7, 7, 6)).is_inference()


def test_out_and_gradients():
    x, f = torch.from_numpy(X), torch.from_numpy(FOUR).requires_grad_()
    with refused("conv", ValueError, "cannot write to out"):
        es.conv(x, f, out=torch.empty(2, 7, 7, 6))
    with torch.no_grad():
        es.conv(x, f, out=torch.empty(2, 7, 7, 6))
    with refused("conv", ValueError, "cannot write to out"):
        es.conv(x, f.detach(), out=torch.empty(2, 7, 7, 6, requires_grad=True))


def quantised():
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.from_numpy(X), 1.0, 0, torch.qint8)


BAD = {
    "sparse": lambda: torch.from_numpy(X).to_sparse(),
    "quantised": quantised,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(2, 4)]),
    "float8": lambda: torch.from_numpy(X).to(torch.float8_e4m3fn),
    "one device": lambda: torch.from_numpy(X).to("meta"),
    "one library": lambda: X,
}


@pytest.mark.parametrize("name", BAD)
def test_tensors_without_an_array_are_refused(name):
    with warnings.catch_warnings(action="ignore"):
        bad = BAD[name]()
    good = torch.from_numpy(FOUR)
    with refused("conv", TypeError, name):
        es.conv(good if name == "one library" else bad, F if name == "one library" else good)
    if name != "nested":
        with refused("conv", TypeError, name):
            es.conv(torch.from_numpy(X), bad)


@pytest.mark.parametrize("name", BAD)
def test_tensors_without_an_array_are_refused_beside_one_that_requires_a_gradient(name):
    with warnings.catch_warnings(action="ignore"):
        bad = BAD[name]()
    f = torch.from_numpy(FOUR).requires_grad_()
    with refused("conv", TypeError, name):
        es.conv(bad, f)
    with refused("conv", TypeError, name):
        es.conv(torch.from_numpy(X), f, bad)


def test_tensors_on_the_meta_device_give_one():
    x, f = torch.from_numpy(X).to("meta"), torch.from_numpy(FOUR).to("meta")
    y = es.conv(x, f)
    assert (y.device.type, y.shape) == ("meta", (2, 7, 7, 6))
    with refused("conv", TypeError, "without values"):
        es.conv(x.int(), f.int())
    with refused("conv", TypeError, "one device"):
        es.conv(torch.from_numpy(X), torch.from_numpy(FOUR), out=y)


def test_a_fork_can_compute():
    x, f = torch.from_numpy(X), torch.from_numpy(FOUR)
    expected = es.conv(x, f)
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if torch.equal(es.conv(x, f), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


class OnDevice:
    """Stands in for a tensor on a GPU: it records what is asked of it."""

    is_cpu, dtype = False, torch.float32
    device = types.SimpleNamespace(type="cuda", index=3)

    def detach(self):
        return self

    resolve_conj = resolve_neg = detach


@pytest.fixture
def cupy_stand_in(monkeypatch):
    entered = []

    class Context:
        def __init__(self, *given):
            self.given = given

        def __enter__(self):
            entered.append(self.given)

        def __exit__(self, *error):
            entered.append("left")

    device = lambda index: Context("device", index)  # noqa: E731
    stream = lambda pointer: Context("stream", pointer)  # noqa: E731
    cuda = types.SimpleNamespace(Device=device, ExternalStream=stream)
    made = types.SimpleNamespace(cuda=cuda, from_dlpack=lambda t: ("array of", t))
    monkeypatch.setitem(sys.modules, "cupy", made)
    current = types.SimpleNamespace(cuda_stream=1234)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    return entered


def test_tensors_on_a_gpu_are_lent_to_cupy_on_their_stream(cupy_stand_in):
    tensor = OnDevice()
    with adapter.on(tensor):
        assert adapter.lend(tensor) == ("array of", tensor)
        assert cupy_stand_in == [("device", 3), ("stream", 1234)]
    assert cupy_stand_in[2:] == ["left", "left"]


def test_without_cupy_a_tensor_on_a_gpu_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "einstride.arrays.backends.cupy", raising=False)
    monkeypatch.delitem(vars(backends), "cupy", raising=False)  # of another test
    with refused("conv", TypeError, "CuPy cannot be imported"):
        adapter.computing("conv", OnDevice())
    elsewhere = types.SimpleNamespace(device=types.SimpleNamespace(type="mps"))
    with refused("conv", TypeError, "CPU or on a CUDA device"):
        adapter.computing("conv", elsewhere)
