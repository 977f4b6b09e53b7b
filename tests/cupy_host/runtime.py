"""Implements the CUDA runtime's functions for devices and memory."""

from __future__ import annotations

import ctypes

from .events import Allocate, Free, PinnedAllocate, Synchronize
from .faults import INVALID_DEVICE, INVALID_VALUE, BadFree, CudaStatus, WrongDevice
from .host import DEVICES, Host
from .provides import provides
from .streams import Streams

# Attributes of an H100. Others are 0.
ATTRIBUTES = {
    "MaxThreadsPerBlock": 1024,
    "MaxBlockDimX": 1024,
    "MaxBlockDimY": 1024,
    "MaxBlockDimZ": 64,
    "MaxGridDimX": 2**31 - 1,
    "MaxGridDimY": 65535,
    "MaxGridDimZ": 65535,
    "MaxSharedMemoryPerBlock": 48 * 1024,
    "MaxSharedMemoryPerBlockOptin": 227 * 1024,
    "MaxSharedMemoryPerMultiprocessor": 228 * 1024,
    "ReservedSharedMemoryPerBlock": 1024,
    "TotalConstantMemory": 65536,
    "WarpSize": 32,
    "MultiProcessorCount": 132,
    "MaxThreadsPerMultiProcessor": 2048,
    "MaxBlocksPerMultiprocessor": 32,
    "MaxRegistersPerBlock": 65536,
    "MaxRegistersPerMultiprocessor": 65536,
    "L2CacheSize": 50 * 1024 * 1024,
    "ConcurrentKernels": 1,
    "UnifiedAddressing": 1,
    "AsyncEngineCount": 3,
    "ComputeCapabilityMajor": 9,
    "ComputeCapabilityMinor": 0,
}
_COMPUTE_CAPABILITY = {75: 9, 76: 0}  # numbers of attributes that CuPy does not export
MEMORY_HOST, MEMORY_DEVICE = 1, 2


class Runtime:
    """Hold the handlers for devices, allocations and attributes."""

    def __init__(self, host: Host, streams: Streams, cuda_version: int) -> None:
        from cupy_backends.cuda.api import runtime

        self.host = host
        self.streams = streams
        self.version = cuda_version
        self.module = runtime
        self.attributes = dict(_COMPUTE_CAPABILITY)
        for name, value in ATTRIBUTES.items():
            number = getattr(runtime, f"cudaDevAttr{name}", None)
            if number is not None:
                self.attributes[number] = value
        self._pinned: dict[int, ctypes.Array] = {}

    def _device(self, device: int) -> int:
        if not 0 <= device < DEVICES:
            raise CudaStatus(INVALID_DEVICE)
        return device

    # ---- devices -------------------------------------------------------------------------------

    @provides("getDevice")
    def get_device(self) -> int:
        return self.host.device

    @provides("setDevice")
    def set_device(self, device: int) -> None:
        self.host.device = self._device(device)

    @provides("getDeviceCount")
    def device_count(self) -> int:
        return DEVICES

    @provides("driverGetVersion", "runtimeGetVersion", "_getLocalRuntimeVersion")
    def get_version(self) -> int:
        return self.version

    @provides("_getCUDAMajorVersion")
    def major_version(self) -> int:
        return self.version // 1000

    @provides("deviceGetAttribute")
    def attribute(self, attribute: int, device: int) -> int:
        self._device(device)
        return self.attributes.get(attribute, 0)

    @provides("getDeviceProperties")
    def properties(self, device: int) -> dict[str, object]:
        self._device(device)
        return {
            "name": b"CuPy host, no GPU",
            "totalGlobalMem": self.host.memory.capacity,
            "major": 9,
            "minor": 0,
            "multiProcessorCount": ATTRIBUTES["MultiProcessorCount"],
            "warpSize": 32,
            "maxThreadsPerBlock": 1024,
            "sharedMemPerBlock": ATTRIBUTES["MaxSharedMemoryPerBlock"],
            "l2CacheSize": ATTRIBUTES["L2CacheSize"],
            "pciBusID": device,
            "pciDeviceID": 0,
            "pciDomainID": 0,
        }

    @provides("deviceGetPCIBusId")
    def bus_id(self, device: int) -> str:
        return f"0000:{self._device(device):02X}:00.0"

    @provides("deviceSynchronize")
    def synchronize(self) -> None:
        self.host.captures.waits()
        self.host.record(Synchronize(self.host.device, "device", 0))

    @provides("deviceCanAccessPeer")
    def can_access_peer(self, device: int, peer: int) -> int:
        """Return 0: code that relies on peer access by accident must fail."""
        self._device(device)
        self._device(peer)
        return 0

    @provides("deviceGetLimit")
    def limit(self, limit: int) -> int:
        return 1024

    @provides("_ensure_context")
    def ensure_context(self) -> None:
        return None

    # ---- memory --------------------------------------------------------------------------------

    @provides("malloc")
    def malloc(self, size: int) -> int:
        host = self.host
        host.captures.unsafe("malloc")
        device = host.device
        block = host.memory.allocate(device, size)
        if host.pool_allocating:
            host.record(Allocate(device, size, block.address, "pool", block.where))
        else:
            host.adopt(block.address, size, block.extent, device)
        return block.address

    @provides("mallocAsync")
    def malloc_async(self, size: int, stream: int) -> int:
        self.streams.usable(stream)
        return self.malloc(size)

    @provides("free")
    def free(self, address: int) -> None:
        if not address:
            return
        self.host.captures.unsafe("free")
        chunk = self.host.memory.chunks.get(address)
        if chunk is not None:
            whole = self.host.memory.arrays.get(address)
            if whole is not None and whole.extent == chunk.extent:
                self.host.abandon(address)
            else:
                self.host.record(Free(chunk.device, chunk.size, address, "pool"))
        self.host.memory.free(address)

    @provides("freeAsync")
    def free_async(self, address: int, stream: int) -> None:
        block = self.host.memory.chunks.get(address)
        found = self.streams.known(stream)
        if block and found and found.device != block.device:
            raise WrongDevice(f"{block} is freed on a stream of device {found.device}")
        self.free(address)

    @provides("hostAlloc")
    def host_alloc(self, size: int, flags: int) -> int:
        self.host.captures.unsafe("hostAlloc")
        buffer = ctypes.create_string_buffer(max(size, 1))
        address = ctypes.addressof(buffer)
        self._pinned[address] = buffer
        self.host.core.host_pinned_add(address, size)
        self.host.record(PinnedAllocate(self.host.device, size))
        return address

    @provides("freeHost")
    def free_host(self, address: int) -> None:
        if address and self._pinned.pop(address, None) is None:
            raise BadFree(f"0x{address:x} is freed as pinned memory, but is none")
        self.host.core.host_pinned_remove(address)

    @provides("memGetInfo")
    def memory_info(self) -> tuple[int, int]:
        total = self.host.memory.capacity
        return total - self.host.memory.reserved[self.host.device], total

    @provides("pointerGetAttributes")
    def pointer_attributes(self, address: int) -> object:
        device = self.host.memory.device_of(address)
        if device < 0:
            raise CudaStatus(INVALID_VALUE)
        return self.module.PointerAttributes(device, address, 0, MEMORY_DEVICE)

    @provides("pointerGetMemoryType")
    def pointer_type(self, address: int) -> int:
        if self.host.memory.device_of(address) >= 0:
            return MEMORY_DEVICE
        return MEMORY_HOST if self.host.core.host_pinned(address, 1) else 0
