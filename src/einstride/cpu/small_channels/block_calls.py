"""Call the kernels of `blocks` for an input gradient with few input channels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine, machine
from einstride.cpu.dense.pack_call import SLICE_BYTES
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import lowest_offset, to_offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.small_channels import block_panels, blocks
from einstride.cpu.small_channels.block_plan import BlockTiling, choose_block_tiling, columns
from einstride.cpu.small_channels.block_tile import BlockTile
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept


def tiling(g: Geometry, compute: str) -> BlockTiling:
    """The tiling of an input gradient for this machine."""
    on = machine()
    return choose_block_tiling(g, on.lanes(ITEMSIZE[compute]), on.registers)


def panel_bytes(g: Geometry, compute: str) -> int:
    """Bytes of the rearranged filter."""
    found = tiling(g, compute)
    return found.panels * found.taps * g.filters * found.width * ITEMSIZE[compute] + CACHE_LINE


def pack(f: Any, g: Geometry, compute: str, launch: Any, threads: int) -> Any:
    """The filter (*K, C, D) of dtype compute, contiguous on its last axis, as rearranged panels."""
    found = tiling(g, compute)
    to = aligned_empty((found.panels, found.taps, g.filters, found.width), compute)
    call = _packing(g, compute, f.strides, threads, machine())
    call(launch, f=address(f), to=address(to))
    return to


@kept
def _packing(
    g: Geometry, compute: str, f_byte_strides: tuple[int, ...], threads: int, on: Machine
) -> Call:
    found = choose_block_tiling(g, on.lanes(ITEMSIZE[compute]), on.registers)
    offsets = columns(g, found, element_strides(f_byte_strides, ITEMSIZE[compute])).offsets
    zeros = np.zeros(found.lanes, compute)
    values = {
        "chunks": found.panels * found.taps, "channels": g.filters,
        "columns": address(offsets), "zeros": address(zeros),
    }  # fmt: skip
    kernel = KernelSpec(
        "block_panels", block_panels.kernel, (compute, found.lanes, found.vectors), on
    )
    threads = threads if offsets.size * g.filters > 1 << 17 else 1
    return Call(kernel, block_panels.ARGUMENTS, values, threads, (offsets, zeros))


def gradient(
    gy: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int
) -> bool:
    """Compute out (B, *S, C) = input gradient + bias; return False if it may have too many NaNs.

    gy is contiguous in its channels, out in lines of the last axis with their channels.
    """
    call, channels = gradient_of(gy, g, compute, out, threads)
    flag = np.zeros(1, np.int64)
    more = {}
    if bias is not None:
        bias = np.asarray(bias, compute)[channels]
        more["bias"] = address(bias)
    call(
        launch, gy=address(gy), gx=address(out), f=address(packed), flag=address(flag), **more
    )  # fmt: skip
    return not flag[0]


def gradient_of(gy: Any, g: Geometry, compute: str, out: Any, threads: int) -> tuple[Call, Any]:
    """The call for arrays with these dtypes and strides, and the channel of each column."""
    return _gradient(
        g, dtype_name(gy), compute, dtype_name(out), gy.strides, out.strides, threads, machine()
    )


@kept
def _gradient(
    g: Geometry, operand: str, compute: str, result: str, gy_byte_strides: tuple[int, ...],
    gx_byte_strides: tuple[int, ...], threads: int, on: Machine,
) -> tuple[Call, Any]:  # fmt: skip
    item = ITEMSIZE[compute]
    found = choose_block_tiling(g, on.lanes(item), on.registers)
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[operand])
    gx_strides = element_strides(gx_byte_strides, ITEMSIZE[result])
    tile = BlockTile(
        operand, compute, result, found.lanes, found.positions, found.vectors,
        found.span, found.spans, g.rank,
    )  # fmt: skip
    line = found.axes[-1].count
    rows = g.batch * prod(axis.count for axis in found.axes[:-1])
    depth = SLICE_BYTES // (found.taps * found.width * item) // blocks.UNROLLED * blocks.UNROLLED
    depth = max(depth, 8 * blocks.UNROLLED)
    segment = -(-line // found.positions) * found.positions
    if depth < g.filters:
        segment = min(blocks.TILES * found.positions, segment)
    else:
        depth = max(g.filters, 1)
    segment = chunk_size(
        segment,
        found.positions,
        lambda n: rows * found.panels * -(-line // n),
        chunk_count(threads),
    )
    segments = -(-line // segment)
    what = columns(g, found, (0,) * (g.rank + 1))
    to = what.first + sum(
        (at * step for at, step in zip(what.at, gx_strides[1:-2], strict=True)),
        np.zeros_like(what.first),
    )
    zeros = np.zeros(max(g.filters, 1), operand)
    keep: list[Any] = [what, to, zeros]
    inside = found.panels * found.taps * g.filters * found.width * item <= SLICE_BYTES
    last = found.axes[-1]
    values = {
        "chunks": rows * segments * found.panels, "rows": rows, "segments": segments,
        "segment": segment, "panels": found.panels, "panels_inside": int(inside),
        "zeros": address(zeros), "f_panel": found.taps * g.filters * found.width,
        "channels": g.filters, "slice": depth, "gy_batch": gy_strides[0], "gx_batch": gx_strides[0],
        "span_first": address(what.first), "span_to": address(to),
        "span_count": address(what.count), "line": g.size[-1] * g.channels,
        "before": last.low * g.channels, "step": last.block * g.channels,
    }  # fmt: skip
    base = 0
    for a, axis in enumerate(found.axes):
        step = gy_strides[a + 1]
        back = lowest_offset(g.out[a], step)
        base += back
        table = to_offsets(axis.outputs(g.out[a]), step, back)
        keep.append(table)
        values |= {f"table{a}": address(table), f"taps{a}": axis.taps, f"blocks{a}": axis.count}
        if a < g.rank - 1:
            values |= {
                f"span_at{a}": address(what.at[a]), f"size{a}": g.size[a], f"low{a}": axis.low,
                f"block{a}": axis.block, f"to{a}": gx_strides[a + 1],
            }  # fmt: skip
    values["gy"] = base * ITEMSIZE[operand]
    kernel = KernelSpec("blocks", blocks.kernel, (tile,), on)
    call = Call(kernel, blocks.arguments(g.rank), values, threads, keep)
    return call, what.channels
