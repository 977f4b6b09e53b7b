"""Replace NumPy's allocator by one that poisons memory, guards it by canaries, and counts bytes.

NumPy lets a program replace its allocator (NEP 49). This allocator puts `MARGIN` canary bytes on
both sides of each block, fills new and freed blocks with bytes that are NaN in every float dtype,
compares the canaries when a block is freed, and counts the bytes of all live blocks. A kernel that
writes beyond a result or its workspace, or reads elements that were never written, is therefore
always found.

The allocator is machine code made by llvmlite, because NumPy frees arrays while an exception is
raised, when no Python code can run. Without llvmlite NumPy's own allocator stays, and nothing is
counted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy._core import _multiarray_umath

MARGIN = 128
"""Canary bytes on each side of a block."""
HEADER = 16
"""Bytes before the first canary, where the size of the block is kept."""
POISON = 0xFF
"""Byte of memory that was not written: a float of such bytes is NaN, an integer -1."""
CANARY = 0xA5
"""Byte of the canaries: -2.9e-16 as a float32, -91 as an int8, so that it changes sums and differs
from the poison."""

_NEVER = 1 << 62
"""Number of allocations that no run reaches: stands for "let no allocation fail"."""

_SET_HANDLER = 304
"""Index of PyDataMem_SetHandler in NumPy's table of C functions."""
_NAME = b"mem_handler"

TEXT = f"""
declare ptr @malloc(i64)
declare void @free(ptr)
declare ptr @memset(ptr, i32, i64)
declare ptr @memcpy(ptr, ptr, i64)
declare i32 @memcmp(ptr, ptr, i64)
@canary = private constant [{MARGIN} x i8] c"{f"{chr(92)}{CANARY:02X}" * MARGIN}"

define ptr @new(ptr %state, i64 %size, i32 %byte) {{
  %left = getelementptr i64, ptr %state, i64 5
  %n = load i64, ptr %left
  %n1 = sub i64 %n, 1
  store i64 %n1, ptr %left
  %now = icmp eq i64 %n, 0
  br i1 %now, label %failed, label %allocate
allocate:
  %total = add i64 %size, {2 * MARGIN}
  %raw = call ptr @malloc(i64 %total)
  %none = icmp eq ptr %raw, null
  br i1 %none, label %failed, label %fill
fill:
  call ptr @memset(ptr %raw, i32 {CANARY}, i64 {MARGIN})
  store i64 %size, ptr %raw
  %data = getelementptr i8, ptr %raw, i64 {MARGIN}
  call ptr @memset(ptr %data, i32 %byte, i64 %size)
  %behind = getelementptr i8, ptr %data, i64 %size
  call ptr @memset(ptr %behind, i32 {CANARY}, i64 {MARGIN})
  %before = load i64, ptr %state
  %live = add i64 %before, %size
  store i64 %live, ptr %state
  %peak_at = getelementptr i64, ptr %state, i64 1
  %old = load i64, ptr %peak_at
  %more = icmp sgt i64 %live, %old
  %peak = select i1 %more, i64 %live, i64 %old
  store i64 %peak, ptr %peak_at
  ret ptr %data
failed:
  ret ptr null
}}

define ptr @take(ptr %state, i64 %size) {{
  %found = call ptr @new(ptr %state, i64 %size, i32 {POISON})
  ret ptr %found
}}

define ptr @zeroed(ptr %state, i64 %count, i64 %each) {{
  %size = mul i64 %count, %each
  %found = call ptr @new(ptr %state, i64 %size, i32 0)
  ret ptr %found
}}

define void @harm(ptr %state, i64 %size, i64 %side) {{
  %count = getelementptr i64, ptr %state, i64 2
  %n = load i64, ptr %count
  %n1 = add i64 %n, 1
  store i64 %n1, ptr %count
  %where = getelementptr i64, ptr %state, i64 3
  store i64 %size, ptr %where
  %what = getelementptr i64, ptr %state, i64 4
  store i64 %side, ptr %what
  ret void
}}

define void @give(ptr %state, ptr %data, i64 %unused) {{
  %none = icmp eq ptr %data, null
  br i1 %none, label %done, label %look
look:
  %raw = getelementptr i8, ptr %data, i64 -{MARGIN}
  %size = load i64, ptr %raw
  %first = getelementptr i8, ptr %raw, i64 {HEADER}
  %low = call i32 @memcmp(ptr %first, ptr @canary, i64 {MARGIN - HEADER})
  %hurt = icmp ne i32 %low, 0
  br i1 %hurt, label %before, label %next
before:
  call void @harm(ptr %state, i64 %size, i64 -1)
  br label %next
next:
  %behind = getelementptr i8, ptr %data, i64 %size
  %high = call i32 @memcmp(ptr %behind, ptr @canary, i64 {MARGIN})
  %harmed = icmp ne i32 %high, 0
  br i1 %harmed, label %after, label %last
after:
  call void @harm(ptr %state, i64 %size, i64 1)
  br label %last
last:
  %old = load i64, ptr %state
  %live = sub i64 %old, %size
  store i64 %live, ptr %state
  call ptr @memset(ptr %data, i32 {POISON}, i64 %size)
  call void @free(ptr %raw)
  br label %done
done:
  ret void
}}

define ptr @resize(ptr %state, ptr %data, i64 %size) {{
  %found = call ptr @new(ptr %state, i64 %size, i32 {POISON})
  %failed = icmp eq ptr %found, null
  %first = icmp eq ptr %data, null
  %skip = or i1 %failed, %first
  br i1 %skip, label %done, label %move
move:
  %raw = getelementptr i8, ptr %data, i64 -{MARGIN}
  %old = load i64, ptr %raw
  %less = icmp ult i64 %old, %size
  %n = select i1 %less, i64 %old, i64 %size
  call ptr @memcpy(ptr %found, ptr %data, i64 %n)
  call void @give(ptr %state, ptr %data, i64 0)
  br label %done
done:
  ret ptr %found
}}
"""


class _State(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("live", "peak", "harmed", "size", "side", "left")
    )


class _Handler(ctypes.Structure):
    """Mirror NumPy's struct PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("state", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("malloc", "calloc", "realloc", "free")),
    )


class Allocator:
    """Hold the only allocator of this process and its counts; it is never freed."""

    _only: Allocator | None = None

    def __new__(cls) -> Allocator:
        if cls._only is None:
            cls._only = super().__new__(cls)
            cls._only._make()
        return cls._only

    def _make(self) -> None:
        self._state = _State(left=_NEVER)
        try:
            addresses = _compiled()
        except ImportError:
            self._capsule = None
            return
        self._handler = _Handler(
            b"einstride fuzzer", 1, ctypes.addressof(self._state),
            *(addresses[n] for n in ("take", "zeroed", "resize", "give")),
        )  # fmt: skip
        for owned in (self._state, self._handler):  # never freed: arrays may outlive the allocator
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype = ctypes.py_object
        capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self._capsule = capsule(ctypes.addressof(self._handler), _NAME, None)
        self._set = _set_handler()

    @contextmanager
    def in_use(self) -> Iterator[Allocator]:
        """Make NumPy use this allocator in this thread; `peak` starts at zero."""
        if self._capsule is None:
            yield self
            return
        before = self._set(self._capsule)
        self.restart()
        try:
            yield self
        finally:
            self._set(before)

    def restart(self) -> None:
        """Count bytes, and their peak, from zero again."""
        self._state.live = self._state.peak = 0

    def fail(self, after: int) -> None:
        """Let one allocation fail after a number of successful ones; a negative number lets none
        fail."""
        self._state.left = after if after >= 0 else _NEVER

    @property
    def failed(self) -> bool:
        """True if the allocation that had to fail was requested."""
        return bool(self._state.left < 0)

    @property
    def peak(self) -> int:
        """Return the most bytes that were allocated at once since `restart`."""
        return self._state.peak

    def damage(self) -> str | None:
        """Describe a write outside of a block that was freed since the last call of this function,
        or None."""
        s = self._state
        if not s.harmed:
            return None
        s.harmed = 0
        side = "before" if s.side < 0 else "behind"
        return f"memory {side} a block of {s.size} bytes was written"


_engines: list[Any] = []


def _compiled() -> dict[str, int]:
    """Compile `TEXT`, and return the addresses of its functions."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(TEXT)
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _engines.append(engine)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    return {n: engine.get_function_address(n) for n in ("take", "zeroed", "resize", "give")}


def _set_handler() -> Any:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    functions = ctypes.cast(
        pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(functions[_SET_HANDLER])
