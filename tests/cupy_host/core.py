"""The C core: compiled once, loaded for all; its functions with their types."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_uint, c_uint64, c_void_p

from .build import SOURCES, build


class Index(ctypes.Structure):
    """A thread's or block's coordinates."""

    _fields_ = [("x", c_uint), ("y", c_uint), ("z", c_uint)]

    def __str__(self) -> str:
        return f"({self.x}, {self.y}, {self.z})"


class FaultRecord(ctypes.Structure):
    """`struct host_fault`."""

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
    """`struct host_launch`."""

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
    """`struct host_traffic`."""

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
    "host_launch": (c_int, [ctypes.POINTER(LaunchRecord)]),
    "host_traffic_begin": (None, [c_int]),
    "host_image": (c_int, [c_uint64] + [ctypes.POINTER(c_uint64)] * 4),
}

SOURCE_NAMES = ["memory.c", "race.c", "scheduler.c", "instrument.c", "traffic.c"]


def load_core() -> ctypes.PyDLL:
    """The core, visible to the libraries loaded after it. PyDLL: it runs under Python's lock."""
    path = build("core", [SOURCES / name for name in SOURCE_NAMES], flags=["-O2"])
    core = ctypes.PyDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _TYPES.items():
        function = getattr(core, name)
        function.restype = result
        function.argtypes = arguments
    return core


def last_fault(core: ctypes.PyDLL) -> FaultRecord:
    """A copy of the record that the last failed launch left."""
    return FaultRecord.from_buffer_copy(FaultRecord.in_dll(core, "host_last_fault"))


def traffic(core: ctypes.PyDLL) -> TrafficRecord:
    """A copy of what the last launch moved."""
    return TrafficRecord.from_buffer_copy(TrafficRecord.in_dll(core, "host_traffic_counts"))
