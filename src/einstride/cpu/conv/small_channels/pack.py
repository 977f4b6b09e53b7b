"""Pack a filter into panels of columns, for the input gradient of few channels.

A panel is (tap, output channel, V vectors of columns), with zeros in the columns that a tap does
not meet. A column is contiguous along the output channels in the filter, and across them in a
panel: squares of as many columns as a vector has lanes are transposed in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code
from einstride.codegen.jit import Machine, machine
from einstride.codegen.vector_ops import transpose
from einstride.cpu.conv.loop_nest import look_up
from einstride.cpu.conv.small_channels.block_plan import columns, tiling
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, bind
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept


def panel_bytes(g: Geometry, compute: str) -> int:
    """Count the bytes of a packed filter."""
    chosen = tiling(g, compute, machine())
    return chosen.panels * chosen.taps * g.filters * chosen.width * ITEMSIZE[compute] + CACHE_LINE


def pack(f: Any, g: Geometry, compute: str, launch: Any, threads: int) -> Any:
    """Pack a filter (*K, C, D) of dtype compute, with contiguous output channels, into panels."""
    chosen = tiling(g, compute, machine())
    panels = aligned_empty((chosen.panels, chosen.taps, g.filters, chosen.width), compute)
    call = _packing_call(g, compute, f.strides, threads, machine())
    call(launch, f=address(f), panels=address(panels))
    return panels


@kept
def _packing_call(
    g: Geometry, compute: str, f_byte_strides: tuple[int, ...], threads: int, on: Machine
) -> Call:
    chosen = tiling(g, compute, on)
    offsets = columns(g, chosen, element_strides(f_byte_strides, ITEMSIZE[compute])).offsets
    arguments = {
        "chunks": chosen.panels * chosen.taps, "channels": g.filters, "f": 0, "panels": 0,
        "columns": offsets, "zeros": np.zeros(chosen.lanes, compute),
    }  # fmt: skip
    parameters = compute, chosen.lanes, chosen.vectors
    threads = threads if offsets.size * g.filters > 1 << 17 else 1
    return bind("block_panels", kernel, parameters, arguments, threads, on)


def kernel(parameters: tuple[str, int, int], names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``block_panels`` for (dtype, lanes, vectors)."""
    dtype, lanes, vectors = parameters
    code = Code("block_panels", names)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        channels = code["channels"]
        f, zeros = code.array("f", dtype), code.array("zeros", dtype)
        panel = code.array("panels", dtype).at(chunk * channels * width)
        with code.loop(0, width, lanes) as column:
            offsets = [look_up(code, "columns", chunk * width + column + i) for i in range(lanes)]
            with code.loop(0, channels, lanes) as d:
                mask = code.first_lanes(channels - d, lanes)
                square = transpose(
                    [(o >= 0).select_pointer(f.at(o + d), zeros).load(lanes, mask) for o in offsets]
                )
                for i, vector in enumerate(square):
                    with code.when(d + i < channels):
                        panel.at((d + i) * width + column).store(vector)
    return code.text()
