"""Launch small_channels.cu and small_channels_filter.cu, for groups of at most 8 channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

from einstride.cuda import kernel, small_channels_shape
from einstride.cuda.axis_map import ArrayLayout, AxisMap, as_struct, index_type, layout_of, strides
from einstride.cuda.im2col import MODES, SOURCES, WORDS, divisor
from einstride.cuda.small_channels_shape import BlockShape, SmallChannels, plane_stride
from einstride.support.caches import cached

THREADS = small_channels_shape.THREADS
COLUMNS = (3, 5, 7)
"""Numbers of taps on the middle axis for which a thread keeps all weights of a column in registers,
if stride and dilation are 1."""


def _at_three(values: Sequence[int], channels_inner: bool, default: int) -> list[int]:
    """Extend one integer per spatial axis to three axes: see `small_channels_shape.three_axes`."""
    if len(values) == 1:
        return [default, values[0], default] if channels_inner else [default, default, values[0]]
    return [default] * (3 - len(values)) + list(values)


def _tile(
    a: Any, length: Sequence[int], slab: int, inner: bool, mode: int, word: int
) -> tuple[list[int], list[int]]:
    """Return the fields of `struct Tile`, and the strides of the tile in shared memory."""
    item, array_strides = a.dtype.itemsize, strides(a)
    if inner:
        tile_strides = [length[1] * length[2] * slab, length[2] * slab, slab]
        channel_stride, slab_words = 1, slab * item // word
        words = prod(length) * slab_words
    else:
        tile_strides = [length[1] * length[2], length[2], 1]
        channel_stride, slab_words = plane_stride((length[0], length[1], length[2])), 1
        words = prod(length) * slab
    sizes, spatial = _at_three(a.shape[1:-1], inner, 1), _at_three(array_strides[1:-1], inner, 0)
    fields = [*sizes, *spatial, a.shape[-1], array_strides[-1], array_strides[0], mode]
    fields += [slab, int(inner), *tile_strides, channel_stride, words]
    fields += [n for side in length for n in divisor(side)] + divisor(slab_words)
    return fields, tile_strides


def _widest_word(a: Any, slab: int, inner: bool) -> int:
    """Return the widest word in bytes with which all of a slab can be copied to shared memory."""
    item = a.dtype.itemsize
    if not inner or (strides(a)[-1] != 1 and a.shape[-1] > 1):
        return int(item)
    others = [a.address, *a.strides[:-1], slab * item, a.shape[-1] * item]
    return next(w for w in (16, 8, 4, 2, 1) if w <= item or not any(n % w for n in others))


def _axes(
    axes: Sequence[AxisMap], shape: BlockShape, tile_strides: Sequence[int], out: Sequence[int]
) -> list[int]:
    fields = []
    for v, b, tile_step, step in zip(axes, shape.box, tile_strides, out, strict=True):
        tap_stride = v.denominator // gcd(v.denominator, v.tap_step)
        boxes = -(-v.count // b)
        fields += [v.count, b, boxes, v.output_step, v.start, v.denominator, v.taps, v.tap_step]
        fields += [tap_stride, tap_stride * v.tap_step // v.denominator * tile_step, step]
    return fields


Launch = tuple[Any, tuple[int, ...], Any, int]
"""A kernel, its grid, its argument struct, and its shared memory in bytes."""


def correlate(
    x: Any,
    f: Any,
    out: Any,
    problem: SmallChannels,
    shape: BlockShape,
    mode: str,
    filter_strides: tuple[tuple[int, ...], int, int, int],
    bias: Any,
    accumulator: str,
    conjugated: int,
) -> None:
    """Compute out (B, *O, D) from x (B, *S, C) and f.

    `filter_strides` are as in `gathered_gemm.product`.
    """
    layouts = layout_of(x), layout_of(f), layout_of(out)
    function, grid, job, memory = correlation(
        *layouts, problem, shape, mode, filter_strides, accumulator, conjugated
    )
    pointer = 0 if bias is None else bias
    function(grid, (THREADS,), (x, f, pointer, out, job), shared_mem=memory)


@cached(1024)
def correlation(
    x: ArrayLayout,
    f: ArrayLayout,
    out: ArrayLayout,
    problem: SmallChannels,
    shape: BlockShape,
    mode: str,
    filter_strides: tuple[tuple[int, ...], int, int, int],
    accumulator: str,
    conjugated: int,
) -> Launch:
    """Return the launch of `correlate` for arrays of given layouts."""
    axes, inner, slab = problem.axes, problem.channels_inner, shape.slab
    slab_in = slab // problem.group_out * problem.group_in
    depthwise = problem.group_in == problem.group_out == 1
    word = _widest_word(x, slab_in, inner)
    item, item_out, out_strides = x.dtype.itemsize, out.dtype.itemsize, strides(out)
    vec = 1
    if inner and depthwise:
        vec = next(v for v in (8, 4, 2, 1) if v * max(item, item_out) <= 16 and slab % v == 0)
    whole = out_strides[-1] == 1 and out.shape[-1] % vec == 0
    aligned = not any(n * item_out % (vec * item_out) for n in out_strides[:-1])
    wide_store = whole and aligned and out.address % (vec * item_out) == 0

    tile, tile_strides = _tile(x, shape.length, slab_in, inner, MODES.index(mode), word)
    middle, run = axes[1], shape.run
    space = middle.denominator if run > 1 else 1
    run_step = tile_strides[1] * (middle.output_step if middle.denominator == 1 else 1)
    near = middle.denominator == 1 and middle.output_step == 1 and middle.tap_step == 1
    column = middle.taps if near and run > 1 and middle.taps in COLUMNS else 0
    offset = small_channels_shape.bytes_of_weights(problem, slab)
    units, runs = slab // vec, shape.box[1] // run
    order = (units, shape.box[2], runs) if inner else (shape.box[2], runs, shape.box[0])
    taps, tap_in, tap_out, tap_group = filter_strides
    slabs = -(-out.shape[-1] // slab)
    fields = _axes(axes, shape, tile_strides, _at_three(out_strides[1:-1], inner, 0))
    fields += tile + [0] * len(tile)
    fields += [slabs, slab, out.shape[-1], problem.group_in, problem.group_out]
    fields += [out_strides[-1], out_strides[0]]
    fields += [int(inner), space, run_step, int(wide_store), offset]
    fields += [n for length in order for n in divisor(length)]
    fields += [*_at_three(taps, inner, 0), tap_in, tap_out, tap_group, 0, 0, 0, 0, 0]
    index = index_type((x, f, out), axes)
    names = [SOURCES[str(x.dtype.name)], SOURCES[str(f.dtype.name)], SOURCES[accumulator]]
    names += [SOURCES[str(out.dtype.name)], index, WORDS[word]]
    instance = f"small_channels_correlate<{', '.join(names)}, {vec}, {run}, {column}, {conjugated}>"
    grid = (x.shape[0] * prod(shape.boxes(axes)) * slabs,)
    memory = small_channels_shape.shared_bytes(problem, shape.box, slab)
    return kernel("small_channels", instance), grid, as_struct(fields), memory


def filter_parts(
    x: Any,
    gy: Any,
    parts: Any,
    problem: SmallChannels,
    shape: BlockShape,
    mode: str,
    accumulator: str,
) -> None:
    """Compute partial sums of the filter gradient, parts (P, elements): see `partial_sums`."""
    layouts = layout_of(x), layout_of(gy), layout_of(parts)
    function, grid, job, memory = filter_sums(*layouts, problem, shape, mode, accumulator)
    function(grid, (THREADS,), (x, gy, parts, job), shared_mem=memory)


@cached(1024)
def filter_sums(
    x: ArrayLayout,
    gy: ArrayLayout,
    parts: ArrayLayout,
    problem: SmallChannels,
    shape: BlockShape,
    mode: str,
    accumulator: str,
) -> Launch:
    """Return the launch of `filter_parts` for arrays of given layouts."""
    axes, inner, slab = problem.axes, problem.channels_inner, shape.slab
    slab_in = slab // problem.group_out * problem.group_in
    words = _widest_word(x, slab_in, inner), _widest_word(gy, slab, inner)
    tile, tile_strides = _tile(x, shape.length, slab_in, inner, MODES.index(mode), words[0])
    tile_y, _ = _tile(gy, shape.box, slab, inner, 0, words[1])
    side_by_side = small_channels_shape.slice_count(problem, shape.box, slab)
    slabs = -(-gy.shape[-1] // slab)
    splits = parts.shape[0]
    column = small_channels_shape.column_tap_count(problem)
    middle = axes[1]
    slide = int(middle.output_step == 1 and middle.tap_step == 1 and column > 1)
    y_offset = small_channels_shape.bytes_of_tile(problem, shape.length, slab_in, x.dtype.itemsize)
    fields = _axes(axes, shape, tile_strides, (0, 0, 0)) + tile + tile_y
    fields += [slabs, slab, gy.shape[-1], problem.group_in, problem.group_out, 0, 0]
    fields += [int(inner), 0, 0, 0, 0, *[0] * 9, *[0] * 6]
    pairs = small_channels_shape.pair_count(problem, slab)
    fields += [x.shape[0], splits, pairs, side_by_side, y_offset]
    index = index_type((x, gy, parts), axes)
    names = [SOURCES[str(x.dtype.name)], SOURCES[str(gy.dtype.name)], SOURCES[accumulator]]
    names += [index, WORDS[words[0]], WORDS[words[1]]]
    instance = f"small_channels_filter<{', '.join(names)}, {column}, {slide}>"
    memory = small_channels_shape.shared_bytes(problem, shape.box, slab)
    return kernel("small_channels_filter", instance), (slabs * splits,), as_struct(fields), memory
