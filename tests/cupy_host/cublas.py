"""Loads the cuBLAS stand-in, and hears of every call before it computes."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int64, c_uint64

from .build import SOURCES, build
from .events import BlasCall
from .faults import KERNEL_FAULTS, NotProvided, WrongDevice
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
_EXECUTION_FAILED = 13


class BlasReport(ctypes.Structure):
    """`struct BlasReport`."""

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


class Cublas:
    """The stand-in library, loaded under the name that CuPy's module is linked against."""

    def __init__(self, host: Host, wheel: Wheel) -> None:
        self.host = host
        self.soname = wheel.cublas
        self._callbacks: list[object] = []

    def load(self) -> ctypes.CDLL:
        """Builds and loads the library (on first use: it takes seconds to compile)."""
        # default-symver: CuPy's module asks for symbols of the library's own version.
        link = [f"-Wl,-soname,{self.soname}", "-Wl,--default-symver"]
        flags = ["-std=c++17", "-O3", "-fcx-limited-range"]
        path = build("cublas", [SOURCES / f for f in _FILES], flags, link)
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name, kind, function in (
            ("host_blas_report", ctypes.CFUNCTYPE(c_int, ctypes.POINTER(BlasReport)), self.report),
            ("host_blas_create", ctypes.CFUNCTYPE(c_int), lambda: self.host.device),
            ("host_blas_refuse", ctypes.CFUNCTYPE(None, c_char_p), self.refuse),
        ):
            callback = kind(function)
            self._callbacks.append(callback)
            address = ctypes.cast(callback, ctypes.c_void_p)
            ctypes.c_void_p.in_dll(library, name).value = address.value
        return library

    def refuse(self, name: bytes) -> None:
        """A routine that the stand-in lacks was called; CuPy gets "not supported"."""
        self.host.faults.append(NotProvided(name.decode().removesuffix("_v2")))

    def report(self, pointer: object) -> int:
        """Logs a call; 0 lets it compute. Exceptions cannot pass through C: they are recorded."""
        try:
            return self._report(pointer.contents)
        except BaseException as error:
            self.host.faults.append(error)
            return _EXECUTION_FAILED

    def _report(self, call: BlasReport) -> int:
        routine = call.routine.decode()
        self.host.record(
            BlasCall(
                device=call.device,
                routine=routine,
                stream=call.stream,
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
