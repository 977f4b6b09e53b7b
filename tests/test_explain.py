"""``python -m einstride explain`` prints the plan for two shapes, or an error of the library."""

import subprocess
import sys

import pytest

import einstride as es
from checks import well_formed
from einstride.__main__ import main

X, F = "8x56x56x64", "3x3x64x64"
SHAPES = ((8, 56, 56, 64), (3, 3, 64, 64))


def explained(capsys, *arguments):
    """Run explain, and return (exit code, standard output, standard error)."""
    code = main(["explain", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("arguments", "shapes", "keywords"),
    [
        ([X, F], SHAPES, {}),
        ([X, F, "--stride", "1", "--padding", "same"], SHAPES, {"stride": 1, "padding": "same"}),
        ([X, F, "--padding", "1"], SHAPES, {"padding": 1}),
        ([X, F, "--padding", "same,causal"], SHAPES, {"padding": ("same", "causal")}),
        ([X, F, "--padding", "1:2,valid"], SHAPES, {"padding": ((1, 2), "valid")}),
        ([X, F, "--padding=-1:2,-3"], SHAPES, {"padding": ((-1, 2), -3)}),
        (["1x9x1", "3x1x1", "--padding", "0:2"], ((1, 9, 1), (3, 1, 1)), {"padding": ((0, 2),)}),
        ([X.replace("x", ","), F, "--stride", "2,1"], SHAPES, {"stride": (2, 1)}),
        ([X, F, "--dtype", "float64"], SHAPES, {"dtype": "float64"}),
        ([X, F, "--library", "array_api_strict"], SHAPES, {"library": "array_api_strict"}),
        (["1x9x8x6", "3x2x3x4", "--groups", "2"], ((1, 9, 8, 6), (3, 2, 3, 4)), {"groups": 2}),
        ([X, X, "--direction", "filter_grad", "--kernel-size", "3", "--padding", "1",
          "--per-example"], (SHAPES[0], SHAPES[0]),
         {"direction": "filter_grad", "kernel_size": 3, "padding": 1, "per_example": True}),
        ([X, F, "--direction", "input_grad", "--input-size", "58,58"], SHAPES,
         {"direction": "input_grad", "input_size": (58, 58)}),
        ([X, F, "--direction", "transpose", "--stride", "2", "--output-padding", "1,0"], SHAPES,
         {"direction": "transpose", "stride": 2, "output_padding": (1, 0)}),
        ([X, F, "--direction", "transpose", "--output-size", "58"], SHAPES,
         {"direction": "transpose", "output_size": 58}),
        ([X, F, "--dilation", "2", "--input-dilation", "3", "--flip", "--batch-invariant"], SHAPES,
         {"dilation": 2, "input_dilation": 3, "flip": True, "batch_invariant": True}),
        ([X, F, "--algorithm", "gemm", "--max-workspace", "50000000", "--accuracy", "elementwise",
          "--accumulate", "float64", "--padding-mode", "reflect", "--padding", "1"], SHAPES,
         {"algorithm": "gemm", "max_workspace": 50000000, "accuracy": "elementwise",
          "accumulate": "float64", "padding_mode": "reflect", "padding": 1}),
        (["2x64x9x9", "64x64x3x3", "--layout", "channels_first"], ((2, 64, 9, 9), (64, 64, 3, 3)),
         {"layout": "channels_first"}),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_it_prints_the_plan(capsys, arguments, shapes, keywords):
    if "array_api_strict" in arguments:
        pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    p = es.plan(*shapes, **keywords)
    assert explained(capsys, *arguments) == (0, f"{p}\n", "")
    assert explained(capsys, *arguments, "--json") == (0, f"{p.to_json()}\n", "")


@pytest.mark.parametrize(
    ("arguments", "function", "says"),
    [
        ([X, "3x3x60x64"], "explain", "64 channels"),
        ([X, F, "--groups", "3"], "explain", "groups"),
        ([X, F, "--stride", "0"], "explain", "stride"),
        ([X, F, "--padding", "sam"], "explain", "padding"),
        ([X, F, "--padding", "1,2,3"], "explain", "padding"),
        ([X, F, "--padding", "1:2:3,0"], "explain", "pair"),
        ([X, F, "--direction", "back"], "explain", "direction"),
        ([X, F, "--direction", "input_grad"], "explain", "input_size"),
        ([X, F, "--dtype", "float8"], "explain", "dtype"),
        ([X, F, "--library", "nosuch"], "explain", "nosuch"),
        ([X, F, "--algorithm", "warp"], "explain", "algorithm"),
        ([X, F, "--algorithm", "gemm", "--max-workspace", "10"], "explain", "bytes"),
        ([X, F, "--padding", "99", "--padding-mode", "reflect"], "explain", "axis 0"),
        (["8x5", F], "explain", "axes"),
        (["8x56xbx64", F], "explain", "integers"),
        (["", F], "explain", "integers"),
        ([X, F, "--stride", "1.5"], "explain", "stride"),
        ([X, F, "--max-workspace", "1MiB"], "explain", "max_workspace"),
    ],
    ids=str,
)
def test_bad_input_gives_the_librarys_own_error(capsys, arguments, function, says):
    code, out, err = explained(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    well_formed(function, err, says)


@pytest.mark.parametrize("arguments", [[], [X], [X, F, F], [X, F, "--nosuch"]], ids=str)
def test_a_wrong_command_line_shows_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["explain", *arguments])
    assert caught.value.code == 2
    assert "usage: python -m einstride" in capsys.readouterr().err


def test_help_names_every_keyword(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["explain", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in es.plan.__kwdefaults__:
        assert f"--{name.replace('_', '-')} " in text.replace("]", " "), name


def test_as_a_user_runs_it():
    child = subprocess.run(
        [sys.executable, "-m", "einstride", "explain", X, F, "--stride", "1", "--padding", "same"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout == f"{es.plan(*SHAPES, padding='same')}\n"
    assert "gemm" in child.stdout
    child = subprocess.run(
        [sys.executable, "-m", "einstride", "explain", X, "3x3x9x9"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (child.returncode, child.stdout) == (2, "")
    assert child.stderr.startswith("explain: x has 64 channels but f expects 9; got ")
