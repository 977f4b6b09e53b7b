"""Pass arguments to kernels in an argument block: one 64-bit integer for each argument name."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from einstride.cpu.runtime.aligned_memory import address as address
from einstride.cpu.runtime.recording import Recording
from einstride.support.byte_cache import size_of
from einstride.support.caches import register

if TYPE_CHECKING:
    from einstride.codegen.jit import Kernel, KernelSpec, Target

ArgumentBlock = Any
"""An argument block: a ctypes array of 64-bit integers."""


def dtype_name(a: Any) -> str:
    """Return the name of an array's dtype, cached as NumPy builds a new string at each access."""
    name = _NAMES.get(a.dtype)
    if name is None:
        name = _NAMES[a.dtype] = str(a.dtype.name)
    return name


class Layout(NamedTuple):
    """How an array lies in memory, all that a kernel depends on besides its shape and address."""

    dtype: str
    strides: tuple[int, ...]


def layout(a: Any) -> Layout:
    """Return the name of an array's dtype, and its strides in bytes."""
    return Layout(dtype_name(a), a.strides)


_NAMES: dict[Any, str] = {}
register(f"{__name__}._NAMES", "process", _NAMES.clear, _NAMES.__len__)


def make_block(names: Sequence[str], values: Mapping[str, int]) -> ArgumentBlock:
    """Make an argument block with one value for each name, in the order of the names."""
    return (ctypes.c_int64 * len(names))(*(values[n] for n in names))


def bind(
    name: str, write: Callable[..., str], specification: Hashable,
    arguments: Mapping[str, int | Any], threads: int, target: Target,
) -> Call:  # fmt: skip
    """Make the call of a kernel, whose text is ``write(specification, names)``.

    `arguments` declares the argument block, for the caller and the kernel: an integer, or a table
    of integers whose address is passed, under the name by which the kernel asks for it. Addresses
    of the caller's arrays are added later, to the number of bytes given here.
    """
    from einstride.codegen.jit import KernelSpec

    names = ("counter", *arguments)
    tables = {n: a for n, a in arguments.items() if isinstance(a, np.ndarray)}
    values = {**arguments, **{n: address(table) for n, table in tables.items()}}
    kernel = KernelSpec(name, write, (specification, names), target)
    return Call(kernel, names, values, threads, tuple(tables.values()))


NAME_BYTES = 96
"""Bytes of one argument's name and index in a Python dictionary, about; `Call.nbytes` counts them,
so with a larger number the cache of calls holds fewer entries."""


class Call:
    """A kernel with its argument block: only the addresses of the caller's arrays are added later.

    Parameters
    ----------
    kernel : KernelSpec
        The kernel, which is compiled when it first runs.
    names : sequence of str
        Argument names, in the order of the block.
    values : mapping
        Value of each argument; addresses of arrays may be missing.
    threads : int
        Number of threads that take chunks.
    tables : sequence
        Tables that must live as long as the call, because the block holds their addresses.
    callees : mapping
        Kernels that this kernel calls, by the arguments that hold their addresses.
    """

    def __init__(
        self, kernel: KernelSpec, names: Sequence[str],
        values: Mapping[str, int], threads: int, tables: Sequence[Any],
        callees: Mapping[str, KernelSpec] | None = None,
    ) -> None:  # fmt: skip
        self.kernel, self.threads = kernel, max(threads, 1)
        self._indices = {name: i for i, name in enumerate(names)}
        self._block = make_block(names, dict.fromkeys(names, 0) | dict(values))
        self._tables, self._callees = tuple(tables), dict(callees or {})

    @cached_property
    def function(self) -> Kernel:
        """The kernel's machine code, compiled at the first access."""
        return self.kernel.compiled()

    def _compile_callees(self) -> None:
        """Store the addresses of the kernels that this kernel calls in the block."""
        while self._callees:
            name, kernel = next(iter(self._callees.items()))
            function: Any = kernel.compiled()
            self._block[self._indices[name]] = ctypes.cast(function, ctypes.c_void_p).value or 0
            self._callees.pop(name, None)

    @property
    def nbytes(self) -> int:
        """Bytes of the argument block, the argument names and the tables."""
        return size_of(self._tables) + (8 + NAME_BYTES) * len(self._block)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arguments, in the order of the block."""
        return tuple(self._indices)

    def index(self, name: str) -> int:
        """Return the index of an argument in the block."""
        return self._indices[name]

    def argument(self, name: str) -> int:
        """Return the value of an argument."""
        return int(self._block[self._indices[name]])

    def block(self) -> ArgumentBlock:
        """Return a copy of the argument block, in which the caller fills in addresses."""
        if self._callees:
            self._compile_callees()
        return type(self._block).from_buffer_copy(self._block)

    def __call__(self, launch: Any, **arrays: Any) -> None:
        """Run the kernel, or record it.

        Each array's address, or an address itself, is added to the argument of its name; None adds
        nothing.
        """
        addresses = {
            name: a if isinstance(a, int) else address(a)
            for name, a in arrays.items()
            if a is not None
        }
        if isinstance(launch, Recording):
            launch.record(self, addresses)
            return
        block = self.block()
        for name, value in addresses.items():
            block[self._indices[name]] += value
        launch(self.function, block, self.threads)
