"""Implements the CUDA driver's functions for modules, kernels and launches."""

from __future__ import annotations

import ctypes
import itertools
import json
from dataclasses import dataclass

from .core import FaultRecord, LaunchRecord, TrafficRecord, run
from .events import Launch, Traffic
from .faults import (
    KERNEL_FAULTS,
    NOT_FOUND,
    CudaStatus,
    DivergentBarrier,
    HostFault,
    KernelAssert,
    LaunchLimit,
    Misaligned,
    OutOfBounds,
    SharedRace,
    WrongDevice,
)
from .host import ORDERS, Host
from .programs import TICKET
from .provides import provides
from .runtime import ATTRIBUTES
from .streams import Streams

STATIC_SHARED_LIMIT = 48 * 1024
_MAX_THREADS_ATTRIBUTE, _STATIC_SHARED_ATTRIBUTE, _DYNAMIC_LIMIT_ATTRIBUTE = 0, 1, 8


@dataclass
class Module:
    """Hold a loaded shared object of kernels."""

    library: ctypes.PyDLL
    entries: dict[str, str]
    image: tuple[int, int]
    shared_offset: int  # bytes from the start of its shared memory to its probe
    shared_size: int

    def shared_low(self) -> int:
        """Return the address of the module's shared memory for the calling thread."""
        return self.library.cupy_host_shared() - self.shared_offset


@dataclass
class Kernel:
    name: str
    module: Module
    entry: int
    device: int
    dynamic_limit: int = STATIC_SHARED_LIMIT


class Arguments:
    """Hold a copy of a kernel's arguments, for the launches of a graph."""

    def __init__(self, kernel: Kernel, arguments: int) -> None:
        sizes = getattr(kernel.module.library, f"{kernel.module.entries[kernel.name]}_sizes")
        sizes.restype = ctypes.POINTER(ctypes.c_int)
        found, count = sizes(), 0
        while found[count] > 0:
            count += 1
        pointers = (ctypes.c_void_p * count).from_address(arguments) if count else []
        self._values = [
            ctypes.create_string_buffer(ctypes.string_at(pointer, found[i]), found[i])
            for i, pointer in enumerate(pointers)
        ]
        self._pointers = (ctypes.c_void_p * max(count, 1))(*map(ctypes.addressof, self._values))
        self.address = ctypes.addressof(self._pointers)


class Launcher:
    """Load compiled kernels and run them."""

    def __init__(self, host: Host, streams: Streams) -> None:
        self.host = host
        self.streams = streams
        self.modules: dict[int, tuple[Module, int]] = {}  # (module, device that loaded it)
        self.kernels: dict[int, Kernel] = {}
        self._loaded: dict[str, Module] = {}
        self._handles = itertools.count(0x100000, 0x10)

    # ---- modules -------------------------------------------------------------------------------

    @provides("ctxGetCurrent")
    def current_context(self) -> int:
        return 0x100 + self.host.device

    @provides("ctxGetDevice")
    def context_device(self) -> int:
        return self.host.device

    @provides("moduleLoadData")
    def load(self, image: bytes) -> int:
        self.host.captures.unsafe("moduleLoadData")
        if not image.startswith(TICKET):
            raise HostFault("a module is loaded that the host did not compile")
        ticket = json.loads(image[len(TICKET) :])
        handle = next(self._handles)
        opened = self._open(ticket["path"], ticket["entries"])
        self.modules[handle] = (opened, self.host.device)
        return handle

    def _open(self, path: str, entries: dict[str, str]) -> Module:
        found = self._loaded.get(path)
        if found is None:
            library = ctypes.PyDLL(path)
            library.cupy_host_shared.restype = ctypes.c_void_p
            probe = library.cupy_host_shared()
            inside = ctypes.cast(library.cupy_host_shared, ctypes.c_void_p).value
            low, high, shared, size = (ctypes.c_uint64() for _ in range(4))
            if self.host.core.host_image(inside, low, high, shared, size) or not shared.value:
                raise HostFault(f"the host cannot find the memory of {path}")
            offset = probe - shared.value
            made = Module(library, entries, (low.value, high.value), offset, size.value)
            found = self._loaded.setdefault(path, made)
        return found

    @provides("moduleUnload")
    def unload(self, module: int) -> None:
        self.modules.pop(module, None)  # the shared object stays loaded: its kernels may be cached

    @provides("moduleGetFunction")
    def get_function(self, module: int, name: str) -> int:
        loaded, device = self.modules[module]
        if name not in loaded.entries:
            raise CudaStatus(NOT_FOUND)
        symbol = getattr(loaded.library, loaded.entries[name])
        handle = next(self._handles)
        entry = ctypes.cast(symbol, ctypes.c_void_p).value or 0
        self.kernels[handle] = Kernel(name, loaded, entry, device)
        return handle

    @provides("funcGetAttribute")
    def get_attribute(self, attribute: int, function: int) -> int:
        kernel = self.kernels[function]
        if attribute == _MAX_THREADS_ATTRIBUTE:
            return ATTRIBUTES["MaxThreadsPerBlock"]
        if attribute == _STATIC_SHARED_ATTRIBUTE:
            return kernel.module.shared_size
        return kernel.dynamic_limit if attribute == _DYNAMIC_LIMIT_ATTRIBUTE else 0

    @provides("funcSetAttribute")
    def set_attribute(self, function: int, attribute: int, value: int) -> None:
        if attribute == _DYNAMIC_LIMIT_ATTRIBUTE:
            self.kernels[function].dynamic_limit = value

    @provides("occupancyMaxActiveBlocksPerMultiprocessor")
    def occupancy(self, function: int, block: int, dynamic_shared: int) -> int:
        return max(1, 2048 // max(block, 1))

    # ---- launches ------------------------------------------------------------------------------

    @provides("launchKernel")
    def launch(
        self, function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int,
        shared: int, stream: int, arguments: int, extra: int,
    ) -> None:  # fmt: skip
        kernel = self.kernels[function]
        grid, block = (gx, gy, gz), (bx, by, bz)
        self._check_limits(kernel, grid, block, shared)
        self.streams.usable(stream)
        device = self.host.device
        if kernel.device != device:
            raise WrongDevice(
                f"kernel {kernel.name} was loaded on device {kernel.device} and is launched on "
                f"device {device}"
            )
        given = None
        if stream in self.host.captures.open:  # the caller frees the arguments earlier
            given = Arguments(kernel, arguments)
            arguments = given.address

        def act(there: int, given: Arguments | None = given) -> None:
            order, seed = self.host.next_order()
            self.host.record(Launch(device, kernel.name, grid, block, shared, there, ORDERS[order]))
            record = LaunchRecord(
                kernel.entry, arguments, grid, block, shared, device, order, seed,
                *kernel.module.image, kernel.module.shared_low(), kernel.module.shared_size,
            )  # fmt: skip
            counted = self.host.count_traffic
            failed, fault, moved = run(self.host.core, record, counted)
            if failed:
                raise self._fault(kernel, fault, f"{ORDERS[order]} order, seed {seed}")
            if counted:
                self._record_traffic(device, kernel.name, moved)

        self.host.captures.submit(stream, act)

    def _record_traffic(self, device: int, kernel: str, found: TrafficRecord) -> None:
        if found.overflowed:
            raise HostFault(f"kernel {kernel} touches more memory than its traffic is counted for")
        numbers = (found.read, found.written, found.least_read, found.least_written)
        self.host.record(Traffic(device, kernel, *numbers))

    @staticmethod
    def _check_limits(
        kernel: Kernel, grid: tuple[int, int, int], block: tuple[int, int, int], shared: int
    ) -> None:
        threads = block[0] * block[1] * block[2]
        limits = [
            (0 < threads <= 1024 and block[2] <= 64, f"a block of {block} threads"),
            (min(grid) > 0 and max(grid[1:]) <= 65535, f"a grid of {grid} blocks"),
            (kernel.module.shared_size <= STATIC_SHARED_LIMIT + 16,
             f"{kernel.module.shared_size} bytes of static shared memory (48 KiB is the most)"),
            (shared <= min(kernel.dynamic_limit, ATTRIBUTES["MaxSharedMemoryPerBlockOptin"]),
             f"{shared} bytes of dynamic shared memory (its limit is {kernel.dynamic_limit}; "
             "set the kernel's max_dynamic_shared_size_bytes)"),
        ]  # fmt: skip
        for holds, what in limits:
            if not holds:
                raise LaunchLimit(f"kernel {kernel.name} is launched with {what}")

    def _fault(self, kernel: Kernel, found: FaultRecord, order: str) -> HostFault:
        """Return the exception for a fault that the core recorded."""
        kind = KERNEL_FAULTS.get(found.kind, HostFault)
        where = f"kernel {kernel.name}: thread {found.thread} of block {found.block}"
        verb = "writes" if found.is_write else "reads"
        at = self.host.memory.describe(found.address)
        if kind in (Misaligned, OutOfBounds) and self.host.memory.device_of(found.address) < 0:
            at = f"0x{found.address:x} in shared or local memory"
        if kind is DivergentBarrier:
            text = (
                f"kernel {kernel.name}: in block {found.block} some threads wait at a barrier "
                "that others, which have ended or wait elsewhere, never reach"
            )
        elif kind is SharedRace:
            other = "another thread" if found.other_thread < 0 else f"thread {found.other_thread}"
            text = (
                f"{where} {verb} {found.size} bytes of shared memory that {other} touched since "
                "the last barrier"
            )
        elif kind is KernelAssert:
            text = f"{where} failed an assertion in line {found.size}"
        else:
            text = f"{where} {verb} {found.size} bytes at {at}"
        return kind(f"{text} ({order})")
