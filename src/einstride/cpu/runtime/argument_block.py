"""Argument blocks: what a kernel is told of a call, one 64-bit word for each name."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from einstride.cpu.runtime.aligned_memory import address as address
from einstride.support.byte_cache import size_of
from einstride.support.caches import register

if TYPE_CHECKING:
    from einstride.codegen.jit import Kernel, KernelSpec

Words = Any
"""An argument block: a ctypes array of 64-bit integers."""


def name_of(a: Any) -> str:
    """The dtype's name, which NumPy makes anew each time it is asked."""
    found = _NAMES.get(a.dtype)
    if found is None:
        found = _NAMES[a.dtype] = str(a.dtype.name)
    return found


_NAMES: dict[Any, str] = {}
register(f"{__name__}._NAMES", "process", _NAMES.clear, _NAMES.__len__)


def words(names: Sequence[str], values: Mapping[str, int]) -> Words:
    """An argument block; every name needs its value."""
    return (ctypes.c_int64 * len(names))(*(values[n] for n in names))


INT64 = 96
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
        return size_of(self._keep) + (8 + INT64) * len(self._block)

    def where(self, name: str) -> int:
        """Which word of the block it is."""
        return self._where[name]

    def argument(self, name: str) -> int:
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
