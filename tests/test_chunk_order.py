"""The chunks of every kernel may be computed in any order: none writes what another has written.

Threads take chunks from a counter, so a chunk may end long before or after its neighbour. Here
every kernel is written once more with its chunks backwards, on one thread, and must give the same
bits. A store that reaches into the memory of the next chunk is harmless forwards, because that
chunk overwrites it.
"""

import ctypes

import numpy as np
import pytest

from einstride._testing import chunks_backwards, use
from einstride.arrays.backends import spin_helpers
from einstride.codegen import jit
from einstride.codegen.function_builder import Code
from einstride.cpu.runtime.argument_block import bind
from kernel_texts import capture, generate

THREADS = 16
"""Chunks are as many as for 16 threads, so that small calls have some."""

EACH = 3
"""One in so many tables of a pass is taken, because the tables of a family share its kernels."""


def specifications():
    """Return {name: a specification} for tables and passes; dtypes share the generators."""
    passes = {}
    for name, spec in generate.specifications().items():
        if spec.dtypes == ("float32",):
            passes.setdefault(spec.direction, {}).setdefault(name.rsplit("/", 1)[0], spec)
    return {name: each[name] for each in passes.values() for name in list(each)[EACH - 1 :: EACH]}


SPECIFICATIONS = specifications()


def on_one_thread(kernel, block, threads):
    kernel(ctypes.addressof(block), 0)


def program_on_one_thread(program, block, threads, *arrays):
    spin_helpers.launch_program(program, block, 1, *arrays)


ONE_THREAD = {"launch": on_one_thread, "launch_program": program_on_one_thread}


def results(spec):
    """Make the call of a specification, with the same random numbers each time."""
    rng = np.random.default_rng(0)

    def fill(shape, dtype):
        return rng.standard_normal(shape).astype(dtype)

    engine = spec.table.get("engine")
    engines = engine and capture.ENGINES[engine]
    with use(threads=THREADS, engine=engines, backend=ONE_THREAD):
        return generate.call(spec, fill)


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_chunks_backwards_give_the_same_bits(name, tmp_path):
    spec = SPECIFICATIONS[name]
    expected = results(spec)
    with chunks_backwards(), use(kernel_folder=tmp_path):
        found = results(spec)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def overreaching(_, names):
    """Write a kernel whose chunk i stores i to y[i] and, unless it is the last, to y[i + 1]."""
    code = Code("overreaching", names)
    with code.chunks(code["chunks"]) as chunk:
        for place in (chunk, (chunk + 1).minimum(code["chunks"] - 1)):
            code.array("y", "int64").at(place).store(chunk)
    return code.text()


def test_a_store_to_the_next_chunk_is_seen_backwards_only(tmp_path):
    def run():
        y = np.zeros(9, np.int64)
        call = bind("overreaching", overreaching, (), {"chunks": 9, "y": 0}, 1, jit.host_target())
        call(on_one_thread, y=y)
        return y.tolist()

    with use(kernel_folder=tmp_path / "forwards"):
        assert run() == list(range(9))
    with chunks_backwards(), use(kernel_folder=tmp_path / "backwards"):
        assert run() == [0, 0, *range(1, 8)]
