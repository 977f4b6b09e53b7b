"""What all commands of ``python -m einstride`` share: whose name errors bear, closed pipes."""

import os
import subprocess
import sys

import pytest

from checks import well_formed
from einstride.__main__ import CLOSED_PIPE, main

RUNS = {
    "calibrate": ["--output", "figures.json"],
    "explain": ["8x8x8x3", "3x3x3x3"],
    "info": [],
    "show": ["6x6x1", "3x3x1x1", "--out", "page.html"],
}
"""A valid command line of each command that prints before it has computed for seconds."""

BAD = [
    ["abc", "3x3x1x1"],
    ["6x6x1", "abc"],
    ["1x6x6x2", "3x3x1x1"],
    ["1x6x6x1", "3x3x1x1", "--stride", "x"],
    ["1x6x6x1", "3x3x1x1", "--stride", "0"],
    ["1x6x6x1", "3x3x1x1", "--padding", "1:b,2"],
    ["1x6x6x1", "3x3x1x1", "--padding", "sam"],
    ["1x6x6x1", "3x3x1x1", "--groups", "q"],
    ["1x6x6x1", "3x3x1x1", "--fill", "q"],
    ["1x6x6x1", "3x3x1x1", "--max-workspace", "1MiB"],
    ["1x6x6x1", "3x3x1x1", "--layout", "NN"],
    ["1x6x6x1", "3x3x1x1", "--dtype", "float8"],
    ["1x6x6x1", "3x3x1x1", "--algorithm", "warp"],
]


@pytest.mark.parametrize("command", ["explain", "show"])
@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_an_error_names_the_command_that_was_typed(capsys, tmp_path, command, arguments):
    out = ["--out", str(tmp_path / "page.html")] if command == "show" else []
    assert main([command, *arguments, *out]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    well_formed(command, error)


@pytest.mark.parametrize(
    "arguments",
    [["--at", "q"], ["--at", "9"], ["--pass", "back"], ["--title", "a" * 201]],
    ids=lambda a: a[0],
)
def test_an_error_of_show_alone_names_it(capsys, arguments):
    assert main(["show", "6x6x1", "3x3x1x1", *arguments]) == 2
    well_formed("show", capsys.readouterr().err)


def test_an_error_of_the_picture_names_show(capsys, tmp_path):
    assert main(["show", "12x1", "3x1x1", "--out", str(tmp_path / "window.svg")]) == 2
    well_formed("show", capsys.readouterr().err, "two spatial axes")


@pytest.mark.parametrize("command", RUNS)
def test_a_closed_pipe_ends_a_command_without_a_traceback(tmp_path, command):
    reader, writer = os.pipe()
    os.close(reader)  # what `| head -1` does once it has its line
    child = subprocess.run(  # unbuffered: the first line meets the closed pipe
        [sys.executable, "-u", "-m", "einstride", command, *RUNS[command]],
        stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, cwd=tmp_path,
        env=os.environ | {"EINSTRIDE_CACHE": str(tmp_path)},
    )  # fmt: skip
    os.close(writer)
    assert (child.returncode, child.stderr) == (CLOSED_PIPE, "")


def test_a_closed_pipe_is_met_when_the_buffer_is_written_too():
    """A text shorter than the buffer is written at the end, where Python itself would complain."""
    reader, writer = os.pipe()
    os.close(reader)
    child = subprocess.run(
        [sys.executable, "-m", "einstride", "explain", *RUNS["explain"]],
        stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120,
        env={name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    os.close(writer)
    assert (child.returncode, child.stderr) == (CLOSED_PIPE, "")
