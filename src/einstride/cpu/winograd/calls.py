"""Minimal filtering (Winograd) of NumPy arrays by compiled kernels: see `winograd` for the method.

Arrays are canonical channels_last views whose channels are neighbours in memory; a filter may
have any steps, so an input gradient's needs no copy. Strides other than 1 only on outer axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine, machine
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.operands import element_strides
from einstride.cpu.winograd import filter_gradient, filter_transform
from einstride.cpu.winograd import forward as winograd
from einstride.cpu.winograd.plan import (
    FEW,
    ForwardPlan,
    GradientPlan,
    forward_plan,
    gradient_plan,
    register_tile,
)
from einstride.cpu.winograd.tables import Split, counted, tables, tap_offsets
from einstride.cpu.winograd.tiles import Form
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

ITEMSIZE = {"float32": 4, "float64": 8}

PIECE = 32
"""Channels of a chunk of the filter's transform."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A transformed filter in panels, and the form of the kernels that read it."""

    form: Form
    panels: Any


def form(split: Split, dtype: str, filters: int, on: Machine) -> Form:
    """The kernels' form for so many output channels."""
    lanes = on.lanes(ITEMSIZE[dtype])
    tile, vectors = register_tile(filters, lanes, on.registers)
    return Form(split.axes, dtype, lanes, tile, vectors)


def forward_workspace(
    g: Geometry, split: Split, dtype: str, threads: int, ceiling: int, prepared: bool,
    on: Machine | None = None,
) -> int:  # fmt: skip
    """Bytes of `forward` beyond its operands: at most `ceiling`, unless nothing less will do."""
    plan, whole = forward_blocks(g, split, dtype, threads, ceiling, prepared, on or machine())
    size = plan.worker * threads + g.channels + plan.form.lanes + (plan.u_size if whole else 0)
    return size * ITEMSIZE[dtype] + 2 * CACHE_LINE


def transforms(
    g: Geometry, split: Split, dtype: str, threads: int, ceiling: int, on: Machine
) -> int:
    """How often `forward` transforms a filter that is not prepared."""
    plan, whole = forward_blocks(g, split, dtype, threads, ceiling, False, on)
    return 1 if whole else plan.blocks


def gradient_workspace(
    g: Geometry, split: Split, dtype: str, threads: int, ceiling: int, on: Machine | None = None
) -> int:
    """Bytes of `filter_grad` beyond its operands, likewise."""
    plan = gradient_blocks(g, split, dtype, threads, ceiling, on or machine())
    return (plan.worker * threads + plan.sums + _zeros(g, plan.form)) * ITEMSIZE[dtype] + CACHE_LINE


def prepare(
    f: Any, g: Geometry, split: Split, launch: Any, threads: int, on: Machine | None = None
) -> Prepared:
    """The transformed filter, for many calls of `forward`. f is (*K, C, D) with any strides."""
    on = on or machine()
    dtype = f.dtype.name
    shape = form(split, dtype, g.filters, on)
    plan = forward_plan(g, split, shape, "prepared", threads, 0)
    panels = aligned_empty((plan.u_size,), dtype)
    back, f_steps = _filter_steps(g, f)
    call = _preparing(g, split, shape, f_steps, threads, on)
    call(launch, f=address(f) + back * f.itemsize, u=address(panels))
    return Prepared(shape, panels)


def forward(
    x: Any, f: Any, g: Geometry, split: Split, bias: Any, out: Any, launch: Any, threads: int,
    ceiling: int, prepared: Prepared | None = None, on: Machine | None = None,
) -> None:  # fmt: skip
    """out (B, *O, D) = conv(x, f) + bias within `ceiling` bytes of scratch memory, if possible."""
    on = on or machine()
    dtype = out.dtype.name
    plan, whole = forward_blocks(g, split, dtype, threads, ceiling, prepared is not None, on)
    if whole:
        prepared = prepare(f, g, split, launch, threads, on)
    f_steps: tuple[int, ...] = ()
    given = {}
    if prepared is None:
        back, f_steps = _filter_steps(g, f)
        given["f"] = address(f) + back * f.itemsize
    else:
        given["f"] = address(prepared.panels)
    item = out.itemsize
    call = _forwarding(plan, g, split, _steps(x, item), _steps(out, item), f_steps, on)
    scratch, zeros = _memory(dtype, plan.worker * plan.threads, g.channels + plan.form.lanes)
    if bias is not None:
        given["bias"] = address(bias)
    call(launch, x=address(x), y=address(out), scratch=address(scratch), zeros=zeros, **given)


def filter_grad(
    x: Any, gy: Any, g: Geometry, split: Split, out: Any, launch: Any, threads: int, ceiling: int,
    on: Machine | None = None,
) -> None:  # fmt: skip
    """out (*K, C, D) = the filter gradient; its output channels lie side by side."""
    on = on or machine()
    dtype, item = out.dtype.name, out.itemsize
    plan = gradient_blocks(g, split, dtype, threads, ceiling, on)
    back, f_steps = _filter_steps(g, out)
    calls = _gradients(plan, g, split, _steps(x, item), _steps(gy, item), f_steps, on)
    scratch, zeros = _memory(dtype, plan.worker * plan.threads + plan.sums, _zeros(g, plan.form))
    w = address(scratch) + plan.worker * plan.threads * item
    given = {"f": address(out) + back * item, "w": w}
    calls[0](launch, x=address(x), y=address(gy), v=address(scratch), zeros=zeros, **given)
    for call in calls[1:]:
        call(launch, **given)


def _steps(a: Any, item: int) -> tuple[int, ...]:
    """Strides in elements of `item` bytes; of axes of length one, none."""
    return element_strides(a.strides, item, a.shape)


def _zeros(g: Geometry, shape: Form) -> int:
    return max(g.channels, g.filters) + shape.lanes


def _memory(dtype: str, scratch: int, zeros: int) -> tuple[Any, int]:
    """Scratch memory with zeros at its end, and their address."""
    found = aligned_empty((scratch + zeros,), dtype)
    found[scratch:] = 0
    return found, address(found) + scratch * found.itemsize


def _filter_steps(g: Geometry, f: Any) -> tuple[int, tuple[int, ...]]:
    """Where the first tap lies and the steps of f, from its end if the filter is flipped."""
    found = list(_steps(f, f.itemsize))
    back = 0
    if g.flip:
        for a, count in enumerate(g.kernel):
            back += (count - 1) * found[a]
            found[a] = -found[a]
    return back, tuple(found)


def _reading(g: Geometry, f_steps: tuple[int, ...]) -> str:
    """How `filter_transform` reads a filter of these steps."""
    *_, c, d = f_steps
    if d == 1 or g.filters == 1:
        return "filters"
    return "channels" if c == 1 or g.channels == 1 else "any"


@cached(1024)
def forward_blocks(
    g: Geometry, split: Split, dtype: str, threads: int, ceiling: int, prepared: bool, on: Machine
) -> tuple[ForwardPlan, bool]:
    """The blocks, and whether the whole filter is to be transformed first."""
    shape = form(split, dtype, g.filters, on)
    room = (ceiling - 2 * CACHE_LINE) // ITEMSIZE[dtype] - g.channels - shape.lanes
    inner, outer, _ = counted(g, split)
    tiles = g.batch * outer * prod(inner)
    if prepared:
        return forward_plan(g, split, shape, "prepared", threads, room), False
    first = forward_plan(g, split, shape, "prepared", threads, 0)
    whole = forward_plan(g, split, shape, "prepared", threads, room - first.u_size)
    few = tiles <= FEW
    if not few and whole.worker * threads + whole.u_size <= room:
        return whole, True
    return forward_plan(g, split, shape, "alone", threads, room), False


@cached(1024)
def gradient_blocks(
    g: Geometry, split: Split, dtype: str, threads: int, ceiling: int, on: Machine
) -> GradientPlan:
    """The blocks of a filter gradient."""
    shape = form(split, dtype, g.filters, on)
    room = (ceiling - CACHE_LINE) // ITEMSIZE[dtype] - _zeros(g, shape)
    return gradient_plan(g, split, shape, threads, room)


@kept
def _preparing(
    g: Geometry, split: Split, shape: Form, f_steps: tuple[int, ...], threads: int, on: Machine
) -> Call:
    plan = forward_plan(g, split, shape, "prepared", threads, 0)
    taps = plan.depth // max(g.channels, 1)
    offsets = tap_offsets(g, split, f_steps)
    pieces = -(-g.channels // PIECE)
    values = {
        "chunks": plan.panels * taps * pieces, "pieces": pieces, "piece": PIECE, "taps": taps,
        "f_panel": shape.points * plan.f_point, "f_point": plan.f_point,
        "channels": g.channels, "filters": g.filters, **_taps(split, offsets, f_steps),
    }  # fmt: skip
    kernel = KernelSpec(
        "winograd_filter", filter_transform.kernel, (shape, _reading(g, f_steps)), on
    )
    workers = threads if plan.u_size > 1 << 16 else 1
    return Call(kernel, filter_transform.ARGUMENTS, values, workers, (offsets,))


@kept
def _forwarding(
    plan: ForwardPlan, g: Geometry, split: Split, x_steps: tuple[int, ...],
    y_steps: tuple[int, ...], f_steps: tuple[int, ...], on: Machine,
) -> Call:  # fmt: skip
    places, keep = _places(g, split, ITEMSIZE[plan.form.dtype], x_steps, y_steps)
    alone = plan.reading != "prepared"
    offsets = tap_offsets(g, split, f_steps) if alone else np.zeros(1, np.int64)
    values = {
        "chunks": plan.blocks * plan.splits, "splits": plan.splits, "panels": plan.panels,
        "split_panels": -(-plan.panels // plan.splits), "tiles": plan.tiles, "block": plan.block,
        "scratch_size": plan.worker, "v_point": plan.v_point, "m_at": plan.m_at,
        "u_at": plan.u_at, "trash_at": plan.trash_at, "slice": plan.slice,
        "f_panel": plan.form.points * plan.f_point, "f_point": plan.f_point, **places,
        **(_taps(split, offsets, f_steps) if alone else {}),
    }  # fmt: skip
    reading = _reading(g, f_steps) if alone else "prepared"
    kernel = KernelSpec("winograd", winograd.kernel, (plan.form, reading), on)
    return Call(kernel, winograd.ARGUMENTS, values, plan.threads, (*keep, offsets))


@kept
def _gradients(
    plan: GradientPlan, g: Geometry, split: Split, x_steps: tuple[int, ...],
    y_steps: tuple[int, ...], f_steps: tuple[int, ...], on: Machine,
) -> list[Call]:  # fmt: skip
    places, keep = _places(g, split, ITEMSIZE[plan.form.dtype], x_steps, y_steps)
    offsets = tap_offsets(g, split, f_steps)
    size = plan.form.points * plan.w_point
    each = plan.shares > 1
    values = {
        "shares": plan.shares, "share": plan.share, "tiles": plan.tiles,
        "block": plan.block, "c_block": plan.c_block, "c_blocks": plan.c_blocks,
        "d_block": plan.d_block, "d_blocks": plan.d_blocks, "v_point": plan.v_point,
        "y_point": plan.y_point, "w_point": plan.w_point, "w_row": plan.w_row,
        "v_worker": plan.worker, "y_at": plan.y_at, "w_worker": 0 if each else size,
        "w_chunk": size if each else 0, **places, **_taps(split, offsets, f_steps),
    }  # fmt: skip
    names = filter_gradient.ARGUMENTS
    parts = [("winograd_grad", filter_gradient.kernel, plan.chunks)]
    if each:
        parts.append(("winograd_finish", filter_gradient.finish, plan.chunks // plan.shares))
    calls = []
    for name, write, chunks in parts:
        kernel = KernelSpec(name, write, (plan.form,), on)
        given = values | {"chunks": chunks}
        calls.append(Call(kernel, names, given, plan.threads, (*keep, offsets)))
    return calls


def _places(
    g: Geometry, split: Split, item: int, x_steps: tuple[int, ...], y_steps: tuple[int, ...]
) -> tuple[dict[str, int], tuple[Any, ...]]:
    """The words that say where tiles lie, and the tables whose addresses are among them."""
    inner, outer, taps = counted(g, split)
    t = tables(g, split, x_steps[1:-1], y_steps[1:-1])
    values = {
        "outer": outer, "tiles0": inner[0], "tiles1": inner[1], "taps": taps,
        "x_batch": x_steps[0], "y_batch": y_steps[0],
        "channels": g.channels, "filters": g.filters,
        "in_outer": address(t.outer_data), "out_outer": address(t.outer_result),
        "in0": address(t.data[0]), "in1": address(t.data[1]),
        "out0": address(t.result[0]), "out1": address(t.result[1]),
        "x": t.data_back * item, "y": t.result_back * item,
    }  # fmt: skip
    return values, (t.data, t.result, t.outer_data, t.outer_result)


def _taps(split: Split, offsets: Any, f_steps: tuple[int, ...]) -> dict[str, int]:
    """The words that say where the filter's numbers lie."""
    inner = [0 if a is None else f_steps[a] for a in split.inner]
    return {
        "f_tap": address(offsets), "f_0": inner[0], "f_1": inner[1],
        "f_c": f_steps[-2], "f_d": f_steps[-1],
    }  # fmt: skip
