"""Call the Winograd kernels with NumPy arrays; `forward` explains the method.

Arrays are channels_last views with contiguous channels. A filter may have any strides, so that the
transposed filter of an input gradient needs no copy. Only outer axes may have a stride above 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.winograd import filter_gradient, filter_transform
from einstride.cpu.winograd import forward as winograd
from einstride.cpu.winograd.plan import (
    FEW_TILES,
    ForwardPlan,
    GradientPlan,
    forward_plan,
    gradient_plan,
    register_tile,
)
from einstride.cpu.winograd.tables import FilteredAxes, tables, tap_offsets, tile_counts
from einstride.cpu.winograd.tiles import Form
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

ITEMSIZE = {"float32": 4, "float64": 8}

CHUNK_CHANNELS = 32
"""Input channels in a chunk of the filter transform, chosen; results do not depend on it."""


@dataclass(frozen=True, eq=False)
class TransformedFilter:
    """A transformed filter in panels, and the form of the kernels that the panels are made for."""

    form: Form
    panels: Any


def form(axes: FilteredAxes, dtype: str, filters: int, target: Target) -> Form:
    """Return the form of the kernels for a number of output channels."""
    lanes = target.lanes(ITEMSIZE[dtype])
    tile, vectors = register_tile(filters, lanes, target.registers)
    return Form(axes.outputs_and_taps, dtype, lanes, tile, vectors)


def forward_workspace(
    g: Geometry, axes: FilteredAxes, dtype: str, threads: int, limit: int, prepared: bool,
    target: Target | None = None,
) -> int:  # fmt: skip
    """Count the bytes of workspace of `forward`: at most `limit`, or the least that is possible."""
    plan, in_full = forward_blocks(
        g, axes, dtype, threads, limit, prepared, target or host_target()
    )
    size = (
        plan.worker_size * threads + g.channels + plan.form.lanes + (plan.u_size if in_full else 0)
    )
    return size * ITEMSIZE[dtype] + 2 * CACHE_LINE


def transforms(
    g: Geometry, axes: FilteredAxes, dtype: str, threads: int, limit: int, target: Target
) -> int:
    """Return the number of times that `forward` transforms a filter that is not prepared."""
    plan, in_full = forward_blocks(g, axes, dtype, threads, limit, False, target)
    return 1 if in_full else plan.blocks


def gradient_workspace(
    g: Geometry,
    axes: FilteredAxes,
    dtype: str,
    threads: int,
    limit: int,
    target: Target | None = None,
) -> int:
    """Count the bytes of workspace of `filter_grad`: `limit` at most, or the least possible."""
    plan = gradient_blocks(g, axes, dtype, threads, limit, target or host_target())
    return (plan.worker_size * threads + plan.sums_size + _zero_count(g, plan.form)) * ITEMSIZE[
        dtype
    ] + CACHE_LINE


def prepare(
    f: Any, g: Geometry, axes: FilteredAxes, launch: Any, threads: int, target: Target | None = None
) -> TransformedFilter:
    """Transform a filter (*K, C, D) with any strides, for many calls of `forward`."""
    target = target or host_target()
    dtype = f.dtype.name
    kernel_form = form(axes, dtype, g.filters, target)
    plan = forward_plan(g, axes, kernel_form, "prepared", threads, 0)
    panels = aligned_empty((plan.u_size,), dtype)
    first_tap, f_strides = _filter_strides(g, f)
    call = _transform_call(g, axes, kernel_form, f_strides, threads, target)
    call(launch, f=address(f) + first_tap * f.itemsize, u=address(panels))
    return TransformedFilter(kernel_form, panels)


def forward(
    x: Any, f: Any, g: Geometry, axes: FilteredAxes, bias: Any, out: Any, launch: Any, threads: int,
    limit: int, prepared: TransformedFilter | None = None, target: Target | None = None,
) -> None:  # fmt: skip
    """Compute out (B, *O, D) = conv(x, f) + bias, within `limit` bytes of workspace if possible."""
    target = target or host_target()
    dtype = out.dtype.name
    plan, in_full = forward_blocks(g, axes, dtype, threads, limit, prepared is not None, target)
    if in_full:
        prepared = prepare(f, g, axes, launch, threads, target)
    f_strides: tuple[int, ...] = ()
    addresses = {}
    if prepared is None:
        first_tap, f_strides = _filter_strides(g, f)
        addresses["f"] = address(f) + first_tap * f.itemsize
    else:
        addresses["f"] = address(prepared.panels)
    item = out.itemsize
    call = _forward_call(plan, g, axes, _strides(x, item), _strides(out, item), f_strides, target)
    scratch, zeros = _allocate_scratch(
        dtype, plan.worker_size * plan.threads, g.channels + plan.form.lanes
    )
    if bias is not None:
        addresses["bias"] = address(bias)
    call(launch, x=address(x), y=address(out), scratch=address(scratch), zeros=zeros, **addresses)


def filter_grad(
    x: Any, gy: Any, g: Geometry, axes: FilteredAxes, out: Any, launch: Any, threads: int,
    limit: int, target: Target | None = None,
) -> None:  # fmt: skip
    """Compute out (*K, C, D), with contiguous output channels, = the filter gradient."""
    target = target or host_target()
    dtype, item = out.dtype.name, out.itemsize
    plan = gradient_blocks(g, axes, dtype, threads, limit, target)
    first_tap, f_strides = _filter_strides(g, out)
    calls = _gradient_calls(plan, g, axes, _strides(x, item), _strides(gy, item), f_strides, target)
    scratch, zeros = _allocate_scratch(
        dtype, plan.worker_size * plan.threads + plan.sums_size, _zero_count(g, plan.form)
    )
    w = address(scratch) + plan.worker_size * plan.threads * item
    addresses = {"f": address(out) + first_tap * item, "w": w}
    calls[0](launch, x=address(x), y=address(gy), v=address(scratch), zeros=zeros, **addresses)
    for call in calls[1:]:
        call(launch, **addresses)


def _strides(a: Any, item: int) -> tuple[int, ...]:
    """Return the strides in elements of `item` bytes; 0 for axes of length one."""
    return element_strides(a.strides, item, a.shape)


def _zero_count(g: Geometry, kernel_form: Form) -> int:
    return max(g.channels, g.filters) + kernel_form.lanes


def _allocate_scratch(dtype: str, scratch: int, zeros: int) -> tuple[Any, int]:
    """Allocate `scratch` uninitialised elements and `zeros` zeros; also the zeros' address."""
    memory = aligned_empty((scratch + zeros,), dtype)
    memory[scratch:] = 0
    return memory, address(memory) + scratch * memory.itemsize


def _filter_strides(g: Geometry, f: Any) -> tuple[int, tuple[int, ...]]:
    """Return the offset of f's first tap, and f's strides; a flipped f starts at its last tap."""
    strides = list(_strides(f, f.itemsize))
    first_tap = 0
    if g.flip:
        for a, count in enumerate(g.kernel):
            first_tap += (count - 1) * strides[a]
            strides[a] = -strides[a]
    return first_tap, tuple(strides)


def _filter_reading(g: Geometry, f_strides: tuple[int, ...]) -> str:
    """Return the `reading` of `filter_transform.kernel` for a filter with these strides."""
    *_, c, d = f_strides
    if d == 1 or g.filters == 1:
        return "filters"
    return "channels" if c == 1 or g.channels == 1 else "any"


@cached(1024)
def forward_blocks(
    g: Geometry,
    axes: FilteredAxes,
    dtype: str,
    threads: int,
    limit: int,
    prepared: bool,
    target: Target,
) -> tuple[ForwardPlan, bool]:
    """Choose the plan of a forward pass, and True if the whole filter is transformed beforehand."""
    kernel_form = form(axes, dtype, g.filters, target)
    size = (limit - 2 * CACHE_LINE) // ITEMSIZE[dtype] - g.channels - kernel_form.lanes
    inner, outer, _ = tile_counts(g, axes)
    tiles = g.batch * outer * prod(inner)
    if prepared:
        return forward_plan(g, axes, kernel_form, "prepared", threads, size), False
    first = forward_plan(g, axes, kernel_form, "prepared", threads, 0)
    in_full = forward_plan(g, axes, kernel_form, "prepared", threads, size - first.u_size)
    few_tiles = tiles <= FEW_TILES
    if not few_tiles and in_full.worker_size * threads + in_full.u_size <= size:
        return in_full, True
    return forward_plan(g, axes, kernel_form, "fused", threads, size), False


@cached(1024)
def gradient_blocks(
    g: Geometry, axes: FilteredAxes, dtype: str, threads: int, limit: int, target: Target
) -> GradientPlan:
    """Choose the plan of a filter gradient within `limit` bytes of workspace."""
    kernel_form = form(axes, dtype, g.filters, target)
    size = (limit - CACHE_LINE) // ITEMSIZE[dtype] - _zero_count(g, kernel_form)
    return gradient_plan(g, axes, kernel_form, threads, size)


@kept
def _transform_call(
    g: Geometry,
    axes: FilteredAxes,
    kernel_form: Form,
    f_strides: tuple[int, ...],
    threads: int,
    target: Target,
) -> Call:
    plan = forward_plan(g, axes, kernel_form, "prepared", threads, 0)
    taps = plan.depth // max(g.channels, 1)
    offsets = tap_offsets(g, axes, f_strides)
    channel_blocks = -(-g.channels // CHUNK_CHANNELS)
    values = {
        "chunks": plan.panels * taps * channel_blocks, "pieces": channel_blocks,
        "piece": CHUNK_CHANNELS, "taps": taps, "f_panel": kernel_form.points * plan.f_point,
        "f_point": plan.f_point, "channels": g.channels, "filters": g.filters,
        **_filter_arguments(axes, offsets, f_strides),
    }  # fmt: skip
    kernel = KernelSpec(
        "winograd_filter",
        filter_transform.kernel,
        (kernel_form, _filter_reading(g, f_strides)),
        target,
    )
    workers = threads if plan.u_size > 1 << 16 else 1
    return Call(kernel, filter_transform.ARGUMENTS, values, workers, (offsets,))


@kept
def _forward_call(
    plan: ForwardPlan, g: Geometry, axes: FilteredAxes, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], f_strides: tuple[int, ...], target: Target,
) -> Call:  # fmt: skip
    tile_arguments, tile_tables = _tile_arguments(
        g, axes, ITEMSIZE[plan.form.dtype], x_strides, y_strides
    )
    transforms_filter = plan.reading != "prepared"
    offsets = tap_offsets(g, axes, f_strides) if transforms_filter else np.zeros(1, np.int64)
    values = {
        "chunks": plan.blocks * plan.splits, "splits": plan.splits, "panels": plan.panels,
        "split_panels": -(-plan.panels // plan.splits), "tiles": plan.tiles, "block": plan.block,
        "scratch_size": plan.worker_size, "v_point": plan.v_point, "m_at": plan.m_at,
        "u_at": plan.u_at, "trash_at": plan.discard_at, "slice": plan.slice,
        "f_panel": plan.form.points * plan.f_point, "f_point": plan.f_point, **tile_arguments,
        **(_filter_arguments(axes, offsets, f_strides) if transforms_filter else {}),
    }  # fmt: skip
    reading = _filter_reading(g, f_strides) if transforms_filter else "prepared"
    kernel = KernelSpec("winograd", winograd.kernel, (plan.form, reading), target)
    return Call(kernel, winograd.ARGUMENTS, values, plan.threads, (*tile_tables, offsets))


@kept
def _gradient_calls(
    plan: GradientPlan, g: Geometry, axes: FilteredAxes, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], f_strides: tuple[int, ...], target: Target,
) -> list[Call]:  # fmt: skip
    tile_arguments, tile_tables = _tile_arguments(
        g, axes, ITEMSIZE[plan.form.dtype], x_strides, y_strides
    )
    offsets = tap_offsets(g, axes, f_strides)
    size = plan.form.points * plan.w_point
    partial = plan.partial_sums > 1
    values = {
        "shares": plan.partial_sums, "share": plan.tiles_per_sum, "tiles": plan.tiles,
        "block": plan.block, "c_block": plan.c_block, "c_blocks": plan.c_blocks,
        "d_block": plan.d_block, "d_blocks": plan.d_blocks, "v_point": plan.v_point,
        "y_point": plan.y_point, "w_point": plan.w_point, "w_row": plan.w_row,
        "v_worker": plan.worker_size, "y_at": plan.y_at, "w_worker": 0 if partial else size,
        "w_chunk": size if partial else 0, **tile_arguments,
        **_filter_arguments(axes, offsets, f_strides),
    }  # fmt: skip
    names = filter_gradient.ARGUMENTS
    parts = [("winograd_grad", filter_gradient.kernel, plan.chunks)]
    if partial:
        parts.append(("winograd_finish", filter_gradient.finish, plan.chunks // plan.partial_sums))
    calls = []
    for name, write, chunks in parts:
        kernel = KernelSpec(name, write, (plan.form,), target)
        part_values = values | {"chunks": chunks}
        calls.append(Call(kernel, names, part_values, plan.threads, (*tile_tables, offsets)))
    return calls


def _tile_arguments(
    g: Geometry,
    axes: FilteredAxes,
    item: int,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
) -> tuple[dict[str, int], tuple[Any, ...]]:
    """List the arguments that describe the tiles, and the tables whose addresses are among them."""
    inner, outer, taps = tile_counts(g, axes)
    offsets = tables(g, axes, x_strides[1:-1], y_strides[1:-1])
    values = {
        "outer": outer, "tiles0": inner[0], "tiles1": inner[1], "taps": taps,
        "x_batch": x_strides[0], "y_batch": y_strides[0],
        "channels": g.channels, "filters": g.filters,
        "in_outer": address(offsets.outer_data), "out_outer": address(offsets.outer_result),
        "in0": address(offsets.data[0]), "in1": address(offsets.data[1]),
        "out0": address(offsets.result[0]), "out1": address(offsets.result[1]),
        "x": offsets.data_lowest * item, "y": offsets.result_lowest * item,
    }  # fmt: skip
    return values, (offsets.data, offsets.result, offsets.outer_data, offsets.outer_result)


def _filter_arguments(
    axes: FilteredAxes, offsets: Any, f_strides: tuple[int, ...]
) -> dict[str, int]:
    """List the arguments that describe the filter: its tap offsets and its strides."""
    inner = [0 if a is None else f_strides[a] for a in axes.inner]
    return {
        "f_tap": address(offsets), "f_0": inner[0], "f_1": inner[1],
        "f_c": f_strides[-2], "f_d": f_strides[-1],
    }  # fmt: skip
