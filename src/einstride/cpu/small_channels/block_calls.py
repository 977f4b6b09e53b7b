"""Call the kernels of `blocks` for an input gradient with few input channels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
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
    """Choose the tiling of an input gradient for this machine."""
    target = host_target()
    return choose_block_tiling(g, target.lanes(ITEMSIZE[compute]), target.registers)


def panel_bytes(g: Geometry, compute: str) -> int:
    """Count the bytes of the rearranged filter."""
    chosen = tiling(g, compute)
    return chosen.panels * chosen.taps * g.filters * chosen.width * ITEMSIZE[compute] + CACHE_LINE


def pack(f: Any, g: Geometry, compute: str, launch: Any, threads: int) -> Any:
    """Pack the filter (*K, C, D) of dtype compute, with contiguous output channels, into panels."""
    chosen = tiling(g, compute)
    panels = aligned_empty((chosen.panels, chosen.taps, g.filters, chosen.width), compute)
    call = _packing_call(g, compute, f.strides, threads, host_target())
    call(launch, f=address(f), to=address(panels))
    return panels


@kept
def _packing_call(
    g: Geometry, compute: str, f_byte_strides: tuple[int, ...], threads: int, target: Target
) -> Call:
    chosen = choose_block_tiling(g, target.lanes(ITEMSIZE[compute]), target.registers)
    offsets = columns(g, chosen, element_strides(f_byte_strides, ITEMSIZE[compute])).offsets
    zeros = np.zeros(chosen.lanes, compute)
    values = {
        "chunks": chosen.panels * chosen.taps, "channels": g.filters,
        "columns": address(offsets), "zeros": address(zeros),
    }  # fmt: skip
    kernel = KernelSpec(
        "block_panels", block_panels.kernel, (compute, chosen.lanes, chosen.vectors), target
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
    addresses = {}
    if bias is not None:
        bias = np.asarray(bias, compute)[channels]
        addresses["bias"] = address(bias)
    addresses |= {"gy": address(gy), "gx": address(out), "f": address(packed)}
    call(launch, flag=address(flag), **addresses)
    return not flag[0]


def gradient_of(gy: Any, g: Geometry, compute: str, out: Any, threads: int) -> tuple[Call, Any]:
    """Make the call for arrays with these dtypes and strides, and the channel of each column."""
    return _gradient_call(
        g, dtype_name(gy), compute, dtype_name(out), gy.strides, out.strides, threads, host_target()
    )


@kept
def _gradient_call(
    g: Geometry, operand: str, compute: str, result: str, gy_byte_strides: tuple[int, ...],
    gx_byte_strides: tuple[int, ...], threads: int, target: Target,
) -> tuple[Call, Any]:  # fmt: skip
    item = ITEMSIZE[compute]
    chosen = choose_block_tiling(g, target.lanes(item), target.registers)
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[operand])
    gx_strides = element_strides(gx_byte_strides, ITEMSIZE[result])
    tile = BlockTile(
        operand, compute, result, chosen.lanes, chosen.positions, chosen.vectors,
        chosen.span, chosen.spans, g.rank,
    )  # fmt: skip
    line = chosen.axes[-1].count
    rows = g.batch * prod(axis.count for axis in chosen.axes[:-1])
    depth = SLICE_BYTES // (chosen.taps * chosen.width * item) // blocks.UNROLLED * blocks.UNROLLED
    depth = max(depth, 8 * blocks.UNROLLED)
    segment = -(-line // chosen.positions) * chosen.positions
    if depth < g.filters:
        segment = min(blocks.TILES * chosen.positions, segment)
    else:
        depth = max(g.filters, 1)
    segment = chunk_size(
        segment,
        chosen.positions,
        lambda n: rows * chosen.panels * -(-line // n),
        chunk_count(threads),
    )
    segments = -(-line // segment)
    spans = columns(g, chosen, (0,) * (g.rank + 1))
    span_offsets = spans.first + sum(
        (
            positions * stride
            for positions, stride in zip(spans.positions, gx_strides[1:-2], strict=True)
        ),
        np.zeros_like(spans.first),
    )
    zeros = np.zeros(max(g.filters, 1), operand)
    tables: list[Any] = [spans, span_offsets, zeros]
    inside = chosen.panels * chosen.taps * g.filters * chosen.width * item <= SLICE_BYTES
    last = chosen.axes[-1]
    values = {
        "chunks": rows * segments * chosen.panels, "rows": rows, "segments": segments,
        "segment": segment, "panels": chosen.panels, "panels_inside": int(inside),
        "zeros": address(zeros), "f_panel": chosen.taps * g.filters * chosen.width,
        "channels": g.filters, "slice": depth, "gy_batch": gy_strides[0], "gx_batch": gx_strides[0],
        "span_first": address(spans.first), "span_to": address(span_offsets),
        "span_count": address(spans.count), "line": g.size[-1] * g.channels,
        "before": last.low * g.channels, "step": last.block * g.channels,
    }  # fmt: skip
    base = 0
    for a, axis in enumerate(chosen.axes):
        stride = gy_strides[a + 1]
        lowest = lowest_offset(g.out[a], stride)
        base += lowest
        table = to_offsets(axis.outputs(g.out[a]), stride, lowest)
        tables.append(table)
        values |= {f"table{a}": address(table), f"taps{a}": axis.taps, f"blocks{a}": axis.count}
        if a < g.rank - 1:
            values |= {
                f"span_at{a}": address(spans.positions[a]), f"size{a}": g.size[a],
                f"low{a}": axis.low,
                f"block{a}": axis.block, f"to{a}": gx_strides[a + 1],
            }  # fmt: skip
    values["gy"] = base * ITEMSIZE[operand]
    kernel = KernelSpec("blocks", blocks.kernel, (tile,), target)
    call = Call(kernel, blocks.arguments(g.rank), values, threads, tables)
    return call, spans.channels
