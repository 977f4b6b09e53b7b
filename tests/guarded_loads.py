"""Program: loads vectors under masks, with pages without access beside the lanes of the mask.

    python guarded_loads.py WIDTH DTYPE[,DTYPE] LANES[,LANES]

Tests LLVM's optimiser and code generator: vectors from less than a register to several, under masks
of every form that kernels use. An access of one byte out of bounds ends the process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product

import numpy as np

import machine_code
from einstride.codegen import jit
from einstride.codegen.function_builder import Code, Mask, Value
from guarded import guarded
from guarded_tails import target_of

Spans = list[tuple[int, int]]
"""(first lane, number of lanes) of each contiguous span of lanes that is loaded from one
address."""


def forms(lanes: int) -> Iterator[tuple[str, Spans]]:
    """Yield (form of a mask, spans of lanes that it loads) for one vector."""
    counts = sorted({0, 1, lanes // 2, lanes // 2 + 1, lanes - 1, lanes})
    for count in counts:
        yield "first", [(0, count)]
        yield "condition", [(0, count)]
        for first in sorted({1, lanes // 4, lanes // 2, lanes - 1} - {0}):
            yield "range", [(first, min(count, lanes - first))]
    for n_blocks in (2, 3, 4):
        block = lanes // n_blocks
        for count in sorted({0, 1, block}):
            if block > 1:
                yield "picked", [(part * block, count) for part in range(n_blocks)]


def masked(code: Code, form: str, first: int, count: Value, lanes: int) -> Mask:
    """Return the mask of one span of lanes, in the form that kernels use."""
    if form == "condition":
        return code.first_lanes(count, lanes) & code.every_lane(code["all"].equals(1), lanes)
    if not first:
        return code.first_lanes(count, lanes)
    before = code.first_lanes(code.number(first), lanes)
    return code.first_lanes(count + first, lanes) ^ before


def text_of(name: str, dtype: str, lanes: int, form: str, spans: Spans, known: bool) -> str:
    """Return the text of a kernel that loads a vector span by span and stores the whole vector."""
    names = [f"{argument}{i}" for i in range(len(spans)) for argument in ("x", "n")]
    code = Code(name, ("counter", "y", "all", *names))
    found: Value | None = None
    for i, (first, count) in enumerate(spans):
        number = code.number(count) if known else code[f"n{i}"]
        mask = masked(code, form, first, number, lanes)
        part = code.array(f"x{i}", dtype).load(lanes, mask)
        found = part if found is None else mask.select(part, found)
    assert found is not None
    code.array("y", dtype).store(found)
    return code.text()


def check(target: jit.Target, dtype: str, lanes: int) -> int:
    """Check kernels with every form of a mask, and return their number.

    The spans of a kernel lie at the end, then at the beginning, of readable memory.
    """
    cases = {
        f"loaded_{i}": case
        for i, case in enumerate((*c, known) for c in forms(lanes) for known in (False, True))
    }
    print(dtype, lanes, "is compiled", flush=True)
    texts = [text_of(name, dtype, lanes, *case) for name, case in cases.items()]
    kernels = machine_code.loaded(cases, machine_code.joined(texts), target)
    size = np.dtype(dtype).itemsize
    for name, case in cases.items():
        print(dtype, lanes, *case, flush=True)
        _, spans, _ = case
        for end in (True, False):
            expected, arguments = np.zeros(lanes, dtype), []
            for i, (first, count) in enumerate(spans):
                numbers = np.arange(1 + 10 * i, 1 + 10 * i + count).astype(dtype)
                expected[first : first + count] = numbers
                arguments += [PAGES[end].put(i, numbers) - first * size, count]
            y = np.full(lanes, 77, dtype)
            block = np.array([0, y.ctypes.data, 1, *arguments])
            kernels[name](block.ctypes.data, 0)
            assert (y == expected).all(), (target, dtype, lanes, case, y)
    return len(cases)


class Pages:
    """Hold four reusable pages, each beside a page without access."""

    def __init__(self, end: bool) -> None:
        self._end = end
        self._pages = [guarded(np.zeros(4096, np.uint8), end) for _ in range(4)]

    def put(self, i: int, numbers: np.ndarray) -> int:
        """Copy numbers beside the page without access, and return their address."""
        page, size = self._pages[i], numbers.nbytes
        page[...] = 0xFF
        at = page.size - size if self._end else 0
        page[at : at + size] = np.frombuffer(numbers.tobytes(), np.uint8)
        return int(page.ctypes.data) + at


PAGES = {end: Pages(end) for end in (True, False)}


def main(width: str, dtypes: str, lanes: str) -> None:
    jit.host_target()  # initializes LLVM
    target = target_of(width)
    if target is None:
        print(f"not run: this machine has no vectors for {width}")
        return
    done = 0
    for dtype, count in product(dtypes.split(","), map(int, lanes.split(","))):
        done += check(target, dtype, count)
    print(f"{done} kernels")


if __name__ == "__main__":
    main(*sys.argv[1:])
