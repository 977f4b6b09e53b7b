"""List the offsets of a tile's positions, in a table that a kernel fills for one tile at a time.

An axis is described by a few integers and by the segments of its padding mode, whatever its length:
no table is longer than a tile. A position that holds no element has the offset `OUTSIDE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Value
from einstride.cpu.fft.plan import Axis
from einstride.cpu.runtime.offset_tables import OUTSIDE, lowest_offset
from einstride.geometry.padding_modes import Segment

FIELDS = (
    "segments", "outputs", "reach", "shift", "stride", "lowest", "entries",
)  # fmt: skip
"""The integers that describe an axis, before four integers for each segment.

Tile t has the positions of the axis from t * outputs on, `reach` of them; position p is at entry
p - t * outputs - shift. Those before hold zeros, and those that a period has no entries for repeat
the first ones.
"""


def describe(
    axis: Axis, segments: Sequence[Segment], overlap: int, shift: int, entries: int,
    size: int, stride: int,
) -> Any:  # fmt: skip
    """Return the description of an axis, for the routine of `write_fill`.

    Parameters
    ----------
    axis : Axis
        The tiles.
    segments : sequence of Segment
        What the positions hold.
    overlap : int
        Positions that a tile shares with the next one.
    shift : int
        Position of a tile that is at the first entry.
    entries : int
        Entries of the table.
    size, stride : int
        Number of elements of the array along the axis, and the stride between them.
    """
    inside = [s for s in segments if s.source >= 0]
    reach = min(axis.outputs + overlap, shift + entries)
    lowest = lowest_offset(size, stride)
    values = (len(inside), axis.outputs, reach, shift, stride, lowest, entries)
    spans = [n for s in inside for n in (s.start, s.stop, s.source, s.step)]
    return np.array([*values, *spans], np.int64)


def write_fill(code: Code) -> Any:
    """Write the routine (description, table, step, tile, base) that fills a table for a tile.

    `step` is the distance of entries; `base` is added to the offset of each element.
    """

    def body(
        description: Value, table_address: Value, step: Value, tile: Value, base: Value
    ) -> None:
        d, table = code.pointer(description, "int64"), code.pointer(table_address, "int64")
        f = {name: d.at(i).load() for i, name in enumerate(FIELDS)}
        with code.loop(0, f["entries"] + 1) as i:  # the row that may be paired with the last
            table.at(i * step).store(code.number(OUTSIDE))
        start = tile * f["outputs"]
        stop = start + f["reach"]
        with code.loop(0, f["segments"]) as s:
            span = [d.at(s * 4).at(len(FIELDS) + i).load() for i in range(4)]
            first, last = span[0].maximum(start), span[1].minimum(stop)
            with code.when(first < last):
                element = span[2] + span[3] * (first - span[0])
                offset = code.variable(element * f["stride"] - f["lowest"] + base)
                with code.loop(first, last) as position:
                    table.at((position - start - f["shift"]) * step).store(offset.get())
                    offset.set(offset.get() + span[3] * f["stride"])

    return code.subroutine("fill_positions", 5, body)
