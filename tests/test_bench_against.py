"""bench.against compares two commits: the direction of its ratios, and the errors that end it."""

import subprocess

import pytest
from bench import against
from bench.cases import select

ROWS = [row for row in select(pattern="tiny/8x8x3*") if row.pass_ == "forward"]


def pair(other, this, **more):
    found = against.Pair(ROWS[0], "function", (3.0, 1.0), [(other, this)] * 3)
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_above_one_this_checkout_is_faster():
    text = against.report([pair(2.0, 1.0)], "abc")
    assert "| tiny | 1 | 2.000 | 2.00 | 3.00 |" in text
    assert not against.below([pair(2.0, 1.0)], 0.98)
    assert against.below([pair(0.5, 1.0)], 0.98)


def test_the_smallest_call_is_told_in_microseconds():
    found = against.Pair(against.Row(against.OVERHEAD, 1, "forward"), "function", (1.0, 1.0))
    found.rounds = [(3e-6, 4e-6)]
    assert "function: +1.00 us in this checkout" in against.report([found], "abc")


def test_a_wrong_result_is_named():
    assert "WRONG: tiny/8x8x3" in against.report([pair(1.0, 1.0, problem="error 3")], "abc")


def test_a_commit_against_itself(capfd, tmp_path):
    known = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, cwd=against.ROOT)
    if known.returncode:
        pytest.skip("the sources are no checkout of git")
    arguments = [
        "HEAD",
        "--case",
        "tiny/8x8x3*",
        "--passes",
        "forward",
        "--rounds",
        "1",
        "--processes",
        "2",
    ]
    assert against.main([*arguments, "--json", str(tmp_path / "pairs.json")]) == 0
    assert "| all | 8 |" in capfd.readouterr().out
    assert "tiny/8x8x3" in (tmp_path / "pairs.json").read_text()
