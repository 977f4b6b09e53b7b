"""From a kernel's text to a function of this process, by LLVM; each kernel is compiled once."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

MISSING = "needs llvmlite: pip install 'einstride[fast]'"

SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)

_lock = threading.RLock()
_engines: list[Any] = []  # machine code lives as long as its engine


@dataclass(frozen=True)
class Machine:
    """The vector unit that kernels are written for.

    Attributes
    ----------
    name : str
        LLVM's name of the CPU.
    features : str
        What it can do, in LLVM's spelling.
    vector_bytes : int
        The size of a vector register.
    registers : int
        How many there are.
    """

    name: str
    features: str
    vector_bytes: int
    registers: int

    def lanes(self, itemsize: int) -> int:
        """Numbers in a vector."""
        return self.vector_bytes // itemsize


@cache
def available() -> bool:
    """Is LLVM installed? It is imported only when a kernel is wanted."""
    return find_spec("llvmlite") is not None


@cache
def machine() -> Machine:
    """This one."""
    from llvmlite import binding

    with _lock:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
    has = binding.get_host_cpu_features()
    if has.get("avx512f") and has.get("avx512vl") and has.get("avx512dq") and has.get("avx512bw"):
        size, registers = 64, 32
    elif has.get("avx2") and has.get("fma"):
        size, registers = 32, 16
    else:
        size, registers = 16, 32 if "arm" in binding.get_default_triple() else 16
    return Machine(binding.get_host_cpu_name(), has.flatten(), size, registers)


def compiled(text: str, name: str) -> Callable[[int, int], None]:
    """The function `name` of a module's text, as machine code; it runs without Python's lock."""
    from llvmlite import binding

    here = machine()
    with _lock:
        target = binding.Target.from_default_triple().create_target_machine(
            cpu=here.name, features=here.features, opt=3
        )
        module = binding.parse_assembly(text)
        module.verify()
        tuning = binding.create_pipeline_tuning_options(speed_level=3)
        binding.create_pass_builder(target, tuning).getModulePassManager().run(
            module, binding.create_pass_builder(target, tuning)
        )
        engine = binding.create_mcjit_compiler(module, target)
        engine.finalize_object()
        _engines.append(engine)
        return SIGNATURE(engine.get_function_address(name))
