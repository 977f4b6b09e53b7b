"""Measures the registers of every raw kernel on every architecture, and writes registers.json.

`python tests/cupy_host/registers.py` (with NVIDIA's wheels installed) rewrites the table; read the
difference before you commit it. More registers mean fewer threads on a multiprocessor, so growth
must be intended. Spills are never allowed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("registers.json")
CHUNK = 16
# Most registers by which another version of the compiler may exceed the table.
OTHER_COMPILER = 8

# Instances of the direct kernels: the largest tiles, the widest loads, each kind of sum.
_FLOATS, _HALVES = "float, float, float", "Float16, Float16, float"
_COMPLEX, _WIDE = ", ".join(["Complex<float>"] * 3), ", ".join(["Complex<double>"] * 3)
DIRECT = {
    "small_channels": [
        *(
            f"small_channels_correlate<{_FLOATS}, float, int, uint4, 4, 4, {k}, 0>"
            for k in (0, 3, 5, 7)
        ),
        f"small_channels_correlate<{_FLOATS}, float, long long, unsigned int, 1, 1, 0, 0>",
        *(
            f"small_channels_correlate<{_HALVES}, Float16, int, uint4, 8, 4, {k}, 0>"
            for k in (0, 7)
        ),
        "small_channels_correlate<signed char, signed char, int, int, int, uint4, 4, 4, 5, 0>",
        "small_channels_correlate<double, double, double, double, int, uint4, 2, 4, 7, 0>",
        f"small_channels_correlate<{_COMPLEX}, Complex<float>, int, uint4, 2, 4, 7, 1>",
        f"small_channels_correlate<{_WIDE}, Complex<double>, long long, uint4, 1, 4, 7, 1>",
    ],
    "small_channels_filter": [
        *(
            f"small_channels_filter<{_FLOATS}, int, uint4, uint4, {k}, {s}>"
            for k in (3, 8)
            for s in (0, 1)
        ),
        f"small_channels_filter<{_HALVES}, int, uint4, uint4, 8, 1>",
        *(
            f"small_channels_filter<{_WIDE}, long long, uint4, uint4, {k}, {s}>"
            for k, s in ((8, 1), (1, 0))
        ),
        "small_channels_filter<signed char, signed char, int, int, uint4, uint4, 8, 0>",
    ],
    "tiles": [
        *(f"tile_product<{_FLOATS}, float, int, 4, {t}, 0, {p}>" for t, p in
          (("2, 1, 8", 1), ("8, 8, 8", 1), ("10, 8, 8", 1), ("4, 4, 1", 1), ("8, 4, 2", 1),
           ("8, 4, 4", 1), ("8, 8, 8", 8), ("4, 4, 1", 8))),
        f"tile_product<{_FLOATS}, float, long long, 12, 8, 8, 8, 0, 1>",
        f"tile_product<{_FLOATS}, float, long long, 12, 4, 8, 8, 0, 4>",
        f"tile_product<{_HALVES}, Float16, int, 4, 8, 8, 8, 0, 1>",
        "tile_product<signed char, signed char, int, int, int, 4, 8, 8, 8, 0, 1>",
        "tile_product<long long, long long, long long, long long, int, 4, 10, 4, 8, 0, 1>",
        "tile_product<double, double, double, double, int, 4, 10, 4, 8, 0, 1>",
        f"tile_product<{_COMPLEX}, Complex<float>, int, 4, 10, 4, 8, 2, 1>",
        f"tile_product<{_COMPLEX}, Complex<float>, int, 4, 8, 4, 8, 1, 8>",
        f"tile_product<{_WIDE}, Complex<double>, long long, 12, 4, 4, 8, 1, 1>",
        f"tile_product<{_WIDE}, Complex<double>, long long, 12, 4, 4, 8, 1, 4>",
    ],
    "parts": [f"sum_parts<{t}>" for t in ("float, float", "float, Float16", "long long, long long",
                                          "Complex<double>, Complex<double>")],
}  # fmt: skip


def sources() -> Iterator[str]:
    """Yield the names of all CUDA sources of the package."""
    for entry in files("einstride.cuda").iterdir():
        if entry.name.endswith(".cu"):
            yield entry.name.removesuffix(".cu")


# Least architecture: mma.sync of these shapes, and TF32, exist from 8.0 on.
SINCE = {"implicit_gemm_mma": 80}

# The largest tiles, the most axes, 64-bit offsets, and the slowest ways to read.
LARGE, NARROW, DOUBLE = "128, 128, 8, 8, 8", "128, 32, 8, 8, 4", "64, 64, 8, 4, 4"
WARPS, WARPS_NARROW = "128, 128, 32, 64, 32", "128, 32, 32, 32, 32"
TF32 = "128, 128, 16, 64, 32"
IMPLICIT = {
    "implicit_gemm": [
        f"implicit_gemm<float, float, float, int, 2, false, {LARGE}, 4, true, 4, false>",
        f"implicit_gemm<float, float, float, int, 2, true, {LARGE}, 4, false, 4, false>",
        f"implicit_gemm<float, float, float, int, 3, true, {LARGE}, 4, false, 4, false>",
        f"implicit_gemm<float, float, float, int, 3, false, {LARGE}, 1, true, 1, true>",
        f"implicit_gemm<float, float, float, long long, 3, false, {NARROW}, 1, false, 1, true>",
        f"implicit_gemm<double, double, double, long long, 3, false, {DOUBLE}, 1, false, 1, true>",
        "implicit_gemm<Float16, float, float, int, 3, false, 128, 128, 16, 8, 8, 1, true, 1, true>",
        "add_parts<float, Bfloat16, int, 3>",
    ],
    "implicit_gemm_mma": [
        f"implicit_gemm_mma<Float16, Float16, int, 2, false, {WARPS}, 8, true, 8, false>",
        f"implicit_gemm_mma<Float16, Float16, int, 2, true, {WARPS}, 8, false, 8, false>",
        f"implicit_gemm_mma<Bfloat16, float, int, 3, true, {WARPS}, 8, false, 8, false>",
        f"implicit_gemm_mma<Float16, float, long long, 3, true, {WARPS}, 1, false, 1, true>",
        f"implicit_gemm_mma<Float16, float, int, 3, false, {WARPS_NARROW}, 1, false, 1, true>",
        f"implicit_gemm_mma<float, float, int, 2, false, {TF32}, 4, true, 4, false>",
        f"implicit_gemm_mma<float, float, int, 3, false, {TF32}, 1, true, 1, true>",
        "implicit_gemm_mma<Float16, Float16, int, 3, true, 32, 32, 16, 32, 32, 1, false, 1, false>",
    ],
}  # fmt: skip


def instances(name: str) -> list[str]:
    """List the instances of a source to compile: every load width, and one cast of each kind."""
    if name in DIRECT:
        return DIRECT[name]
    if name != "rows":
        return IMPLICIT.get(name, [])
    from einstride.cuda import im2col

    kinds = ("unsigned char", "long long", "Float16", "Bfloat16", "float", "Complex<float>")
    words = [f"{w}, {w}" for w in im2col.WORDS.values()]
    casts = [
        f"{kind}, {im2col.SOURCES[wanted]}"
        for wanted, allowed in im2col.CASTS.items()
        for kind in kinds
        if im2col.SOURCES[wanted] != kind and kind in {im2col.SOURCES[a] for a in allowed}
    ]
    known = set(im2col.instances())
    chosen = [f"copy_rows<{t}, {i}>" for t in words + casts for i in ("int", "long long")]
    assert known >= set(chosen), set(chosen) - known
    return chosen


def compiles(name: str, architecture: str) -> bool:
    """True if a source is meant for an architecture."""
    return int(architecture.rstrip("a")) >= SINCE.get(name, 0)


def measured(name: str, architecture: str, every: int = 1) -> dict[str, tuple[int, int]]:
    """Return {instance: (registers, bytes of spills and stack)} of every n-th instance of a
    source."""
    from cupy_host import nvrtc
    from einstride import cuda

    wanted = instances(name)[nvrtc.ARCHITECTURES.index(architecture) % every :: every]
    found = {}
    for start in range(0, max(len(wanted), 1), CHUNK):
        some = wanted[start : start + CHUNK]
        made = nvrtc.compile_for(cuda.source(name), architecture, cuda.OPTIONS, some)
        called = {lowered: expression for expression, lowered in made.lowered.items()}
        for use in made.kernels:
            key = called.get(use.kernel, use.kernel)
            found[key] = (use.registers, use.spilled + use.stack)
    return found


def table() -> dict[str, Any]:
    """Return the committed table."""
    loaded: dict[str, Any] = json.loads(TABLE.read_text())
    return loaded


def digest(name: str) -> str:
    """Return a digest of all that the machine code of a source depends on, except the compiler."""
    from einstride import cuda

    parts = (cuda.source(name), *cuda.OPTIONS, *instances(name))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def write() -> None:
    """Measure everything and replace the table."""
    from cupy_host import nvrtc

    rows: dict[str, dict[str, list[int]]] = {}
    for name in sorted(sources()):
        rows[name] = {}
        for architecture in nvrtc.ARCHITECTURES:
            if not compiles(name, architecture):
                for instance in instances(name):
                    rows[name].setdefault(instance, []).append(0)
                continue
            for instance, (registers, spilled) in measured(name, architecture).items():
                rows[name].setdefault(instance, []).append(registers)
                if spilled:
                    raise SystemExit(f"{instance} on sm_{architecture} spills {spilled} bytes")
    version = ".".join(map(str, nvrtc.version()))
    head = {
        "nvrtc": version,
        "architectures": list(nvrtc.ARCHITECTURES),
        "digests": {name: digest(name) for name in rows},
    }
    lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    for name, uses in rows.items():
        body = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in uses.items())
        lines.append(f'"{name}": {{\n{body}\n  }}')
    TABLE.write_text("{\n  " + ",\n  ".join(lines) + "\n}\n")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    write()
