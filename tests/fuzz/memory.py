"""Place arrays in memory in every way that NumPy allows, between pages without access.

A `Memory` describes how an array is stored: its kind, the guard page that it touches, and a seed
that fixes the rest (order of axes, gaps, axes with negative strides). `place` makes such an array
in a `GuardedBuffer` of a few pages. All bytes outside its elements, also between strided elements,
are poison (0xFF: NaN as floats, -1 as integers). `Placed.changed` compares every byte with its
former value.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import tempfile
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from .allocator import POISON

PAGE = mmap.PAGESIZE
CANARY = 192
"""Bytes that are checked on the side of an array without a guard page."""

KINDS = (
    "c", "fortran", "permuted", "negative", "gaps", "inside", "record", "misaligned", "broadcast",
    "overlapping", "memmap", "units",
)  # fmt: skip
"""Ways to store an array. "inside": a block of a larger array. "record": one field of packed
records, whose strides are no multiple of the itemsize. "units": axes of length one with meaningless
strides. "broadcast" and "overlapping" need repeated values (see `cases.Case.repeats`)."""

LARGEST = 1 << 24
"""Most bytes from the lowest to the last element; a larger array is stored contiguously. All
buffers together take half a GiB with this limit."""

FOR_RESULTS = tuple(k for k in KINDS if k not in ("broadcast", "overlapping"))


@dataclass(frozen=True)
class Memory:
    """Describe the memory of one array."""

    kind: str = "c"
    seed: int = 0
    end: bool = True
    """True if the last byte lies before a guard page; False if the first byte lies behind one."""
    swapped: bool = False
    """True if the array is in the other byte order."""
    readonly: bool = False


class GuardedBuffer:
    """Hold readable and writeable pages between two pages without access."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, self.size + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in (start, start + PAGE + self.size):
            if protect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.raw = np.frombuffer(self._map, np.uint8, self.size, PAGE)
        self.raw[:] = POISON


class Buffers:
    """Hand out buffers in turn, so that the arrays of one call never share a buffer."""

    SMALL, COUNT = 64 * 1024, 12

    def __init__(self) -> None:
        self._small = itertools.cycle([GuardedBuffer(self.SMALL) for _ in range(self.COUNT)])
        self._large: dict[int, Any] = {}
        self._file: Any = None
        self._next = 0

    def take(self, size: int) -> np.ndarray:
        """Return the bytes of a buffer for an array of `size` bytes and its canary."""
        need = size + 2 * CANARY + 16
        if need <= self.SMALL:
            return next(self._small).raw
        power = need.bit_length()
        if power not in self._large:
            self._large[power] = itertools.cycle([GuardedBuffer(1 << power) for _ in range(8)])
        return next(self._large[power]).raw

    def mapped(self, size: int) -> np.ndarray:
        """Map the bytes of a file into memory, as an `np.memmap`."""
        need = size + 2 * CANARY + 16
        if self._file is None or self._file.size < 8 * need:
            with tempfile.TemporaryFile() as kept:  # the mapping keeps the file alive
                self._file = np.memmap(kept, np.uint8, "w+", shape=8 * max(need, self.SMALL))
        slot = self._file.size // 8 // 16 * 16
        self._next = (self._next + 1) % 8
        return self._file[self._next * slot : (self._next + 1) * slot]


@dataclass
class Placed:
    """Hold an array, the bytes in and around it (`window`), and their former values (`before`)."""

    array: np.ndarray
    window: np.ndarray
    before: bytes

    def changed(self) -> bool:
        """True if a byte of the array, its gaps or its canaries has changed."""
        return self.window.tobytes() != self.before

    def take_result(self) -> np.ndarray:
        """Return a copy of the array, and restore the array's former values."""
        found = self.array.copy()
        old = np.frombuffer(self.before, np.uint8)
        self.array[...] = _view(old, self.array, self._offset())
        return found

    def _offset(self) -> int:
        return address(self.array) - address(self.window)


def address(a: np.ndarray) -> int:
    """Return the address of the first element."""
    return a.__array_interface__["data"][0]


def _view(raw: np.ndarray, like: np.ndarray, offset: int) -> np.ndarray:
    return np.ndarray(like.shape, like.dtype, raw, offset, like.strides)


@dataclass(frozen=True)
class Strides:
    """Hold byte strides, the offset of the first element, and the bytes from the lowest to the
    last."""

    strides: tuple[int, ...]
    offset: int
    extent: int
    shift: int = 0
    """Bytes by which the first element is misaligned."""


def strides(
    memory: Memory, shape: tuple[int, ...], itemsize: int, repeats: tuple[int, ...],
    hankel: tuple[int, ...],
) -> Strides:  # fmt: skip
    """Draw the strides of an array of this shape.

    `repeats`: axes along which all values are equal, so that a stride may be zero. `hankel`: two
    axes that may overlap, because values depend on the sum of the two indices.
    """
    rng = Random(memory.seed)
    rank, kind = len(shape), memory.kind
    order = list(range(rank))
    if kind == "fortran":
        order.reverse()
    elif kind == "permuted" or (kind not in ("c", "inside", "misaligned") and rng.random() < 0.4):
        rng.shuffle(order)
    step, shift = itemsize, 0
    if kind == "record":
        step = itemsize + rng.choice((1, 1, 2, 3, 5, 7))
        if memory.seed % 3 == 0:
            shift = rng.randrange(step - itemsize + 1)
    if kind == "misaligned":
        shift = rng.choice((1, 1, 2, 3))
    gaps = kind in ("gaps", "negative", "broadcast") and rng.random() < 0.7
    found = [0] * rank
    for axis in reversed(order):
        n = shape[axis]
        if kind == "broadcast" and axis in repeats:
            continue
        if kind == "overlapping" and axis in hankel:
            if axis == hankel[0]:
                continue
            n += max(shape[hankel[0]] - 1, 0)
        more = rng.choice((0, 0, 1, 3)) if gaps else rng.randrange(4) if kind == "inside" else 0
        found[axis] = step * (1 + more if kind != "inside" else 1)
        step = found[axis] * max(n, 1) + (more * itemsize if kind == "inside" else 0)
    if kind == "gaps" and rank and found[order[-1]] == itemsize:
        found = [s * 2 for s in found]
    if kind == "overlapping" and hankel:  # both axes have one stride
        found[hankel[0]] = found[hankel[1]]
    if kind == "units":
        meaningless = (0, 1, -7, 3 * itemsize, 1 << 40)
        found = [
            rng.choice(meaningless) if n == 1 else s for n, s in zip(shape, found, strict=True)
        ]
    if kind == "negative" and rank:
        backward = [axis for axis in range(rank) if rng.random() < 0.5] or [rng.randrange(rank)]
        found = [-s if axis in backward else s for axis, s in enumerate(found)]
    ends = [(n - 1) * s for n, s in zip(shape, found, strict=True) if n > 0]
    if 0 in shape:
        return Strides(tuple(found), 0, 0, shift)
    low, high = sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)
    return Strides(tuple(found), -low, high - low + itemsize, shift)


def place(
    buffers: Buffers, values: np.ndarray, memory: Memory, repeats: tuple[int, ...] = (),
    hankel: tuple[int, ...] = (),
) -> Placed:  # fmt: skip
    """Store values in a buffer as `memory` describes."""
    dtype = values.dtype
    if memory.swapped and dtype.isbuiltin == 1 and dtype.itemsize > 1:
        dtype = dtype.newbyteorder()
    s = strides(memory, values.shape, dtype.itemsize, repeats, hankel)
    if s.extent > LARGEST:  # too large with gaps on every axis
        s = strides(replace(memory, kind="c"), values.shape, dtype.itemsize, repeats, hankel)
    if memory.kind == "memmap":
        raw = buffers.mapped(s.extent)
        start = CANARY + 16
    else:
        raw = buffers.take(s.extent)
        start = raw.size - s.extent - s.shift if memory.end else s.shift
    low, high = max(start - CANARY, 0), min(start + s.extent + CANARY, raw.size)
    window = raw[low:high]
    window[:] = POISON
    if memory.kind == "memmap":
        array = _mapped(raw, values.shape, dtype, start + s.offset, s.strides)
    else:
        array = np.ndarray(values.shape, dtype, raw, start + s.offset, s.strides)
    array[...] = values
    if memory.readonly:
        array.flags.writeable = False
    return Placed(array, window, window.tobytes())


def _mapped(
    raw: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, offset: int, by: tuple[int, ...]
) -> np.ndarray:
    """Return a view of an `np.memmap` that is itself an `np.memmap`."""
    first = raw[offset : offset + dtype.itemsize].view(dtype)
    return np.lib.stride_tricks.as_strided(first, shape, by, subok=True)
