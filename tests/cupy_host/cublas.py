"""Loads the stand-in of cuBLAS, and checks and logs every call before it computes."""

from __future__ import annotations

import ctypes
import threading
from ctypes import c_char_p, c_int, c_int64, c_uint64

from .build import SOURCES, build
from .events import BlasCall
from .faults import KERNEL_FAULTS, CudaStatus, HostFault, NotProvided, WrongDevice
from .host import Host
from .versions import Wheel

_FILES = ("cublas_gemm.cpp", "cublas_vector.cpp", "cublas_handle.cpp")
_TYPES = {
    -1: "", 0: "float32", 1: "float64", 2: "float16", 4: "complex64", 5: "complex128",
    14: "bfloat16", 3: "int8", 10: "int32",
}  # fmt: skip
_COMPUTE = {
    -1: "", 64: "16F", 65: "16F_PEDANTIC", 68: "32F", 69: "32F_PEDANTIC", 70: "64F",
    71: "64F_PEDANTIC", 72: "32I", 74: "32F_FAST_16F", 75: "32F_FAST_16BF", 77: "32F_FAST_TF32",
}  # fmt: skip
_EXECUTION_FAILED, _CAPTURED = 13, -1


class BlasReport(ctypes.Structure):
    """Mirror `struct BlasReport`."""

    _fields_ = [
        ("routine", c_char_p),
        ("device", c_int),
        ("stream", c_uint64),
        ("m", c_int64),
        ("n", c_int64),
        ("k", c_int64),
        ("batch", c_int64),
        ("ld", c_int64 * 3),
        ("operations", c_int * 2),
        ("types", c_int * 3),
        ("compute", c_int),
        ("status", c_int),
        ("fault", c_int),
        ("operand", c_char_p),
        ("address", c_uint64),
        ("size", c_uint64),
    ]


class _Here(threading.local):
    """Hold the state of the calling thread, which captures and launches independently."""

    last = 0
    """Stream of the last call on a stream that is captured."""
    there: int | None = None
    """Stream of the graph that is being launched."""
    fault: BaseException | None = None
    """Fault of the last call."""


class Cublas:
    """Hold the stand-in library, loaded under the name that CuPy's module is linked against."""

    def __init__(self, host: Host, wheel: Wheel) -> None:
        self.host = host
        self.soname = wheel.cublas
        self._callbacks: list[object] = []
        self._here = _Here()

    def load(self) -> ctypes.CDLL:
        """Builds and loads the library at its first use, since compiling takes seconds."""
        # default-symver: CuPy's module needs symbols with the version of the library.
        link = [f"-Wl,-soname,{self.soname}", "-Wl,--default-symver"]
        flags = ["-std=c++17", "-O3", "-fcx-limited-range"]
        path = build("cublas", [SOURCES / f for f in _FILES], flags, link)
        library = self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name, kind, function in (
            ("host_blas_report", ctypes.CFUNCTYPE(c_int, ctypes.POINTER(BlasReport)), self.report),
            ("host_blas_create", ctypes.CFUNCTYPE(c_int), self.create),
            ("host_blas_captured", ctypes.CFUNCTYPE(None, c_int), self.captured),
            ("host_blas_refuse", ctypes.CFUNCTYPE(None, c_char_p), self.refuse),
        ):
            callback = kind(function)
            self._callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p)
            ctypes.c_void_p.in_dll(library, name).value = address.value
        return library

    def create(self) -> int:
        """Return the device of a new handle: the current device."""
        try:
            self.host.captures.unsafe("cublasCreate")
        except CudaStatus as refused:
            self.host.faults.append(refused)
        return self.host.device

    def captured(self, number: int) -> None:
        """Add a stored call to the graph of the stream that the last report named."""
        stream = self._here.last
        if number >= 0:
            self.host.captures.submit(stream, lambda there: self._replay(number, there))

    def _replay(self, number: int, stream: int) -> None:
        here = self._here
        here.there, here.fault = stream, None
        try:
            status = self._library.host_blas_replay(number)
        finally:
            here.there = None
        if here.fault is not None:
            self.host.faults[:] = [f for f in self.host.faults if f is not here.fault]
            raise here.fault  # is recorded again by the guard of the launch
        if status:
            raise HostFault(f"a product of a graph fails with status {status}")

    def refuse(self, name: bytes) -> None:
        """Record a call of a routine that the stand-in lacks; CuPy gets "not supported"."""
        self.host.faults.append(NotProvided(name.decode().removesuffix("_v2")))

    def report(self, pointer: object) -> int:
        """Log a call, and return 0 if it may compute. Faults are recorded: C passes no
        exceptions."""
        try:
            return self._report(pointer.contents)
        except BaseException as error:
            self.host.faults.append(error)
            self._here.fault = error
            return _EXECUTION_FAILED

    def _report(self, call: BlasReport) -> int:
        routine = call.routine.decode()
        there = self._here.there
        stream = call.stream if there is None else there
        if stream in self.host.captures.open and not (call.status or call.fault):
            if "gemm" not in routine.lower():
                self.host.captures.lacks(routine, stream)
            self._here.last = stream
            return _CAPTURED
        self.host.captures.joins(stream)
        self.host.record(
            BlasCall(
                device=call.device,
                routine=routine,
                stream=stream,
                m=call.m,
                n=call.n,
                k=call.k,
                transposes="".join("NTC"[o] if 0 <= o <= 2 else "?" for o in call.operations),
                dtypes=tuple(_TYPES.get(t, f"type {t}") for t in call.types),
                compute=_COMPUTE.get(call.compute, f"compute {call.compute}"),
                leading=tuple(call.ld),
                batch=call.batch,
                status=call.status,
            )
        )
        if call.device != self.host.device:
            raise WrongDevice(
                f"{routine} uses a handle of device {call.device} while device "
                f"{self.host.device} is current"
            )
        if call.fault:
            where = self.host.memory.describe(call.address)
            raise KERNEL_FAULTS[call.fault](
                f"{routine} on device {call.device} touches {call.size} bytes of "
                f"{call.operand.decode()} at {where}"
            )
        return 0
