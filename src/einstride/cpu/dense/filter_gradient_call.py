"""Call the kernels of the dense filter gradient with NumPy arrays; the filter is not flipped."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.complex_as_real import real
from einstride.cpu.dense import filter_gradient, packed_filter_gradient_call
from einstride.cpu.dense.pack_call import SLICE_BYTES, PanelLayout, panel_layout, panel_tables
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import COARSE, chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import grid, offsets, output_ranges
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept

REGION_BYTES = 80 << 10
"""Bytes of x and gy in a region, about, chosen to stay in a core's caches. Changing it changes the
order of sums, and so the bits."""


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int,
    per_example: bool = False, target: Target | None = None, max_partial_sums: int = 1,
) -> None:  # fmt: skip
    """Compute out (*K, C // G, D) = the filter gradient, (B, ...) if per example, in `compute`.

    Where no tap leaves x, up to `max_partial_sums` partial sums are computed, each over a part of
    the positions. For complex numbers out is real, (*K, 2C // G, 2D): each part of x times each
    part of gy.
    """
    call, count = gradient_of(
        x, gy, g, compute, out, threads, per_example, target or host_target(), max_partial_sums
    )
    sums = np.empty((count, *out.shape), out.dtype) if count > 1 else out
    call(launch, x=address(x), gy=address(gy), gf=address(sums))
    if count > 1:
        add_partial_sums(sums, out)


def gradient_of(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, threads: int, per_example: bool,
    target: Target, max_partial_sums: int = 1,
) -> tuple[Call, int]:  # fmt: skip
    """Make the call for arrays with these strides, and the number of partial sums it stores.

    The call needs the addresses ``x``, ``gy`` and ``gf``.
    """
    return _gradient_call(
        g, dtype_name(x), dtype_name(gy), compute, x.strides, gy.strides, out.strides, per_example,
        threads, target, max_partial_sums,
    )  # fmt: skip


@kept
def _gradient_call(
    g: Geometry, x_dtype: str, gy_dtype: str, compute: str, x_byte_strides: tuple[int, ...],
    gy_byte_strides: tuple[int, ...], gf_byte_strides: tuple[int, ...], per_example: bool,
    threads: int, target: Target, max_partial_sums: int,
) -> tuple[Call, int]:  # fmt: skip
    layout = panel_layout(compute, g.filters // g.groups, target)
    item = ITEMSIZE[real(compute)]
    x_strides = element_strides(x_byte_strides, ITEMSIZE[real(x_dtype)])
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[real(gy_dtype)])
    gf_strides = list(element_strides(gf_byte_strides, item))
    if packed_filter_gradient_call.fits(g, x_strides[-1], layout.parts):
        dtypes = real(x_dtype), real(gy_dtype), real(compute)
        return packed_filter_gradient_call.call(
            g, layout, dtypes, x_strides, gy_strides, gf_strides, max_partial_sums, per_example,
            threads, target,
        )  # fmt: skip
    gf_batch = gf_strides.pop(0) if per_example else 0
    x_columns, y_columns, column, counts = panel_tables(g, layout, x_strides[-1], layout.parts)
    inner = g.channels // g.groups * layout.parts
    rows = min(layout.rows, inner)
    rows = -(-inner // -(-inner // rows))  # tiles of equal height
    masked = bool((counts != layout.width).any())
    tile = filter_gradient.OuterTile(
        real(x_dtype),
        real(gy_dtype),
        real(compute),
        layout.lanes,
        rows,
        layout.vectors,
        g.rank,
        masked,
    )
    taps = grid(g.kernel, gf_strides[: g.rank])
    in_cache = max(SLICE_BYTES // (len(taps) * layout.width * item), rows)
    slice_size = min(-(-min(in_cache, inner) // rows) * rows, inner)
    panels = len(column) * (g.batch if per_example else 1)
    # Chunks above four tiles are halved for even work, smaller ones only if threads were idle.
    for min_size, min_chunks in ((4 * rows, chunk_count(threads, COARSE)), (rows, threads)):
        slice_size = chunk_size(
            slice_size, rows, lambda n: -(-inner // n) * panels, min_chunks, min_size
        )
    batch, lines = _choose_region(g, layout, item)
    values = {
        "chunks": len(column) * -(-inner // slice_size) * (g.batch if per_example else 1),
        "panels": len(column), "slices": -(-inner // slice_size), "slice": slice_size,
        "channels": inner,
        "examples": g.batch if per_example else 1,
        "x_channel": 1 if layout.parts == 2 else x_strides[-1], "x_batch": x_strides[0],
        "gy_batch": gy_strides[0], "gf_batch": gf_batch,
        "gf_channel": gf_strides[-2], "tap_offsets": address(taps), "batch": g.batch,
        "region_batch": batch, "region_rows": lines, "panel_x": address(x_columns),
        "panel_y": address(y_columns), "panel_column": address(column),
        "panel_columns": address(counts),
    }  # fmt: skip
    tables: list[Any] = [taps, x_columns, y_columns, column, counts]
    base = 0
    for a in range(g.rank):
        table, lowest = offsets(g, a, x_strides[a + 1])
        base += lowest
        arrays = (table, *output_ranges(g, a))
        tables += arrays
        names = (f"table{a}", f"first{a}", f"last{a}")
        values |= {n: address(v) for n, v in zip(names, arrays, strict=True)}
        values |= {f"taps{a}": g.kernel[a], f"out{a}": g.out[a], f"gy_stride{a}": gy_strides[a + 1]}
    values["x"] = base * ITEMSIZE[real(x_dtype)]
    kernel = KernelSpec("outer", filter_gradient.kernel, (tile,), target)
    return Call(kernel, filter_gradient.arguments(g.rank), values, threads, tables), 1


def _choose_region(g: Geometry, layout: PanelLayout, item: int) -> tuple[int, int]:
    """Choose the examples and first-axis outputs in a region; they do not depend on the threads."""
    inner = min(g.channels // g.groups * layout.parts, 64)
    row_bytes = (inner * prod(g.stride) + layout.width) * item * prod(g.out[1:])
    lines = max(REGION_BYTES // max(row_bytes, 1), 1)
    if lines >= g.out[0]:
        return max(lines // max(g.out[0], 1), 1), g.out[0]
    return 1, lines
