"""Find the private functions and constants that tests watch or replace, by stable names.

When a function or constant moves or is renamed, only these tables must follow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

PASSES = ("forward", "input_grad", "filter_grad")

FUNCTIONS: dict[str, tuple[str, ...]] = {
    # dispatch and planning
    "choose a plan": ("planning.select:choose_algorithm",),
    "run a plan": ("dispatch.run_plan:run",),
    "compute a plan's result": ("dispatch.run_plan:compute",),
    "prefer a callback to the library": ("dispatch.bilinear:_callback_is_faster",),
    "measure the algorithms": ("api.tune:_measure",),
    "read the clock": ("api.tune:perf_counter",),
    # algorithms
    **{
        f"{algorithm} {which}": (f"algorithms.{algorithm}:{which}",)
        for algorithm in ("strided", "gemm", "direct", "winograd", "implicit_gemm", "fft", "cudnn")
        for which in PASSES
    },
    "prepare a filter": ("algorithms.direct:prepare",),
    "prefer few channels": ("algorithms.direct.few:is_faster",),
    "lay the lanes of a filter gradient along the run": (
        "cpu.conv.small_channels.spans:puts_span_in_lanes",
    ),
    "cut a filter into pieces": ("algorithms.direct.pieces:filter_slices",),
    "cut an input gradient into parts": ("algorithms.direct.few:_parts",),
    "cut positions into blocks": ("cpu.conv.small_channels.block_plan:_choose_spans",),
    "run a kernel of small groups": (
        "algorithms.direct.grouped:_correlate",
        "algorithms.direct.grouped:filter_grad",
    ),
    "compute by blocks in staging buffers": ("algorithms.direct.staged:run",),
    "plan a filter gradient by blocks": ("algorithms.direct.staged:_gradient",),
    "list Winograd's tile sizes": ("geometry.tile_sizes:candidates",),
    "run Winograd on arrays": (
        "algorithms.winograd.array_passes:correlate",
        "algorithms.winograd.array_passes:reduce",
        "algorithms.winograd.array_passes:transformed",
    ),
    "run blocks of Winograd's tiles": (
        "algorithms.winograd.array_passes:correlate",
        "algorithms.winograd.array_passes:reduce",
    ),
    "transform axes": ("algorithms.fft.correlate:Transform",),
    "list the cuts of an FFT's axis": ("algorithms.fft.axes:choices",),
    "allocate the scratch of a compiled FFT": ("algorithms.fft.compiled:_scratch",),
    "plan a compiled FFT": ("cpu.fft.plan:best_tiling",),
    # kernels
    "get a kernel": ("codegen.jit:kernel",),
    "compile a kernel": ("codegen.jit:_machine_code",),
    "optimise a kernel": ("codegen.jit:_optimise",),
    "load a kernel": ("codegen.jit:_load",),
    "read a kernel's file": ("codegen.disk_cache:read",),
    "write a kernel's file": ("codegen.disk_cache:write",),
    "remove a kernel's file": ("codegen.disk_cache:_remove",),
    "digest the package": ("codegen.disk_cache:package_digest",),
    "allocate aligned memory": (
        "cpu.runtime.aligned_memory:aligned_empty",
        "cpu.runtime.aligned_memory:unaliased_empty",
    ),
    "join chunks of a piece": ("arrays.backends.dask.pieces:gathered",),
    "wake a helper": ("arrays.backends.spin_helpers:_wake",),
    "write a dense kernel": ("cpu.conv.dense.forward:_store_sums",),
    "write a depthwise kernel": ("cpu.conv.depthwise.forward:_compute_row_block",),
    "write pairs of frequencies": ("cpu.fft.planes:frequency_pair",),
    "write a grouped kernel": ("cpu.conv.grouped.forward:_compute_row",),
    "write the end of Winograd's filter gradient": (
        "cpu.winograd.filter_gradient:_transform_sums",
    ),
    "write a norm's statistics": ("nn.cpu.norm:_finish_statistics",),
    "measure the planner's figures": ("tools.calibrate:measure",),
    "time a measurement": ("tools.calibrate:fastest",),
    "name the user's figures": ("calibration:user_file",),
    # GPU
    "choose the index type": (
        "cuda.axis_map:index_type",
        "cuda.implicit_gemm:index_type",
        "cuda.im2col:_index_type",
    ),
    "multiply matrices on the GPU": ("cuda.cublas:gemm",),
    "load a GPU kernel": ("cuda:_loaded",),
}
"""``module:attribute``, below the package, of the functions that do what the key says."""

CONSTANTS: dict[str, tuple[str, ...]] = {
    "products worth rounding": ("planning.select:WORTH_ROUNDING",),
    "filter piece": ("algorithms.direct.pieces:SLICE_BYTES", "algorithms.direct.few:SLICE_BYTES"),
    "streamed result": ("cpu.conv.small_channels.lines:STREAMED",),
    "strides of a block": ("cpu.conv.small_channels.block_plan:STRIDES",),
    "region of small groups": ("cpu.conv.grouped.filter_gradient:REGION_BYTES",),
    "products worth threads": (
        "cpu.conv.channelwise.signature:MIN_THREADED",
        "cpu.conv.channelwise.partial_sums:MIN_THREADED",
    ),
    "products worth staging": ("algorithms.direct.staged:MIN_PRODUCTS",),
    "products worth staging on threads": ("algorithms.direct.staged:SINGLE_THREADED",),
    "bytes of a staged block": ("cpu.conv.staged.block_plan:BLOCK_BYTES",),
    "bytes of staged channels": ("cpu.conv.staged.block_plan:FAST_BYTES",),
    "bytes worth pieces": ("arrays.backends.dask.pieces:MIN_BYTES",),
    "share of a chunk worth pieces": ("arrays.backends.dask.pieces:MIN_SHARE",),
    "growth of Winograd's errors": ("algorithms.winograd.plan:MOST_GROWTH",),
    "Cook-Toom points": ("geometry.cook_toom:POINTS",),
    "idle helpers": ("arrays.backends.spin_helpers:_idle",),
    "seconds of a measurement": ("tools.calibrate:SECONDS",),
    "repeats of a measurement": ("tools.calibrate:REPEATS",),
    "warmup samples": ("tools.warmup:SAMPLES",),
    "GPU processors": (
        "cuda.gathered_gemm:PROCESSORS",
        "cuda.gemm_tiles:PROCESSORS",
        "cuda.small_channels_shape:PROCESSORS",
    ),
    "GPU blocks": ("algorithms.direct.cuda:BLOCKS",),
    "terms of a part": ("cuda.gemm_tiles:ENOUGH_TERMS",),
    "FMA tiles": ("cuda.gemm_tiles:TILES",),
    "MMA tiles": ("cuda.gemm_tiles:MMA_TILES",),
    "first capability with tensor cores": ("algorithms.implicit_gemm:TENSOR_CORES_SINCE",),
    "cuDNN plans": ("algorithms.cudnn.graphs:KEPT",),
}
"""``module:attribute``, below the package, of each module that reads the constant."""

PACKAGE = __name__.partition(".")[0]


def attributes(table: dict[str, tuple[str, ...]], idea: str) -> list[tuple[ModuleType, str]]:
    """Return the modules and attributes of a table's key; LookupError if it has no such key."""
    if idea not in table:
        raise LookupError(f"{idea!r} is none of {', '.join(map(repr, table))}")
    found = []
    for path in table[idea]:
        module, _, attribute = path.partition(":")
        found.append((import_module(f"{PACKAGE}.{module}"), attribute))
    return found


@contextmanager
def constant(idea: str, value: object) -> Iterator[None]:
    """Replace the value of a constant, in all modules that read it, during a ``with`` block."""
    found = attributes(CONSTANTS, idea)
    before = [getattr(module, name) for module, name in found]
    try:
        for module, name in found:
            setattr(module, name, value)
        yield
    finally:
        for (module, name), old in zip(found, before, strict=True):
            setattr(module, name, old)


@contextmanager
def function(old: Any, new: Any) -> Iterator[None]:
    """Replace a function, in all modules that hold it, during a ``with`` block.

    Modules that are first imported in the block get the new function too, and the old one at its
    end.
    """
    try:
        _rebind(old, new)
        yield
    finally:
        _rebind(new, old)


def _rebind(old: Any, new: Any) -> None:
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(f"{PACKAGE}.") and isinstance(module, ModuleType):
            for attribute in [a for a, value in list(vars(module).items()) if value is old]:
                setattr(module, attribute, new)
