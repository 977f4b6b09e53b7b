"""A masked load reads the lanes of its mask and no other byte: see `guarded_loads`."""

import pytest

import guarded_tails
from guarded import run

pytest.importorskip("llvmlite")


@pytest.mark.parametrize("width", guarded_tails.WIDTHS)
def test_no_byte_beside_the_lanes_of_the_mask(width, full_length):
    """For some of these masks, LLVM up to 22.1 ends the process or ignores the mask."""
    dtypes, lanes = ("int8,int32,int64", "8,16,32") if full_length else ("int32", "16")
    said = run("guarded_loads.py", width, dtypes, lanes)
    assert int(said.split()[0]) > 80


GROUPED = """
import sys
import numpy as np
import einstride as es
import guarded_tails
from einstride import _testing

target = guarded_tails.target_of(sys.argv[1])
if target is None:
    print(f"not run: this machine has no vectors for {sys.argv[1]}")
    sys.exit()
rng = np.random.default_rng(0)
gy, f = rng.integers(-3, 4, (2, 7, 9)), rng.integers(-3, 4, (3, 2, 9))
with _testing.use(target=target):
    found = es.conv_transpose(gy, f.astype("float32"), groups=3)
right = es.conv_transpose(gy, f.astype("float32"), groups=3, algorithm="gemm")
assert (found == right).all(), (found, right)
print("right")
"""


@pytest.mark.parametrize("width", guarded_tails.WIDTHS)
def test_groups_side_by_side(width):
    """int64 with float32 needs vectors of float64 that are larger than a register."""
    said = run("-c", GROUPED, width)
    if said.startswith("not run"):
        pytest.skip(said)
    assert said == "right"
