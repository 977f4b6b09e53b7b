"""Compiles CUDA C for the CPU with g++, the header cuda_shim.h, and a wrapper for each kernel."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .build import SOURCES, BuildError, cache_directory, cached, compiler_identity, publish, run
from .prefix import prefix_options
from .versions import installed_wheel

# -O1: most of a kernel's time goes into the checks; -O2 would only cost compile time.
_FLAGS = (
    "-O1",
    "-w",
    "-fPIC",
    "-fno-exceptions",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fpermissive",
    "-ffp-contract=off",
    "-fsanitize=thread",
    "-fno-gnu-unique",  # each module has its own shared memory of a template
    "-D__CUDACC_VER_MAJOR__=12",
    "-DTHRUST_DEVICE_SYSTEM=3",
    "-DCUPY_HOST=1",
    f"-I{SOURCES}",
)
# Options of NVRTC without effect here. Every other unknown option is refused.
_IGNORED = re.compile(
    r"-{1,2}(ftz|fmad|prec-div|prec-sqrt|arch|gpu-architecture|use_fast_math|lineinfo|"
    r"generate-line-info|ptxas-options|maxrregcount|extra-device-vectorization|"
    r"device-as-default-execution-space|default-device|restrict|pch|G|O\d|w)(=.*)?$"
)
_KEPT = re.compile(r"-(I|D|U|isystem)|-{1,2}std=")
_BOUNDS = re.compile(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)")
_KERNEL = re.compile(r"__global__\s+(?:static\s+)?void\s+(\w+)\s*\(")
# `extern __shared__ T name[];` has no size: it becomes a pointer to the only dynamic buffer.
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(__align__\s*\([^)]*\)\s*|alignas\s*\([^)]*\)\s*)?([\w:<>,\s]+?)\s*"
    r"\b(\w+)\s*\[\s*\]\s*;"
)
_LINE_COMMENT = re.compile(r"//[^\n]*")
_BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.S)


@dataclass(frozen=True)
class Compiled:
    """Hold the path of a shared object, and {kernel or name expression: symbol of its wrapper}."""

    path: Path
    entries: dict[str, str]


def host_options(options: Sequence[str]) -> list[str]:
    """Convert options of NVRTC to options of g++; raise BuildError for unknown ones."""
    kept = []
    for option in options:
        if _KEPT.match(option):
            kept.append(option.replace("--std", "-std"))
        elif not _IGNORED.match(option):
            raise BuildError(f"the host does not understand the compiler option {option}")
    if not any(o.startswith("-std") for o in kept):
        kept.append("-std=c++17")
    return kept


def kernel_names(source: str) -> list[str]:
    """List the kernels that can be looked up by name: those that are no templates."""
    text = _BOUNDS.sub(" ", _BLOCK_COMMENT.sub(" ", _LINE_COMMENT.sub("", source)))
    names = _KERNEL.findall(text)
    templates = re.findall(r"template\s*<[^;{}]*?>\s*__global__[^;{}(]*?(\w+)\s*\(", text)
    return [n for n in dict.fromkeys(names) if n not in templates]


def translate(source: str) -> str:
    """Rewrite dynamic shared memory, which the macros of the shim cannot express."""
    return _DYNAMIC_SHARED.sub(r"\2 *\3 = reinterpret_cast<\2 *>(host_dynamic_shared);", source)


def _wrappers(names: Sequence[str], expressions: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return (C++ source of the wrappers, {name: symbol})."""
    lines = ["", '#line 1 "cupy_host wrappers"']
    entries = {}
    for number, name in enumerate([*names, *expressions]):
        symbol = entries[name] = f"cupy_host_entry_{number}"
        lines.append(f'extern "C" void {symbol}(void **p) {{ cupy_host::call(&{name}, p); }}')
        sizes = f"return cupy_host::sizes(&{name});"
        lines.append(f'extern "C" HOST_UNCHECKED const int *{symbol}_sizes() {{ {sizes} }}')
    # Each module has a shared variable of its own, whose address locates its shared memory.
    lines.append(
        'extern "C" HOST_UNCHECKED void *cupy_host_shared() '
        "{ static thread_local char probe; return &probe; }"
    )
    return "\n".join(lines) + "\n", entries


def compile_kernels(
    source: str, options: Sequence[str] = (), expressions: Sequence[str] = ()
) -> Compiled:
    """Compiles CUDA C unless the cache has it; raises BuildError with g++'s log on failure."""
    if any("-rdc" in o or "-dlto" in o or o == "-dc" for o in options):
        raise BuildError("the host does not link device code (-rdc, -dc, -dlto)")
    names = kernel_names(source)
    flags = [*_FLAGS, *host_options(options)]
    if re.search(r"#\s*define.*__global__", source):
        names = _names_after_macros(source, flags)
    wrappers, entries = _wrappers(names, expressions)
    text = '#include "cuda_shim.h"\n#line 1 "kernel.cu"\n' + translate(source) + wrappers
    wheel = installed_wheel().version  # whose headers kernels include
    target = cached("kernels", [compiler_identity("g++"), wheel, *flags, text], ".so")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            unit, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            unit.write_text(text)
            prefix = prefix_options(source, flags, wheel)
            run(["g++", *flags, *prefix, "-c", "-o", str(unit.with_suffix(".o")), str(unit)])
            # Linked without the sanitizer option, which would link its library.
            run(["g++", "-shared", "-o", str(made), str(unit.with_suffix(".o"))])
            publish(made, target)
    return Compiled(target, entries)


def _names_after_macros(source: str, flags: Sequence[str]) -> list[str]:
    """List the kernels of a source that defines kernels by macros, after the preprocessor."""
    with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
        unit, out = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.ii"
        unit.write_text('#include "cuda_shim.h"\n#undef __global__\n' + translate(source))
        run(["g++", *flags, "-E", "-P", "-o", str(out), str(unit)])
        return kernel_names(out.read_text())
