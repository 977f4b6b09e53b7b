"""A masked store writes the lanes of its mask and no other byte."""

import numpy as np
import pytest

import guarded_tails
import machine_code

pytest.importorskip("llvmlite")

from einstride import _testing
from einstride.codegen import jit
from einstride.codegen.function_builder import Code

TYPES = [
    ("int32", "int8"), ("int32", "int16"), ("int64", "int8"), ("int64", "int16"),
    ("int64", "int32"), ("int16", "int8"), ("int32", "int32"), ("float32", "float32"),
]  # fmt: skip
LANES = (4, 16)
FORMS = ("first", "argument", "condition", "both", "other")


def written(name, source, stored, lanes, form, count):
    """Return the text of a kernel that truncates `lanes` integers and stores the first `count`."""
    code = Code(name, ("counter", "x", "y", "n", "all"))
    value = code.convert(code.array("x", source).load(lanes), source, stored)
    known, given = code.number(count), code["n"]
    if form == "first":
        mask = code.first_lanes(known, lanes)
    elif form == "argument":
        mask = code.first_lanes(given, lanes)
    elif form == "condition":  # LLVM derives its value
        mask = code.first_lanes((given < 0).select(given, known), lanes)
    elif form == "both":
        mask = code.first_lanes(known, lanes) & code.every_lane(code["all"].equals(1), lanes)
    else:  # the complement of the lanes that are off
        rest = code.first_lanes(code.number(lanes), lanes) ^ code.first_lanes(known, lanes)
        mask = code.first_lanes(code.number(lanes), lanes) ^ rest
    code.array("y", stored).store(value, mask)
    return code.text()


def masks(lanes):
    return sorted({0, 1, 2, lanes // 2 + 1, lanes - 1, lanes})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("source", "stored"), TYPES)
def test_no_byte_beside_the_lanes_of_the_mask(source, stored, form):
    rng = np.random.default_rng(0)
    jit.host_target()  # initializes LLVM
    cases = {f"written_{n}_{count}": (n, count) for n in LANES for count in masks(n)}
    text = machine_code.joined(
        written(name, source, stored, lanes, form, count) for name, (lanes, count) in cases.items()
    )
    for target in filter(None, map(guarded_tails.target_of, guarded_tails.WIDTHS)):
        reader = machine_code.Reader()
        with _testing.replacing("optimise a kernel", reader):
            kernels = machine_code.loaded(cases, text, target)
        assert reader.read
        assert not reader.wrong
        for name, (lanes, count) in cases.items():
            x = rng.integers(1, 100, lanes).astype(source)
            y = np.full(lanes + 32, 77, stored)
            place = y.ctypes.data + 16 * y.itemsize
            block = np.array([0, x.ctypes.data, place, count, 1])
            kernels[name](block.ctypes.data, 0)
            expected = np.full_like(y, 77)
            expected[16 : 16 + count] = x[:count]
            np.testing.assert_array_equal(y, expected, f"{target.vector_bytes} {lanes} {count}")


def test_the_reader_sees_a_mask_that_llvm_knows():
    """`wrong_stores` finds a store under a comparison with a constant, as kernels once had."""
    code = Code("written", ("counter", "x", "y"))
    value = code.convert(code.array("x", "int32").load(16), "int32", "int16")
    mask = code.first_lanes(code.number(1), 16)
    mask.leading_lanes = None
    mask._hidden_bits = mask.ir  # disables the hiding of the mask
    code.array("y", "int16").store(value, mask)
    optimised = jit._optimise(code.text(), jit._llvm_target(jit.host_target()))
    assert len(machine_code.wrong_stores(str(optimised))) == 1
