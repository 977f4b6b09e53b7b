"""Call the kernel of `run_outer` for a filter gradient with few input channels, without flip."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.small_channels import run_outer
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

FMA_LATENCY = 8
"""Multiply-adds of vectors in the least time of one output of a tile, the latency of one of them:
about four cycles at two per cycle."""

# Terms of the predicted time, in multiply-adds of vectors; the package says how they were fitted.
LOAD, OUTPUT = 1.15, 4.0
"""Time per number of x and vector of gy that a tile loads for an output; per output and tile."""

ADD = 4.0
"""Time per vector of a tile that is added to a partial sum in memory, once per region."""

LINE = 30.0
"""Time per line of outputs and tile, for its offsets and its borders."""

REGION_BYTES = 96 << 10
"""Bytes of x and gy in a region, about, so that they stay in a core's second cache."""

MIN_REGION_OUTPUTS = 224
"""Outputs per region, at least: fewer would add sums to memory too often."""

MAX_PARTIAL_SUM_BYTES = 5 << 19
"""Bytes that all partial sums together may take."""

MAX_PARTIAL_SUMS = 8
"""Partial sums of a filter gradient, at most, and so the threads that can share it."""

MIN_SPLIT = 1 << 22
"""Multiply-adds above which a filter gradient has more than one partial sum."""


@dataclass(frozen=True)
class Regions:
    """The regions of outputs that are summed over one by one, with x and gy in the cache.

    Attributes
    ----------
    lines, line : int
        Outputs per region: on all axes but the last, and on the last.
    count, partial_sums : int
        Regions, and partial sums; each partial sum covers consecutive regions.
    """

    lines: int
    line: int
    count: int
    partial_sums: int

    def values(self, g: Geometry) -> dict[str, int]:
        """List the kernel arguments that describe the regions."""
        return {
            "partial_sums": self.partial_sums, "regions": self.count,
            "lines": g.batch * prod(g.out[:-1]), "lines_at_once": self.lines,
            "line": g.out[-1], "line_at_once": self.line,
            "line_parts": -(-g.out[-1] // self.line),
        }  # fmt: skip


def regions(g: Geometry, output_bytes: int, item: int) -> Regions:
    """Choose regions that fit the cache if an output takes `output_bytes`, whatever the threads."""
    lines, line = g.batch * prod(g.out[:-1]), g.out[-1]
    outputs = max(REGION_BYTES // output_bytes, MIN_REGION_OUTPUTS)
    region_lines, region_outputs = max(outputs // max(line, 1), 1), line
    if outputs < line:
        region_outputs = -(-line // -(-line // outputs))
    region_lines = -(-lines // -(-lines // region_lines)) if lines else 1
    count = -(-lines // region_lines) * -(-line // region_outputs)
    partial_sums = MAX_PARTIAL_SUMS if g.multiply_adds > MIN_SPLIT else 1
    while partial_sums > 1 and (
        partial_sums > count or partial_sums * prod(g.f_shape) * item > MAX_PARTIAL_SUM_BYTES
    ):
        partial_sums //= 2
    return Regions(region_lines, region_outputs, count, partial_sums)


@dataclass(frozen=True)
class RunTiling:
    """The tiling of a filter gradient. A span is the taps of the last axis with their channels.

    Attributes
    ----------
    lanes, vectors, panels : int
        Lanes of a vector, vectors per panel of output channels, panels.
    rows, tiles : int
        Elements of a span per tile, tiles per span.
    regions : Regions
        The outputs that are summed over at once.
    work : float
        Predicted time, in multiply-adds of vectors.
    """

    lanes: int
    vectors: int
    panels: int
    rows: int
    tiles: int
    regions: Regions
    work: float


@cached(1024)
def choose_run_tiling(g: Geometry, item: int, lanes: int, registers: int) -> RunTiling:
    """Choose the tiling with the least work, which does not depend on threads."""
    span, total = g.kernel[-1] * g.channels, -(-g.filters // lanes)
    lines, line = g.batch * prod(g.out[:-1]), g.out[-1]
    outer = prod(g.kernel[:-1])
    tilings = []
    for max_vectors in range(1, min(total, 6) + 1):
        panels = -(-total // max_vectors)
        vectors = -(-total // panels)
        for max_rows in range(1, min((registers - 1) // vectors - 1, span) + 1):
            tiles = -(-span // max_rows)
            rows = -(-span // tiles)
            loads = LOAD * (rows + vectors)
            work = panels * tiles * (max(rows * vectors, loads, FMA_LATENCY) + vectors + OUTPUT)
            tilings.append((work, vectors, panels, rows, tiles))
    work, vectors, panels, rows, tiles = min(tilings)
    chosen = regions(g, (vectors * lanes + prod(g.stride) * g.channels) * item, item)
    work = outer * (work * lines * line + panels * tiles * chosen.count * rows * vectors * ADD)
    work += outer * panels * tiles * lines * LINE
    return RunTiling(lanes, vectors, panels, rows, tiles, chosen, work)


def tiling(g: Geometry, compute: str) -> RunTiling:
    """Choose the tiling of a filter gradient for this machine."""
    target = host_target()
    item = ITEMSIZE[compute]
    return choose_run_tiling(g, item, target.lanes(item), target.registers)


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, sums: Any, launch: Any, threads: int
) -> None:
    """Compute the partial sums (partial sum, *K, C, D) of a filter gradient, of dtype compute.

    x is contiguous in lines of the last axis with their channels, gy in its channels.
    """
    call = gradient_of(x, gy, g, compute, threads)
    call(launch, x=address(x), gy=address(gy), sums=address(sums))


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
    chosen = choose_run_tiling(g, item, target.lanes(item), target.registers)
    x_strides = element_strides(x_byte_strides, ITEMSIZE[x_dtype])
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[gy_dtype])
    span, last = g.kernel[-1] * g.channels, g.rank - 1
    tile = run_outer.RunTile(
        x_dtype, gy_dtype, compute, chosen.lanes, chosen.rows, chosen.vectors, g.channels, g.rank,
        g.filters % (chosen.lanes * chosen.vectors) != 0,
    )  # fmt: skip
    own_rows = np.arange(chosen.tiles) * chosen.rows
    firsts = np.minimum(own_rows, span - chosen.rows)
    low, stride = g.padding[-1][0], g.stride[-1]
    first_tap, last_tap = firsts // g.channels, (firsts + chosen.rows - 1) // g.channels
    inside = (
        np.ascontiguousarray(-((first_tap - low) // stride)),
        np.ascontiguousarray((g.size[-1] - 1 + low - last_tap) // stride + 1),
    )
    edge, _ = offsets(g, last, g.channels)
    zeros = np.zeros(1, x_dtype)
    partial_sums = chosen.regions.partial_sums
    separate_panels = chosen.panels if partial_sums == 1 else 1
    min_chunks = chunk_count(threads) if partial_sums == 1 else 1  # partial sums are chunks already
    part = chunk_size(chosen.tiles, 1, lambda n: chosen.panels * -(-chosen.tiles // n), min_chunks)
    slices = -(-chosen.tiles // part)
    tables: list[Any] = [own_rows, firsts, *inside, edge, zeros]
    values = {
        "chunks": partial_sums * separate_panels * slices, "panels": chosen.panels,
        "panels_apart": separate_panels, "slices": slices, "slice": part, "tiles": chosen.tiles,
        **chosen.regions.values(g),
        "zeros": address(zeros), "x_batch": x_strides[0], "gy_batch": gy_strides[0],
        "gy_last": gy_strides[-2], "x_last": stride * g.channels, "sums_partial": prod(g.f_shape),
        "filters": g.filters, "span": span, "edge": address(edge), "kernel": g.kernel[-1],
        "tile_first": address(firsts), "tile_own": address(own_rows),
        "inside_first": address(inside[0]), "inside_last": address(inside[1]),
        "x_start": low * g.channels,
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
    kernel = KernelSpec("runs", run_outer.kernel, (tile,), target)
    return Call(kernel, run_outer.arguments(g.rank), values, threads, tables)
