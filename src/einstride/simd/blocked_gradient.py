"""The caller of the filter gradient's blocked kernel (`einstride.simd.blocked`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from einstride.geometry import Geometry
from einstride.simd import blocked
from einstride.simd.compiler import Machine, kernel
from einstride.simd.host import Call, address
from einstride.simd.packing import Shape, columns

GROUP = 4
"""Panels that are gone through with the same channels of x, at most."""

FEW = 16
"""Positions of a region below which copying it does not pay."""


def fits(g: Geometry, x_channel: int, parts: int) -> bool:
    """Does every tap of every position lie in x, with x's channels side by side?"""
    inside = all(
        low <= 0 and (out - 1) * stride + (taps - 1) * dilation - low < size
        for out, stride, taps, dilation, (low, _), size in zip(
            g.out, g.stride, g.kernel, g.dilation, g.padding, g.size, strict=True
        )
    )
    return inside and x_channel == parts and g.batch * prod(g.out) >= FEW


def call(
    g: Geometry, s: Shape, dtypes: tuple[str, str, str], x_steps: Sequence[int],
    gy_steps: Sequence[int], gf_steps: Sequence[int], each: bool, threads: int, on: Machine,
) -> Call:  # fmt: skip
    """The kernel for these strides, in elements; gf's begin with the example's where `each`."""
    gf_example, *gf_taps = gf_steps if each else (0, *gf_steps)
    inner = g.channels // g.groups * s.parts
    x_columns, y_columns, column, counts = columns(g, s, x_steps[-1], s.parts)
    axes = _axes(g, x_steps, gy_steps, each)
    split, whole = len(axes) - 1, 1
    while split and whole * axes[split][0] * 2 <= blocked.REGION:
        whole *= axes[split][0]
        split -= 1
    rows = min(s.rows, inner)
    rows = -(-inner // -(-inner // rows))  # the same tile for all of them, as far as that goes
    group = min(GROUP, s.per_group) if g.groups == 1 else 1
    groups = -(-len(column) // group)
    group = -(-len(column) // groups)
    tiles = -(-inner // rows)
    examples = g.batch if each else 1
    slices = min(max(-(-4 * threads // (groups * examples)), 1), tiles)
    part = -(-tiles // slices) * rows
    slices = -(-inner // part)
    tile = blocked.BlockedTile(
        *dtypes, s.lanes, rows, s.vectors, len(axes), split, group
    )  # fmt: skip
    tap_x = _taps(g.kernel, [d * t for d, t in zip(g.dilation, x_steps[1:-1], strict=True)])
    tap_gf = _taps(g.kernel, gf_taps[: g.rank])
    base = sum(-low * t for (low, _), t in zip(g.padding, x_steps[1:-1], strict=True))
    values = {
        "chunks": groups * slices * examples, "panels": len(column), "groups": groups,
        "slices": slices, "slice": part, "channels": inner, "taps": len(tap_x),
        "x_example": x_steps[0] if each else 0, "gy_example": gy_steps[0] if each else 0,
        "gf_example": gf_example, "gf_channel": gf_taps[-2], "tap_x": address(tap_x),
        "tap_gf": address(tap_gf), "region": max(blocked.REGION // whole, 1),
        "panel_x": address(x_columns), "panel_y": address(y_columns),
        "panel_column": address(column), "panel_columns": address(counts),
        "x": base * np.dtype(dtypes[0]).itemsize,
    }  # fmt: skip
    for a, (count, x_step, gy_step) in enumerate(axes):
        values |= {f"out{a}": count, f"x_step{a}": x_step, f"gy_step{a}": gy_step}
    keep = (tap_x, tap_gf, x_columns, y_columns, column, counts)
    function = kernel("blocked", blocked.kernel, tile, on=on)
    return Call(function, blocked.arguments(len(axes)), values, threads, keep)


def _axes(
    g: Geometry, x_steps: Sequence[int], gy_steps: Sequence[int], each: bool
) -> list[tuple[int, int, int]]:
    """(positions, step in x, step in gy) of the batch and the axes; one where they follow on."""
    every = [(g.batch, x_steps[0], gy_steps[0])] if not each else []
    every += [
        (g.out[a], x_steps[a + 1] * g.stride[a], gy_steps[a + 1]) for a in range(g.rank)
    ]
    axes = [every[0]]
    for count, x_step, gy_step in every[1:]:
        before = axes[-1]
        if before[0] == 1 or before[1:] == (x_step * count, gy_step * count):
            axes[-1] = (before[0] * count, x_step, gy_step)
        elif count > 1:
            axes.append((count, x_step, gy_step))
    return axes


def _taps(kernel: Sequence[int], steps: Sequence[int]) -> Any:
    """Where each tap lies."""
    grid = np.zeros((), np.int64)
    for count, step in zip(kernel, steps, strict=True):
        grid = grid[..., None] + np.arange(count) * step
    return np.ascontiguousarray(grid.ravel())
