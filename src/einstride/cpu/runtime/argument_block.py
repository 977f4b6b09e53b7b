"""Between arrays and kernels: addresses, tables of offsets, argument blocks. NumPy arrays only."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from einstride.cpu.runtime.aligned_memory import address as address
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import segments
from einstride.support.byte_cache import size_of
from einstride.support.caches import register

if TYPE_CHECKING:
    from einstride.codegen.jit import Kernel, KernelSpec

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
register(f"{__name__}._NAMES", "process", _NAMES.clear, _NAMES.__len__)


ROWS = 1 << 12
"""Outputs whose offsets are looked up at once: an index of a few pages is all that a table takes
beside itself while it is made."""


def padded(g: Geometry, axis: int) -> Any:
    """Which element of x each position of a padded axis holds; -1 in a border of zeros."""
    size, (low, high) = g.size[axis], g.padding[axis]
    found = np.empty(max(size + low + high, 0), np.int64)
    for run in segments(-low, size + high, size, g.padding_mode):
        if run.step == 0:
            found[run.there] = run.source
        else:
            found[run.there] = np.arange(
                run.source, run.source + run.step * (run.stop - run.start), run.step
            )
    return found


def _looked_up(held: Any, g: Geometry, axis: int) -> Any:
    """(O, K) what a padded axis holds under each tap of each output."""
    found = np.empty((g.out[axis], g.kernel[axis]), np.int64)
    k = np.arange(g.kernel[axis]) * g.dilation[axis]
    rows = max(ROWS // max(len(k), 1), 1)
    for first in range(0, len(found), rows):
        o = np.arange(first, min(first + rows, len(found)))[:, None] * g.stride[axis]
        found[first : first + rows] = held[o + k]
    return found


def sources(g: Geometry, axis: int) -> Any:
    """(O, K) which element of x a tap of an output meets on an axis; -1 in a border of zeros."""
    return _looked_up(padded(g, axis), g, axis)


def offsets(g: Geometry, axis: int, step: int) -> tuple[Any, int]:
    """(O, K) offsets in x of the taps of each output on an axis, and what to add to its address.

    An offset is negative only in a border of zeros, also where x runs backwards in memory.
    """
    held = padded(g, axis)
    outside = held < 0
    back = min((g.size[axis] - 1) * step, 0)
    held *= step
    held -= back
    held[outside] = OUTSIDE
    return _looked_up(held, g, axis), back


def ranges(g: Geometry, axis: int) -> tuple[Any, Any]:
    """(K,) the first output whose tap meets an element, and one past the last; 0, 0 if none."""
    out, s, low = g.out[axis], g.stride[axis], g.padding[axis][0]
    taps = np.arange(g.kernel[axis], dtype=np.int64)
    if g.padding_mode != "zeros":
        return np.zeros_like(taps), np.full_like(taps, out)
    at = taps * g.dilation[axis] - low  # where the first output's tap lies
    first = np.maximum(-(at // s), 0)
    last = np.minimum((g.size[axis] - 1 - at) // s + 1, out)
    some = first < last
    return np.where(some, first, 0), np.where(some, last, 0)


def words(names: Sequence[str], values: Mapping[str, int]) -> Words:
    """An argument block; every name needs its value."""
    return (ctypes.c_int64 * len(names))(*(values[n] for n in names))


WORD = 96
"""Bytes that Python takes to remember one word's name and number, about."""


class Call:
    """A kernel with its argument block: all but the addresses of the caller's arrays is fixed.

    Parameters
    ----------
    kernel : KernelSpec
        The kernel, which is compiled when it first runs.
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
        self, kernel: KernelSpec, names: Sequence[str],
        values: Mapping[str, int], threads: int, keep: Sequence[Any],
    ) -> None:  # fmt: skip
        self.kernel, self.threads = kernel, max(threads, 1)
        self._where = {name: i for i, name in enumerate(names)}
        self._block = words(names, dict.fromkeys(names, 0) | dict(values))
        self._keep = tuple(keep)

    @cached_property
    def function(self) -> Kernel:
        """The kernel's machine code, compiled when it is first asked for."""
        return self.kernel.compiled()

    @property
    def nbytes(self) -> int:
        """Bytes of its block, of the names of its words and of its tables."""
        return size_of(self._keep) + (8 + WORD) * len(self._block)

    def where(self, name: str) -> int:
        """Which word of the block it is."""
        return self._where[name]

    def word(self, name: str) -> int:
        """The value of a word."""
        return int(self._block[self._where[name]])

    def block(self) -> Words:
        """A block of its own for somebody who fills in the addresses."""
        return type(self._block).from_buffer_copy(self._block)

    def __call__(self, launch: Any, **addresses: int) -> None:
        """Run it on these addresses."""
        block = self.block()
        for name, value in addresses.items():
            block[self._where[name]] += value
        launch(self.function, block, self.threads)
