"""Loads the stand-in of cuFFT, and checks and logs every execution before it computes."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int64, c_uint64

from .build import SOURCES, build
from .events import FftCall
from .faults import KERNEL_FAULTS, NotProvided, WrongDevice
from .host import Host
from .versions import Wheel

_REFUSED = 6


class FftReport(ctypes.Structure):
    """Mirror `struct FftReport`."""

    _fields_ = [
        ("routine", c_char_p),
        ("device", c_int),
        ("stream", c_uint64),
        ("rank", c_int),
        ("lengths", c_int64 * 3),
        ("batch", c_int64),
        ("fault", c_int),
        ("operand", c_char_p),
        ("address", c_uint64),
        ("size", c_uint64),
    ]


class Cufft:
    """Hold the stand-in library, loaded under the name that CuPy's module is linked against."""

    def __init__(self, host: Host, wheel: Wheel) -> None:
        self.host = host
        self.soname = wheel.cufft
        self._callbacks: list[object] = []

    def load(self) -> ctypes.CDLL:
        """Builds and loads the library at its first use."""
        link = [f"-Wl,-soname,{self.soname}", "-Wl,--default-symver"]
        path = build("cufft", [SOURCES / "cufft.cpp"], ["-std=c++17", "-O2"], link)
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name, kind, function in (
            ("host_fft_report", ctypes.CFUNCTYPE(c_int, ctypes.POINTER(FftReport)), self.report),
            ("host_fft_create", ctypes.CFUNCTYPE(c_int), lambda: self.host.device),
            ("host_fft_refuse", ctypes.CFUNCTYPE(None, c_char_p), self.refuse),
        ):
            callback = kind(function)
            self._callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p)
            ctypes.c_void_p.in_dll(library, name).value = address.value
        return library

    def refuse(self, name: bytes) -> None:
        """Record a call of a routine that the stand-in lacks."""
        self.host.faults.append(NotProvided(name.decode()))

    def report(self, pointer: object) -> int:
        """Log an execution, and return 0 if it may compute. Faults are recorded."""
        try:
            self._report(pointer.contents)
        except BaseException as error:
            self.host.faults.append(error)
            return _REFUSED
        return 0

    def _report(self, call: FftReport) -> None:
        routine = call.routine.decode()
        lengths = tuple(call.lengths[: call.rank])
        kind = routine.removeprefix("cufftExec")
        self.host.captures.lacks(routine, call.stream)
        self.host.record(FftCall(call.device, routine, call.stream, kind, lengths, call.batch))
        if call.device != self.host.device:
            raise WrongDevice(
                f"{routine} uses a plan of device {call.device} while device "
                f"{self.host.device} is current"
            )
        if call.fault:
            where = self.host.memory.describe(call.address)
            raise KERNEL_FAULTS[call.fault](
                f"{routine} on device {call.device} touches {call.size} bytes of "
                f"{call.operand.decode()} at {where}"
            )
