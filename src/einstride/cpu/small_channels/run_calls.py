"""The caller of the filter gradient of few channels, for arrays in memory and no flip."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine, machine
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.small_channels import run_outer
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

STARTED = 8
"""Multiply-adds of vectors that one output takes in a tile at least: so long is one's latency."""

# Of the time, in multiply-adds of vectors: see the package.
LOAD, OUTPUT = 1.15, 4.0
"""Per number of a run and vector of gy that a tile loads for an output; per output besides."""

ADDED = 4.0
"""Per vector of a tile's sums that is added to a table in memory, once for each region."""

LINE = 30.0
"""Per line of outputs and tile: to find its offsets and its ends."""

REGION_BYTES = 96 << 10
"""The part of x and gy that is summed over at once."""

LEAST = 224
"""Outputs in a region, so that sums are not added to memory too often."""

TABLES_BYTES = 5 << 19
"""What the tables of sums may take."""

TABLES = 8
"""Tables that regions are sorted into, at most: so many threads can share a filter gradient."""

SMALL = 1 << 22
"""Multiply-adds below which one table is enough."""


@dataclass(frozen=True)
class Regions:
    """Outputs that are visited together, while their x and gy are in the cache.

    Attributes
    ----------
    lines, line : int
        Outputs in a region: on all axes but the last, and on the last.
    count, tables : int
        Regions, and tables that their sums are sorted into.
    """

    lines: int
    line: int
    count: int
    tables: int

    def values(self, g: Geometry) -> dict[str, int]:
        """The words of an argument block that say so."""
        return {
            "tables": self.tables, "lines": g.batch * prod(g.out[:-1]), "line": g.out[-1],
            "lines_at_once": self.lines, "line_at_once": self.line, "regions": self.count,
            "pieces": -(-g.out[-1] // self.line),
        }  # fmt: skip


def regions(g: Geometry, each: int, item: int) -> Regions:
    """Regions whose outputs, of `each` bytes, fit the cache; the same for any number of threads."""
    lines, along = g.batch * prod(g.out[:-1]), g.out[-1]
    outputs = max(REGION_BYTES // each, LEAST)
    at_once, part = max(outputs // max(along, 1), 1), along
    if outputs < along:
        part = -(-along // -(-along // outputs))
    at_once = -(-lines // -(-lines // at_once)) if lines else 1
    count = -(-lines // at_once) * -(-along // part)
    tables = TABLES if g.multiply_adds > SMALL else 1
    while tables > 1 and (tables > count or tables * prod(g.f_shape) * item > TABLES_BYTES):
        tables //= 2
    return Regions(at_once, part, count, tables)


@dataclass(frozen=True)
class Runs:
    """How a filter gradient is cut.

    Attributes
    ----------
    lanes, vectors, panels : int
        Numbers in a vector, vectors in a panel of output channels, panels.
    rows, tiles : int
        Numbers of a run in a tile, tiles of a run.
    regions : Regions
        Which outputs are summed over at once.
    work : float
        Multiply-adds of vectors, and what takes as long.
    """

    lanes: int
    vectors: int
    panels: int
    rows: int
    tiles: int
    regions: Regions
    work: float


@cached(1024)
def choose(g: Geometry, item: int, lanes: int, registers: int) -> Runs:
    """The cut with the least work; the same for any number of threads."""
    run, every = g.kernel[-1] * g.channels, -(-g.filters // lanes)
    lines, along = g.batch * prod(g.out[:-1]), g.out[-1]
    outer = prod(g.kernel[:-1])
    cuts = []
    for most in range(1, min(every, 6) + 1):
        panels = -(-every // most)
        vectors = -(-every // panels)
        for limit in range(1, min((registers - 1) // vectors - 1, run) + 1):
            tiles = -(-run // limit)
            rows = -(-run // tiles)
            loads = LOAD * (rows + vectors)
            work = panels * tiles * (max(rows * vectors, loads, STARTED) + vectors + OUTPUT)
            cuts.append((work, vectors, panels, rows, tiles))
    work, vectors, panels, rows, tiles = min(cuts)
    cut = regions(g, (vectors * lanes + prod(g.stride) * g.channels) * item, item)
    work = outer * (work * lines * along + panels * tiles * cut.count * rows * vectors * ADDED)
    work += outer * panels * tiles * lines * LINE
    return Runs(lanes, vectors, panels, rows, tiles, cut, work)


def cut(g: Geometry, compute: str) -> Runs:
    """How this machine cuts it."""
    on = machine()
    item = ITEMSIZE[compute]
    return choose(g, item, on.lanes(item), on.registers)


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, sums: Any, launch: Any, threads: int
) -> None:
    """sums (tables, *K, C, D) of dtype compute, whose sum is the filter gradient.

    Lines of the last axis with their channels are dense in x, channels in gy.
    """
    call = gradient_of(x, gy, g, compute, threads)
    call(launch, x=address(x), gy=address(gy), sums=address(sums))


def gradient_of(x: Any, gy: Any, g: Geometry, compute: str, threads: int) -> Call:
    """The kernel for arrays that lie like these: wants the addresses x, gy and sums."""
    return _gradient(
        g, dtype_name(x), dtype_name(gy), compute, x.strides, gy.strides, threads, machine()
    )


@kept
def _gradient(
    g: Geometry, first: str, second: str, compute: str, x_strides: tuple[int, ...],
    gy_strides: tuple[int, ...], threads: int, on: Machine,
) -> Call:  # fmt: skip
    item = ITEMSIZE[compute]
    found = choose(g, item, on.lanes(item), on.registers)
    x_steps = element_strides(x_strides, ITEMSIZE[first])
    gy_steps = element_strides(gy_strides, ITEMSIZE[second])
    run, last = g.kernel[-1] * g.channels, g.rank - 1
    tile = run_outer.RunTile(
        first, second, compute, found.lanes, found.rows, found.vectors, g.channels, g.rank,
        g.filters % (found.lanes * found.vectors) != 0,
    )  # fmt: skip
    own = np.arange(found.tiles) * found.rows
    firsts = np.minimum(own, run - found.rows)
    low, stride = g.padding[-1][0], g.stride[-1]
    first_tap, last_tap = firsts // g.channels, (firsts + found.rows - 1) // g.channels
    inside = (
        np.ascontiguousarray(-((first_tap - low) // stride)),
        np.ascontiguousarray((g.size[-1] - 1 + low - last_tap) // stride + 1),
    )
    edge, _ = offsets(g, last, g.channels)
    zeros = np.zeros(1, first)
    tables = found.regions.tables
    apart = found.panels if tables == 1 else 1
    wanted = chunk_count(threads) if tables == 1 else 1  # tables are chunks already
    part = chunk_size(found.tiles, 1, lambda n: found.panels * -(-found.tiles // n), wanted)
    slices = -(-found.tiles // part)
    keep: list[Any] = [own, firsts, *inside, edge, zeros]
    values = {
        "chunks": tables * apart * slices, "panels": found.panels, "panels_apart": apart,
        "slices": slices, "slice": part, "tiles": found.tiles, **found.regions.values(g),
        "zeros": address(zeros), "x_batch": x_steps[0], "gy_batch": gy_steps[0],
        "gy_last": gy_steps[-2], "x_last": stride * g.channels, "sums_table": prod(g.f_shape),
        "filters": g.filters, "run": run, "edge": address(edge), "kernel": g.kernel[-1],
        "tile_first": address(firsts), "tile_own": address(own),
        "inside_first": address(inside[0]), "inside_last": address(inside[1]),
        "x_start": low * g.channels,
    }  # fmt: skip
    base = 0
    for a in range(last):
        table, back = offsets(g, a, x_steps[a + 1])
        base += back
        keep.append(table)
        values |= {
            f"table{a}": address(table), f"taps{a}": g.kernel[a], f"out{a}": g.out[a],
            f"gy_step{a}": gy_steps[a + 1],
        }  # fmt: skip
    values["x"] = base * ITEMSIZE[first]
    kernel = KernelSpec("runs", run_outer.kernel, (tile,), on)
    return Call(kernel, run_outer.arguments(g.rank), values, threads, keep)
