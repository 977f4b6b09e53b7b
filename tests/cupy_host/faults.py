"""Defines the faults that the host finds. Each is raised where it happens, and recorded for
`check`."""

from __future__ import annotations


class HostFault(RuntimeError):  # noqa: N818 - named for the README's table
    """Report a mistake for which a real device would give garbage, a crash or nothing."""


class OutOfBounds(HostFault):
    """Report an access of device memory that no live array owns."""


class WrongDevice(HostFault):
    """Report work of one device that used memory, a stream or a handle of another."""


class HostPointer(HostFault):
    """Report a host address where device memory is needed, or the reverse."""


class Misaligned(HostFault):
    """Report an access that is not aligned to its own size."""


class SharedRace(HostFault):
    """Report two threads that accessed one byte of shared memory without a barrier between."""


class DivergentBarrier(HostFault):
    """Report a barrier that only some threads of a block reach."""


class LaunchLimit(HostFault):
    """Report a launch with more threads, blocks or shared memory than a device has."""


class KernelAssert(HostFault):
    """Report a failed `assert` or a trap in a kernel."""


class GuardDamaged(HostFault):
    """Report overwritten guard bytes behind an array."""


class StaleGraph(HostFault):
    """Report a CUDA graph that uses memory which is no longer reserved for it."""


class BadFree(HostFault):
    """Report a deallocation of memory that is not allocated."""


class Leak(HostFault):
    """Report arrays that should have been freed."""


class NotProvided(HostFault):
    """Report a call of a function that the host does not provide."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not provided by the host")
        self.name = name


# Indexed by the numbers of `enum host_fault_kind` in csrc/core.h.
KERNEL_FAULTS: dict[int, type[HostFault]] = {
    1: OutOfBounds,
    2: WrongDevice,
    3: HostPointer,
    4: Misaligned,
    5: SharedRace,
    6: DivergentBarrier,
    7: DivergentBarrier,
    8: LaunchLimit,
    9: KernelAssert,
}


class CudaStatus(Exception):  # noqa: N818 - an answer of CUDA, no fault
    """Hold a status that CUDA returns (out of memory, no such device): an error of CuPy, no
    fault."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


INVALID_VALUE = 1
OUT_OF_MEMORY = 2
INVALID_DEVICE = 101
INVALID_HANDLE = 400
NOT_FOUND = 500

DRIVER_TEXTS = {
    INVALID_VALUE: "CUDA_ERROR_INVALID_VALUE: invalid argument",
    INVALID_HANDLE: "CUDA_ERROR_INVALID_HANDLE: invalid resource handle",
    NOT_FOUND: "CUDA_ERROR_NOT_FOUND: named symbol not found",
}
