"""Write what all channelwise kernels share: their walk over rows of positions, and its arguments.

Each row of positions is border, interior, border. In the interior, where every tap meets x, the
address of x is computed from strides. At a border it comes from the offset table of the last axis,
where a negative offset means padding of zeros and the tap is skipped; so no padding mode costs
anything in the interior. The taps of the other axes are looked up once per tile.

A complex number takes two lanes. Two sums are kept apart until the end, in one register tile each,
so that real and imaginary parts are swapped once per tile and not once per product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.conv.channelwise.signature import Signature, axis_arguments
from einstride.cpu.conv.loop_nest import block, locate_line, split
from einstride.cpu.conv.register_tile import RegisterTile
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.chunks import FINE, chunk_count
from einstride.cpu.runtime.offset_tables import offsets
from einstride.geometry.arithmetic import ITEMSIZE


@dataclass(frozen=True)
class RowSchedule(Schedule):
    """What the schedules of all channelwise kernels have.

    Attributes
    ----------
    rank : int
        Number of spatial axes.
    x_contiguous, y_contiguous : bool
        True if the elements of a vector are contiguous in x, or in y or gy.
    """

    rank: int
    x_contiguous: bool
    y_contiguous: bool

    edges = "rows are border, interior, border; tables of offsets leave out taps in zeros"

    @property
    def parts(self) -> int:
        """Lanes of an element: 2 for complex dtypes, else 1."""
        return 2 if self.x.pairs else 1

    def tiles(self, code: Code) -> list[RegisterTile]:
        """Write a register tile for each part of a complex element, or one."""
        return [self.register_tile(code) for _ in range(self.parts)]


def locate_rows(
    code: Code, schedule: RowSchedule, chunk: Value
) -> tuple[Value, Value, Value, Pointer, Pointer]:
    """Return a chunk's strip, its first row, one past its last, and its example in x and y."""
    strip, number, n = split(chunk, code["strips"], code["blocks"])
    first, last = block(number, code["rows"], code["all_rows"])
    x = code.array("x", schedule.x.stored).at(n * code["x_batch"])
    return strip, first, last, x, code.array("y", schedule.y.stored).at(n * code["y_batch"])


def locate_row(
    code: Code, schedule: RowSchedule, row: Value
) -> tuple[list[Pointer], Pointer, Pointer]:
    """Split the index of a row of all examples: its offset tables, its example in x, gy's row."""
    line, n = split(row, code["all_rows"])
    x = code.array("x", schedule.x.stored).at(n * code["x_batch"])
    y = code.array("y", schedule.y.stored).at(n * code["y_batch"])
    tables, _, y = locate_line(code, schedule.rank - 1, line, y)
    return tables, x, y


Ranges = tuple[tuple[Value, Value], ...]
"""The first position, and one past the last, of the border, the interior, the other border."""


def ranges_of_strip(code: Code, strip: Value, end: Value) -> Ranges:
    """Divide a strip of a row; the first strip has the first border, the last one the other."""
    inside, outside, zero = code["inside"], code["outside"], code.number(0)
    is_last = strip.equals(code["strips"] - 1)
    start = inside + strip * code["strip"]
    return (
        (zero, strip.equals(0).select(inside, zero)),
        (start, is_last.select(outside, start + code["strip"])),
        (is_last.select(outside, end), end),
    )


def ranges_of_span(code: Code, first: Value, last: Value) -> Ranges:
    """Divide a span of positions of a row."""
    inside, outside = code["inside"], code["outside"]
    return (
        (first, last.minimum(inside)),
        (first.maximum(inside), last.minimum(outside)),
        (first.maximum(outside), last),
    )


def visit_row(
    code: Code, ranges: Ranges, step: int, visit_border: Callable[[Value, Value, Value], None],
    visit_interior: Callable[[Value, Value], None],
) -> None:  # fmt: skip
    """Visit positions of a row: border, interior, border.

    ``visit_border(w, count, column)`` is called for every `step` positions from w on, of which
    `count` remain in the border; `column` is the number of position w in the table of the border.
    ``visit_interior(start, stop)`` is called once.
    """
    (first, inside), interior, (outside, end) = ranges
    with code.loop(first, inside, step) as w:
        visit_border(w, inside - w, w)
    visit_interior(*interior)
    with code.loop(outside, end, step) as w:
        visit_border(w, end - w, w - code["outside"] + code["inside"])


def row_arguments(sig: Signature, inside: int, outside: int) -> dict[str, Any]:
    """List the kernel arguments that all channelwise kernels have.

    The last axis' offset table lists only positions outside the range from `inside` to `outside`.
    An offset is negative only where a tap meets padding of zeros, even if x has negative strides:
    the bytes that are added to the address of x make it so.
    """
    g, x_strides, y_strides = sig.geometry, sig.x_strides, sig.y_strides
    border = np.delete(np.arange(g.out[-1]), slice(inside, outside))
    listed = [None] * (g.rank - 1) + [border]
    tables, lowest = zip(*(offsets(g, a, x_strides[a + 1], listed[a]) for a in range(g.rank)),
                         strict=True)  # fmt: skip
    return {
        "x": sum(lowest) * ITEMSIZE[sig.x.stored], "x_batch": x_strides[0],
        "x_channel": x_strides[-1], "window_stride": g.stride[-1] * x_strides[-2],
        "x_tap": g.dilation[-1] * x_strides[-2],
        "x_first": -g.padding[-1][0] * x_strides[-2] - lowest[-1],
        "inside": inside, "outside": outside,
        "y": 0, "y_batch": y_strides[0], "y_channel": y_strides[-1], "f": 0,
        "channels": g.channels // g.groups, "groups": g.groups, "filters": g.filters,
        **axis_arguments(sig, tables, g.out),
    }  # fmt: skip


def chunk_arguments(sig: Signature, width: int, tile: int) -> dict[str, int]:
    """List the arguments that divide a forward pass into chunks.

    A chunk is some rows of one example or, where rows are too few for the threads, one strip of
    each of them: a multiple of `tile` positions of the `width` interior ones.
    """
    g = sig.geometry
    rows = prod(g.out[:-1])
    max_chunks = chunk_count(sig.threads, FINE)
    block_rows = min(max(-(-g.batch * rows // max_chunks), 1), rows)
    blocks = -(-rows // block_rows)
    strips = max(min(width // tile, max_chunks // max(g.batch * blocks, 1)), 1)
    return {
        "chunks": g.batch * blocks * strips, "blocks": blocks, "rows": block_rows,
        "all_rows": rows, "strips": strips, "strip": width // strips // tile * tile,
    }  # fmt: skip
