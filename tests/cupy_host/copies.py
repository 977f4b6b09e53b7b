"""Implements the copies and fills of the CUDA runtime, with checks of their arguments."""

from __future__ import annotations

from .events import Copy, Fill, Synchronize
from .faults import INVALID_VALUE, CudaStatus, HostPointer, OutOfBounds, WrongDevice
from .host import Host
from .provides import provides
from .streams import Streams

HOST, DEVICE = "host", "device"
_KINDS = {0: (HOST, HOST), 1: (HOST, DEVICE), 2: (DEVICE, HOST), 3: (DEVICE, DEVICE)}
_DEFAULT_KIND = 4


class Copies:
    """Implement memcpy, memset and their variants."""

    def __init__(self, host: Host, streams: Streams) -> None:
        self.host = host
        self.streams = streams

    def _side(self, name: str, address: int, size: int, device: int) -> str:
        """Return HOST or DEVICE; raise a fault for device memory that may not be accessed."""
        memory = self.host.memory
        owner = memory.device_of(address)
        if owner < 0:
            return HOST
        if owner != device:
            raise WrongDevice(
                f"{name} on device {device} touches {size} bytes of device {owner}: "
                f"{memory.describe(address)}"
            )
        if not self.host.core.host_memory_owned(address, size):
            raise OutOfBounds(f"{name} touches {size} bytes at {memory.describe(address)}")
        return DEVICE

    def _copy(
        self, target: int, source: int, size: int, kind: int, stream: int, waits: bool
    ) -> None:
        device, memory = self.host.device, self.host.memory
        if kind not in _KINDS and kind != _DEFAULT_KIND:
            raise CudaStatus(INVALID_VALUE)
        ends = memory.device_of(target), memory.device_of(source)
        if size and min(ends) >= 0 and ends[0] != ends[1]:  # CUDA also does a peer copy here
            self.copy_peer(target, ends[0], source, ends[1], size, stream)
            return
        name = "memcpy" if waits else "memcpyAsync"
        if size:
            sides = self._side(name, source, size, device), self._side(name, target, size, device)
            if kind != _DEFAULT_KIND and sides != _KINDS[kind]:
                raise HostPointer(f"{name} is told {_KINDS[kind]}, but its pointers are {sides}")
        else:
            sides = _KINDS.get(kind, (DEVICE, DEVICE))
        captured = self.host.captures.open.get(stream)
        if captured and HOST in sides and not self._pinned(sides, target, source, size):
            captured.refuse()  # the memory may be freed or reused before the launch

        def act(there: int) -> None:
            if size:
                self._side(name, source, size, device)
                self._side(name, target, size, device)
                self.host.core.host_memory_copy(target, source, size)
            self.host.record(Copy(device, f"{sides[0]}_to_{sides[1]}", size, there, not waits))

        if waits:
            self.host.captures.unsafe(name)
        self.host.captures.submit(stream, act)
        if waits:
            self.host.record(Synchronize(device, "copy", stream))

    def _pinned(self, sides: tuple[str, str], target: int, source: int, size: int) -> bool:
        ends = [a for a, side in zip((source, target), sides, strict=True) if side == HOST]
        return all(self.host.core.host_pinned(address, size) for address in ends)

    @provides("memcpy")
    def copy(self, target: int, source: int, size: int, kind: int) -> None:
        self._copy(target, source, size, kind, 0, waits=True)

    @provides("memcpyAsync")
    def copy_async(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self.streams.known(stream)
        self._copy(target, source, size, kind, stream, waits=False)

    @provides("memcpyPeer")
    def copy_peer(
        self, target: int, to: int, source: int, origin: int, size: int, stream: int = 0
    ) -> None:
        self.host.captures.lacks("a copy between devices", stream)
        if size:
            for address, device in ((source, origin), (target, to)):
                if self._side("memcpyPeer", address, size, device) == HOST:
                    raise HostPointer(f"memcpyPeer gets 0x{address:x}, which is no device memory")
            self.host.core.host_memory_copy(target, source, size)
        self.host.record(Copy(to, "peer", size, stream, is_async=True))

    @provides("memcpyPeerAsync")
    def copy_peer_async(
        self, target: int, to: int, source: int, origin: int, size: int, stream: int
    ) -> None:
        self.streams.known(stream)
        self.copy_peer(target, to, source, origin, size, stream)

    @provides("memset")
    def fill(self, address: int, value: int, size: int, stream: int = 0) -> None:
        device = self.host.device

        def act(there: int) -> None:
            if size:
                if self._side("memset", address, size, device) == HOST:
                    raise HostPointer(f"memset gets 0x{address:x}, which is no device memory")
                self.host.core.host_memory_fill(address, value & 0xFF, size)
            self.host.record(Fill(device, size, there))

        self.host.captures.submit(stream, act)

    @provides("memsetAsync")
    def fill_async(self, address: int, value: int, size: int, stream: int) -> None:
        self.streams.usable(stream)
        self.fill(address, value, size, stream)
