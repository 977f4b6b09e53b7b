"""Compiles CUDA C with the real NVRTC for every architecture, without a device.

Needs the wheels nvidia-cuda-nvrtc-cu12, nvidia-cuda-runtime-cu12 and nvidia-cuda-nvcc-cu12, but
neither CuPy nor a driver. It shows what the host cannot: that a source is valid CUDA C, and the
registers and spilled bytes of each kernel on each architecture.

>>> from cupy_host import nvrtc
>>> for use in nvrtc.compile_for('extern "C" __global__ void k() {}', "90").kernels:
...     print(use.kernel, use.registers, use.spilled)
"""

from __future__ import annotations

import ctypes
import functools
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("75", "80", "86", "89", "90", "90a", "100", "120")
MOST_EXPRESSIONS = 32
HMMA = 0x23C

_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>[^']+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)
_SHARED = re.compile(r"(\d+) bytes smem")


class NvrtcError(RuntimeError):
    """Report that NVRTC failed; the message is its log."""


@dataclass(frozen=True)
class KernelUse:
    """Hold the registers and memory of one kernel on one architecture."""

    kernel: str
    architecture: str
    registers: int
    spilled: int  # bytes, stores and loads together
    stack: int  # bytes
    shared: int  # bytes of static shared memory


@dataclass(frozen=True)
class Compilation:
    """Hold a cubin, the compiler's log, and the `KernelUse`s in the log."""

    cubin: bytes
    log: str
    kernels: tuple[KernelUse, ...]
    lowered: dict[str, str]  # {name expression: kernel's name in the cubin}


@dataclass(frozen=True)
class _Toolkit:
    library: ctypes.CDLL
    includes: tuple[str, ...]


@functools.lru_cache(maxsize=1)
def _toolkit() -> _Toolkit:
    """Find NVRTC and the headers in NVIDIA's wheels for CUDA 12 or 13."""
    for root in (Path(entry) / "nvidia" for entry in sys.path if entry):
        libraries = [
            *root.glob("cuda_nvrtc/lib/libnvrtc.so.1?"),
            *root.glob("cu13/lib/libnvrtc.so.1?"),
        ]
        if libraries:
            names = ("cuda_runtime/include", "cuda_nvcc/include", "cu13/include")
            includes = tuple(str(root / name) for name in names if (root / name).is_dir())
            if not any((Path(i) / "cuda_fp16.h").exists() for i in includes):
                continue
            return _Toolkit(ctypes.CDLL(str(libraries[0])), includes)
    raise NvrtcError(
        "NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 "
        "nvidia-cuda-nvcc-cu12"
    )


def unavailable_reason() -> str | None:
    """Return why this machine cannot compile, for a test's skip; else None."""
    try:
        _toolkit()
    except (NvrtcError, OSError) as error:
        return str(error)
    return None


def version() -> tuple[int, int]:
    """Return the version of NVRTC, for which alone a table of registers holds."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _toolkit().library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def compile_for(
    source: str, architecture: str, options: Sequence[str] = (), expressions: Sequence[str] = ()
) -> Compilation:
    """Compiles CUDA C to machine code of one architecture; raises NvrtcError with the log.

    `expressions` are the instances of templates to compile, as CuPy's `name_expressions`, at most
    `MOST_EXPRESSIONS`: NVRTC 12.9 did not return from a program with 146.
    """
    if len(expressions) > MOST_EXPRESSIONS:
        raise ValueError(f"{len(expressions)} expressions; at most {MOST_EXPRESSIONS} at once")
    nvrtc, program = _toolkit().library, ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        for expression in expressions:
            nvrtc.nvrtcAddNameExpression(program, expression.encode())
        arguments = [
            f"-arch=sm_{architecture}",
            "--ptxas-options=-v",
            *(f"-I{directory}" for directory in _toolkit().includes),
            *options,
        ]
        if not any(option.lstrip("-").startswith("std=") for option in options):
            arguments.append("--std=c++17")
        array = (ctypes.c_char_p * len(arguments))(*(a.encode() for a in arguments))
        status = nvrtc.nvrtcCompileProgram(program, len(arguments), array)
        log = _read(nvrtc, program, "ProgramLog").decode(errors="replace").rstrip("\0\n")
        if status:
            raise NvrtcError(f"sm_{architecture}: NVRTC status {status}\n{log}")
        lowered = {}
        for expression in expressions:
            name = ctypes.c_char_p()
            nvrtc.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(name))
            lowered[expression] = (name.value or b"").decode()
        return Compilation(_read(nvrtc, program, "CUBIN"), log, kernel_uses(log), lowered)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def instructions(cubin: bytes, opcode: int) -> dict[str, int]:
    """Count the instructions with an opcode (the low 12 bits) in each kernel of a cubin.

    From Volta on an instruction takes 16 bytes. `HMMA` is the opcode of tensor cores.
    """
    (sections,) = struct.unpack_from("<Q", cubin, 40)
    size, count, of_names = struct.unpack_from("<3H", cubin, 58)
    headers = [struct.unpack_from("<2I4Q", cubin, sections + i * size) for i in range(count)]
    names = headers[of_names][4]
    found = {}
    for name, _, _, _, start, length in headers:
        label = cubin[names + name : cubin.index(b"\0", names + name)].decode()
        if label.startswith(".text."):
            words = struct.unpack_from(f"<{length // 8}Q", cubin, start)[::2]
            found[label.removeprefix(".text.")] = sum(w & 0xFFF == opcode for w in words)
    return found


def kernel_uses(log: str) -> tuple[KernelUse, ...]:
    """Parse the log of `--ptxas-options=-v`."""
    found = []
    for match in _ENTRY.finditer(log):
        shared = _SHARED.search(match["rest"])
        found.append(
            KernelUse(
                kernel=match["kernel"],
                architecture=match["architecture"].removeprefix("sm_"),
                registers=int(match["registers"]),
                spilled=int(match["stores"]) + int(match["loads"]),
                stack=int(match["stack"]),
                shared=int(shared[1]) if shared else 0,
            )
        )
    return tuple(found)
