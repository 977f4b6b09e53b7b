"""Launches tiles.cu: a product whose left factor is gathered, for any dtype and any rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from einstride.cuda import kernel, output_phases
from einstride.cuda.axis_map import Line, View, index, packed, steps, upto, view
from einstride.cuda.im2col import MODES, SOURCES
from einstride.cuda.output_phases import Phase
from einstride.support.caches import cached

THREADS = 128
TABLE = 64
SECTOR = 32  # bytes that memory gives at once
FEW_AXES, MANY_AXES = 4, 12
PHASES = 8  # of an axis that one launch has at most
PHASES_OF_MANY = 4  # with many axes: a launch takes 4 KiB of numbers
PROCESSORS = 132  # of an H100: with fewer blocks than that, phases go to blocks of their own


@dataclass(frozen=True)
class Shape:
    """What a thread makes, TM x TN, and how many threads lie along the columns."""

    tm: int
    tn: int
    columns: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return THREADS // self.columns * self.tm

    @property
    def width(self) -> int:
        """Columns of a block."""
        return self.columns * self.tn


def shape_of(
    rows: int, columns: int, accumulator: int, axes: int, elements: bool, groups: int, many: bool
) -> Shape:
    """The tile for so many rows (elements of a filter, or positions) and columns, of each group.

    Blocks of few columns have many rows where enough blocks are left, so that their halo and the
    filter weigh little. `many`: there are many phases, whose places take registers.
    """
    tm_most = 8 if accumulator <= 8 else 4
    if axes == FEW_AXES and elements and columns <= 4 and rows > 160:
        return Shape(4, 4, 1)
    if axes == FEW_AXES and not elements and columns <= 16:
        wide = Shape(4, 4, 1) if columns <= 4 else Shape(tm_most, 4, 2 if columns <= 8 else 4)
        if rows // wide.rows * groups >= PROCESSORS:
            return wide
    tn_most = 8 if accumulator <= 4 else 4
    tn = next((n for n in (1, 2, 4) if 8 * n >= columns), tn_most)
    tm = next((m for m in (2, 4, 8, 10) if 16 * m >= rows), tm_most)
    if tm == 10 and not elements:
        tm = 8
    if many and axes > FEW_AXES:
        tm = min(tm, 4)
    return Shape(min(tm, 10 if accumulator <= 8 else 4), tn, 8)


@cached(1024)
def box_of(
    lines: tuple[Line, ...], batch: int, volume: int, sectors: tuple[int, int], share: float
) -> tuple[int, ...]:
    """A box of so many positions (b, *o), sides powers of two, that moves least for each.

    `sectors`: elements of the last axis that come from memory together, of x and of the array of
    positions; 1 where channels do. `share`: bytes of a position there for each byte of one of x.
    """
    counts = (batch, *(v.count for v in lines))
    box = [1] * len(counts)

    def moved(sides: Sequence[int]) -> float:
        boxes = prod(-(-n // s) for n, s in zip(counts, sides, strict=True))
        places = sides[0]
        for v, s in zip(lines, sides[1:], strict=True):
            s = min(s, v.count)
            extent = (s - 1) * v.move + (v.taps - 1) * v.reach + 1
            seen = min(extent, s * v.taps)
            if v is lines[-1] and sectors[0] > 1:
                seen = min(upto(seen + sectors[0] - 1, sectors[0]), v.size)
            places *= seen
        run, over = min(sides[-1], counts[-1]), 1.0
        if run < counts[-1]:  # such runs begin anywhere in a sector
            over += (sectors[1] - gcd(run, sectors[1])) / run
        return boxes * (places + 0.5 * prod(sides)) + share * over * prod(counts)

    while prod(box) < volume:
        tries = [[*box[:a], 2 * box[a], *box[a + 1 :]] for a in range(len(box))]
        box = min(reversed(tries), key=moved)
    return tuple(box)


def _list(digits: Sequence[Sequence[int]], axes: int, volume: int) -> tuple[list[int], int]:
    """`struct List` and its entries; a digit is (count, box, move, start, other)."""
    *spatial, channels = digits
    idle = [(1, 1, 0, 0, 0)] * (axes - len(spatial))
    fields: list[int] = []
    total = volume
    for count, box, move, start, other in (*spatial, *idle, channels):
        boxes = -(-count // box)
        total *= boxes
        fields += [count, box, boxes, move, start, other]
    return [total, volume, *fields], total


def product(
    x: Any,
    other: Any,
    out: Any,
    lines: tuple[Line, ...],
    mode: str,
    groups: int,
    inner: tuple[int, int],
    filter_steps: tuple[tuple[int, ...], int, int, int],
    bias: Any = None,
    parts: int = 0,
    accumulator: str = "float32",
    conjugated: int = 0,
) -> None:
    """A gathered product on the current stream.

    x (B, *S, C) is gathered. For a correlation `other` is the filter and `out` (B, *O, D); for a
    filter gradient (`parts` > 0) `other` is gy (B, *O, D) and `out` the parts (parts, elements), or
    the gradient itself if there is one part. Lines with a denominator are cut into phases; what of
    `out` these do not cover is left alone (see `output_phases.covers`). `inner` is (C, D) of one
    group; `filter_steps` are the steps of the filter in elements: of its taps, its channels in and
    out, and from group to group.
    """
    views = view(x), view(other), view(out)
    pointer = 0 if bias is None else bias
    for share in output_phases.shares(lines, most_phases(lines)):
        function, grid, job = gathered(
            *views, lines, share, mode, groups, inner, filter_steps, parts, accumulator, conjugated
        )
        function(grid, (THREADS,), (x, other, pointer, out, job))


@cached(1024)
def gathered(
    x: View,
    other: View,
    out: View,
    every: tuple[Line, ...],
    some: tuple[tuple[Phase, ...], ...],
    mode: str,
    groups: int,
    inner: tuple[int, int],
    filter_steps: tuple[tuple[int, ...], int, int, int],
    parts: int,
    accumulator: str,
    conjugated: int,
) -> tuple[Any, tuple[int, int], Any]:
    """How `product` is launched for such arrays and phases: the kernel, its grid, its job."""
    from_filter = parts > 0
    lines = tuple(output_phases.folded(v) for v in every)
    axes = FEW_AXES if len(lines) < FEW_AXES else MANY_AXES
    x_steps = steps(x)
    positions = out if not from_filter else other
    p_steps = steps(positions)
    of_taps, tap_in, tap_out, tap_group = filter_steps
    taps = [output_phases.apart(v) * t for v, t in zip(every, of_taps, strict=True)]
    elements = prod(v.taps for v in lines) * inner[0]
    places = x.shape[0] * prod(v.count for v in lines)
    item = 16 if accumulator == "complex128" else 4 if accumulator in ("float32", "int32") else 8
    most = 1 if lines == every else most_phases(lines)
    shape = shape_of(
        elements if from_filter else places, inner[1], item, axes, from_filter, groups, most > 1
    )
    volume = TABLE if from_filter else shape.rows
    inner_channels = _channels_inner(x_steps)
    sectors = (
        1 if inner_channels else max(1, SECTOR // x.dtype.itemsize),
        1 if _channels_inner(p_steps) else max(1, SECTOR // positions.dtype.itemsize),
    )
    share = inner[1] * positions.dtype.itemsize / max(inner[0] * x.dtype.itemsize, 1)
    box = box_of(lines, x.shape[0], volume, sectors, share)
    digits = [(x.shape[0], box[0], 1, 0, p_steps[0])]
    for v, whole, side, step in zip(lines, every, box[1:], p_steps[1:-1], strict=True):
        digits.append((v.count, side, v.move, v.start, whole.den * step))
    position_list, position_total = _list([*digits, (1, 1, 0, 0, 0)], axes, volume)
    digits = [(1, 1, 0, 0, 0)]
    digits += [(v.taps, 1, v.reach, 0, t) for v, t in zip(lines, taps, strict=True)]
    element_list, _ = _list([*digits, (inner[0], 1, x_steps[-1], 0, tap_in)], axes, 1)

    rows, terms = (element_list, position_list) if from_filter else (position_list, element_list)
    terms_total = position_total if from_filter else elements
    each = terms_total
    if parts > 1:
        each = upto(-(-terms_total // parts), TABLE)
    by_channel = (p_steps[-1], inner[1] * p_steps[-1])
    by_filter = (tap_out, tap_group)
    read, write = (by_channel, by_filter) if from_filter else (by_filter, by_channel)
    column_tiles = -(-inner[1] // shape.width)
    idle = [1] * (axes - 1 - len(lines))
    term_step = min(
        (abs(t) for v, t in zip(lines, taps, strict=True) if v.taps > 1), default=tap_in
    )
    columns_inner = read[0] == 1 or (from_filter or abs(read[0]) < abs(term_step))
    fields = [
        *x.shape[:-1], *idle, *x_steps[:-1], *[0 * i for i in idle], MODES.index(mode),
        inner[1], groups, column_tiles, int(inner_channels != from_filter), int(columns_inner),
        inner[0] * x_steps[-1], read[1], read[0], write[1], write[0],
        each, prod(out.shape) // parts if parts > 1 else 0, *rows, *terms,
    ]  # fmt: skip
    fields += _phases(some, axes, most, of_taps, p_steps[1:-1])
    wide = index((x, other, out), every, (terms_total, position_total))
    names = [SOURCES[str(a.dtype.name)] for a in (x, other)]
    names += [SOURCES[accumulator], SOURCES[str(out.dtype.name)], wide]
    numbers = (axes, shape.tm, shape.tn, shape.columns, conjugated, most)
    instance = f"tile_product<{', '.join([*names, *map(str, numbers)])}>"
    row_tiles = -(-(elements if from_filter else position_total) // shape.rows)
    blocks, every_phase = row_tiles * groups * column_tiles, prod(map(len, some))
    apart = min(every_phase, -(-2 * PROCESSORS // max(blocks, 1)))  # blocks that share the phases
    return kernel("tiles", instance), (blocks, max(parts, apart)), packed(fields)


def _channels_inner(moves: Sequence[int]) -> bool:
    return abs(moves[-1]) <= min(map(abs, moves[1:-1]), default=0)


def most_phases(lines: Sequence[Line]) -> int:
    """Of an axis in one launch."""
    return PHASES if len(lines) < FEW_AXES else PHASES_OF_MANY


def _phases(
    share: Sequence[Sequence[Phase]], axes: int, most: int, taps: Sequence[int], out: Sequence[int]
) -> list[int]:
    """The fields of `struct Job` for them, of every axis of the kernel."""
    idle = axes - 1 - len(share)
    fields = []
    for axis, tap, step in zip(share, taps, out, strict=True):
        every = [(p.count, p.start, p.taps, p.tap * tap, p.first * step) for p in axis]
        fields += [n for p in every for n in p] + [0] * 5 * (most - len(every))
    fields += ([1, 0, 1, 0, 0] + [0] * 5 * (most - 1)) * idle
    return [*map(len, share), *[1] * idle, *fields]
