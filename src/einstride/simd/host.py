"""Between arrays and kernels: addresses, tables of offsets, argument blocks. NumPy arrays only."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from einstride.borders import segments
from einstride.geometry import Geometry
from einstride.simd.memory import address as address

OUTSIDE = -(1 << 60)
"""An offset so negative that no sum with others becomes positive."""

Words = Any
"""An argument block: a ctypes array of 64-bit whole numbers."""


def name_of(a: Any) -> str:
    """The dtype's name, which NumPy makes anew each time it is asked."""
    found = _NAMES.get(a.dtype)
    if found is None:
        found = _NAMES[a.dtype] = str(a.dtype.name)
    return found


_NAMES: dict[Any, str] = {}


@lru_cache(maxsize=512)
def sources(g: Geometry, axis: int) -> Any:
    """(O, K) which element of x a tap of an output meets on an axis; -1 in a border of zeros."""
    size, (low, high) = g.size[axis], g.padding[axis]
    padded = np.empty(max(size + low + high, 0), np.int64)
    for run in segments(-low, size + high, size, g.padding_mode):
        count = run.stop - run.start
        if run.step == 0:
            padded[run.there] = run.source
        else:
            padded[run.there] = run.source + run.step * np.arange(count)
    o = np.arange(g.out[axis])[:, None] * g.stride[axis]
    found = padded[o + np.arange(g.kernel[axis]) * g.dilation[axis]]
    found.flags.writeable = False
    return found


def offsets(g: Geometry, axis: int, step: int) -> tuple[Any, int]:
    """(O, K) offsets in x of the taps of each output on an axis, and what to add to its address.

    An offset is negative only in a border of zeros, also where x runs backwards in memory.
    """
    found = sources(g, axis)
    back = min((g.size[axis] - 1) * step, 0)
    return np.where(found < 0, OUTSIDE, found * step - back), back


def ranges(g: Geometry, axis: int) -> tuple[Any, Any]:
    """(K,) the first output whose tap meets an element, and one past the last."""
    inside = sources(g, axis) >= 0
    some = inside.any(axis=0)
    first = np.where(some, inside.argmax(axis=0), 0)
    last = np.where(some, len(inside) - inside[::-1].argmax(axis=0), 0)
    return first.astype(np.int64), last.astype(np.int64)


def words(names: Sequence[str], values: Mapping[str, int]) -> Words:
    """An argument block; every name needs its value."""
    return (ctypes.c_int64 * len(names))(*(values[n] for n in names))


class Call:
    """A kernel with its argument block: all but the addresses of the caller's arrays is fixed.

    Parameters
    ----------
    function : callable
        Machine code.
    names : sequence of str
        The words of its block.
    values : mapping
        All words; addresses may be missing.
    threads : int
        How many may take chunks.
    keep : sequence
        Tables whose addresses stand in the block.
    """

    def __init__(
        self, function: Callable[[int, int], None], names: Sequence[str],
        values: Mapping[str, int], threads: int, keep: Sequence[Any],
    ) -> None:  # fmt: skip
        self.function, self.threads = function, max(threads, 1)
        self._where = {name: i for i, name in enumerate(names)}
        self._block = words(names, dict.fromkeys(names, 0) | dict(values))
        self._keep = keep

    def where(self, name: str) -> int:
        """Which word of the block it is."""
        return self._where[name]

    def block(self) -> Words:
        """A block of its own for somebody who fills in the addresses."""
        return type(self._block).from_buffer_copy(self._block)

    def __call__(self, launch: Any, **addresses: int) -> None:
        """Run it on these addresses."""
        block = self.block()
        for name, value in addresses.items():
            block[self._where[name]] += value
        launch(self.function, block, self.threads)
