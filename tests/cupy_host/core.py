"""Compiles and loads the C core, and declares the types of its functions."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_uint, c_uint64, c_void_p

from .build import SOURCES, build


class Index(ctypes.Structure):
    """Hold the coordinates of a thread or block."""

    _fields_ = [("x", c_uint), ("y", c_uint), ("z", c_uint)]

    def __str__(self) -> str:
        return f"({self.x}, {self.y}, {self.z})"


class FaultRecord(ctypes.Structure):
    """Mirror `struct host_fault`."""

    _fields_ = [
        ("kind", c_int),
        ("is_write", c_int),
        ("address", c_uint64),
        ("size", c_uint64),
        ("thread", Index),
        ("block", Index),
        ("other_thread", c_int),
    ]


class LaunchRecord(ctypes.Structure):
    """Mirror `struct host_launch`."""

    _fields_ = [
        ("entry", c_void_p),
        ("arguments", c_void_p),
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("dynamic_shared", c_uint),
        ("device", c_int),
        ("order", c_int),
        ("seed", c_uint64),
        ("image_low", c_uint64),
        ("image_high", c_uint64),
        ("shared_low", c_uint64),
        ("shared_size", c_uint64),
    ]


class TrafficRecord(ctypes.Structure):
    """Mirror `struct host_traffic`."""

    _fields_ = [
        ("read", c_uint64),
        ("written", c_uint64),
        ("least_read", c_uint64),
        ("least_written", c_uint64),
        ("overflowed", c_uint64),
    ]


_TYPES: dict[str, tuple[object, list[object]]] = {
    "host_memory_reserve": (c_int, [c_int, c_uint64]),
    "host_memory_base": (c_uint64, [c_int]),
    "host_memory_device": (c_int, [c_uint64]),
    "host_memory_count": (None, [c_int, c_int64]),
    "host_memory_forget_peaks": (None, []),
    "host_memory_take": (c_int, [c_int, c_int64, c_int64]),
    "host_memory_extend": (c_uint64, [c_int, c_uint64, c_uint64]),
    "host_memory_own": (None, [c_uint64, c_uint64]),
    "host_memory_disown": (None, [c_uint64, c_uint64]),
    "host_memory_owned": (c_int, [c_uint64, c_uint64]),
    "host_memory_fill": (None, [c_uint64, c_int, c_uint64]),
    "host_memory_mismatch": (c_int64, [c_uint64, c_int, c_uint64]),
    "host_memory_copy": (None, [c_uint64, c_uint64, c_uint64]),
    "host_memory_discard": (None, [c_uint64, c_uint64]),
    "host_pinned_add": (None, [c_uint64, c_uint64]),
    "host_pinned_remove": (None, [c_uint64]),
    "host_pinned": (c_int, [c_uint64, c_uint64]),
    "host_run": (
        c_int,
        [
            ctypes.POINTER(LaunchRecord),
            c_int,
            ctypes.POINTER(FaultRecord),
            ctypes.POINTER(TrafficRecord),
        ],
    ),
    "host_image": (c_int, [c_uint64] + [ctypes.POINTER(c_uint64)] * 4),
}

SOURCE_NAMES = ["memory.c", "race.c", "scheduler.c", "instrument.c", "traffic.c"]


def load_core() -> ctypes.PyDLL:
    """Load the core, visible to libraries loaded later. PyDLL: its functions hold the GIL."""
    path = build("core", [SOURCES / name for name in SOURCE_NAMES], flags=["-O2"])
    core = ctypes.PyDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _TYPES.items():
        function = getattr(core, name)
        function.restype = result
        function.argtypes = arguments
    return core


def counts(core: ctypes.PyDLL, name: str, devices: int) -> ctypes.Array[c_int64]:
    """Return one of the core's arrays of byte counts, indexed by device."""
    return (c_int64 * devices).in_dll(core, f"host_{name}")


def run(
    core: ctypes.PyDLL, launch: LaunchRecord, counted: bool
) -> tuple[bool, FaultRecord, TrafficRecord]:
    """Launch a kernel: return (True if it failed, the fault, the bytes moved if `counted`)."""
    fault, moved = FaultRecord(), TrafficRecord()
    failed = core.host_run(
        ctypes.byref(launch), int(counted), ctypes.byref(fault), ctypes.byref(moved)
    )
    return bool(failed), fault, moved
