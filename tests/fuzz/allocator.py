"""NumPy's memory while einstride runs: poisoned when taken, with canaries, and counted.

NumPy lets a program replace its allocator (NEP 49). Ours puts `MARGIN` canary bytes on both sides
of each block, fills new blocks with bytes that are NaN in every float dtype, looks at the canaries
when a block is freed, and keeps the sum of the bytes that live. So a kernel that writes beyond a
result or its workspace, or reads numbers that nobody has written, shows without luck.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy._core import _multiarray_umath

MARGIN = 128
POISON = 0xFF
CANARY = bytes([0xA5]) * MARGIN
"""As a float32 -2.9e-16, as an int8 -91: changes sums, and differs from the poison."""

_SET_HANDLER = 304
"""The place of PyDataMem_SetHandler in NumPy's table of C functions."""


class _Functions(ctypes.Structure):
    _MALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    _CALLOC = ctypes.PYFUNCTYPE(
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
    )  # fmt: skip
    _REALLOC = ctypes.PYFUNCTYPE(
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
    )  # fmt: skip
    _FREE = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("ctx", ctypes.c_void_p),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", _FREE),
    )


_NAME = b"mem_handler"
_libc = ctypes.PyDLL(None)
_malloc, _free = _libc.malloc, _libc.free
_malloc.restype, _malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
_free.restype, _free.argtypes = None, (ctypes.c_void_p,)


class Allocator:
    """The allocator; `live` and `peak` are bytes, `harmed` tells of canaries that were changed."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self.harmed: list[str] = []
        self._sizes: dict[int, int] = {}
        self._fresh: set[int] = set()
        self._functions = _functions(self)
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype = ctypes.py_object
        capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self._capsule = capsule(ctypes.addressof(self._functions), _NAME, None)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # arrays may outlive all else
        self._set = _set_handler()

    @contextmanager
    def in_use(self) -> Iterator[Allocator]:
        """NumPy allocates here, in this thread; the peak is counted from the bytes now alive."""
        before = self._set(self._capsule)
        self.live = self.peak = 0
        try:
            yield self
        finally:
            self._set(before)

    def look(self) -> None:
        """Look at the canaries of the blocks that were taken since the last look and are alive."""
        for address in self._fresh:
            _look(self.harmed, address, self._sizes[address])
        self._fresh.clear()


def _look(
    harmed: list[str], address: int, size: int, margin: int = MARGIN, canary: bytes = CANARY,
    read: Any = ctypes.string_at,
) -> None:  # fmt: skip
    if read(address - margin, margin) != canary:
        harmed.append(f"bytes before a block of {size} were written")
    behind = read(address + size, margin)
    if behind != canary:
        at = next(i for i, b in enumerate(behind) if b != canary[0])
        harmed.append(f"bytes behind a block of {size} were written, the first at +{at}")


def _functions(state: Allocator) -> _Functions:
    """The four functions. They name nothing global: NumPy may free arrays when modules are gone."""
    malloc, free, move, fill = _malloc, _free, ctypes.memmove, ctypes.memset
    margin, canary, poison, sizes, look = MARGIN, CANARY, POISON, state._sizes, _look
    fresh = state._fresh

    def new(size: int, byte: int) -> int:
        raw = malloc(size + 2 * margin)
        if not raw:
            return 0
        move(raw, canary, margin)
        fill(raw + margin, byte, size)
        move(raw + margin + size, canary, margin)
        sizes[raw + margin] = size
        fresh.add(raw + margin)
        state.live += size
        if state.live > state.peak:
            state.peak = state.live
        return raw + margin

    def take(_: Any, size: int) -> int:
        return new(size, poison)

    def zeroed(_: Any, count: int, size: int) -> int:
        return new(count * size, 0)

    def give(_: Any, address: int, size: int) -> None:
        if address:
            size = sizes.pop(address)
            fresh.discard(address)
            state.live -= size
            look(state.harmed, address, size)
            free(address - margin)

    def resize(_: Any, address: int, size: int) -> int:
        found = new(size, poison)
        if found and address:
            move(found, address, min(size, sizes[address]))
            give(None, address, 0)
        return found

    of = _Functions
    return of(
        b"einstride fuzzer", 1, None, of._MALLOC(take), of._CALLOC(zeroed), of._REALLOC(resize),
        of._FREE(give),
    )  # fmt: skip


def _set_handler() -> Any:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    functions = ctypes.cast(
        pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(functions[_SET_HANDLER])
