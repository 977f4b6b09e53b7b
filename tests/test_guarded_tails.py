"""Kernels access no byte beside arrays whose channels end in a vector tail: see `guarded_tails`."""

import re

import ml_dtypes
import numpy as np
import pytest

import einstride as es
import guarded_tails
from guarded import run

pytest.importorskip("llvmlite")

HALVES = ("bfloat16", "float16")
"""Dtypes of results that are converted to 16 bits as they are stored."""
OTHERS = tuple(name for name in guarded_tails.DTYPES if name not in HALVES)
BOTH = ("dense", "grouped", "few", "few filters")
"""Families that are run with both of `HALVES`; others are run with bfloat16."""


def work(width, families, dtypes, tails):
    """Run the program, and return the numbers of its passes and of the kernels that it compiled."""
    given = (width, *(",".join(names) for names in (families, dtypes)), tails)
    passes, kernels = map(int, re.findall(r"\d+", run("guarded_tails.py", *given))[:2])
    return np.array([passes, kernels])


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("width", guarded_tails.WIDTHS)
def test_nothing_beside_operands_and_results_is_touched(width, part, full_length):
    """No byte beside operands and results is accessed with one lane in the last vector.

    With ``--all`` also for another dtype and tail, and for all tails of one family and dtype: each
    width and part takes others of them. All combinations take an hour:
    ``python guarded_tails.py WIDTH FAMILIES DTYPES all``.
    """
    families = list(guarded_tails.FAMILIES)[part::3]
    done = np.zeros(2, int)
    for dtype in HALVES:
        mine = [f for f in families if f in BOTH or dtype == "bfloat16"]
        done += work(width, mine, [dtype], "1")
    assert done[0] > 0, "every pass was refused"
    assert done[1] > 0, "no kernel was compiled: cached kernels were taken"
    if full_length:
        number = 3 * guarded_tails.WIDTHS.index(width) + part
        work(width, [families[number % len(families)]], [HALVES[number % 2]], "all")
        work(width, families, [OTHERS[number % len(OTHERS)]], f"1,{1 + number % 3}")


@pytest.mark.parametrize("channels", [5, 9, 17, 33, 49, 65])
def test_a_bfloat16_result_within_a_larger_array(channels):
    bf = ml_dtypes.bfloat16
    x, f = np.ones((1, 40, channels), bf), np.ones((3, 1, channels), bf)
    buffer = np.full(38 * channels + 64, 7, bf)
    out = buffer[32:-32].reshape(1, 38, channels)
    es.conv(x, f, groups=channels, out=out)
    assert (out == 3).all()
    assert (buffer[:32] == 7).all()
    assert (buffer[-32:] == 7).all()
