"""Meaningless values of every parameter of every public function raise short, named errors.

Only ValueError and TypeError are raised (OSError for files, MemoryError), in the form *function:
rule; values got; remedy*, with the function's name and a bounded length.
"""

import inspect
import re
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest

import einstride as es
from checks import well_formed
from einstride import nn
from einstride.__main__ import main
from einstride.interop import onnx_ops

X, F, GY = np.ones((2, 6, 6, 4), "f4"), np.ones((3, 3, 4, 6), "f4"), np.ones((2, 4, 4, 6), "f4")
X_FIRST, W = np.ones((2, 4, 6, 6), "f4"), np.ones((6, 4, 3, 3), "f4")
BYTES, BYTE_W = np.ones((2, 4, 6, 6), "u1"), np.ones((6, 4, 3, 3), "u1")


class Hostile:
    """An object whose `repr` raises."""

    def __repr__(self):
        raise RuntimeError("no text")


def values():
    """Make the values for one call: some can be read only once."""
    return {
        "None": None, "True": True, "0": 0, "-1": -1, "2**31": 2**31, "2**59": 2**59,
        "2**63": 2**63, "-2**63": -(2**63), "10**30": 10**30, "10**5000": 10**5000, "1.5": 1.5,
        "nan": float("nan"), "inf": float("inf"), "1j": 1j, "fraction": Fraction(1, 2),
        "empty": "", "word": "nonsense", "nul": "a\0b", "surrogate": "\udcff",
        "long": "a" * 100_000,
        "bytes": b"same", "bytearray": bytearray(b"\1\1"), "memoryview": memoryview(b"\1\1"),
        "tuple": (), "ints": (1,) * 40, "nested": (((1,),),), "self": [[1, [2]], [1]],
        "list": ["same", None], "dict": {1: 1, 2: 2}, "set": {1, 2}, "generator": (i for i in "ab"),
        "huge in a tuple": (10**5000, 1), "object": object(), "hostile": Hostile(),
        "in a tuple": (Hostile(), Hostile()), "type": int, "function": len, "ellipsis": ...,
        "slice": slice(1), "int64": np.int64(3), "uint64": np.uint64(2**64 - 1),
        "float array": np.ones((2, 2)), "empty array": np.empty((0, 3, 0)), "scalar": np.array(1),
        "words": np.array(["a"]), "objects": np.array([None]), "records": np.zeros(3, "f4,i2"),
        "dates": np.array(["2020"], "M8[D]"), "many axes": np.ones((1,) * 40),
        "nothing": np.ma.masked,
    }  # fmt: skip


def model():
    net = nn.Sequential(nn.Conv(2, 3), nn.ReLU(), nn.Flatten(), nn.Dense(2))
    return nn.Model(net, (5, 5, 1))


FUNCTIONS = {
    "conv": (es.conv, (X, F)),
    "conv_input_grad": (es.conv_input_grad, (GY, F, 6)),
    "conv_filter_grad": (es.conv_filter_grad, (X, GY, 3)),
    "conv_transpose": (es.conv_transpose, (GY, F)),
    "conv_jvp": (es.conv_jvp, (X, F, X, F)),
    "conv_bias_grad": (es.conv_bias_grad, (GY,)),
    "windows": (es.windows, (X, 2)),
    "plan": (es.plan, (X, F)),
    "tune": (es.tune, (X, F)),
    "Conv": (es.Conv, (F,)),
    "output_size": (es.output_size, (8, 3)),
    "same_padding": (es.same_padding, (8, 3)),
    "conv4d_forward": (es.conv4d_forward, (X, F, (1, 1))),
    "conv4d_input_gradient": (es.conv4d_input_gradient, (X, F, GY, (1, 1))),
    "conv4d_filter_gradient": (es.conv4d_filter_gradient, (X, F, GY, (1, 1))),
    "Plan.from_json": (es.Plan.from_json, (es.plan(X, F).to_json(),)),
    "Plan": (es.plan(X, F), (X, F)),
    "Conv.backward": (es.Conv(F).backward, (GY, X)),
    "onnx_ops.conv": (onnx_ops.conv, (X_FIRST, W)),
    "onnx_ops.conv_transpose": (onnx_ops.conv_transpose, (X_FIRST, np.ones((4, 3, 2, 2), "f4"))),
    "onnx_ops.conv_integer": (onnx_ops.conv_integer, (BYTES, BYTE_W)),
    "save": (model().save, ("nowhere/x.npz",)),
    "load": (model().load, ("nowhere.npz",)),
}
FILES = {"save", "load", "tune"}
OTHER_NAMES = {
    "Conv.backward": "Conv", "onnx_ops.conv": "conv", "onnx_ops.conv_transpose": "conv_transpose",
    "onnx_ops.conv_integer": "onnx_ops.conv",
}  # fmt: skip


def parameters(function, given):
    named = inspect.signature(function).parameters.values()
    return [p.name for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


CASES = [(name, p) for name, (function, given) in FUNCTIONS.items() for p in
         parameters(function, given)]  # fmt: skip


def checked(name, error, value):
    assert isinstance(error, (ValueError, TypeError, MemoryError)) or (
        name in FILES and isinstance(error, OSError)
    ), f"{value}: {error!r}"
    if isinstance(error, OSError):
        return
    text = str(error)
    assert len(text) < 2000, value
    names = [name, OTHER_NAMES.get(name, name)]
    if name == "onnx_ops.conv_integer":
        names.append("conv")
    found = next((n for n in names if text.startswith(f"{n}: ")), name)
    try:
        well_formed(found, text)
    except AssertionError as problem:
        raise AssertionError(f"{name}, {value}: {error!r}") from problem


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_an_error_message_or_a_result(name, parameter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, given = FUNCTIONS[name]
    positional = dict(zip(parameters(function, given), given, strict=False))
    for which, value in values().items():
        if name == "tune" and parameter != "seconds":
            positional["seconds"] = 0
        try:
            function(**(positional | {parameter: value}))
        except Exception as error:  # `checked` decides which kinds are allowed
            checked(name, error, which)
    assert all(path.is_file() for path in tmp_path.iterdir())  # no folder was created


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "null", "9" * 5000, '{"a": ' * 50_000])
def test_texts_that_are_no_plans(text, tmp_path):
    with pytest.raises(ValueError) as caught:
        es.Plan.from_json(text)
    checked("Plan.from_json", caught.value, text[:9])
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        es.tune(X, F, path=path, seconds=0)
    checked("tune", caught.value, text[:9])


def test_the_command_line(capsys):
    shapes = ["", "x", "1x", "99999999999999999999x3x3", "9" * 5000, "-1x3x3", "1.5x3x3", "axbxc"]
    for shape in shapes:
        assert main(["explain", f"--stride={shape}", "8x8x8x3", "3x3x3x4"]) in (0, 2)
        for first, second in ((shape, "3x3x3x4"), ("8x8x8x3", shape)):
            assert main(["explain", "--", first, second]) == 2
            text = capsys.readouterr().err
            assert re.match(r"(explain|plan): .+; got .+; .+", text, re.DOTALL), text
            assert len(text) < 2000


def test_results_beyond_memory_name_the_function():
    f = np.ones((1, 1, 1), "f4")
    with pytest.raises(MemoryError) as caught:
        es.conv(np.ones((1, 1, 1), "f4"), f, padding=2**54, algorithm="strided")
    well_formed("conv", str(caught.value), "memory")


def test_arrays_of_no_size_go_where_the_input_gradient_lets_them():
    gy, f = np.ones((2, 0, 6)), np.ones((3, 4, 6))
    for keywords in ({"padding": "same"}, {"padding": "same_lower", "stride": 2}):
        expected = es.conv_input_grad(gy, f, 0, **keywords)
        found = es.conv_transpose(gy, f, **keywords)
        assert found.shape == expected.shape == (2, 0, 4)
        assert es.conv_transpose(gy, f, output_size=0, **keywords).shape == (2, 0, 4)
        assert es.conv(found, f, **keywords).shape == gy.shape
    for keywords in ({}, {"padding": "same", "output_size": 1}):
        with pytest.raises(ValueError, match=r"conv_transpose: .*; got .*; "):
            es.conv_transpose(gy, f, **keywords)


def test_a_tuned_plan_of_numpy_integers_is_saved(tmp_path):
    path = tmp_path / "tuned.json"
    p = es.tune(X, F, stride=np.int64(1), padding=np.array([1, 1]), seconds=0, path=path)
    assert path.exists()
    assert es.Plan.from_json(p.to_json()).algorithm == p.algorithm
    again = es.tune(X, F, stride=1, padding=(1, 1), seconds=0, path=path)
    assert again.algorithm == p.algorithm
    text = path.read_text()
    es.tune(X, F, stride=np.int32(1), padding=[1, 1], seconds=0, path=path)
    assert path.read_text() == text  # both plans describe one job


def test_a_name_of_numpys_strings_is_a_name():
    x = es.conv(X, F, padding=np.str_("same"))
    np.testing.assert_array_equal(x, es.conv(X, F, padding="same"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("algorithm", ["auto", "strided", "gemm", "direct", "winograd", "fft"])
def test_no_algorithm_warns_of_overflow(algorithm, dtype):
    """Infinities are results as IEEE 754 defines them, without a warning from any algorithm."""
    large = np.finfo(dtype).max / 2
    x, f = np.full((2, 6, 6, 4), large, dtype), np.full((3, 3, 4, 6), large, dtype)
    gy = np.full((2, 4, 4, 6), large, dtype)
    calls = (
        lambda: es.conv(x, f, algorithm=algorithm),
        lambda: es.conv_input_grad(gy, f, 6, algorithm=algorithm),
        lambda: es.conv_filter_grad(x, gy, 3, algorithm=algorithm),
        lambda: es.conv(x, f, np.full(6, large, dtype), algorithm=algorithm, accumulate=None),
    )
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in calls:
            for _ in range(3):  # the third call is a repeated one
                try:
                    found = call()
                except ValueError as error:
                    assert "cannot do this" in str(error)  # noqa: PT017
                    break
            else:
                assert not np.isfinite(found).all()
        es.conv_bias_grad(gy)


def test_long_values_are_shortened():
    for call in (
        lambda: es.conv(X, F, algorithm="a" * 100_000),
        lambda: es.conv(X, F, layout="N" * 100_000),
        lambda: es.conv(X, F, stride=(1,) * 100_000),
        lambda: es.conv(X, F, padding_mode="z" * 100_000),
        lambda: es.plan((1,) * 100_000, F),
        lambda: es.Plan.from_json("x" * 100_000),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert len(str(caught.value)) < 2000


@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"), reason="Python without a limit")
def test_integers_with_too_many_digits_to_write():
    with pytest.raises(ValueError, match=r"conv: stride must fit .* got an integer of 16610 bits"):
        es.conv(X, F, stride=10**5000)


@pytest.mark.parametrize("keyword", ["stride", "padding", "dilation", "input_dilation"])
@pytest.mark.parametrize(
    "value", ["bytes", "bytearray", "memoryview", "dict", "set", "generator", "nested"]
)
def test_only_sequences_of_numbers_have_an_entry_for_each_axis(keyword, value):
    with pytest.raises(TypeError) as caught:
        es.conv(X, F, **{keyword: values()[value]})
    well_formed("conv", str(caught.value), keyword)
