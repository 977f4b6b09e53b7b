"""The real CuPy wheel on a machine without a GPU: see README.md.

>>> import cupy_host
>>> host = cupy_host.install()
>>> import cupy
"""

from __future__ import annotations

from .faults import (
    BadFree,
    DivergentBarrier,
    GuardDamaged,
    HostFault,
    HostPointer,
    KernelAssert,
    LaunchLimit,
    Leak,
    Misaligned,
    NotProvided,
    OutOfBounds,
    SharedRace,
    WrongDevice,
)
from .host import Host, Recording
from .install import install
from .versions import unavailable_reason

__all__ = [
    "BadFree",
    "DivergentBarrier",
    "GuardDamaged",
    "Host",
    "HostFault",
    "HostPointer",
    "KernelAssert",
    "LaunchLimit",
    "Leak",
    "Misaligned",
    "NotProvided",
    "OutOfBounds",
    "Recording",
    "SharedRace",
    "WrongDevice",
    "install",
    "unavailable_reason",
]
