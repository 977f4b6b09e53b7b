"""What the host finds wrong. Every fault is raised where it happens and recorded for `check`."""

from __future__ import annotations


class HostFault(RuntimeError):  # noqa: N818 - a fault is what it is
    """A mistake that a real device would answer with garbage, a crash or silence."""


class OutOfBounds(HostFault):
    """Device memory was read or written that no live array owns."""


class WrongDevice(HostFault):
    """Work of one device touched memory, a stream or a handle of another."""


class HostPointer(HostFault):
    """A host address was given where device memory is needed, or the other way round."""


class Misaligned(HostFault):
    """An access is not aligned to its own size."""


class SharedRace(HostFault):
    """Two threads touched one byte of shared memory with no barrier between them."""


class DivergentBarrier(HostFault):
    """Some threads of a block stand before a barrier that the others never reach."""


class LaunchLimit(HostFault):
    """A launch asks for more threads, blocks or shared memory than a device has."""


class KernelAssert(HostFault):
    """An `assert` in a kernel failed, or it trapped."""


class GuardDamaged(HostFault):
    """Bytes around an array were overwritten."""


class StaleGraph(HostFault):
    """A CUDA graph works in memory that is no longer kept for it."""


class BadFree(HostFault):
    """Memory was freed twice, or was never allocated."""


class Leak(HostFault):
    """Arrays are alive that should be gone."""


class NotProvided(HostFault):
    """CuPy called something that this host does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not provided by the host")
        self.name = name


# By the numbers of `enum host_fault_kind` in csrc/core.h.
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


class CudaStatus(Exception):  # noqa: N818 - not an error of ours
    """CUDA's own answer to a call (out of memory, no such device): CuPy's error, not a fault."""

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
