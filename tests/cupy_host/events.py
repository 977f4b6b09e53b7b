"""The log: what CuPy asked of the devices, in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on a device."""

    device: int


@dataclass(frozen=True, slots=True)
class Launch(Event):
    """A kernel ran. `order` tells how its threads were ordered, so that it can be replayed."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    order: str


@dataclass(frozen=True, slots=True)
class Traffic(Event):
    """What the launch before it moved, while `Host.count_traffic` is set: see `csrc/traffic.c`.

    Bytes in whole sectors of 32, each once for each block; `least` counts it once in the launch.
    """

    kernel: str
    read: int
    written: int
    least_read: int
    least_written: int


@dataclass(frozen=True, slots=True)
class Copy(Event):
    """Bytes were copied. `kind`: host_to_device, device_to_host, device_to_device, peer."""

    kind: str
    bytes: int
    stream: int
    is_async: bool


@dataclass(frozen=True, slots=True)
class Fill(Event):
    """Bytes were set (memset)."""

    bytes: int
    stream: int


@dataclass(frozen=True, slots=True)
class Allocate(Event):
    """Device memory was handed out.

    `owner` is "array" for memory that an array asked for (from CuPy's pool or directly) and "pool"
    for what the pool itself took from the device; `where` is the line of Python that asked.
    """

    bytes: int
    address: int
    owner: str
    where: str


@dataclass(frozen=True, slots=True)
class Free(Event):
    """Device memory was given back; the fields are those of `Allocate`."""

    bytes: int
    address: int
    owner: str


@dataclass(frozen=True, slots=True)
class PinnedAllocate(Event):
    """Page-locked host memory was handed out (CuPy stages transfers in it)."""

    bytes: int


@dataclass(frozen=True, slots=True)
class LibraryCall(Event):
    """A call into cuBLAS or cuFFT."""

    routine: str
    stream: int


@dataclass(frozen=True, slots=True)
class BlasCall(LibraryCall):
    """A cuBLAS call that computed: `dtypes` are those of A, B and C; `status` 0 is success."""

    m: int
    n: int
    k: int
    transposes: str
    dtypes: tuple[str, str, str]
    compute: str
    leading: tuple[int, int, int]
    batch: int
    status: int


@dataclass(frozen=True, slots=True)
class FftCall(LibraryCall):
    """A cuFFT execution: lengths of the transformed axes and how many of them in a batch."""

    kind: str
    lengths: tuple[int, ...]
    batch: int


@dataclass(frozen=True, slots=True)
class Synchronize(Event):
    """The caller waited. `what`: device, stream, event, or copy (one that blocks the caller)."""

    what: str
    stream: int
