"""Compile a kernel's LLVM IR to a function of this process, once for each kernel.

Machine code is cached in memory here, and on disk by `disk_cache`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from einstride.codegen import disk_cache
from einstride.support import workers
from einstride.support.caches import cached, register

MISSING = "needs llvmlite: pip install 'einstride[fast]'"

Kernel = Callable[[int, int], None]
"""``kernel(address of the argument block, number of the thread)``."""

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_lock = workers.NativeLock()
"""Held while LLVM runs, always by a thread of `workers.in_worker`: an interrupt inside llvmlite
would leave llvmlite's own lock taken, and a fork would make a child that can never compile."""
_kernels: dict[Hashable, Kernel] = {}
_engines: list[Any] = []  # machine code lives as long as its engine
register(f"{__name__}._kernels", "code", _kernels.clear, _kernels.__len__)


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for: a CPU, its instruction set and its vector registers.

    Attributes
    ----------
    name, features : str
        The CPU and its instruction-set extensions, as LLVM spells them.
    vector_bytes : int
        Bytes of a vector register.
    registers : int
        Number of vector registers.
    """

    name: str
    features: str
    vector_bytes: int
    registers: int

    def lanes(self, itemsize: int) -> int:
        """Return the number of elements of `itemsize` bytes in a vector."""
        return self.vector_bytes // itemsize

    @property
    def converts_float16(self) -> bool:
        """True if the CPU converts between float16 and float32: F16C (all CPUs with AVX2), NEON.

        On other CPUs LLVM calls library functions, to which code compiled in memory is not linked.
        """
        known = {"+f16c", "+neon"} & set(self.features.split(","))
        return self.vector_bytes >= 32 or bool(known)

    def __str__(self) -> str:
        """Return the CPU, its instruction set and its vectors: "skylake-avx512 (AVX-512), ..."."""
        small = "NEON" if "+neon" in self.features.split(",") else "SSE"
        kind = {64: "AVX-512", 32: "AVX2"}.get(self.vector_bytes, small)
        kind += " and AMX" if "+amx-tile" in self.features.split(",") else ""
        return f"{self.name} ({kind}), {self.vector_bytes}-byte vectors, {self.registers} registers"


@cached(1, "process")
def available() -> bool:
    """True if llvmlite is installed and can be loaded, which takes some 100 MB of address space.

    Tested before the first plan is made. If false, the package behaves as without the extra.
    """
    if find_spec("llvmlite") is None:
        return False
    try:
        from llvmlite import binding
    except (OSError, MemoryError):  # a limit of address space (RLIMIT_AS), or a damaged file
        return False
    return binding is not None


@cached(1, "process")
def host_target() -> Target:
    """Return the target of this process: the host CPU."""
    host: Target = workers.in_worker(partial(_call_exclusively, _detect_host_target))
    return host


def _call_exclusively(function: Callable[[], Any]) -> Any:
    """Call a function while no other thread uses LLVM and the process does not fork."""
    if workers.ending():
        if not _lock.try_acquire():
            raise RuntimeError("the interpreter ends, and froze a thread that compiles a kernel")
        _lock.release()
        return function()
    try:
        _lock.acquire()
        return function()
    finally:
        _lock.release()


def _detect_host_target() -> Target:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    if all(features.get(f"avx512{part}") for part in ("f", "vl", "dq", "bw")):
        vector_bytes, registers = 64, 32
    elif features.get("avx2") and features.get("fma"):
        vector_bytes, registers = 32, 16
    else:
        vector_bytes, registers = 16, 32 if features.get("neon") else 16
    if features.get("amx-tile") and not _may_use_matrix_registers():
        features.update(dict.fromkeys((n for n in features if n.startswith("amx-")), False))
    return Target(binding.get_host_cpu_name(), features.flatten(), vector_bytes, registers)


def _may_use_matrix_registers() -> bool:
    """Ask Linux to save the matrix registers (AMX) of this process when its threads change.

    It refuses where a thread has a stack for signals that is too small for them. The permission is
    for all threads, and forks inherit it.
    """
    arch_prctl, request, matrix_registers = 158, 0x1023, 18
    return sys.platform == "linux" and not ctypes.CDLL(None).syscall(
        arch_prctl, request, matrix_registers
    )


def kernel(name: str, write: Callable[..., str], *parameters: Hashable, target: Target) -> Kernel:
    """Compile the LLVM IR ``write(*parameters)`` for a target, or get it from a cache.

    The function that is returned runs without holding the GIL.
    """
    key = (write, parameters, target)
    function = _kernels.get(key)
    if function is None:
        host_target()  # initialises LLVM
        function = workers.in_worker(
            partial(_call_exclusively, partial(_compile, name, write, parameters, target))
        )
    return function


@dataclass(frozen=True)
class KernelSpec:
    """The specification of a kernel, not compiled yet.

    Attributes
    ----------
    name : str
        The kernel's name in its LLVM IR.
    write : callable
        ``write(*parameters)`` returns the kernel's LLVM IR.
    parameters : tuple
        The parameters that the kernel is specialised for: dtypes, lanes, register tile.
    target : Target
        The CPU that the kernel is compiled for.
    """

    name: str
    write: Callable[..., str]
    parameters: tuple[Hashable, ...]
    target: Target

    def compiled(self) -> Kernel:
        """Compile the kernel, or get it from a cache."""
        return kernel(self.name, self.write, *self.parameters, target=self.target)


def _compile(
    name: str, write: Callable[..., str], parameters: tuple[Hashable, ...], target: Target
) -> Kernel:
    function = _kernels.get((write, parameters, target))
    if function is None:  # another thread may have compiled it meanwhile
        description = repr((name, write.__module__, write.__qualname__, parameters, target))
        code = disk_cache.read(description)
        if code is None:
            code = _machine_code(write(*parameters), target)
            disk_cache.write(description, code)
        function = _kernels[write, parameters, target] = _load(name, code, target)
    return function


if hasattr(os, "register_at_fork"):
    # C functions, so that no signal handler can raise an exception in them
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def count() -> int:
    """Return the number of kernels in this process' memory."""
    return len(_kernels)


def _llvm_target(target: Target) -> Any:
    """Return LLVM's own object (TargetMachine) for a target."""
    from llvmlite import binding

    triple = binding.Target.from_default_triple()
    return triple.create_target_machine(cpu=target.name, features=target.features, opt=3, jit=True)


def _machine_code(text: str, target: Target) -> bytes:
    llvm_target = _llvm_target(target)
    return bytes(llvm_target.emit_object(_optimise(text, llvm_target)))


def _optimise(text: str, llvm_target: Any) -> Any:
    """Optimise a kernel's LLVM IR by every pass before instruction selection."""
    from llvmlite import binding

    module = binding.parse_assembly(text)
    module.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_unrolling = False  # a register tile fills the registers: unrolling would spill them
    tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = binding.create_pass_builder(llvm_target, tuning)
    builder.getModulePassManager().run(module, builder)
    return module


def _load(name: str, code: bytes, target: Target) -> Kernel:
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _llvm_target(target))
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return _SIGNATURE(engine.get_function_address(name))
