"""Emulates streams and events. Work is done at once, so waiting is only logged."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from .events import Synchronize
from .faults import INVALID_HANDLE, CudaStatus, WrongDevice
from .host import Host
from .provides import provides

BUILT_IN = (0, 1, 2)  # the default, legacy and per-thread streams of the current device


@dataclass
class Stream:
    device: int
    flags: int
    priority: int


@dataclass
class Mark:
    """Hold a CUDA event and the time when it was recorded."""

    device: int
    recorded: float | None = None


class Streams:
    """Implement the CUDA runtime's functions for streams and events."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.streams: dict[int, Stream] = {}
        self.marks: dict[int, Mark] = {}
        self._handles = itertools.count(0x5000, 0x10)

    def known(self, stream: int) -> Stream | None:
        """Return the stream (None for a built-in one); raise CUDA's error if it does not exist."""
        if stream in BUILT_IN:
            return None
        found = self.streams.get(stream)
        if found is None:
            raise CudaStatus(INVALID_HANDLE)
        return found

    def usable(self, stream: int) -> None:
        """Raise WrongDevice if the stream is not of the current device."""
        found = self.known(stream)
        if found is not None and found.device != self.host.device:
            raise WrongDevice(
                f"work for device {self.host.device} is put on a stream of device {found.device}"
            )

    def _mark(self, event: int) -> Mark:
        found = self.marks.get(event)
        if found is None:
            raise CudaStatus(INVALID_HANDLE)
        return found

    @provides("streamCreateWithPriority")
    def create(self, flags: int = 0, priority: int = 0) -> int:
        handle = next(self._handles)
        self.streams[handle] = Stream(self.host.device, flags, priority)
        return handle

    @provides("streamCreate", "streamCreateWithFlags")
    def create_plain(self, flags: int = 0) -> int:
        return self.create(flags)

    @provides("streamDestroy")
    def destroy(self, stream: int) -> None:
        if self.streams.pop(stream, None) is None:
            raise CudaStatus(INVALID_HANDLE)

    @provides("streamGetFlags")
    def flags(self, stream: int) -> int:
        found = self.known(stream)
        return found.flags if found else 0

    @provides("streamGetPriority")
    def priority(self, stream: int) -> int:
        found = self.known(stream)
        return found.priority if found else 0

    @provides("streamSynchronize")
    def synchronize(self, stream: int) -> None:
        self.known(stream)
        self.host.captures.waits(stream)
        self.host.record(Synchronize(self.host.device, "stream", stream))

    @provides("streamQuery")
    def query(self, stream: int) -> int:
        self.known(stream)
        self.host.captures.waits(stream)
        return 0  # all work is done

    @provides("streamWaitEvent")
    def wait_event(self, stream: int, event: int, flags: int = 0) -> None:
        self.known(stream)
        self.host.captures.lacks("waiting for an event", stream)
        self._mark(event)

    @provides("streamAddCallback")
    def add_callback(
        self, stream: int, callback: Callable[..., None], argument: object, flags: int = 0
    ) -> None:
        self.known(stream)
        self.host.captures.lacks("a callback", stream)
        callback(stream, 0, argument)

    @provides("launchHostFunc")
    def host_function(self, stream: int, callback: Callable[..., None], argument: object) -> None:
        self.known(stream)
        self.host.captures.submit(stream, lambda there: callback(argument))

    @provides("_launchHostFuncUnmanaged")
    def host_function_pair(self, stream: int, pair: tuple[Callable[..., None], object]) -> None:
        self.host_function(stream, *pair)

    @provides("eventCreate", "eventCreateWithFlags")
    def create_event(self, flags: int = 0) -> int:
        handle = next(self._handles)
        self.marks[handle] = Mark(self.host.device)
        return handle

    @provides("eventDestroy")
    def destroy_event(self, event: int) -> None:
        if self.marks.pop(event, None) is None:
            raise CudaStatus(INVALID_HANDLE)

    @provides("eventRecord")
    def record_event(self, event: int, stream: int) -> None:
        mark, found = self._mark(event), self.known(stream)
        self.host.captures.lacks("recording an event", stream)
        device = found.device if found else self.host.device
        if mark.device != device:
            raise WrongDevice(
                f"an event of device {mark.device} is recorded on a stream of device {device}"
            )
        mark.recorded = time.perf_counter()

    @provides("eventQuery")
    def query_event(self, event: int) -> int:
        self._mark(event)
        return 0

    @provides("eventSynchronize")
    def synchronize_event(self, event: int) -> None:
        self._mark(event)
        self.host.captures.unsafe("eventSynchronize")
        self.host.record(Synchronize(self.host.device, "event", 0))

    @provides("eventElapsedTime")
    def elapsed(self, start: int, end: int) -> float:
        """Return milliseconds of the host's clock, which say nothing about a device."""
        first, last = self._mark(start).recorded, self._mark(end).recorded
        if first is None or last is None:
            raise CudaStatus(INVALID_HANDLE)
        return (last - first) * 1e3
