"""The callers of the kernels of small groups, for arrays whose channels are neighbours."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from einstride.dtypes import ITEMSIZE
from einstride.geometry import Geometry
from einstride.simd import grouped, grouped_gradient
from einstride.simd.channelwise_form import padded_sources
from einstride.simd.compiler import Machine, kernel
from einstride.simd.grouped_rows import MOST_RUNS, Spec, cut
from einstride.simd.grouped_shape import Lanes, lanes_of, panel_tables
from einstride.simd.host import OUTSIDE, Call, address, name_of, offsets, ranges

PANELS_BYTES = 384 << 10
"""Panels that stay in a core's second cache while rows go by."""

ROWS_BYTES = 384 << 10
"""The part of x that a chunk reads, where there are chunks enough."""

FAR_BYTES = 8 << 20
"""Bytes of x and y together that are far from the processor."""

REGION_BYTES = 80 << 10
"""The part of x and gy that a filter gradient sums over at once."""


def correlate(
    x: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int,
    on: Machine,
) -> None:  # fmt: skip
    """out (B, *O, D) = conv(x, panels) + bias."""
    call = _correlation(
        g, name_of(x), compute, name_of(out), x.strides, out.strides, threads, on
    )  # fmt: skip
    addresses = {"x": address(x), "f": address(packed), "y": address(out)}
    if bias is not None:
        addresses["bias"] = address(bias)
    call(launch, **addresses)


def positions(s: Lanes, on: Machine) -> int:
    """The most positions in a tile: sums, a row of the filter and a spread number in registers."""
    room = 24 if on.registers >= 32 else 10
    return max(min(room // s.vectors, 14), 2)


@lru_cache(maxsize=1024)
def _correlation(
    g: Geometry, operand: str, compute: str, result: str, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], threads: int, on: Machine,
) -> Call:  # fmt: skip
    s = lanes_of(g, compute, on)
    x_steps = [t // ITEMSIZE[operand] for t in x_strides]
    y_steps = [t // ITEMSIZE[result] for t in y_strides]
    runs, ranges = cut(g, positions(s, on))
    spec, values, keep = about(g, s, (operand, result, compute), x_steps, y_steps, runs, ranges)
    rows, panels = g.batch * prod(g.out[:-1]), s.panels(g.groups)
    per_panel = prod(g.kernel) * s.blocks * s.block * s.width
    read = g.size[-1] * g.channels * ITEMSIZE[operand]
    block = max(min(ROWS_BYTES // max(read, 1), rows), 1)
    part = 1
    if panels * per_panel * ITEMSIZE[compute] <= PANELS_BYTES:  # of all panels
        block = max(min(block, rows // (8 * threads)), 1)
        part = panels
        while part > 1 and -(-rows // block) * -(-panels // part) < 4 * threads:
            part = -(-part // 2)
    else:
        block = max(min(block, rows * panels // (8 * threads)), 1)
    values |= {
        "chunks": -(-rows // block) * -(-panels // part), "blocks": -(-rows // block),
        "block": block, "rows": rows, "panels": panels, "parts": -(-panels // part),
        "part": part, "f_panel": per_panel,
    }  # fmt: skip
    function = kernel("grouped", grouped.kernel, spec, on=on)
    return Call(function, grouped.arguments(g.rank), values, threads, keep)


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int, each: bool,
    on: Machine,
) -> None:  # fmt: skip
    """out (*K, C // G, D) = the filter gradient, in the dtype of the sums; (B, ...) for `each`."""
    call = _gradient(
        g, name_of(x), name_of(gy), compute, x.strides, gy.strides, out.strides, each, threads, on
    )
    call(launch, x=address(x), y=address(gy), gf=address(out))


def gradient_lanes(g: Geometry, compute: str, on: Machine) -> Lanes:
    """A vector of outputs by so many channels that sums of all taps fit the registers."""
    room = 24 if on.registers >= 32 else 10
    return lanes_of(g, compute, on, max(room // g.kernel[-1], 1))


@lru_cache(maxsize=1024)
def _gradient(
    g: Geometry, first: str, second: str, compute: str, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], gf_strides: tuple[int, ...], each: bool, threads: int, on: Machine,
) -> Call:  # fmt: skip
    s, item = gradient_lanes(g, compute, on), ITEMSIZE[compute]
    x_steps = [t // ITEMSIZE[first] for t in x_strides]
    y_steps = [t // ITEMSIZE[second] for t in y_strides]
    gf_steps = [t // item for t in gf_strides]
    gf_batch = gf_steps.pop(0) if each else 0
    runs, parts = cut(g, 14)
    spec, values, keep = about(g, s, (first, second, compute), x_steps, y_steps, runs, parts)
    taps = np.zeros((), np.int64)
    for count, step in zip(g.kernel, gf_steps[: g.rank], strict=True):
        taps = taps[..., None] + np.arange(count) * step
    taps = np.ascontiguousarray(taps.ravel())
    keep.append(taps)
    panels, examples = s.panels(g.groups), g.batch if each else 1
    part = s.blocks
    while part > 1 and -(-s.blocks // part) * panels * examples < 4 * threads:
        part = -(-part // 2)
    batch, lines = _region(g, s, item)
    values |= {
        "chunks": panels * -(-s.blocks // part) * examples, "panels": panels,
        "parts": -(-s.blocks // part), "part": part, "examples": examples, "batch": g.batch,
        "region_batch": batch, "region_rows": lines, "gf_batch": gf_batch,
        "gf_channel": gf_steps[-2], "tap_offsets": address(taps),
    }  # fmt: skip
    for a in range(g.rank):
        pair = ranges(g, a)
        keep += pair
        values |= {f"first{a}": address(pair[0]), f"last{a}": address(pair[1])}
    function = kernel("grouped_gradient", grouped_gradient.kernel, spec, on=on)
    return Call(function, grouped_gradient.arguments(g.rank), values, threads, keep)


def _region(g: Geometry, s: Lanes, item: int) -> tuple[int, int]:
    """Examples and outputs on the first axis in a region; the same for any number of threads."""
    rows = g.out[0] if g.rank > 1 else 1
    each = (s.joined * s.inputs * prod(g.stride) + s.width) * item * prod(g.out) // max(rows, 1)
    lines = max(REGION_BYTES // max(each, 1), 1)
    if lines >= rows:
        return max(lines // max(rows, 1), 1), max(rows, 1)
    return 1, lines


def about(
    g: Geometry, s: Lanes, dtypes: tuple[str, str, str], x_steps: list[int], y_steps: list[int],
    runs: Any, ranges: list[tuple[int, int]],
) -> tuple[Spec, dict[str, int], list[Any]]:  # fmt: skip
    """What both kernels are told: their spec, words and tables."""
    groups, first, counts, inputs = panel_tables(g, s)
    items = [ITEMSIZE[d] for d in dtypes]
    ahead = prod(g.x_shape) * items[0] + prod(g.y_shape) * items[1] > FAR_BYTES
    full_x = s.joined * s.block == s.lanes and bool((inputs % (s.joined * s.block) == 0).all())
    spec = Spec(
        *dtypes, s, g.rank, g.stride[-1], g.dilation[-1], runs, full_x,
        bool((counts == s.width).all()), ahead,
    )  # fmt: skip
    starts = groups * s.inputs
    zeros = np.zeros(s.lanes, dtypes[0])
    keep: list[Any] = [first, counts, inputs, starts, zeros]
    values = {
        "zeros": address(zeros), "x_step": x_steps[-2], "x_batch": x_steps[0],
        "y_batch": y_steps[0], "inner": s.blocks, "panel_x": address(starts), "panel_column": address(first),
        "panel_columns": address(counts), "panel_inputs": address(inputs),
    }  # fmt: skip
    base = 0
    for a in range(g.rank):
        step = x_steps[a + 1]
        if a + 1 < g.rank:
            table, back = offsets(g, a, step)
        else:
            source, back = padded_sources(g, a), min((g.size[a] - 1) * step, 0)
            table = np.where(source < 0, OUTSIDE, source * step - back)
        base += back
        table = np.ascontiguousarray(table, np.int64)
        keep.append(table)
        values |= {
            f"table{a}": address(table), f"taps{a}": g.kernel[a], f"out{a}": g.out[a],
            f"y_step{a}": y_steps[a + 1],
        }  # fmt: skip
    for i in range(MOST_RUNS):
        start, stop = ranges[i] if i < len(ranges) else (0, 0)
        values |= {f"run{i}": start, f"stop{i}": stop}
    values["x"] = base * ITEMSIZE[dtypes[0]]
    return spec, values, keep
