"""Panels of output channels: vectors of whole groups, or within one group.

If vectors span groups, a vector of x is loaded and shuffled into the order of the output's lanes; a
depthwise layer needs no shuffle. Otherwise a vector lies within one group, and one number of x is
broadcast to all lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.vector_formats import load, shuffle
from einstride.cpu.conv.channelwise.rows import RowSchedule
from einstride.cpu.conv.register_tile import RegisterTile, multiply_add

Factor = Callable[[int, int, int], Value]
"""``factor(c, part, v)``: what multiplies vector v of input channel c, in the register tile of a
part of complex elements."""


@dataclass(frozen=True)
class ChannelSchedule(RowSchedule):
    """What the schedules with vectors along channels have.

    Attributes
    ----------
    inputs, outputs : int
        Input and output channels per group if vectors span groups; else the input channels of a
        tile, and 0.
    """

    inputs: int
    outputs: int

    in_lanes = "output channels"
    operands = "vectors of output channels"

    @property
    def spans_groups(self) -> bool:
        """True if a vector holds whole groups."""
        return self.outputs > 0


class Panel:
    """Some vectors of output channels.

    Parameters
    ----------
    code : Code
        The kernel that is being written.
    schedule : ChannelSchedule
        The kernel's schedule.
    vectors : int
        The number of vectors.
    lane : Value
        The first lane, of all output channels.
    lanes_left : Value or None
        The lanes from there on; None if those of all vectors exist.
    """

    def __init__(
        self, code: Code, schedule: ChannelSchedule, vectors: int, lane: Value,
        lanes_left: Value | None,
    ) -> None:  # fmt: skip
        self.code, self.schedule, self.lane, self.lanes_left = code, schedule, lane, lanes_left
        lanes = schedule.lanes
        self.masks: list[Mask | None] = [
            None if lanes_left is None else code.first_lanes(lanes_left - v * lanes, lanes)
            for v in range(vectors)
        ]

    def tiles(self, rows: int) -> list[RegisterTile]:
        """Write register tiles of these vectors."""
        return replace(self.schedule, rows=rows, vectors=len(self.masks)).tiles(self.code)

    def address(self, pointer: Pointer, v: int, stride: Value | None) -> Pointer:
        """Return the address of vector v; the channels' stride is None if they are contiguous."""
        lane = self.lane + v * self.schedule.lanes
        return pointer.at(lane if stride is None else lane // self.schedule.parts * stride)

    def add_products(
        self, tiles: list[RegisterTile], rows: Sequence[int], x: Pointer, factor: Factor
    ) -> None:
        """Add x times its factors to a row of the tiles for each input channel."""
        schedule, parts, vectors = self.schedule, self.schedule.parts, range(len(self.masks))
        if schedule.spans_groups:
            for v in vectors:
                for c, x_vector in enumerate(self._load_groups(x, v)):
                    for part, tile in enumerate(tiles):
                        multiply_add(tile.row(rows[c])[v], x_vector, factor(c, part, v))
            return
        for c, row in enumerate(rows):
            channel = x.at(c * parts if schedule.x_contiguous else self.code["x_channel"] * c)
            for part, tile in enumerate(tiles):
                number = channel.at(part).load_as(schedule.x.stored, schedule.compute)
                broadcast = self.code.splat(number, schedule.lanes)
                tile.add_products(row, broadcast, [factor(c, part, v) for v in vectors])

    def _load_groups(self, x: Pointer, v: int) -> Iterator[Value]:
        """Load the groups of vector v; yield their lanes for each input channel of a group."""
        code, schedule, mask = self.code, self.schedule, self.masks[v]
        lanes, parts = schedule.lanes, schedule.parts
        inputs, outputs = schedule.inputs, schedule.outputs
        window = lanes * inputs // outputs
        if self.lanes_left is not None and inputs != outputs:
            mask = code.first_lanes(self.lanes_left * inputs // outputs, window)
        stride = None if schedule.x_contiguous else code["x_channel"]
        lane = (self.lane + v * lanes) * inputs // outputs
        pointer = x.at(lane if stride is None else lane // parts * stride)
        vector = load(pointer, schedule.x, window, mask, stride)
        for c in range(inputs):
            order = [(i // parts // outputs * inputs + c) * parts + i % parts for i in range(lanes)]
            yield shuffle(vector, order)


def loop_over_panels(
    code: Code, schedule: ChannelSchedule, first: Value, last: Value,
    visit: Callable[[Panel, Value], None],
) -> None:  # fmt: skip
    """Loop over panels of V vectors, of lanes `first` to `last` or of groups `first` to `last`.

    Visits the panel and the number of its group, 0 if vectors span groups.
    """
    width, vectors, zero = schedule.width, schedule.vectors, code.number(0)
    if schedule.spans_groups:
        full = last - (last - first) % width
        with code.loop(first, full, width) as d:
            visit(Panel(code, schedule, vectors, d, None), zero)
        with code.loop(full, last, schedule.lanes) as d:
            visit(Panel(code, schedule, 1, d, last - d), zero)
        return
    lanes = code["filters"] // code["groups"] * schedule.parts
    with code.loop(first, last) as group, code.loop(0, lanes, width) as d:
        visit(Panel(code, schedule, vectors, group * lanes + d, lanes - d), group)
