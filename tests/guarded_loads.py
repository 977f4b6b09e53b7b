"""Run as a program: vectors loaded under masks, with forbidden memory beside the lanes that are on.

    python guarded_loads.py WIDTH DTYPE[,DTYPE] LANES[,LANES]

LLVM's optimiser and code generator are what is tested: vectors of less than a register up to many,
under masks of every form that kernels use. An access of one byte too many stops the process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product

import numpy as np

from einstride.codegen import jit
from einstride.codegen.function_builder import Code, Mask, Value
from guarded import guarded
from guarded_tails import machine_of

Runs = list[tuple[int, int]]
"""(first lane, number of lanes) that are read from one address."""


def forms(lanes: int) -> Iterator[tuple[str, Runs]]:
    """Masks of one vector: which runs of lanes are on, by the form of the mask."""
    counts = sorted({0, 1, lanes // 2, lanes // 2 + 1, lanes - 1, lanes})
    for count in counts:
        yield "first", [(0, count)]
        yield "condition", [(0, count)]
        for first in sorted({1, lanes // 4, lanes // 2, lanes - 1} - {0}):
            yield "range", [(first, min(count, lanes - first))]
    for parts in (2, 3, 4):
        block = lanes // parts
        for count in sorted({0, 1, block}):
            if block > 1:
                yield "picked", [(part * block, count) for part in range(parts)]


def masked(code: Code, form: str, first: int, count: Value, lanes: int) -> Mask:
    """A mask of one run, written as kernels write it."""
    if form == "condition":
        return code.first_lanes(count, lanes) & code.every_lane(code["all"].equals(1), lanes)
    if not first:
        return code.first_lanes(count, lanes)
    before = code.first_lanes(code.number(first), lanes)
    return code.first_lanes(count + first, lanes) ^ before


def text_of(dtype: str, lanes: int, form: str, runs: Runs, known: bool) -> str:
    """A kernel that loads the runs of a vector one after the other, and stores all of it."""
    names = [f"{word}{i}" for i in range(len(runs)) for word in ("x", "n")]
    code = Code("loaded", ("counter", "y", "all", *names))
    found: Value | None = None
    for i, (first, count) in enumerate(runs):
        number = code.number(count) if known else code[f"n{i}"]
        mask = masked(code, form, first, number, lanes)
        part = code.array(f"x{i}", dtype).load(lanes, mask)
        found = part if found is None else mask.select(part, found)
    assert found is not None
    code.array("y", dtype).store(found)
    return code.text()


def check(on: jit.Machine, dtype: str, lanes: int, form: str, runs: Runs) -> int:
    """Every run at the end, then at the beginning, of memory that may be read."""
    size = np.dtype(dtype).itemsize
    for known in (False, True):
        text = text_of(dtype, lanes, form, runs, known)
        kernel = jit._loaded("loaded", jit._machine_code(text, on), on)
        for end in (True, False):
            expected, words = np.zeros(lanes, dtype), []
            for i, (first, count) in enumerate(runs):
                numbers = np.arange(1 + 10 * i, 1 + 10 * i + count).astype(dtype)
                expected[first : first + count] = numbers
                words += [PLACES[end].put(i, numbers) - first * size, count]
            y = np.full(lanes, 77, dtype)
            block = np.array([0, y.ctypes.data, 1, *words])
            kernel(block.ctypes.data, 0)
            assert (y == expected).all(), (on, dtype, lanes, form, runs, known, y)
    return 2


class Pages:
    """Pages that are used again and again, each beside one without access."""

    def __init__(self, end: bool) -> None:
        self._end = end
        self._pages = [guarded(np.zeros(4096, np.uint8), end) for _ in range(4)]

    def put(self, i: int, numbers: np.ndarray) -> int:
        """Numbers beside the page without access; returns their address."""
        page, size = self._pages[i], numbers.nbytes
        page[...] = 0xFF
        at = page.size - size if self._end else 0
        page[at : at + size] = np.frombuffer(numbers.tobytes(), np.uint8)
        return int(page.ctypes.data) + at


PLACES = {end: Pages(end) for end in (True, False)}


def main(width: str, dtypes: str, lanes: str) -> None:
    jit.machine()  # LLVM is set up
    on = machine_of(width)
    if on is None:
        print(f"not run: this machine has no vectors for {width}")
        return
    done = 0
    for dtype, count in product(dtypes.split(","), map(int, lanes.split(","))):
        for form, runs in forms(count):
            print(dtype, count, form, runs, flush=True)
            done += check(on, dtype, count, form, runs)
    print(f"{done} kernels")


if __name__ == "__main__":
    main(*sys.argv[1:])
