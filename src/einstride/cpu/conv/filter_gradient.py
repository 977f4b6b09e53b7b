"""Write the loop nest of the filter gradients that sum regions of outputs.

    gf[tap, c, d] += x[element that the output reads under the tap, c] * gy[output, d]

    chunk: panel of output channels, slice of the tiles of input channels, result
      region of outputs, whose x and gy stay in a core's caches
        tap, tile of input channels
          output of the region under which the tap reads x: add the product to the register tile
          add the register tile to gf: the first region stores it

A result is gf, the gf of one example, or a partial sum; it covers a range of the outermost axis of
outputs. A chunk adds its regions in order, so the bits of results do not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.cpu.conv.loop_nest import block, look_up, split
from einstride.cpu.conv.register_tile import RegisterTile
from einstride.cpu.runtime.offset_tables import grid, output_ranges
from einstride.geometry.convolution import Geometry

Range = tuple[Value, Value]
"""The first index, and one past the last."""


def chunk_arguments(panels: int, tiles: int, slice_size: int, results: int) -> dict[str, Any]:
    """List the arguments that divide a filter gradient into chunks: see `locate_part`."""
    slices = -(-tiles // slice_size)
    return {
        "chunks": panels * slices * results, "panels": panels, "slices": slices,
        "slice": slice_size, "tiles": tiles,
    }  # fmt: skip


def result_arguments(
    g: Geometry, strides: Sequence[int], results: int, outer: int, result_outer: int
) -> dict[str, Any]:
    """List the arguments of gf (*K, C, D), or of several results (results, *K, C, D).

    The strides are in elements. The outermost axis of outputs has `outer` of them, of which each
    result sums `result_outer`.
    """
    result, *taps = strides if results > 1 else (0, *strides[-g.rank - 2 :])
    return {
        "gf": 0, "gf_result": result, "gf_channel": taps[-2],
        "tap_offsets": grid(g.kernel, taps[: g.rank]), "outer": outer,
        "result_outer": result_outer,
    }  # fmt: skip


def tap_arguments(g: Geometry, axes: int) -> dict[str, Any]:
    """List, for each tap of the first `axes` axes, the range of outputs under which it reads x."""
    ranges = [output_ranges(g, a) for a in range(axes)]
    return {
        f"{name}{a}": ends[i]
        for a, ends in enumerate(ranges)
        for i, name in enumerate(("first", "last"))
    }


def locate_part(code: Code, chunk: Value, dtype: str) -> tuple[Value, Range, Range, Pointer]:
    """Return a chunk's panel, its tiles of input channels, and its result: the range of the
    outermost axis of outputs, and the address."""  # fmt: skip
    panel, number, result = split(chunk, code["panels"], code["slices"])
    tiles = block(number, code["slice"], code["tiles"])
    outer = block(result, code["result_outer"], code["outer"])
    return panel, tiles, outer, code.array("gf", dtype).at(result * code["gf_result"])


def at_index(pointer: Pointer, indices: Iterable[Value], strides: Iterable[Value]) -> Pointer:
    """Return the address of an element, given its index on each axis and the axes' strides."""
    for index, stride in zip(indices, strides, strict=True):
        pointer = pointer.at(index * stride)
    return pointer


@contextmanager
def loop_over_regions(
    code: Code, axes: Iterable[tuple[Value | int, Value, Value | int]]
) -> Iterator[tuple[list[Range], Value]]:
    """Loop over regions of outputs, given the range of each axis and the outputs of a region on it.

    Yields the range of the region on each axis, and True in the first region.
    """
    with ExitStack() as loops:
        region, outputs_before = [], code.number(0)
        for begin, end, size in axes:
            first = loops.enter_context(code.loop(begin, end, size))
            region.append((first, (first + size).minimum(end)))
            outputs_before = outputs_before + (first - begin)
        yield region, outputs_before.equals(0)


@contextmanager
def loop_over_taps(code: Code, axes: int) -> Iterator[tuple[Value, list[Value]]]:
    """Loop over all taps of `axes` axes; yield a tap's number, and its index on each axis."""
    with code.loops(*((0, code[f"taps{a}"]) for a in range(axes))) as taps:
        number = code.number(0)
        for a, tap in enumerate(taps):
            number = number * code[f"taps{a}"] + tap
        yield number, taps


@contextmanager
def loop_over_outputs_inside(
    code: Code, taps: Sequence[Value], region: Sequence[Range]
) -> Iterator[tuple[Value, Value]]:
    """Loop over the outputs of a region under which a tap reads x, on the axes of `taps`.

    The region is a range of the batch and, if there is such an axis, of the first axis. Yields the
    offsets in x, under the tap, and in gy, whose strides are `y_batch` and so on.
    """
    with ExitStack() as loops:
        n = loops.enter_context(code.loop(*region[0]))
        x_offset, y_offset = n * code["x_batch"], n * code["y_batch"]
        for a, tap in enumerate(taps):
            first, last = (look_up(code, f"{end}{a}", tap) for end in ("first", "last"))
            if a == 0:
                first, last = first.maximum(region[1][0]), last.minimum(region[1][1])
            table = code.array(f"table{a}", "int64").at(tap)
            o = loops.enter_context(code.loop(first, last))
            x_offset = x_offset + table.at(o * code[f"taps{a}"]).load()
            y_offset = y_offset + o * code[f"y_stride{a}"]
        yield x_offset, y_offset


def add_rows(
    tile: RegisterTile, rows: Iterable[int], gf: Pointer, count: Value,
    masks: Sequence[Mask | None], is_first: Value,
) -> None:  # fmt: skip
    """Add the rows of a tile to gf from an input channel on, of which `count` are left."""
    code = tile.code
    for p, row in enumerate(rows):
        with code.when(count >= p + 1):
            tile.add_to(row, gf.at(code["gf_channel"] * p), masks, is_first)
