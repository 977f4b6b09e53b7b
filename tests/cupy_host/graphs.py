"""Emulates CUDA graphs: work for a capturing stream is stored, and done at every launch of the
graph.

As on a device, nothing runs during the capture, and work that a graph cannot hold is refused. A
launch also checks something that CUDA does not: memory of arrays that were made during the capture
and freed must not have been reused. It is poisoned at each launch, so that no value of the capture
remains.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .events import GraphLaunch
from .faults import INVALID_VALUE, CudaStatus, NotProvided, StaleGraph
from .host import Host
from .memory import POISON, Block
from .provides import provides
from .streams import BUILT_IN, Streams

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
NON_BLOCKING = 1
ACTIVE, INVALIDATED = 1, 2
UNSUPPORTED, INVALID, IMPLICIT, WRONG_THREAD = 900, 901, 906, 908

Action = Callable[[int], None]  # does the work on the stream of this number


@dataclass
class Capture:
    """Hold a capture, which becomes a graph."""

    stream: int
    device: int
    mode: int
    blocking: bool
    thread: int = field(default_factory=threading.get_ident)
    invalid: bool = False
    nodes: list[Action] = field(default_factory=list)
    made: list[tuple[Block, Block]] = field(default_factory=list)  # (array, its chunk)

    def refuse(self, status: int = UNSUPPORTED) -> None:
        """Fail the call, and let the end of the capture fail too."""
        self.invalid = True
        raise CudaStatus(status)


class Captures:
    """Hold the captures that are not ended. The host has one instance."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.open: dict[int, Capture] = {}

    def submit(self, stream: int, action: Action) -> None:
        """Do work for a stream now, or store it if the stream is captured."""
        capture = self.open.get(stream)
        if capture is None:
            self.joins(stream)
            action(stream)
        else:
            capture.nodes.append(action)

    def joins(self, stream: int) -> None:
        """Refuse work of the legacy stream, which waits for blocking streams, if one is
        captured."""
        for capture in self.joined(stream):
            capture.refuse(IMPLICIT)

    def joined(self, stream: int) -> list[Capture]:
        """List the captures of streams that a stream would wait for."""
        if stream not in BUILT_IN[:2]:
            return []
        device = self.host.device
        return [c for c in list(self.open.values()) if c.blocking and c.device == device]

    def unsafe(self, name: str) -> None:
        """Refuse a call that may wait for the whole device, unless captures are relaxed."""
        for capture in list(self.open.values()):
            mine = capture.thread == threading.get_ident()
            if capture.mode == GLOBAL or (capture.mode == THREAD_LOCAL and mine):
                capture.refuse()

    def waits(self, stream: int | None = None) -> None:
        """Refuse a wait for a captured stream, or for the whole device during a capture."""
        for capture in list(self.open.values()):
            if stream == capture.stream or (stream is None and capture.device == self.host.device):
                capture.refuse()
        if stream is not None:
            self.joins(stream)
        self.unsafe("synchronize")

    def lacks(self, what: str, stream: int) -> None:
        """Refuse, by name, work that the host cannot store in a graph."""
        if stream in self.open:
            raise NotProvided(f"{what} during a capture")

    def allocated(self, array: Block, chunk: Block) -> None:
        """Add a new array to all captures, whose graphs may use its memory."""
        for capture in list(self.open.values()):
            if capture.device == array.device:
                capture.made.append((array, chunk))


class Graphs:
    """Implement the CUDA runtime's functions for captures and graphs."""

    def __init__(self, host: Host, streams: Streams) -> None:
        self.host, self.streams, self.captures = host, streams, host.captures
        self.graphs: dict[int, Capture] = {}
        self._handles = itertools.count(0x900000, 0x10)

    @provides("streamBeginCapture")
    def begin(self, stream: int, mode: int = -1) -> None:
        mode = RELAXED if mode < 0 else mode
        found = self.streams.known(stream)
        if found is None or stream in self.captures.open:
            raise CudaStatus(UNSUPPORTED)
        if mode not in (GLOBAL, THREAD_LOCAL, RELAXED):
            raise CudaStatus(INVALID_VALUE)
        blocking = not found.flags & NON_BLOCKING
        capture = Capture(stream, found.device, mode, blocking)
        if self.captures.open.setdefault(stream, capture) is not capture:
            raise CudaStatus(UNSUPPORTED)

    @provides("streamIsCapturing")
    def status(self, stream: int) -> int:
        self.streams.known(stream)
        if self.captures.joined(stream):  # returns an error, and the capture continues
            raise CudaStatus(IMPLICIT)
        capture = self.captures.open.get(stream)
        return 0 if capture is None else INVALIDATED if capture.invalid else ACTIVE

    @provides("streamEndCapture")
    def end(self, stream: int) -> int:
        capture = self.captures.open.get(stream)
        if capture is None:
            raise CudaStatus(INVALID_VALUE)
        if capture.mode != RELAXED and capture.thread != threading.get_ident():
            raise CudaStatus(WRONG_THREAD)
        if self.captures.open.pop(stream, None) is not capture:  # another thread ended the capture
            raise CudaStatus(INVALID_VALUE)
        if capture.invalid:
            raise CudaStatus(INVALID)
        return self._keep(capture)

    def _keep(self, capture: Capture) -> int:
        handle = next(self._handles)
        self.graphs[handle] = capture
        return handle

    @provides("graphInstantiate")
    def instantiate(self, graph: int) -> int:
        return self._keep(self.graphs[graph])

    @provides("graphDestroy", "graphExecDestroy")
    def destroy(self, graph: int) -> None:
        del self.graphs[graph]

    @provides("graphUpload")
    def upload(self, graph: int, stream: int) -> None:
        self.streams.usable(stream)

    @provides("graphLaunch")
    def launch(self, graph: int, stream: int) -> None:
        self.captures.lacks("a graph's launch", stream)
        capture, memory = self.graphs[graph], self.host.memory
        before, self.host.device = self.host.device, capture.device
        lent: list[Block] = []
        try:
            self.streams.usable(stream)
            self.host.record(GraphLaunch(capture.device, stream, len(capture.nodes)))
            for array, chunk in capture.made:
                if memory.arrays.get(array.address) is array:
                    continue  # the array is alive, as a result
                self._still_free(array, chunk)
                lent.append(array)
            for array in lent:
                self.host.core.host_memory_fill(array.address, POISON, array.size)
                self.host.core.host_memory_own(array.address, array.size)
            for action in capture.nodes:
                action(stream)
        finally:
            for array in lent:
                self.host.core.host_memory_disown(array.address, array.extent)
            self.host.device = before

    def _still_free(self, array: Block, chunk: Block) -> None:
        """Raise StaleGraph if the memory of a freed array is reused."""
        memory = self.host.memory
        if memory.chunks.get(chunk.address) is not chunk:
            raise StaleGraph(f"a graph works in {array}, whose memory went back to the device")
        for other in list(memory.arrays.values()):
            if array.address < other.address + other.size and (
                other.address < array.address + array.size
            ):
                raise StaleGraph(f"a graph works in {array}, whose memory now belongs to {other}")
