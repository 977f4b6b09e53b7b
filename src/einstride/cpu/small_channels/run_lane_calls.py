"""The caller of the filter gradient of few channels in and out (`small_channels.run_lanes`)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine, machine
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count
from einstride.cpu.runtime.offset_tables import offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.small_channels import run_lanes
from einstride.cpu.small_channels.run_calls import (
    ADDED,
    LOAD,
    OUTPUT,
    STARTED,
    Regions,
    regions,
)
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

LINE, LINE_OF_TAP = 20.0, 10.0
"""Multiply-adds of vectors per line of outputs and tile, and for each of its taps. Other factors of
the time are as in `run_calls`."""

WIDE, DEEP = 4, 8
"""The most vectors of a run, and taps or output channels, that a tile is tried with."""


@dataclass(frozen=True)
class Lanes:
    """How a filter gradient is cut.

    Attributes
    ----------
    vectors, rows, taps : int
        Of a tile: vectors of a run, output channels, taps of the axis before the last.
    run_tiles, row_tiles, tap_tiles : int
        How many of them there are.
    regions : Regions
        Which outputs are summed over at once.
    work : float
        Multiply-adds of vectors, and what takes as long.
    """

    vectors: int
    rows: int
    taps: int
    run_tiles: int
    row_tiles: int
    tap_tiles: int
    regions: Regions
    work: float


@cached(1024)
def choose(g: Geometry, item: int, lanes: int, registers: int) -> Lanes:
    """The cut with the least work; the same for any number of threads."""
    run = -(-g.kernel[-1] * g.channels // lanes)
    across = g.kernel[-2] if g.rank > 1 else 1
    cuts = []
    for most, channels, taps in product(
        range(1, min(run, WIDE) + 1), range(1, min(g.filters, DEEP) + 1),
        range(1, min(across, DEEP) + 1),
    ):  # fmt: skip
        a, b, c = -(-run // most), -(-g.filters // channels), -(-across // taps)
        v, r, k = -(-run // a), -(-g.filters // b), -(-across // c)
        if k * r * v + r + 1 <= registers or k == r == v == 1:
            products = max(k * r * v, LOAD * (k * v + r), STARTED)
            cuts.append((a * b * c * (products + OUTPUT), v, r, k, a, b, c))
    work, v, r, k, a, b, c = min(cuts)
    tiles = a * b * c
    cut = regions(g, (prod(g.stride) * g.channels + g.filters) * item, item)
    outer, lines = prod(g.kernel[:-2]), g.batch * prod(g.out[:-1])
    work = outer * (work * lines * g.out[-1] + tiles * cut.count * r * v * k * ADDED)
    work += outer * tiles * lines * (LINE + LINE_OF_TAP * k)
    return Lanes(v, r, k, a, b, c, cut, work)


def cut(g: Geometry, compute: str) -> Lanes:
    """How this machine cuts it."""
    on = machine()
    item = ITEMSIZE[compute]
    return choose(g, item, on.lanes(item), on.registers)


def supports(g: Geometry) -> bool:
    """Do masks say all about the border?"""
    return g.padding_mode == "zeros"


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int
) -> None:
    """out (*K, C, D) of any dtype = the filter gradient.

    Lines of the last axis with their channels are dense in x, channels in gy.
    """
    call = gradient_of(x, gy, g, compute, threads)
    *outer, last = g.kernel
    tables = cut(g, compute).regions.tables
    sums = np.empty((tables, *outer, g.filters, last, g.channels), compute)
    call(launch, x=address(x), gy=address(gy), sums=address(sums))
    for table in sums[1:]:
        sums[0] += table
    out[...] = np.moveaxis(sums[0], -3, -1)


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
    lanes = on.lanes(item)
    found = choose(g, item, lanes, on.registers)
    x_steps = element_strides(x_strides, ITEMSIZE[first])
    gy_steps = element_strides(gy_strides, ITEMSIZE[second])
    run, last, width = g.kernel[-1] * g.channels, g.rank - 1, found.vectors * lanes
    tile = run_lanes.LaneTile(
        first, second, compute, lanes, found.vectors, found.rows, found.taps, g.rank,
        run % width != 0,
    )  # fmt: skip
    firsts = np.arange(found.run_tiles) * width
    low, stride = g.padding[-1][0], g.stride[-1]
    first_tap = firsts // g.channels
    last_tap = (np.minimum(firsts + width, run) - 1) // g.channels
    inside = (
        np.ascontiguousarray(-((first_tap - low) // stride)),
        np.ascontiguousarray((g.size[-1] - 1 + low - last_tap) // stride + 1),
    )
    tables = found.regions.tables
    items = found.run_tiles * found.row_tiles * found.tap_tiles * prod(g.kernel[:-2])
    slices = min(items, -(-chunk_count(threads) // tables)) if tables < threads else 1
    part = -(-items // slices)
    slices = -(-items // part)
    keep: list[Any] = [*inside]
    values = {
        "chunks": tables * slices, "slices": slices, "slice": part, "items": items,
        "row_tiles": found.row_tiles, "run_tiles": found.run_tiles, "tap_tiles": found.tap_tiles,
        **found.regions.values(g), "x_batch": x_steps[0], "gy_batch": gy_steps[0],
        "gy_last": gy_steps[-2], "x_last": stride * g.channels, "sums_table": prod(g.f_shape),
        "filters": g.filters, "run": run, "inside_first": address(inside[0]),
        "inside_last": address(inside[1]), "x_start": low * g.channels,
        "x_line": g.size[-1] * g.channels,
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
    kernel = KernelSpec("run_lanes", run_lanes.kernel, (tile,), on)
    return Call(kernel, run_lanes.arguments(g.rank), values, threads, keep)
