"""Launch tiles.cu, a matrix product whose left factor is gathered, for all dtypes and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from einstride.cuda import kernel, output_phases
from einstride.cuda.axis_map import (
    ArrayLayout,
    AxisMap,
    as_struct,
    index_type,
    layout_of,
    round_up,
    strides,
)
from einstride.cuda.im2col import MODES, SOURCES
from einstride.cuda.output_phases import Phase
from einstride.support.caches import cached

THREADS = 128
"""Threads of a block, as in tiles.cu."""
TABLE = 64
"""Terms in a table of tiles.cu; each part of a filter gradient has a multiple of it."""
SECTOR = 32
"""Bytes of one memory transaction of the device."""
FEW_AXES, MANY_AXES = 4, 12
"""Batch and spatial axes of the kernel's two instances: fewer axes take fewer registers."""
PHASES = 8
"""Most phases of an axis in one launch, which the argument struct has room for."""
PHASES_OF_MANY = 4
"""Most phases with `MANY_AXES`: CUDA limits the arguments of a launch to 4 KiB."""
PROCESSORS = 132
"""Multiprocessors of an H100. If a launch has fewer blocks, its phases are divided among blocks."""


@dataclass(frozen=True)
class TileShape:
    """The register tile of a thread, tm x tn results, and the threads along the columns."""

    tm: int
    tn: int
    columns: int

    @property
    def rows(self) -> int:
        """Rows of the product that a block computes."""
        return THREADS // self.columns * self.tm

    @property
    def width(self) -> int:
        """Columns of the product that a block computes."""
        return self.columns * self.tn


def choose_tile(
    rows: int, columns: int, accumulator: int, axes: int, elements: bool, groups: int, many: bool
) -> TileShape:
    """Choose the tile for a product of `rows` x `columns` in each group.

    Rows are positions, or for `elements` elements of a filter. Blocks of few columns get many rows
    if enough blocks remain, so that they read little halo and filter per result. `many`: a launch
    has several phases, whose positions take registers.
    """
    tm_most = 8 if accumulator <= 8 else 4
    if axes == FEW_AXES and elements and columns <= 4 and rows > 160:
        return TileShape(4, 4, 1)
    if axes == FEW_AXES and not elements and columns <= 16:
        wide = TileShape(4, 4, 1)
        if columns > 4:
            wide = TileShape(tm_most, 4, 2 if columns <= 8 else 4)
        if rows // wide.rows * groups >= PROCESSORS:
            return wide
    tn_most = 8 if accumulator <= 4 else 4
    tn = next((n for n in (1, 2, 4) if 8 * n >= columns), tn_most)
    tm = next((m for m in (2, 4, 8, 10) if 16 * m >= rows), tm_most)
    if tm == 10 and not elements:
        tm = 8
    if many and axes > FEW_AXES:
        tm = min(tm, 4)
    return TileShape(min(tm, 10 if accumulator <= 8 else 4), tn, 8)


@cached(1024)
def choose_box(
    maps: tuple[AxisMap, ...], batch: int, volume: int, sectors: tuple[int, int], share: float
) -> tuple[int, ...]:
    """Choose the box of `volume` positions (b, *o) that moves the fewest bytes per position.

    Its sides are powers of two. `sectors`: elements of the last axis in one memory transaction, of
    x and of the array of positions; 1 if channels are innermost. `share`: bytes of a position in
    that array for each byte of a position in x.
    """
    counts = (batch, *(v.count for v in maps))
    box = [1] * len(counts)

    def moved(sides: Sequence[int]) -> float:
        boxes = prod(-(-n // s) for n, s in zip(counts, sides, strict=True))
        reads = sides[0]
        for v, s in zip(maps, sides[1:], strict=True):
            s = min(s, v.count)
            extent = (s - 1) * v.output_step + (v.taps - 1) * v.tap_step + 1
            seen = min(extent, s * v.taps)
            if v is maps[-1] and sectors[0] > 1:
                seen = min(round_up(seen + sectors[0] - 1, sectors[0]), v.size)
            reads *= seen
        run, over = min(sides[-1], counts[-1]), 1.0
        if run < counts[-1]:  # runs need not begin at a sector
            over += (sectors[1] - gcd(run, sectors[1])) / run
        return boxes * (reads + 0.5 * prod(sides)) + share * over * prod(counts)

    while prod(box) < volume:
        tries = [[*box[:a], 2 * box[a], *box[a + 1 :]] for a in range(len(box))]
        box = min(reversed(tries), key=moved)
    return tuple(box)


def _index_list(digits: Sequence[Sequence[int]], axes: int, volume: int) -> tuple[list[int], int]:
    """Return the fields of `struct List` and its number of entries.

    A digit is (count, box, step, start, step of the other array) of one axis.
    """
    *spatial, channels = digits
    idle = [(1, 1, 0, 0, 0)] * (axes - len(spatial))
    fields: list[int] = []
    total = volume
    for count, box, step, start, other in (*spatial, *idle, channels):
        boxes = -(-count // box)
        total *= boxes
        fields += [count, box, boxes, step, start, other]
    return [total, volume, *fields], total


def product(
    x: Any,
    other: Any,
    out: Any,
    maps: tuple[AxisMap, ...],
    mode: str,
    groups: int,
    inner: tuple[int, int],
    filter_strides: tuple[tuple[int, ...], int, int, int],
    bias: Any = None,
    parts: int = 0,
    accumulator: str = "float32",
    conjugated: int = 0,
) -> None:
    """Compute a product whose left factor is gathered from x (B, *S, C), on the current stream.

    For a correlation `other` is the filter and `out` (B, *O, D). For a filter gradient
    (`parts` > 0) `other` is gy (B, *O, D), and `out` the partial sums (parts, elements), or the
    gradient itself if there is one part. Axis maps with a denominator are split into phases;
    elements of `out` in no phase are not written (see `output_phases.covers`). `inner` is (C, D) of
    one group; `filter_strides` are the strides of the filter in elements: of its taps, of its
    channels in and out, and of its groups.
    """
    layouts = layout_of(x), layout_of(other), layout_of(out)
    pointer = 0 if bias is None else bias
    for phases in output_phases.launches(maps, most_phases(maps)):
        function, grid, job = prepare(
            *layouts, maps, phases, mode, groups, inner, filter_strides, parts, accumulator,
            conjugated,
        )  # fmt: skip
        function(grid, (THREADS,), (x, other, pointer, out, job))


@cached(1024)
def prepare(
    x: ArrayLayout,
    other: ArrayLayout,
    out: ArrayLayout,
    full_maps: tuple[AxisMap, ...],
    phases: tuple[tuple[Phase, ...], ...],
    mode: str,
    groups: int,
    inner: tuple[int, int],
    filter_strides: tuple[tuple[int, ...], int, int, int],
    parts: int,
    accumulator: str,
    conjugated: int,
) -> tuple[Any, tuple[int, int], Any]:
    """Return kernel, grid and argument struct of one launch of `product`."""
    from_filter = parts > 0
    maps = tuple(output_phases.largest_phase(v) for v in full_maps)
    axes = FEW_AXES if len(maps) < FEW_AXES else MANY_AXES
    x_strides = strides(x)
    positions = out if not from_filter else other
    p_strides = strides(positions)
    of_taps, tap_in, tap_out, tap_group = filter_strides
    taps = [output_phases.tap_stride(v) * t for v, t in zip(full_maps, of_taps, strict=True)]
    elements = prod(v.taps for v in maps) * inner[0]
    position_count = x.shape[0] * prod(v.count for v in maps)
    item = 16 if accumulator == "complex128" else 4 if accumulator in ("float32", "int32") else 8
    most = 1 if maps == full_maps else most_phases(maps)
    row_count = elements if from_filter else position_count
    shape = choose_tile(row_count, inner[1], item, axes, from_filter, groups, most > 1)
    volume = TABLE if from_filter else shape.rows
    inner_channels = _channels_inner(x_strides)
    sectors = (
        1 if inner_channels else max(1, SECTOR // x.dtype.itemsize),
        1 if _channels_inner(p_strides) else max(1, SECTOR // positions.dtype.itemsize),
    )
    share = inner[1] * positions.dtype.itemsize / max(inner[0] * x.dtype.itemsize, 1)
    box = choose_box(maps, x.shape[0], volume, sectors, share)
    digits = [(x.shape[0], box[0], 1, 0, p_strides[0])]
    for v, whole, side, step in zip(maps, full_maps, box[1:], p_strides[1:-1], strict=True):
        digits.append((v.count, side, v.output_step, v.start, whole.denominator * step))
    position_list, position_total = _index_list([*digits, (1, 1, 0, 0, 0)], axes, volume)
    digits = [(1, 1, 0, 0, 0)]
    digits += [(v.taps, 1, v.tap_step, 0, t) for v, t in zip(maps, taps, strict=True)]
    element_list, _ = _index_list([*digits, (inner[0], 1, x_strides[-1], 0, tap_in)], axes, 1)

    rows, terms = (element_list, position_list) if from_filter else (position_list, element_list)
    terms_total = position_total if from_filter else elements
    each = terms_total
    if parts > 1:
        each = round_up(-(-terms_total // parts), TABLE)
    by_channel = (p_strides[-1], inner[1] * p_strides[-1])
    by_filter = (tap_out, tap_group)
    read, write = (by_channel, by_filter) if from_filter else (by_filter, by_channel)
    column_tiles = -(-inner[1] // shape.width)
    idle = [1] * (axes - 1 - len(maps))
    term_stride = min(
        (abs(t) for v, t in zip(maps, taps, strict=True) if v.taps > 1), default=tap_in
    )
    columns_inner = read[0] == 1 or (from_filter or abs(read[0]) < abs(term_stride))
    fields = [
        *x.shape[:-1], *idle, *x_strides[:-1], *[0 * i for i in idle], MODES.index(mode),
        inner[1], groups, column_tiles, int(inner_channels != from_filter), int(columns_inner),
        inner[0] * x_strides[-1], read[1], read[0], write[1], write[0],
        each, prod(out.shape) // parts if parts > 1 else 0, *rows, *terms,
    ]  # fmt: skip
    fields += _phase_fields(phases, axes, most, of_taps, p_strides[1:-1])
    index = index_type((x, other, out), full_maps, (terms_total, position_total))
    names = [SOURCES[str(a.dtype.name)] for a in (x, other)]
    names += [SOURCES[accumulator], SOURCES[str(out.dtype.name)], index]
    numbers = (axes, shape.tm, shape.tn, shape.columns, conjugated, most)
    instance = f"tile_product<{', '.join([*names, *map(str, numbers)])}>"
    row_tiles = -(-(elements if from_filter else position_total) // shape.rows)
    blocks, phase_count = row_tiles * groups * column_tiles, prod(map(len, phases))
    phase_blocks = min(phase_count, -(-2 * PROCESSORS // max(blocks, 1)))
    return kernel("tiles", instance), (blocks, max(parts, phase_blocks)), as_struct(fields)


def _channels_inner(strides: Sequence[int]) -> bool:
    return abs(strides[-1]) <= min(map(abs, strides[1:-1]), default=0)


def most_phases(maps: Sequence[AxisMap]) -> int:
    """Return the most phases of an axis in one launch."""
    return PHASES if len(maps) < FEW_AXES else PHASES_OF_MANY


def _phase_fields(
    phases: Sequence[Sequence[Phase]], axes: int, most: int, taps: Sequence[int], out: Sequence[int]
) -> list[int]:
    """Return the fields of `struct Job` for the phases of every axis of the kernel."""
    idle = axes - 1 - len(phases)
    fields = []
    for axis, tap, step in zip(phases, taps, out, strict=True):
        numbers = [(p.count, p.start, p.taps, p.tap * tap, p.first * step) for p in axis]
        fields += [n for p in numbers for n in p] + [0] * 5 * (most - len(numbers))
    fields += ([1, 0, 1, 0, 0] + [0] * 5 * (most - 1)) * idle
    return [*map(len, phases), *[1] * idle, *fields]
