"""Call the filter-gradient kernel of small groups with NumPy arrays of contiguous channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine
from einstride.cpu.grouped import filter_gradient
from einstride.cpu.grouped.forward_call import about
from einstride.cpu.grouped.shape import Lanes, lanes_of
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import COARSE, chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import grid, output_ranges, sources, to_offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import elements_seen
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

REGION_BYTES = 128 << 10
"""Bytes of packed x and gy of a region and a panel, about; chosen to stay in a core's second-level
cache. Changing it changes the order of sums, and so the bits."""

POSITIONS = 14
"""Positions in a tile, at most; chosen. The code of all positions is written out."""


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int, each: bool,
    on: Machine,
) -> None:  # fmt: skip
    """out (*K, C // G, D) = the filter gradient, in dtype `compute`; (B, ...) with `each`."""
    call = gradient_of(x, gy, g, compute, out, threads, each, on)
    near = np.empty(threads * room(g, compute, each, on) + 64, np.uint8)
    start = -(-address(near) // 64) * 64
    call(launch, x=address(x), y=address(gy), gf=address(out), near=start)


def gradient_of(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, threads: int, each: bool, on: Machine
) -> Call:
    """The call for arrays with these strides; it needs the addresses x, y (of gy), gf and near."""
    return _gradient(
        g, dtype_name(x), dtype_name(gy), compute, x.strides, gy.strides, out.strides, each,
        threads, on,
    )  # fmt: skip


def room(g: Geometry, compute: str, each: bool, on: Machine) -> int:
    """The bytes of a thread's packed x and gy."""
    return _region(g, gradient_lanes(g, compute, on), ITEMSIZE[compute], each).bytes


def gradient_lanes(g: Geometry, compute: str, on: Machine) -> Lanes:
    """The layout with one vector of outputs and blocks of channels whose sums fit registers."""
    return lanes_of(g, compute, on, max((24 if on.registers >= 32 else 10) // g.kernel[-1], 1))


@dataclass(frozen=True)
class Region:
    """The size of a region, and the layout of its packed x and gy.

    Attributes
    ----------
    batch, rows : int
        Examples, and outputs of the first axis, in a region.
    places : int
        Positions of a padded row of x.
    x, y : tuple of int
        Strides of packed x and gy, for the batch and each axis but the last, in elements.
    gy, bytes : int
        Offset of packed gy in elements, and the bytes of both.
    """

    batch: int
    rows: int
    places: int
    x: tuple[int, ...]
    y: tuple[int, ...]
    gy: int
    bytes: int


@cached(1024)
def _region(g: Geometry, s: Lanes, item: int, each: bool) -> Region:
    """The most rows, or examples, within `REGION_BYTES`; they do not depend on the threads."""
    places = (g.out[-1] - 1) * g.stride[-1] + g.extent[-1]
    x_row = (
        places * s.held * prod(g.size[1:-1])
    )  # x of one element of the first axis, or of the only axis
    y_row = g.out[-1] * s.lanes * prod(g.out[1:-1])
    most = g.out[0] if g.rank > 1 else 1
    rows, batch = most, g.batch
    seen = _longest(g, rows)
    while rows > 1 and (seen * x_row + rows * y_row) * item > REGION_BYTES:
        rows = -(-rows // 2)
        seen = _longest(g, rows)
    size = (seen * x_row + rows * y_row) * item
    batch = 1 if rows < most or each else min(max(REGION_BYTES // size, 1), g.batch)
    xs, ys = [places * s.held], [g.out[-1] * s.lanes]
    for a in range(g.rank - 2, 0, -1):
        xs.insert(0, xs[0] * g.size[a])
        ys.insert(0, ys[0] * g.out[a])
    if g.rank > 1:
        xs.insert(0, xs[0] * seen)
        ys.insert(0, ys[0] * rows)
    return Region(
        batch, rows, places, tuple(xs), tuple(ys), batch * xs[0],
        batch * (xs[0] + ys[0]) * item,
    )  # fmt: skip


def _longest(g: Geometry, rows: int) -> int:
    """The most elements of x's first axis that the windows of `rows` outputs span."""
    if g.rank == 1:
        return 1
    if g.padding_mode == "circular" and any(n > 0 for n in g.padding[0]):
        return g.size[0]  # a region at the border reads both ends
    return max(min((rows - 1) * g.stride[0] + g.extent[0], g.size[0]), 1)


def _seen(g: Geometry, rows: int) -> tuple[Any, Any]:
    """For each `rows` outputs: the first element of x's first axis they read, and one past the
    last."""  # fmt: skip
    if g.rank == 1:
        return np.zeros(1, np.int64), np.ones(1, np.int64)
    step, low = g.stride[0], g.padding[0][0]
    found = []
    for first in range(0, g.out[0], rows):
        last = min(first + rows, g.out[0]) - 1
        ends = first * step - low, last * step - low + g.extent[0]
        found.append(elements_seen(*ends, g.size[0], g.padding_mode))
    lows, highs = np.array(found, np.int64).reshape(-1, 2).T
    return np.ascontiguousarray(lows), np.ascontiguousarray(highs)


@kept
def _gradient(
    g: Geometry, first: str, second: str, compute: str, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], gf_strides: tuple[int, ...], each: bool, threads: int, on: Machine,
) -> Call:  # fmt: skip
    s, item = gradient_lanes(g, compute, on), ITEMSIZE[compute]
    x_steps = element_strides(x_strides, ITEMSIZE[first])
    y_steps = element_strides(y_strides, ITEMSIZE[second])
    gf_steps = list(element_strides(gf_strides, item))
    gf_batch = gf_steps.pop(0) if each else 0
    spec, values, keep = about(g, s, (first, second, compute), x_steps, y_steps, POSITIONS)
    region = _region(g, s, item, each)
    taps = grid(g.kernel, gf_steps[: g.rank])
    lows, highs = _seen(g, region.rows)
    keep += [taps, lows, highs]
    panels, examples = s.panels(g.groups), g.batch if each else 1
    wanted = chunk_count(threads, COARSE)
    part = chunk_size(s.blocks, 1, lambda part: panels * -(-s.blocks // part) * examples, wanted)
    parts = -(-s.blocks // part)
    values |= {
        "chunks": panels * parts * examples, "panels": panels, "parts": parts, "part": part,
        "examples": examples, "batch": g.batch, "region_batch": region.batch,
        "region_rows": region.rows, "low_rows": address(lows),
        "high_rows": address(highs), "near_bytes": region.bytes, "near_gy": region.gy,
        "near_x_batch": region.x[0], "near_y_batch": region.y[0], "places": region.places,
        "gf_batch": gf_batch, "gf_channel": gf_steps[-2], "tap_offsets": address(taps),
    }  # fmt: skip
    for a in range(g.rank - 1):
        table = to_offsets(sources(g, a), region.x[a + 1], 0)
        pair = output_ranges(g, a)
        keep += [table, *pair]
        values |= {
            f"table{a}": address(table), f"first{a}": address(pair[0]),
            f"last{a}": address(pair[1]), f"size{a}": g.size[a], f"x_step{a}": x_steps[a + 1],
            f"near_x{a}": region.x[a + 1], f"near_y{a}": region.y[a + 1],
        }  # fmt: skip
    kernel = KernelSpec("grouped_gradient", filter_gradient.kernel, (spec,), on)
    return Call(kernel, filter_gradient.arguments(g.rank), values, threads, keep)
