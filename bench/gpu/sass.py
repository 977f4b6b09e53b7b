"""Reads the machine code of the GPU kernels and says what it allows: no GPU is needed.

    python -m bench.gpu.sass [--write] [part of a kernel's name]

Compiles kernels with NVRTC for several architectures, disassembles them with nvdisasm, finds the
main loop of each, and prints for one pass through it by one warp:

- `issued`: all instructions, and `useful`: those that multiply and add (FFMA, DFMA, HMMA, IMAD of
  integer kernels); `share`: useful / issued. The scheduler of a quarter of a multiprocessor issues
  one instruction per cycle.
- `shared`: cycles in which the loads from shared memory occupy it, 128 bytes a cycle, with bank
  conflicts. The addresses are those of the sources, which are simulated for a warp.
- `registers`, and `warps`: how many of them fit on a multiprocessor beside each other, of the most.
- `bound`: the largest fraction of the multiply-adds of the hardware that the loop can reach. It is
  the least of the share of instructions, of what shared memory lets through, and of the tensor
  cores' rate by mma.sync; memory beyond the multiprocessor is not considered (see
  `bench.gpu.traffic`).

The pass is the path through the loop that loads the next tile and takes the fewest instructions: a
border of zeros. `--write` replaces the committed table, which a test compares with new machine
code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from einstride.cuda import gemm_tiles, implicit_gemm
from einstride.cuda.gemm_tiles import Tile

TABLE = Path(__file__).parents[1] / "results" / "sass.json"
ARCHITECTURES = ("80", "90a", "120")
LOADS = ("LDG", "LDGSTS")
SCHEDULERS = 4
"""Parts of a multiprocessor, each of which issues one instruction of a warp per cycle."""
BANK_BYTES, BANKS = 4, 32
Reads = Callable[[], Iterator[tuple[int, list[int]]]]
"""Yields a lane's bytes, and the address of each lane, for each read of shared memory in a loop."""
CYCLES = {
    "FFMA": {"80": 1, "90a": 1, "120": 1},
    "DFMA": {"80": 2, "90a": 2, "120": 64},
    "HMMA": {"80": 8, "90a": 4, "120": 8},
}
"""Cycles in which an instruction keeps the units of a quarter of a multiprocessor busy, at the rate
of the whole hardware: 128 FFMA a cycle and multiprocessor, 64 DFMA (2 of sm_120), 1,024 products of
halves of HMMA.16816 (A100), or 2,048 (H100); of TF32, as HMMA.1688, half as many. That sm_120 is as
the A100 is an assumption."""
MMA_SYNC_SHARE = {"80": 1.0, "90a": 0.62, "120": 1.0}
"""Share of the tensor cores' rate that mma.sync reaches; the rest needs wgmma (public figures)."""


@dataclass(frozen=True)
class Multiprocessor:
    """Hold what limits the warps of a multiprocessor."""

    warps: int
    blocks: int
    shared: int  # bytes
    registers: int = 65536


MULTIPROCESSORS = {
    "80": Multiprocessor(64, 32, 164 << 10),
    "90a": Multiprocessor(64, 32, 228 << 10),
    "120": Multiprocessor(48, 24, 100 << 10),
}


@dataclass(frozen=True)
class Kernel:
    """Name an instance of a source and its useful instructions.

    `threads` of a block, and the `reads` of shared memory, are those of the implicit GEMM; 0 and
    None elsewhere.
    """

    name: str
    source: str
    instance: str
    useful: str
    threads: int
    reads: Reads | None = None


@dataclass(frozen=True)
class Loop:
    """Hold the figures of a main loop, for one warp and one pass."""

    issued: int
    useful: int
    share: float
    shared: int | None
    conflicts: int | None
    registers: int
    warps: int | None
    bound: float
    kinds: dict[str, int]


# ---- the kernels ---------------------------------------------------------------------------------


def _scalar_reads(bm: int, bn: int, bk: int, tm: int, tn: int, item: int) -> Reads:
    """Reads of implicit_gemm.cu: each term reads tm elements of a line of x, and tn of one of f."""

    def reads() -> Iterator[tuple[int, list[int]]]:
        across, pad, at_once = bn // tn, 16 // item, 16 // item
        lanes = [(lane % across, lane // across) for lane in range(32)]
        for t in range(bk):
            for width, count, own in ((bm, tm, 1), (bn, tn, 0)):
                for i in range(0, count, 4):
                    line = t * (width + pad) + i * (width // count)
                    for v in range(0, 4, at_once):
                        yield 16, [(line + lane[own] * 4 + v) * item for lane in lanes]

    return reads


def _matrix_reads(bm: int, bn: int, bk: int, wm: int, wn: int, along: tuple[bool, bool]) -> Reads:
    """Reads of implicit_gemm_mma.cu for halves: ldmatrix, of which a lane reads one row of 16
    bytes."""

    def rows(width: int, along_k: bool, row: int, k: int, a: bool) -> list[int]:
        pitch = (bk if along_k else width) + 8
        found = []
        for lane in range(32):
            if a and along_k:
                place = (row + lane % 16) * pitch + k + lane // 16 * 8
            elif a:
                place = (k + lane // 16 * 8 + lane % 8) * pitch + row + lane // 8 % 2 * 8
            elif along_k:
                place = (row + lane // 16 * 8 + lane % 8) * pitch + k + lane // 8 % 2 * 8
            else:
                place = (k + lane % 16) * pitch + row + lane // 16 * 8
            found.append(place * 2)
        return found

    def reads() -> Iterator[tuple[int, list[int]]]:
        for t in range(0, bk, 16):
            for i in range(0, wm, 16):
                yield 16, rows(bm, along[0], i, t, True)
            for j in range(0, wn, 16):
                yield 16, rows(bn, along[1], j, t, False)

    return reads


def _tf32_reads(bm: int, bn: int, bk: int, wm: int, wn: int) -> Reads:
    """Reads of implicit_gemm_mma.cu for TF32: single elements."""

    def reads() -> Iterator[tuple[int, list[int]]]:
        lanes = [(lane // 4, lane % 4) for lane in range(32)]
        for k in range(0, bk, 8):
            for row in range(0, wm, 16):
                for i in range(4):
                    yield 4, [((k + t + i // 2 * 4) * (bm + 8) + row + g + i % 2 * 8) * 4
                              for g, t in lanes]  # fmt: skip
            for column in range(0, wn, 16):
                for i in range(4):
                    yield 4, [((k + t + i % 2 * 4) * (bn + 8) + column + g + i // 2 * 8) * 4
                              for g, t in lanes]  # fmt: skip

    return reads


def _implicit(dtype: str, tile: Tile, loads: str = "", filter_gradient: bool = False) -> Kernel:
    """Return an instance of the implicit GEMM, by default of a forward pass of channels last."""
    per_load = {"float32": 4, "float64": 2, "float16": 8}[dtype]
    words = (loads or f"{per_load}, true, {per_load}, false").split(", ")
    sides = (tile.rows, tile.columns, tile.terms, tile.thread_rows, tile.thread_columns)
    label = "x".join(map(str, sides[:3]))
    name = f"{'TF32' if tile.mma and dtype == 'float32' else dtype} {label}"
    name += ", tensor cores" if tile.mma else ""
    if filter_gradient:
        name += ", filter gradient"
    name += ", channels last" if words[0] != "1" else ", channels first"
    kinds = [implicit_gemm.NAMES[dtype], implicit_gemm.NAMES[dtype], "int"]
    if not tile.mma:
        kinds.insert(1, implicit_gemm.SUMS[dtype])
    source = "implicit_gemm_mma" if tile.mma else "implicit_gemm"
    parameters = [*kinds, "2", str(filter_gradient).lower(), tile.parameters, *words]
    if not tile.mma:
        reads = _scalar_reads(*sides, 8 if dtype == "float64" else 4)
    elif dtype == "float32":
        reads = _tf32_reads(*sides)
    else:
        reads = _matrix_reads(*sides, (words[1] == "true", words[3] == "true"))
    useful = "HMMA" if tile.mma else "DFMA" if dtype == "float64" else "FFMA"
    instance = f"{source}<{', '.join(parameters)}>"
    return Kernel(name, source, instance, useful, tile.threads, reads)


FLOATS = "float, float, float"
TILED = [
    (dtype, tile)
    for tiles in (gemm_tiles.TILES, gemm_tiles.MMA_TILES)
    for dtype in ("float32", "float64", "float16")
    for tile in tiles.get(dtype, ())
]
"""All tiles of the implicit GEMM; those of bfloat16 are those of float16."""
LARGE, SQUARE = gemm_tiles.TILES["float32"][0], gemm_tiles.TILES["float32"][2]
WARPS = gemm_tiles.MMA_TILES["float16"][0]
KERNELS = [
    *(_implicit(dtype, tile) for dtype, tile in TILED),
    _implicit("float32", LARGE, "1, false, 4, true"),
    _implicit("float32", SQUARE, "1, false, 4, true"),
    _implicit("float32", LARGE, "4, false, 4, false", True),
    _implicit("float32", LARGE, "1, true, 1, true", True),
    _implicit("float16", WARPS, "8, false, 8, false", True),
    *(
        Kernel(f"float32 small channels, {k} taps of the last axis", "small_channels",
               f"small_channels_correlate<{FLOATS}, float, int, uint4, 4, 4, {k}, 0>", "FFMA", 0)
        for k in (3, 5, 7)
    ),
    Kernel("float32 small channels, filter gradient", "small_channels_filter",
           f"small_channels_filter<{FLOATS}, int, uint4, uint4, 8, 1>", "FFMA", 0),
    Kernel("float32 tiles 8x8", "tiles",
           f"tile_product<{FLOATS}, float, int, 4, 8, 8, 8, 0, 1>", "FFMA", 0),
    Kernel("float64 tiles 10x4", "tiles",
           "tile_product<double, double, double, double, int, 4, 10, 4, 8, 0, 1>", "DFMA", 0),
]  # fmt: skip


# ---- machine code --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """Hold an instruction of a disassembly."""

    name: str
    predicated: bool
    target: str | None
    labels: tuple[str, ...]


LINE = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)(.*?);")
LABEL = re.compile(r"^(\.L_[\w.]+):")


def nvdisasm() -> str | None:
    """Return the path of nvdisasm, of NVIDIA's wheel or of the system."""
    for root in sys.path:
        for place in ("nvidia/cu13/bin", "nvidia/cuda_nvdisasm/bin"):
            found = Path(root or ".") / place / "nvdisasm"
            if found.exists():
                return str(found)
    return shutil.which("nvdisasm")


def disassemble(cubin: bytes) -> dict[str, list[Instruction]]:
    """Return the instructions of each kernel of a cubin."""
    program = nvdisasm()
    if program is None:
        raise SystemExit("bench.gpu.sass: nvdisasm is missing; pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin + b"\0")  # NVRTC leaves the last byte out
        text = subprocess.run(
            [program, "-c", str(file)], capture_output=True, text=True, check=True
        ).stdout
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    labels: list[str] = []
    for line in text.splitlines():
        if line.startswith(".text."):
            current = found.setdefault(line[6:].rstrip(":"), [])
        elif label := LABEL.match(line):
            labels.append(label[1])
        elif code := LINE.match(line):
            target = re.search(r"`\((\.L_[\w.]+)\)", code[3])
            name, operands = code[2], code[3].partition("`")[0]
            jumps = name.split(".")[0] in ("BRA", "JMP")
            current.append(
                Instruction(
                    name,
                    code[1] is not None or (jumps and "P" in operands),
                    target[1] if target and jumps else None,
                    tuple(labels),
                )
            )
            labels = []
    return found


def main_loop(code: Sequence[Instruction], useful: str) -> list[Instruction]:
    """Return the instructions of one pass through the loop with the most useful ones.

    The pass is the path from the head of the loop to its end with the most loads from global
    memory and useful instructions, and of these paths the shortest.
    """
    at = {label: i for i, one in enumerate(code) for label in one.labels}
    loops = [
        (at[one.target], i)
        for i, one in enumerate(code)
        if one.target is not None and at.get(one.target, i + 1) <= i
    ]
    best: list[Instruction] = []
    for head, end in loops:
        inner = [
            loop for loop in loops if head <= loop[0] and loop[1] <= end and loop != (head, end)
        ]
        if any(_count(code[a : b + 1], useful) for a, b in inner):
            continue
        path = _path(code, at, head, end, useful)
        if _count(path, useful) > _count(best, useful):
            best = path
    return best


def _count(code: Sequence[Instruction], useful: str) -> int:
    return sum(one.name.split(".")[0] == useful for one in code)


def _path(
    code: Sequence[Instruction], at: dict[str, int], head: int, end: int, useful: str
) -> list[Instruction]:
    """Return the best path from `head` to `end`, by dynamic programming from the end backwards."""
    value: dict[int, tuple[int, int]] = {}
    after: dict[int, int | None] = {}
    for i in range(end, head - 1, -1):
        one = code[i]
        kind = one.name.split(".")[0]
        own = (int(kind == useful or kind in LOADS), -1)
        following: list[int | None] = []
        if i == end:
            following = [None]
        else:
            jump = at.get(one.target) if one.target is not None else None
            if one.target is None or one.predicated:
                following.append(i + 1)
            if jump is not None and i < jump <= end:
                following.append(jump)
        options = [(value.get(j, (-(10**6), 0)) if j is not None else (0, 0), j) for j in following]
        if not options:  # leaves the loop
            value[i], after[i] = (-(10**6), 0), None
            continue
        gain, after[i] = max(options, key=lambda option: option[0])
        value[i] = (gain[0] + own[0], gain[1] + own[1])
    path, i = [], head
    while True:
        path.append(code[i])
        following_one = after[i]
        if following_one is None:
            return path
        i = following_one


# ---- figures -------------------------------------------------------------------------------------


def cycles(size: int, addresses: Sequence[int]) -> tuple[int, int]:
    """Return the cycles of a warp's read of shared memory, and those without bank conflicts.

    The lanes whose reads make up 128 bytes are served together: all for 4 bytes, 8 for 16. They
    take as many cycles as the words of one bank that they read; a word is sent to all its readers.
    """
    lanes = BANKS * BANK_BYTES // size
    total = 0
    for start in range(0, 32, lanes):
        words = {
            address // BANK_BYTES + i
            for address in addresses[start : start + lanes]
            for i in range(size // BANK_BYTES)
        }
        total += max(Counter(word % BANKS for word in words).values())
    return total, 32 // lanes


def resident_warps(at: Multiprocessor, threads: int, registers: int, shared: int) -> int:
    """Return the warps that fit on a multiprocessor."""
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256
    limits = [
        at.blocks,
        at.warps // warps,
        at.registers // per_warp // warps,
        at.shared // (shared + 1024),  # the system keeps 1 KiB of every block
    ]
    return max(min(limits), 0) * warps


def figures(kernel: Kernel, architecture: str, path: Sequence[Instruction], use: Any) -> Loop:
    """Return the figures of a main loop."""
    kinds = Counter(one.name.split(".")[0] for one in path)
    issued, useful = len(path), kinds[kernel.useful]
    busy, shared, conflicts = useful * CYCLES[kernel.useful][architecture], None, None
    bound = min(1, busy / issued)
    if kernel.useful == "HMMA":
        bound = min(bound, MMA_SYNC_SHARE[architecture])
    if kernel.reads is not None:
        counted = [cycles(*read) for read in kernel.reads()]
        shared, conflicts = sum(a for a, _ in counted), sum(a - b for a, b in counted)
        bound = min(bound, busy / (shared * SCHEDULERS))
    warps = None
    if kernel.threads:
        at = MULTIPROCESSORS[architecture]
        warps = resident_warps(at, kernel.threads, use.registers, use.shared)
    return Loop(
        issued, useful, round(useful / issued, 3), shared, conflicts, use.registers, warps,
        round(bound, 3), dict(kinds.most_common(12)),
    )  # fmt: skip


def measured(kernels: Sequence[Kernel], architecture: str) -> dict[str, Loop]:
    """Compile kernels for an architecture; return the figures of each by its name."""
    from cupy_host import nvrtc
    from einstride import cuda

    found: dict[str, Loop] = {}
    for source in sorted({kernel.source for kernel in kernels}):
        some = [kernel for kernel in kernels if kernel.source == source]
        made = nvrtc.compile_for(
            cuda.source(source), architecture, cuda.OPTIONS, [kernel.instance for kernel in some]
        )
        uses = {use.kernel: use for use in made.kernels}
        code = disassemble(made.cubin)
        for kernel in some:
            lowered = made.lowered[kernel.instance]
            path = main_loop(code[lowered], kernel.useful)
            found[kernel.name] = figures(kernel, architecture, path, uses[lowered])
    return found


def text(found: dict[str, dict[str, Loop]]) -> str:
    """Return the tables of all architectures."""
    lines = []
    for architecture, loops in found.items():
        lines += [f"\nsm_{architecture}\n"]
        heads = (
            "kernel", "issued", "useful", "share", "issued per useful", "shared, cycles",
            "of which conflicts", "registers", "warps", "bound",
        )  # fmt: skip
        lines += [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
        for name, loop in loops.items():
            shared = ("-", "-") if loop.shared is None else (str(loop.shared), str(loop.conflicts))
            lines.append(
                f"| {name} | {loop.issued} | {loop.useful} | {loop.share:.2f} | "
                f"{loop.issued / loop.useful:.1f} | {shared[0]} | {shared[1]} | {loop.registers} | "
                f"{loop.warps or '-'} | {loop.bound:.2f} |"
            )
    return "\n".join(lines).lstrip("\n")


def digest(source: str) -> str:
    """Return a digest of all that the machine code of a source's kernels depends on, but for the
    compiler."""
    from einstride import cuda

    instances = [kernel.instance for kernel in KERNELS if kernel.source == source]
    parts = (cuda.source(source), *cuda.OPTIONS, *instances)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def write(found: dict[str, dict[str, Loop]]) -> None:
    """Replace the committed table."""
    from cupy_host import nvrtc

    lines = [
        f'"nvrtc": "{".".join(map(str, nvrtc.version()))}"',
        f'"digests": {json.dumps({s: digest(s) for s in sorted({k.source for k in KERNELS})})}',
    ]
    for architecture, loops in found.items():
        rows = [f"  {json.dumps(name)}: {json.dumps(asdict(loop))}" for name, loop in loops.items()]
        lines.append(f'"{architecture}": {{\n' + ",\n".join(rows) + "\n}")
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", nargs="?", default="", help="part of a kernel's name")
    parser.add_argument("--write", action="store_true", help="replace the committed table")
    given = parser.parse_args()
    kernels = [kernel for kernel in KERNELS if given.part in kernel.name]
    found = {}
    for architecture in ARCHITECTURES:
        print(f"compiling for sm_{architecture} ...", file=sys.stderr, flush=True)
        found[architecture] = measured(kernels, architecture)
    print(text(found))
    if given.write:
        if given.part:
            raise SystemExit("bench.gpu.sass: --write needs all kernels; give no part of a name")
        write(found)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    main()
