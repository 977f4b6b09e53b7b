"""Tells the host which part of a chunk of the memory pool belongs to each array.

CuPy's pool rounds sizes up to 512 bytes and hands out parts of larger chunks; without this hook an
access past an array's end would often land in memory that is allocated, and pass.
"""

from __future__ import annotations

from cupy.cuda import memory_hook
from cupy.cuda.memory_hook import MemoryHook

from .host import Host


class PoolHook(MemoryHook):
    """Hold the methods that CuPy calls around work of its pool, in threads after `enter_thread`."""

    name = "CupyHost"

    def __init__(self, host: Host) -> None:
        self.host = host

    def enter_thread(self) -> None:
        """Activate the hook in the calling thread: CuPy has hooks per thread."""
        hooks = memory_hook.get_memory_hooks()
        if self.name not in hooks:
            hooks[self.name] = self

    def alloc_preprocess(self, **keywords: int) -> None:
        self.host.pool_allocating = True

    def alloc_postprocess(self, **keywords: int) -> None:
        self.host.pool_allocating = False

    def malloc_postprocess(
        self, *, device_id: int, size: int, mem_size: int, mem_ptr: int, pmem_id: int
    ) -> None:
        if mem_ptr:  # the address gives the device: CuPy's device_id is not always right
            self.host.adopt(mem_ptr, size, mem_size, self.host.memory.device_of(mem_ptr))

    def free_preprocess(self, *, device_id: int, mem_size: int, mem_ptr: int, pmem_id: int) -> None:
        try:
            self.host.abandon(mem_ptr)
        except Exception as error:  # a destructor would only print it
            self.host.faults.append(error)
