"""Call the kernel of `blocks` for a forward pass with few input channels, without flip.

The taps of the last axis and the input channels form one contiguous sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.dense.pack_call import SLICE_BYTES
from einstride.cpu.runtime.aligned_memory import aligned_empty
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.small_channels import blocks
from einstride.cpu.small_channels.block_tile import BlockTile
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

FMA_LATENCY = 8
"""Multiply-adds of vectors in the least time of one number of x, the latency of one of them:
about four cycles at two per cycle."""

# Terms of the predicted time, in multiply-adds of vectors; the package says how they were fitted.
LOOK_UP, TAP = 4.0, 10.0
"""Time per tap of the outer axes and tile: to look up each position's offset, and for the tap."""

STORE, TILE, LINE = 3.0, 40.0, 60.0
"""Time per vector of results that is stored; per tile; per line of outputs and panel."""

EDGE = 10.0
"""Time per tap and position of the tiles at both ends of a line, whose taps are looked up."""

STREAMED = 16 << 20
"""Bytes of results from which they are stored past the caches, which could not hold them."""


@dataclass(frozen=True)
class LineTiling:
    """The tiling of a forward pass: vectors per panel, outputs per tile, and predicted time."""

    lanes: int
    vectors: int
    panels: int
    positions: int
    work: float

    @property
    def width(self) -> int:
        """Output channels per panel."""
        return self.lanes * self.vectors


@cached(1024)
def choose_line_tiling(g: Geometry, lanes: int, registers: int) -> LineTiling:
    """Choose the tiling with the least work."""
    line, total = g.out[-1], -(-g.filters // lanes)
    lines, outer = g.batch * prod(g.out[:-1]), prod(g.kernel[:-1])
    span = g.kernel[-1] * g.channels
    border = sum(max(pad, 0) for pad in g.padding[-1]) > 0
    tilings = []
    for vectors in range(1, min(4 if registers >= 32 else 2, total) + 1):
        panels = -(-total // vectors)
        positions = 6 if vectors == 4 else min((registers - 1 - vectors) // vectors, 14)
        positions = max(-(-line // -(-line // min(positions, max(line, 1)))), 1)
        sums = max(vectors * positions, vectors + positions, FMA_LATENCY)
        tile = outer * (span * sums + LOOK_UP * positions + TAP)
        tile += STORE * positions * vectors + TILE
        edges = 2 * outer * g.kernel[-1] * EDGE * positions if border else 0.0
        work = panels * lines * (-(-line // positions) * tile + edges + LINE)
        tilings.append(LineTiling(lanes, vectors, panels, positions, work))
    return min(tilings, key=lambda tiling: tiling.work)


def tiling(g: Geometry, compute: str) -> LineTiling:
    """Choose the tiling of a forward pass for this machine."""
    target = host_target()
    return choose_line_tiling(g, target.lanes(ITEMSIZE[compute]), target.registers)


def streams(g: Geometry, item: int, chosen: LineTiling) -> bool:
    """True if results of `item` bytes each are stored past the caches."""
    return prod(g.y_shape) * item >= STREAMED and g.filters % chosen.width == 0


def pack(f: Any, g: Geometry, compute: str) -> Any:
    """Pack the filter (*K, C, D) as panels (panel, *K, C, V vectors), filled up with zeros."""
    chosen = tiling(g, compute)
    panels = aligned_empty((chosen.panels, *g.kernel, g.channels, chosen.width), compute)
    for first, panel in zip(range(0, g.filters, chosen.width), panels, strict=True):
        part = f[..., first : first + chosen.width]
        panel[..., : part.shape[-1]] = part
        panel[..., part.shape[-1] :] = 0
    return panels


def correlate(
    x: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int
) -> None:
    """Compute out (B, *O, D) = conv(x, f) + bias from the panels of f.

    x is contiguous in lines of the last axis with their channels, out in its channels.
    """
    call = correlation(x, g, compute, out, threads)
    addresses = {}
    if bias is not None:
        chosen = tiling(g, compute)
        padded_bias = np.zeros(chosen.panels * chosen.width, compute)
        padded_bias[: g.filters] = bias
        addresses["bias"] = address(padded_bias)
    call(launch, gy=address(x), gx=address(out), f=address(packed), **addresses)


def correlation(x: Any, g: Geometry, compute: str, out: Any, threads: int) -> Call:
    """Make the call for arrays with these dtypes and strides.

    It takes the addresses gy (of x), gx (of y), f and bias.
    """
    even = address(out) % 16 == 0 and not any(t % 16 for t in out.strides[:-1])
    stream = even and streams(g, out.itemsize, tiling(g, compute))
    return _forward_call(
        g,
        dtype_name(x),
        compute,
        dtype_name(out),
        x.strides,
        out.strides,
        stream,
        threads,
        host_target(),
    )


@kept
def _forward_call(
    g: Geometry, operand: str, compute: str, result: str, x_byte_strides: tuple[int, ...],
    y_byte_strides: tuple[int, ...], stream: bool, threads: int, target: Target,
) -> Call:  # fmt: skip
    item, last = ITEMSIZE[compute], g.rank - 1
    chosen = choose_line_tiling(g, target.lanes(item), target.registers)
    x_strides = element_strides(x_byte_strides, ITEMSIZE[operand])
    y_strides = element_strides(y_byte_strides, ITEMSIZE[result])
    tile = BlockTile(
        operand, compute, result, chosen.lanes, chosen.positions, chosen.vectors, chosen.width, 1,
        g.rank, True, stream,
    )  # fmt: skip
    line, lines = g.out[-1], g.batch * prod(g.out[:-1])
    segment = -(-line // chosen.positions) * chosen.positions
    segment = chunk_size(
        segment,
        chosen.positions,
        lambda n: lines * chosen.panels * -(-line // n),
        chunk_count(threads),
    )
    segments = -(-line // segment)
    first = np.arange(chosen.panels) * chosen.width
    count = np.minimum(g.filters - first, chosen.width)
    no_offsets = np.zeros(chosen.panels, np.int64)
    zeros = np.zeros(max(g.channels, 1), operand)
    tables: list[Any] = [first, count, no_offsets, zeros]
    taps = prod(g.kernel)
    low, stride = g.padding[-1][0], g.stride[-1]
    inside = chosen.panels * taps * g.channels * chosen.width * item <= SLICE_BYTES
    values = {
        "chunks": lines * segments * chosen.panels, "rows": lines, "segments": segments,
        "segment": segment, "panels": chosen.panels, "panels_inside": int(inside),
        "zeros": address(zeros), "f_panel": taps * g.channels * chosen.width,
        "channels": g.channels, "slice": max(g.channels, 1), "gy_batch": x_strides[0],
        "gx_batch": y_strides[0], "span_first": address(no_offsets), "span_to": address(first),
        "span_count": address(count), "step": y_strides[-2], "move": stride * g.channels,
        "start": low * g.channels, "inside_first": max(-(-low // stride), 0),
        "inside_last": (g.size[-1] + low - g.kernel[-1]) // stride + 1,
        "line": 0, "before": 0, "flag": 0,
    }  # fmt: skip
    base = 0
    for a in range(g.rank):
        table, lowest = offsets(g, a, g.channels if a == last else x_strides[a + 1])
        base += lowest
        tables.append(table)
        values |= {f"table{a}": address(table), f"taps{a}": g.kernel[a], f"blocks{a}": g.out[a]}
        if a < last:
            values |= {
                f"span_at{a}": address(no_offsets), f"size{a}": g.out[a], f"low{a}": 0,
                f"block{a}": 1, f"to{a}": y_strides[a + 1],
            }  # fmt: skip
    values["gy"] = base * ITEMSIZE[operand]
    kernel = KernelSpec("blocks", blocks.kernel, (tile,), target)
    return Call(kernel, blocks.arguments(g.rank), values, threads, tables)
