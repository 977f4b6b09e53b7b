"""Defines the events of the log: everything that CuPy requests from the devices, in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Describe an event on a device."""

    device: int


@dataclass(frozen=True, slots=True)
class Launch(Event):
    """Describe a kernel launch; `order` is the order of its threads, by which it can be
    repeated."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    order: str


@dataclass(frozen=True, slots=True)
class Traffic(Event):
    """Hold the bytes that the launch before moved, if `Host.count_traffic`: see `csrc/traffic.c`.

    Counts sectors of 32 bytes once for each block; `least` counts each once for the launch.
    """

    kernel: str
    read: int
    written: int
    least_read: int
    least_written: int


@dataclass(frozen=True, slots=True)
class Copy(Event):
    """Describe a copy. `kind`: host_to_device, device_to_host, device_to_device, peer."""

    kind: str
    bytes: int
    stream: int
    is_async: bool


@dataclass(frozen=True, slots=True)
class Fill(Event):
    """Describe a fill (memset)."""

    bytes: int
    stream: int


@dataclass(frozen=True, slots=True)
class Allocate(Event):
    """Describe an allocation of device memory.

    `owner` is "array" for memory of an array (from CuPy's pool or directly), and "pool" for memory
    that the pool takes from the device; `where` is the line of Python that allocated.
    """

    bytes: int
    address: int
    owner: str
    where: str


@dataclass(frozen=True, slots=True)
class Free(Event):
    """Describe a deallocation of device memory; the fields are those of `Allocate`."""

    bytes: int
    address: int
    owner: str


@dataclass(frozen=True, slots=True)
class PinnedAllocate(Event):
    """Describe an allocation of page-locked host memory, the staging buffer of CuPy's transfers."""

    bytes: int


@dataclass(frozen=True, slots=True)
class LibraryCall(Event):
    """Describe a call of cuBLAS or cuFFT."""

    routine: str
    stream: int


@dataclass(frozen=True, slots=True)
class BlasCall(LibraryCall):
    """Describe a cuBLAS call that computed: `dtypes` of A, B and C; `status` 0 is success."""

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
    """Describe a cuFFT execution: lengths of the transformed axes, and the batch size."""

    kind: str
    lengths: tuple[int, ...]
    batch: int


@dataclass(frozen=True, slots=True)
class GraphLaunch(Event):
    """Describe the launch of a CUDA graph; the events of its `nodes` follow."""

    stream: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Synchronize(Event):
    """Describe a wait of the caller. `what`: device, stream, event, or copy (a blocking one)."""

    what: str
    stream: int
