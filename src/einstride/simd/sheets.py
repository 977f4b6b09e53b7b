"""Argument blocks: what a kernel must know of arrays of given shapes and strides, kept for calls.

All but the addresses is found once for a geometry and a memory order. A call copies the words, puts
the addresses in and runs the kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from einstride.borders import source
from einstride.dtypes import ITEMSIZE
from einstride.geometry import Geometry
from einstride.job import Job
from einstride.simd import channels, channels_gradient, compiler, positions, positions_gradient
from einstride.simd.launching import launch
from einstride.simd.compiler import Machine
from einstride.simd.lanes import Format

if TYPE_CHECKING:
    from einstride.backends import Array, Backend

OUTSIDE = -(1 << 60)
"""An offset so negative that no sum with others becomes positive."""

ENTRIES = 1 << 15
"""Numbers in the offset tables of a geometry, at most."""

REAL = {"complex64": "float32", "complex128": "float64"}
CHUNKS = 8
"""Chunks for each thread: so many that the last one is short."""

NEAR = 1 << 14
"""Bytes of a filter that stay near while a tile is summed."""

FEW = 1 << 19
"""Multiply-adds that are done before another thread could begin."""


@dataclass(frozen=True)
class Sheet:
    """A kernel and the words it is called with; `keep` holds the tables they point to."""

    function: Callable[[int, int], None]
    words: Any
    at: tuple[int, ...]
    threads: int
    keep: tuple[Any, ...]
    shift: int = 0

    def run(self, *addresses: int) -> None:
        """Do it, with these addresses at the words `at`."""
        words = self.words.copy()
        for i, address in zip(self.at, addresses, strict=True):
            words[i] = address
        launch(self.function, words.ctypes.data, self.threads)


@lru_cache(maxsize=256)
def _function(module: Any, spec: Any, machine: Machine) -> Callable[[int, int], None]:
    return compiler.compiled(module.kernel(spec), module.NAME)


def steps(a: Array) -> tuple[int, ...]:
    """The strides of an array, counted in real numbers; empty if that is not a whole number."""
    size = a.itemsize // 2 if a.dtype.kind == "c" else a.itemsize
    return () if any(s % size for s in a.strides) else tuple(s // size for s in a.strides)


def plain(a: Array) -> Array:
    """The array itself, or a copy that kernels can read: aligned to its numbers, native bytes."""
    if a.dtype.isnative and a.flags.aligned:
        return a
    return np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("="))


def packed(a: Array, dtype: str) -> Array:
    """In the dtype of the products, without gaps."""
    return np.ascontiguousarray(a, dtype=dtype)


def address(a: Array) -> int:
    """Of the first element."""
    return int(a.__array_interface__["data"][0])


def correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Array | None
) -> Array:
    """y (B, *O, D) = conv(x, f) + bias of a geometry that does not flip; in `out` if given."""
    compute = job.arithmetic.compute
    if out is None:
        out = b.empty(g.y_shape, job.arithmetic.result, x)
    x, f = plain(x), packed(f, compute)
    y = out if out.flags.aligned else np.empty_like(out)
    bias = None if bias is None else packed(bias, compute)
    make = position_sheet if along_positions(x, y, compute) else forward_sheet
    sheet = make(
        g, b.dtype_name(x), compute, job.arithmetic.result, steps(x), steps(y), job.threads,
        compiler.machine(),
    )  # fmt: skip
    sheet.run(
        address(x) + sheet.shift, address(y), address(f), 0 if bias is None else address(bias)
    )
    if y is not out:
        out[...] = y
    return out


def tables(
    g: Geometry, x_steps: tuple[int, ...], inside: tuple[int, int], by_tap: bool = False
) -> tuple[list[Any], int]:
    """Where the taps of each output position lie, by axis: offsets in x; and x's shift.

    Of the last axis only the positions outside of `inside` are listed, tap by tap if `by_tap`.
    Offsets count from the lowest address of x, so that none inside is negative.
    """
    found, shift = [], 0
    for a in range(g.rank):
        size, step, last = g.size[a], x_steps[a + 1], a == g.rank - 1
        low = g.padding[a][0]
        positions = np.arange(g.out[a], dtype=np.int64)
        if last:
            positions = np.delete(positions, slice(*inside))
        at = positions[:, None] * g.stride[a] - low
        at = at + np.arange(g.kernel[a], dtype=np.int64) * g.dilation[a]
        here = source(at, size, g.padding_mode)
        base = (size - 1) * step if step < 0 else 0
        shift += base
        table = np.where(here >= 0, here * step - base, OUTSIDE)
        found.append(np.ascontiguousarray(table.T if last and by_tap else table))
    return found, shift


def interior(g: Geometry) -> tuple[int, int]:
    """The positions of the last axis whose taps all meet x."""
    s, low = g.stride[-1], g.padding[-1][0]
    first = min(max(-(-low // s), 0), g.out[-1])
    stop = (g.size[-1] + low - g.extent[-1]) // s + 1
    return first, max(min(stop, g.out[-1]), first)


def entries(g: Geometry) -> int:
    """Numbers in the tables."""
    first, stop = interior(g)
    outer = sum(o * k for o, k in zip(g.out[:-1], g.kernel[:-1], strict=True))
    return outer + (g.out[-1] - stop + first) * g.kernel[-1]


@lru_cache(maxsize=256)
def forward_sheet(
    g: Geometry, stored: str, compute: str, result: str,
    x_steps: tuple[int, ...], y_steps: tuple[int, ...], threads: int, machine: Machine,
) -> Sheet:  # fmt: skip
    """The kernel and the words for `correlate`."""
    pairs = compute.startswith("complex")
    real = REAL.get(compute, compute)
    parts = 2 if pairs else 1
    lanes = machine.vector_bytes // np.dtype(real).itemsize
    x = Format(REAL.get(stored, stored), real, pairs and stored.startswith("complex"))
    y = Format(REAL.get(result, result), real, pairs)
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    merged = lanes // parts % outputs == 0 and inputs <= 16 and g.groups > 1
    inside, outside = interior(g)
    listed, shift = tables(g, x_steps, (inside, outside))
    width = outside - inside
    count = -(-(g.filters if merged else outputs) * parts // lanes)
    tile, vectors = blocking(
        width, count, machine, parts, inputs if merged else 1, prod(g.kernel)
    )
    spec = channels.Spec(
        x, y, lanes, g.rank, tile, vectors, merged, inputs if merged else 0,
        outputs if merged else 0, x_steps[-1] == parts, y_steps[-1] == parts,
    )  # fmt: skip
    rows = prod(g.out[:-1])
    many = CHUNKS * threads
    if g.multiply_adds * parts**2 < FEW:
        threads = 1
    each = max(-(-g.batch * rows // many), 1)
    each = min(each, rows)
    blocks = -(-rows // each)
    strips = max(min(width // max(tile, 1), many // max(g.batch * blocks, 1)), 1)
    words = [
        0, g.batch * blocks * strips, blocks, each, rows, strips, width // strips,
        0, x_steps[0], x_steps[-1], g.stride[-1] * x_steps[-2], g.dilation[-1] * x_steps[-2],
        -g.padding[-1][0] * x_steps[-2] - (min(x_steps[-2], 0) * (g.size[-1] - 1)),
        inside, outside, 0, y_steps[0], y_steps[-1], 0, 0, inputs, g.groups, g.filters,
    ]  # fmt: skip
    for a in range(g.rank):
        words += [address(listed[a]), g.kernel[a], g.out[a], y_steps[a + 1]]
    names = channels.arguments(g.rank)
    at = tuple(names.index(n) for n in ("x", "y", "f", "bias"))
    return Sheet(
        _function(channels, spec, machine), np.array(words, np.int64), at,
        min(threads, words[1]), tuple(listed), shift * _item(stored),
    )  # fmt: skip


def along_positions(x: Array, y: Array, compute: str) -> bool:
    """Do vectors run along the last axis' positions? Where these alone lie side by side."""
    parts = 2 if compute.startswith("complex") else 1
    a, c = steps(x), steps(y)
    if c[-2] != parts and a[-2] != parts:
        return False
    return c[-1] != parts or y.shape[-1] == 1


@lru_cache(maxsize=256)
def position_sheet(
    g: Geometry, stored: str, compute: str, result: str,
    x_steps: tuple[int, ...], y_steps: tuple[int, ...], threads: int, machine: Machine,
) -> Sheet:  # fmt: skip
    """The kernel and the words for `correlate` along rows of positions."""
    pairs = compute.startswith("complex")
    real = REAL.get(compute, compute)
    parts = 2 if pairs else 1
    lanes = machine.vector_bytes // np.dtype(real).itemsize
    x = Format(REAL.get(stored, stored), real, pairs)
    y = Format(REAL.get(result, result), real, pairs)
    each = lanes // parts
    inside, outside = interior(g)
    inside = min(-(-inside // each) * each, g.out[-1])
    outside = max(inside, inside + (outside - inside) // each * each)
    outputs = g.filters // g.groups
    room = (24 if machine.registers == 32 else 10) // parts
    results = max(i for i in range(1, min(outputs, 4) + 1) if outputs % i == 0)
    vectors = max(min(room // results, (outside - inside) // each, 6), 1)
    x_unit = g.stride[-1] * x_steps[-2] == parts
    masked = x_unit and g.padding_mode == "zeros"
    spec = positions.Spec(
        x, y, lanes, g.rank, vectors, results, x_unit, y_steps[-2] == parts, masked
    )
    listed, shift = tables(g, x_steps, (0, g.out[-1]) if masked else (inside, outside), True)
    rows = prod(g.out[:-1])
    many = CHUNKS * threads
    if g.multiply_adds * parts**2 < FEW:
        threads = 1
    rows_each = min(max(-(-g.batch * rows // many), 1), rows)
    blocks = -(-rows // rows_each)
    wide = vectors * each
    strips = max(min((outside - inside) // wide, many // max(g.batch * blocks, 1)), 1)
    words = [
        0, g.batch * blocks * strips, blocks, rows_each, rows, strips,
        (outside - inside) // strips // wide * wide,
        0, x_steps[0], x_steps[-1], g.stride[-1] * x_steps[-2], g.dilation[-1] * x_steps[-2],
        -g.padding[-1][0] * x_steps[-2] - (min(x_steps[-2], 0) * (g.size[-1] - 1)),
        inside, outside, 0, y_steps[0], y_steps[-1], 0, 0, g.channels // g.groups, g.groups,
        g.filters, g.size[-1], g.padding[-1][0], g.dilation[-1], g.out[-1] - outside + inside,
    ]  # fmt: skip
    for a in range(g.rank):
        words += [address(listed[a]), g.kernel[a], g.out[a], y_steps[a + 1]]
    names = positions.arguments(g.rank)
    at = tuple(names.index(n) for n in ("x", "y", "f", "bias"))
    return Sheet(
        _function(positions, spec, machine), np.array(words, np.int64), at,
        min(threads, words[1]), tuple(listed), shift * _item(stored),
    )  # fmt: skip


def blocking(
    width: int, count: int, machine: Machine, parts: int, inputs: int, taps: int
) -> tuple[int, int]:
    """P and V: as many sums as registers hold, no more positions than the interior has."""
    room = (24 if machine.registers == 32 else 10) // parts
    if inputs > 1:
        most, vectors = min(room, 8), 1
    else:
        fit = [v for v in (4, 3, 2) if v * 2 <= room and count % v == 0]
        vectors = fit[0] if fit else max(min(count, 4, room // 2), 1)
        if taps * vectors * machine.vector_bytes > NEAR:
            vectors = 1
        most = max(room // vectors, 1)
    tile = max(-(-width // max(-(-width // most), 1)), 1)
    return tile, vectors


UNITS = 16
"""Chunks of a filter gradient, about."""

SUMS = 2 << 20
"""Bytes of unfinished sums, about: units give way to large filters."""


@dataclass(frozen=True)
class Cuts:
    """How a filter gradient is cut; from shapes alone, never from the number of threads.

    Attributes
    ----------
    units : int
        Ranges of rows of a group.
    strips : int
        Parts of a row.
    tables : int
        Tables of sums, together.
    """

    units: int
    strips: int
    tables: int


def cuts(g: Geometry, per_example: bool, size: int) -> Cuts:
    """Tables of `size` bytes each."""
    groups = g.batch if per_example else 1
    rows = prod(g.out[:-1]) * (1 if per_example else g.batch)
    work = g.multiply_adds // groups
    wanted = 1 if work < FEW else max(min(UNITS, SUMS // max(size, 1)), 1)
    units = min(wanted, rows)
    each = -(-rows // max(units, 1))
    units = -(-rows // max(each, 1))
    strips = max(min(wanted // max(units, 1), g.out[-1] // 256), 1)
    strips = -(-g.out[-1] // -(-g.out[-1] // strips))
    return Cuts(units, strips, groups * units * strips)


def accumulate(x: Array, gy: Array, job: Job, b: Backend, out: Array) -> None:
    """out (*K, C // G, D) = sum of conj(x) gy, of a geometry that does not flip."""
    g, compute = job.geometry, job.arithmetic.compute
    x, gy = plain(x), plain(gy)
    plan = cuts(g, job.per_example, prod(g.f_shape) * job.itemsize)
    along = along_positions(x, gy, compute)
    sheet = (position_gradient_sheet if along else gradient_sheet)(
        g, (b.dtype_name(x), b.dtype_name(gy)), compute, steps(x), steps(gy), job.threads,
        job.per_example, plan, compiler.machine(),
    )  # fmt: skip
    sums = np.zeros((plan.tables // (g.batch if job.per_example else 1), *g.f_shape), compute)
    if job.per_example:
        sums = np.zeros((g.batch, *sums.shape), compute)
    sheet.run(address(x) + sheet.shift, address(gy), address(sums))
    total = sums[:, 0] if job.per_example else sums[0]
    for i in range(1, sums.shape[int(job.per_example)]):
        total += sums[:, i] if job.per_example else sums[i]
    out[...] = total


@lru_cache(maxsize=256)
def gradient_sheet(
    g: Geometry, stored: tuple[str, str], compute: str, x_steps: tuple[int, ...],
    y_steps: tuple[int, ...], threads: int, per_example: bool, plan: Cuts, machine: Machine,
) -> Sheet:  # fmt: skip
    """The kernel and the words for `accumulate`."""
    pairs = compute.startswith("complex")
    real = REAL.get(compute, compute)
    parts = 2 if pairs else 1
    lanes = machine.vector_bytes // np.dtype(real).itemsize
    x = Format(REAL.get(stored[0], stored[0]), real, pairs)
    y = Format(REAL.get(stored[1], stored[1]), real, pairs)
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    merged = lanes // parts % outputs == 0 and inputs <= 16 and g.groups > 1
    inside, outside = interior(g)
    listed, shift = tables(g, x_steps, (inside, outside))
    count = -(-(g.filters if merged else outputs) * parts // lanes)
    room = (24 if machine.registers == 32 else 10) // parts
    c = inputs if merged else max(i for i in range(1, min(inputs, 8) + 1) if inputs % i == 0)
    taps = max(room // c, 1)
    tile = -(-g.kernel[-1] // -(-g.kernel[-1] // taps))
    vectors = max(min(room // (tile * c), count, 4), 1)
    spec = channels_gradient.Spec(
        x, y, lanes, g.rank, g.kernel[-1], tile, vectors, merged, c, outputs if merged else 0,
        x_steps[-1] == parts, y_steps[-1] == parts,
    )  # fmt: skip
    all_rows = prod(g.out[:-1])
    group_rows = all_rows * (1 if per_example else g.batch)
    width = vectors * lanes
    whole = g.filters * parts if merged else g.groups
    piece = width if merged else 1
    panel = -(-whole // (piece * 8)) * piece
    if g.multiply_adds * parts**2 < FEW:
        threads, panel = 1, whole
    panels = -(-whole // panel)
    words = [
        0, plan.tables * panels, panels, panel, plan.strips, -(-g.out[-1] // plan.strips),
        plan.units, -(-group_rows // plan.units), group_rows, all_rows,
        0, x_steps[0], x_steps[-1], g.stride[-1] * x_steps[-2], g.dilation[-1] * x_steps[-2],
        -g.padding[-1][0] * x_steps[-2] - (min(x_steps[-2], 0) * (g.size[-1] - 1)),
        inside, outside, 0, y_steps[0], y_steps[-1], 0, prod(g.f_shape) * parts, inputs,
        g.groups, g.filters,
    ]  # fmt: skip
    for a in range(g.rank):
        words += [address(listed[a]), g.kernel[a], g.out[a], y_steps[a + 1]]
    names = channels_gradient.arguments(g.rank)
    at = tuple(names.index(n) for n in ("x", "y", "f"))
    return Sheet(
        _function(channels_gradient, spec, machine), np.array(words, np.int64), at,
        min(threads, words[1]), tuple(listed), shift * _item(stored[0]),
    )  # fmt: skip


@lru_cache(maxsize=256)
def position_gradient_sheet(
    g: Geometry, stored: tuple[str, str], compute: str, x_steps: tuple[int, ...],
    y_steps: tuple[int, ...], threads: int, per_example: bool, plan: Cuts, machine: Machine,
) -> Sheet:  # fmt: skip
    """The kernel and the words for `accumulate` along rows of positions."""
    pairs = compute.startswith("complex")
    real = REAL.get(compute, compute)
    parts = 2 if pairs else 1
    lanes = machine.vector_bytes // np.dtype(real).itemsize
    x = Format(REAL.get(stored[0], stored[0]), real, pairs)
    y = Format(REAL.get(stored[1], stored[1]), real, pairs)
    each = lanes // parts
    inside, outside = interior(g)
    inside = min(-(-inside // each) * each, g.out[-1])
    outside = max(inside, inside + (outside - inside) // each * each)
    room = (16 if machine.registers == 32 else 8) // parts
    tile = -(-g.kernel[-1] // -(-g.kernel[-1] // room))
    x_unit = g.stride[-1] * x_steps[-2] == parts
    masked = x_unit and g.padding_mode == "zeros"
    spec = positions_gradient.Spec(
        x, y, lanes, g.rank, g.kernel[-1], tile, x_unit, y_steps[-2] == parts, masked
    )
    listed, shift = tables(g, x_steps, (0, g.out[-1]) if masked else (inside, outside), True)
    all_rows = prod(g.out[:-1])
    group_rows = all_rows * (1 if per_example else g.batch)
    strip = (outside - inside) // plan.strips // each * each
    words = [
        0, plan.tables, plan.strips, strip, plan.units, -(-group_rows // plan.units), group_rows,
        all_rows, 0, x_steps[0], x_steps[-1], g.stride[-1] * x_steps[-2],
        g.dilation[-1] * x_steps[-2],
        -g.padding[-1][0] * x_steps[-2] - (min(x_steps[-2], 0) * (g.size[-1] - 1)),
        inside, outside, 0, y_steps[0], y_steps[-1], 0, prod(g.f_shape) * parts,
        g.channels // g.groups, g.groups, g.filters, g.size[-1], g.padding[-1][0],
        g.dilation[-1], g.out[-1] - outside + inside,
    ]  # fmt: skip
    for a in range(g.rank):
        words += [address(listed[a]), g.kernel[a], g.out[a], y_steps[a + 1]]
    names = positions_gradient.arguments(g.rank)
    at = tuple(names.index(n) for n in ("x", "y", "f"))
    if g.multiply_adds * parts**2 < FEW:
        threads = 1
    return Sheet(
        _function(positions_gradient, spec, machine), np.array(words, np.int64), at,
        min(threads, words[1]), tuple(listed), shift * _item(stored[0]),
    )  # fmt: skip


def _item(stored: str) -> int:
    """Bytes of a real number."""
    return ITEMSIZE[stored] // (2 if stored.startswith("complex") else 1)
