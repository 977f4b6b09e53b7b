"""Launches thin.cu and thin_filter.cu: groups of few channels, each number read once."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

from einstride.cuda import kernel, small_channels_shape
from einstride.cuda.axis_map import Line, View, index, packed, steps, view
from einstride.cuda.im2col import MODES, SOURCES, WORDS, divisor
from einstride.cuda.small_channels_shape import Shape, Thin, plane
from einstride.support.caches import cached

THREADS = small_channels_shape.THREADS
COLUMNS = (3, 5, 7)  # taps that a thread holds at once where they lie side by side


def _at_three(values: Sequence[int], channels_inner: bool, idle: int) -> list[int]:
    """One number for each spatial axis, on three axes: see `small_channels_shape.three`."""
    if len(values) == 1:
        return [idle, values[0], idle] if channels_inner else [idle, idle, values[0]]
    return [idle] * (3 - len(values)) + list(values)


def _tile(
    a: Any, length: Sequence[int], slab: int, inner: bool, mode: int, word: int
) -> tuple[list[int], list[int]]:
    """`struct Tile` and the tile's own steps."""
    item, moves = a.dtype.itemsize, steps(a)
    if inner:
        own = [length[1] * length[2] * slab, length[2] * slab, slab]
        own_channel, slab_words = 1, slab * item // word
        words = prod(length) * slab_words
    else:
        own = [length[1] * length[2], length[2], 1]
        own_channel, slab_words = plane((length[0], length[1], length[2])), 1
        words = prod(length) * slab
    sizes, own_moves = _at_three(a.shape[1:-1], inner, 1), _at_three(moves[1:-1], inner, 0)
    fields = [*sizes, *own_moves, a.shape[-1], moves[-1], moves[0], mode]
    fields += [slab, int(inner), *own, own_channel, words]
    fields += [n for side in length for n in divisor(side)] + divisor(slab_words)
    return fields, own


def _word(a: Any, slab: int, inner: bool) -> int:
    """The most bytes by which all of a slab can be staged."""
    item = a.dtype.itemsize
    if not inner or (steps(a)[-1] != 1 and a.shape[-1] > 1):
        return int(item)
    others = [a.address, *a.strides[:-1], slab * item, a.shape[-1] * item]
    return next(w for w in (16, 8, 4, 2, 1) if w <= item or not any(n % w for n in others))


def _axes(lines: Sequence[Line], shape: Shape, own: Sequence[int], out: Sequence[int]) -> list[int]:
    fields = []
    for v, b, tile_step, step in zip(lines, shape.box, own, out, strict=True):
        apart = v.den // gcd(v.den, v.reach)
        boxes = -(-v.count // b)
        fields += [v.count, b, boxes, v.move, v.start, v.den, v.taps, v.reach]
        fields += [apart, apart * v.reach // v.den * tile_step, step]
    return fields


Launch = tuple[Any, tuple[int, ...], Any, int]
"""A kernel, its grid, its job, its shared memory."""


def correlate(
    x: Any,
    f: Any,
    out: Any,
    thin: Thin,
    shape: Shape,
    mode: str,
    filter_steps: tuple[tuple[int, ...], int, int, int],
    bias: Any,
    accumulator: str,
    conjugated: int,
) -> None:
    """out (B, *O, D) from x (B, *S, C) and the filter f, whose steps are as in `tiles.product`."""
    views = view(x), view(f), view(out)
    function, grid, job, memory = correlation(
        *views, thin, shape, mode, filter_steps, accumulator, conjugated
    )
    pointer = 0 if bias is None else bias
    function(grid, (THREADS,), (x, f, pointer, out, job), shared_mem=memory)


@cached(1024)
def correlation(
    x: View,
    f: View,
    out: View,
    thin: Thin,
    shape: Shape,
    mode: str,
    filter_steps: tuple[tuple[int, ...], int, int, int],
    accumulator: str,
    conjugated: int,
) -> Launch:
    """How `correlate` is launched for such arrays."""
    lines, inner, slab = thin.lines, thin.channels_inner, shape.slab
    slab_in = slab // thin.group_out * thin.group_in
    depthwise = thin.group_in == thin.group_out == 1
    word = _word(x, slab_in, inner)
    item, item_out, moves = x.dtype.itemsize, out.dtype.itemsize, steps(out)
    vec = 1
    if inner and depthwise:
        vec = next(v for v in (8, 4, 2, 1) if v * max(item, item_out) <= 16 and slab % v == 0)
    whole = moves[-1] == 1 and out.shape[-1] % vec == 0
    aligned = not any(n * item_out % (vec * item_out) for n in moves[:-1])
    wide_store = whole and aligned and out.address % (vec * item_out) == 0

    tile, own = _tile(x, shape.length, slab_in, inner, MODES.index(mode), word)
    middle, run = lines[1], shape.run
    space = middle.den if run > 1 else 1
    run_tile = own[1] * (middle.move if middle.den == 1 else 1)
    near = middle.den == 1 and middle.move == 1 and middle.reach == 1
    column = middle.taps if near and run > 1 and middle.taps in COLUMNS else 0
    offset = small_channels_shape.bytes_of_weights(thin, slab)
    units, runs = slab // vec, shape.box[1] // run
    order = (units, shape.box[2], runs) if inner else (shape.box[2], runs, shape.box[0])
    taps, tap_in, tap_out, tap_group = filter_steps
    slabs = -(-out.shape[-1] // slab)
    fields = _axes(lines, shape, own, _at_three(moves[1:-1], inner, 0))
    fields += tile + [0] * len(tile)
    fields += [slabs, slab, out.shape[-1], thin.group_in, thin.group_out, moves[-1], moves[0]]
    fields += [int(inner), space, run_tile, int(wide_store), offset]
    fields += [n for length in order for n in divisor(length)]
    fields += [*_at_three(taps, inner, 0), tap_in, tap_out, tap_group, 0, 0, 0, 0, 0]
    wide = index((x, f, out), lines)
    names = [SOURCES[str(x.dtype.name)], SOURCES[str(f.dtype.name)], SOURCES[accumulator]]
    names += [SOURCES[str(out.dtype.name)], wide, WORDS[word]]
    instance = f"thin_correlate<{', '.join(names)}, {vec}, {run}, {column}, {conjugated}>"
    grid = (x.shape[0] * prod(shape.boxes(lines)) * slabs,)
    memory = small_channels_shape.shared(thin, shape.box, slab)
    return kernel("thin", instance), grid, packed(fields), memory


def filter_parts(
    x: Any, gy: Any, parts: Any, thin: Thin, shape: Shape, mode: str, accumulator: str
) -> None:
    """Fill parts (P, elements of the filter): see parts.py."""
    views = view(x), view(gy), view(parts)
    function, grid, job, memory = filter_sums(*views, thin, shape, mode, accumulator)
    function(grid, (THREADS,), (x, gy, parts, job), shared_mem=memory)


@cached(1024)
def filter_sums(
    x: View, gy: View, parts: View, thin: Thin, shape: Shape, mode: str, accumulator: str
) -> Launch:
    """How `filter_parts` is launched for such arrays."""
    lines, inner, slab = thin.lines, thin.channels_inner, shape.slab
    slab_in = slab // thin.group_out * thin.group_in
    words = _word(x, slab_in, inner), _word(gy, slab, inner)
    tile, own = _tile(x, shape.length, slab_in, inner, MODES.index(mode), words[0])
    tile_y, _ = _tile(gy, shape.box, slab, inner, 0, words[1])
    side_by_side = small_channels_shape.slices(thin, shape.box, slab)
    slabs = -(-gy.shape[-1] // slab)
    splits = parts.shape[0]
    column = small_channels_shape.column(thin)
    middle = lines[1]
    slide = int(middle.move == 1 and middle.reach == 1 and column > 1)
    y_offset = small_channels_shape.bytes_of_tile(thin, shape.length, slab_in, x.dtype.itemsize)
    fields = _axes(lines, shape, own, (0, 0, 0)) + tile + tile_y
    fields += [slabs, slab, gy.shape[-1], thin.group_in, thin.group_out, 0, 0]
    fields += [int(inner), 0, 0, 0, 0, *[0] * 9, *[0] * 6]
    fields += [x.shape[0], splits, small_channels_shape.pairs(thin, slab), side_by_side, y_offset]
    wide = index((x, gy, parts), lines)
    names = [SOURCES[str(x.dtype.name)], SOURCES[str(gy.dtype.name)], SOURCES[accumulator]]
    names += [wide, WORDS[words[0]], WORDS[words[1]]]
    instance = f"thin_filter<{', '.join(names)}, {column}, {slide}>"
    memory = small_channels_shape.shared(thin, shape.box, slab)
    return kernel("thin_filter", instance), (slabs * splits,), packed(fields), memory
