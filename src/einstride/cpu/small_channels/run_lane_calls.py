"""Call the kernel of `run_lanes` for a filter gradient with few input and output channels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count
from einstride.cpu.runtime.offset_tables import offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.cpu.small_channels import run_lanes
from einstride.cpu.small_channels.run_calls import (
    ADD,
    FMA_LATENCY,
    LOAD,
    OUTPUT,
    Regions,
    regions,
)
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

LINE, LINE_OF_TAP = 20.0, 10.0
"""Terms of the predicted time, in multiply-adds of vectors: per line of outputs and tile, and for
each tap of the tile. The other terms are those of `run_calls`."""

MAX_VECTORS, MAX_ROWS = 4, 8
"""Vectors of a span, and taps or output channels, that a tile may have at most."""


@dataclass(frozen=True)
class LaneTiling:
    """The tiling of a filter gradient. A span is the taps of the last axis with their channels.

    Attributes
    ----------
    vectors, rows, taps : int
        Per tile: vectors of a span, output channels, taps of the axis before the last.
    span_tiles, row_tiles, tap_tiles : int
        Tiles along a span, output channels, and taps of the axis before the last.
    regions : Regions
        The outputs that are summed over at once.
    work : float
        Predicted time, in multiply-adds of vectors.
    """

    vectors: int
    rows: int
    taps: int
    span_tiles: int
    row_tiles: int
    tap_tiles: int
    regions: Regions
    work: float


@cached(1024)
def choose_lane_tiling(g: Geometry, item: int, lanes: int, registers: int) -> LaneTiling:
    """Choose the tiling with the least work, which does not depend on threads."""
    span = -(-g.kernel[-1] * g.channels // lanes)
    outer_taps = g.kernel[-2] if g.rank > 1 else 1
    tilings = []
    for max_vectors, channels, taps in product(
        range(1, min(span, MAX_VECTORS) + 1), range(1, min(g.filters, MAX_ROWS) + 1),
        range(1, min(outer_taps, MAX_ROWS) + 1),
    ):  # fmt: skip
        a, b, c = -(-span // max_vectors), -(-g.filters // channels), -(-outer_taps // taps)
        v, r, k = -(-span // a), -(-g.filters // b), -(-outer_taps // c)
        if k * r * v + r + 1 <= registers or k == r == v == 1:
            products = max(k * r * v, LOAD * (k * v + r), FMA_LATENCY)
            tilings.append((a * b * c * (products + OUTPUT), v, r, k, a, b, c))
    work, v, r, k, a, b, c = min(tilings)
    tiles = a * b * c
    chosen = regions(g, (prod(g.stride) * g.channels + g.filters) * item, item)
    outer, lines = prod(g.kernel[:-2]), g.batch * prod(g.out[:-1])
    work = outer * (work * lines * g.out[-1] + tiles * chosen.count * r * v * k * ADD)
    work += outer * tiles * lines * (LINE + LINE_OF_TAP * k)
    return LaneTiling(v, r, k, a, b, c, chosen, work)


def tiling(g: Geometry, compute: str) -> LaneTiling:
    """Choose the tiling of a filter gradient for this machine."""
    target = host_target()
    item = ITEMSIZE[compute]
    return choose_lane_tiling(g, item, target.lanes(item), target.registers)


def supports(g: Geometry) -> bool:
    """True if the kernel computes this padding mode: its masks leave out padding of zeros only."""
    return g.padding_mode == "zeros"


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int
) -> None:
    """Compute out (*K, C, D) = filter gradient, of any dtype.

    x is contiguous in lines of the last axis with their channels, gy in its channels.
    """
    call = gradient_of(x, gy, g, compute, threads)
    *outer, last = g.kernel
    partial_sums = tiling(g, compute).regions.partial_sums
    sums = np.empty((partial_sums, *outer, g.filters, last, g.channels), compute)
    call(launch, x=address(x), gy=address(gy), sums=address(sums))
    add_partial_sums(np.moveaxis(sums, -3, -1), out)


def gradient_of(x: Any, gy: Any, g: Geometry, compute: str, threads: int) -> Call:
    """Make the call for these dtypes and strides; it needs the addresses x, gy and sums."""
    return _gradient_call(
        g, dtype_name(x), dtype_name(gy), compute, x.strides, gy.strides, threads, host_target()
    )


@kept
def _gradient_call(
    g: Geometry, x_dtype: str, gy_dtype: str, compute: str, x_byte_strides: tuple[int, ...],
    gy_byte_strides: tuple[int, ...], threads: int, target: Target,
) -> Call:  # fmt: skip
    item = ITEMSIZE[compute]
    lanes = target.lanes(item)
    chosen = choose_lane_tiling(g, item, lanes, target.registers)
    x_strides = element_strides(x_byte_strides, ITEMSIZE[x_dtype])
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[gy_dtype])
    span, last, width = g.kernel[-1] * g.channels, g.rank - 1, chosen.vectors * lanes
    tile = run_lanes.LaneTile(
        x_dtype, gy_dtype, compute, lanes, chosen.vectors, chosen.rows, chosen.taps, g.rank,
        span % width != 0,
    )  # fmt: skip
    firsts = np.arange(chosen.span_tiles) * width
    low, stride = g.padding[-1][0], g.stride[-1]
    first_tap = firsts // g.channels
    last_tap = (np.minimum(firsts + width, span) - 1) // g.channels
    inside = (
        np.ascontiguousarray(-((first_tap - low) // stride)),
        np.ascontiguousarray((g.size[-1] - 1 + low - last_tap) // stride + 1),
    )
    partial_sums = chosen.regions.partial_sums
    items = chosen.span_tiles * chosen.row_tiles * chosen.tap_tiles * prod(g.kernel[:-2])
    slices = min(items, -(-chunk_count(threads) // partial_sums)) if partial_sums < threads else 1
    part = -(-items // slices)
    slices = -(-items // part)
    tables: list[Any] = [*inside]
    values = {
        "chunks": partial_sums * slices, "slices": slices, "slice": part, "items": items,
        "row_tiles": chosen.row_tiles, "span_tiles": chosen.span_tiles,
        "tap_tiles": chosen.tap_tiles, **chosen.regions.values(g),
        "x_batch": x_strides[0], "gy_batch": gy_strides[0],
        "gy_last": gy_strides[-2], "x_last": stride * g.channels, "sums_partial": prod(g.f_shape),
        "filters": g.filters, "span": span, "inside_first": address(inside[0]),
        "inside_last": address(inside[1]), "x_start": low * g.channels,
        "x_line": g.size[-1] * g.channels,
    }  # fmt: skip
    base = 0
    for a in range(last):
        table, lowest = offsets(g, a, x_strides[a + 1])
        base += lowest
        tables.append(table)
        values |= {
            f"table{a}": address(table), f"taps{a}": g.kernel[a], f"out{a}": g.out[a],
            f"gy_stride{a}": gy_strides[a + 1],
        }  # fmt: skip
    values["x"] = base * ITEMSIZE[x_dtype]
    kernel = KernelSpec("run_lanes", run_lanes.kernel, (tile,), target)
    return Call(kernel, run_lanes.arguments(g.rank), values, threads, tables)
