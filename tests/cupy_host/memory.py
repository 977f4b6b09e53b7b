"""Emulates device memory: allocations with poison and guard bytes, and the arrays in them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from dataclasses import dataclass

from .core import counts
from .faults import OUT_OF_MEMORY, BadFree, CudaStatus, GuardDamaged

POISON = 0xFF  # byte of unwritten memory: NaN in every float type, -1 in every integer
GUARD = 0xA5
PAGE = 4096
MINIMUM_GUARD = 256
ADDRESSES_PER_DEVICE = 64 << 30  # reserved addresses; pages are used once they are written
MARGIN = 1 << 30  # unused addresses between devices, so that wild accesses meet no array


@dataclass(slots=True)
class Block:
    """Hold a range of device memory, followed by guard bytes up to `extent`."""

    address: int
    size: int
    extent: int
    device: int
    where: str

    def __str__(self) -> str:
        return f"the {self.size}-byte array of device {self.device} allocated at {self.where}"


_INNER = ("cupy", "cupy_backends", "cupyx", "numpy", "cupy_host", "contextlib")


def caller() -> str:
    """Return file and line of the innermost Python frame outside CuPy, NumPy and the host."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.split(".")[0] not in _INNER or name.startswith("cupy_host.test_"):
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


class DeviceMemory:
    """Hold the memory of all devices.

    `chunks` are allocations from the devices; `arrays` are allocations of arrays: parts of chunks
    with CuPy's memory pool, else entire chunks. Kernels may access arrays only.

    Threads need no lock: each change of a table is one operation of a dictionary or a deque, loops
    run over copies of tables, and the core counts bytes. A lock would not work, because garbage
    collection may free an array at any line of this class, on the same thread.
    """

    def __init__(self, core: ctypes.PyDLL, devices: int, capacity: int) -> None:
        self.core = core
        self.capacity = capacity
        self.chunks: dict[int, Block] = {}
        self.arrays: dict[int, Block] = {}
        self.live = counts(core, "live", devices)
        self.peak = counts(core, "peak", devices)
        self.reserved = counts(core, "reserved", devices)
        if core.host_memory_reserve(devices, ADDRESSES_PER_DEVICE):
            raise RuntimeError("cupy_host: the system gives no address space for the devices")
        self._spare: list[dict[int, deque[int]]] = [{} for _ in range(devices)]

    def allocate(self, device: int, size: int) -> Block:
        """Allocates a poisoned chunk without arrays; raises CUDA's out-of-memory if it does not
        fit."""
        extent = -(-(size + MINIMUM_GUARD) // PAGE) * PAGE
        if self.core.host_memory_take(device, size, self.capacity):
            raise CudaStatus(OUT_OF_MEMORY)
        try:  # reuses the chunk freed longest ago, so that stale pointers meet no live array
            address = self._spares(device, extent).popleft()
        except IndexError:
            address = self.core.host_memory_extend(device, extent, MARGIN)
        if not address:
            self.core.host_memory_take(device, -size, 0)
            raise CudaStatus(OUT_OF_MEMORY)
        block = Block(address, size, extent, device, caller())
        self.core.host_memory_fill(address, POISON, size)
        self.core.host_memory_fill(address + size, GUARD, extent - size)
        self.chunks[address] = block
        return block

    def _spares(self, device: int, extent: int) -> deque[int]:
        """Returns the addresses of freed chunks of a size."""
        return self._spare[device].setdefault(extent, deque())

    def free(self, address: int) -> Block:
        """Frees a chunk."""
        block = self.chunks.pop(address, None)
        if block is None:
            raise BadFree(f"0x{address:x} is freed, but nothing is allocated there")
        for inside in list(self.arrays):
            if address <= inside < address + block.size:
                self.abandon(inside)  # the pool was freed before the array
        self.core.host_memory_disown(address, block.extent)
        self.core.host_memory_take(block.device, -block.size, 0)
        self.verify(block)
        self.core.host_memory_discard(address, block.extent)
        self._spares(block.device, block.extent).append(address)
        return block

    def adopt(self, address: int, size: int, extent: int, device: int) -> Block:
        """Makes an array in a chunk: poisons it, writes guard bytes, and allows kernels to access
        it."""
        for other in list(self.arrays.values()):  # freed by a thread without the pool's hook
            if other.address < address + extent and address < other.address + other.extent:
                self.abandon(other.address)
        block = Block(address, size, extent, device, caller())
        self.core.host_memory_fill(address, POISON, size)
        self.core.host_memory_fill(address + size, GUARD, extent - size)
        self.core.host_memory_own(address, size)
        self.arrays[address] = block
        self.core.host_memory_count(device, size)
        return block

    def abandon(self, address: int) -> Block | None:
        """Removes and returns an array, whose memory may stay in the pool; None if there is
        none."""
        block = self.arrays.pop(address, None)
        if block is not None:
            self.core.host_memory_disown(address, block.extent)
            self.core.host_memory_count(block.device, -block.size)
            self.verify(block)
        return block

    def chunk_at(self, address: int) -> Block:
        """Returns the chunk that contains an address."""
        found = self.chunks.get(address)
        if found is not None:
            return found
        every = list(self.chunks.values())
        return next(c for c in every if c.address <= address < c.address + c.extent)

    def verify(self, block: Block) -> None:
        """Raises GuardDamaged if a guard byte of the block was overwritten."""
        at = self._damage(block)
        if at >= 0:
            raise GuardDamaged(f"byte {at} past the end of {block} was overwritten")

    def _damage(self, block: Block) -> int:
        guard = block.address + block.size
        return self.core.host_memory_mismatch(guard, GUARD, block.extent - block.size)

    def verify_all(self) -> None:
        """Verifies the guard bytes of every block, except blocks that other threads free
        meanwhile."""
        for table in (self.arrays, self.chunks):
            for block in list(table.values()):
                at = self._damage(block)
                # A block leaves its table before its guard bytes change: a block in the table is
                # alive.
                if at >= 0 and table.get(block.address) is block:
                    raise GuardDamaged(f"byte {at} past the end of {block} was overwritten")

    def device_of(self, address: int) -> int:
        """Returns the device of an address, or -1."""
        return self.core.host_memory_device(address)

    def describe(self, address: int) -> str:
        """Describes an address relative to the nearest array, for messages."""
        device = self.device_of(address)
        if device < 0:
            return f"0x{address:x}, which is no device memory"
        near = [b for b in list(self.arrays.values()) if b.device == device]
        if not near:
            return f"0x{address:x} on device {device}, which has no array"
        block = min(near, key=lambda b: max(b.address - address, address - b.address - b.size))
        if address < block.address:
            return f"{block.address - address} bytes before {block}"
        if address < block.address + block.size:
            return f"byte {address - block.address} of {block}"
        return f"{address - block.address - block.size} bytes past the end of {block}"
