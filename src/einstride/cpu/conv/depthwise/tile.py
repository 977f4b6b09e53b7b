"""Write the register tile of the depthwise kernel (`depthwise.forward`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.vector_formats import Format, load, store
from einstride.cpu.conv.blocked_sums import BlockedSums
from einstride.cpu.conv.depthwise.rows import DepthwiseSchedule, Pairs, loop_over_elements
from einstride.cpu.conv.depthwise.sources import NO_ELEMENT, Pattern
from einstride.cpu.conv.loop_nest import loop_over_blocks, loop_over_taps_inside
from einstride.cpu.conv.register_tile import multiply_add

TapRows = Sequence[tuple[int, Value]]
"""The rows of a tile that a row of x contributes to, each with the number of its row of taps."""

TapVectors = dict[tuple[int, int], Value]
"""Taps in registers, by the row of the tile and the number of the tap."""


@dataclass(frozen=True)
class Depthwise(DepthwiseSchedule):
    """The schedule of a depthwise convolution: R rows of P vectors, one for each column.

    Attributes
    ----------
    taps : int
        T, taps of a row held in registers.
    resident : int
        Rows of taps if all taps stay in registers while a tile is summed, else 0.
    backwards : bool
        True if later taps meet earlier elements, as in an input gradient.
    packed : int
        Vectors whose planes of x and taps are packed at once before they are summed; 0 if they are
        read in place.
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    """

    taps: int
    resident: int
    backwards: bool
    packed: int
    block_unit: str

    in_rows = "rows of positions"
    loops = "block of rows and panel, tile, vector of channels, row of taps, element of x"
    overlapping = True

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {"lanes": self.lanes, "rows of positions": self.rows, "columns": self.vectors}


@dataclass
class Tile:
    """The register tile of R rows by P columns of positions, for one vector of channels.

    Attributes
    ----------
    code : Code
        The kernel.
    schedule : Depthwise
        Its schedule.
    f, bias : Pointer
        The addresses of the vector's first tap and of its bias.
    tables : list of Pointer
        Offset tables of the taps on all axes but the last.
    pattern : tuple of tuple of int
        The elements that taps of the last axis meet.
    table : Pointer or None
        The offset table of the last axis, for a tile that meets a border.
    x_stride, f_stride : Value
        Elements from one position to the next in x, and from one tap to the next in f.
    read, written : Mask or None
        The lanes that exist in x and f, and in y; None if all do.
    """

    code: Code
    schedule: Depthwise
    f: Pointer
    bias: Pointer
    tables: list[Pointer]
    pattern: Pattern
    table: Pointer | None
    x_stride: Value
    f_stride: Value
    read: Mask | None
    written: Mask | None

    def write(self, x: Pointer, y: Pointer) -> None:
        """Write the sums of the tile and their stores to y."""
        code, schedule = self.code, self.schedule
        self.sums = replace(schedule, vectors=len(self.pattern)).register_tile(code)
        with code.when(code["bias"].equals(0) ^ 1):
            numbers = self.bias.load(schedule.lanes, self.written)
            self.sums.set_rows(lambda _: numbers)
        # Rows of the tile meet a row of x under different taps, so each has blocks of its own.
        self.trees = [
            BlockedSums(code, self.sums.row(r), schedule.lanes, schedule.block_unit)
            for r in range(schedule.rows)
        ]
        taps = self.tables  # that are looked up in a loop
        add_products = self._add_row_of_taps
        if schedule.resident or schedule.rows > 1:
            taps = self.tables[:-1]
            add_products = self._add_resident if schedule.resident else self._add_rows
        loop_over_taps_inside(code, taps, x, add_products)
        for tree in self.trees:
            tree.finish()
        for r in range(schedule.rows):
            pointer = y.at(code[f"y_stride{schedule.rank - 2}"] * r) if r else y
            for accumulator in self.sums.row(r):
                store(pointer, accumulator.get(), schedule.y, self.written, None)
                if schedule.prefetch:
                    pointer.at(code["y_prefetch"]).prefetch(True)
                pointer = pointer.at(code[f"y_stride{schedule.rank - 1}"])

    def _add_row_of_taps(self, x: Pointer, tap: Value) -> None:
        """Add the products of a row of x with one row of taps."""
        self._add_row(x, [(0, tap)])

    def _add_rows(self, x: Pointer, tap: Value) -> None:
        """Add the products of every row of x under a tile of several rows.

        The first and the last of these rows of x contribute to some rows of the tile only.
        """
        code, table, rows = self.code, self.tables[-1], self.schedule.rows
        taps = code[f"taps{self.schedule.rank - 2}"]
        first, end = tap * taps, taps - 1

        def tap_of(i: Value) -> Value:
            return end - i if self.schedule.backwards else i

        def add_row(position: int, i: Value, members: TapRows) -> None:
            offset = table.at(taps * position + tap_of(i)).load()
            with code.when(offset >= 0):
                self._add_row(x.at(offset), [(r, first + tap_of(n)) for r, n in members])

        for i in range(rows - 1):
            add_row(0, code.number(i), [(r, code.number(i - r)) for r in range(i + 1)])
        with code.loop(rows - 1, taps) as x_row:
            add_row(0, x_row, [(r, x_row - r) for r in range(rows)])
        for i in range(1, rows):  # where the last tap of the tile's row i lies
            add_row(i, end, [(r, end + (i - r)) for r in range(i, rows)])

    def _add_resident(self, x: Pointer, tap: Value) -> None:
        """Add the products of every row of x under a tile, with all taps kept in registers."""
        schedule, kernel = self.schedule, len(self.pattern[0])
        end, rows = schedule.resident - 1, schedule.rows
        f, values = self.f.at(tap * (schedule.resident * kernel) * self.f_stride), []
        for _ in range(schedule.resident * kernel):
            values.append(f.load(schedule.lanes, self.read))
            f = f.at(self.f_stride)

        def tap_of(i: int) -> int:
            return end - i if schedule.backwards else i

        for i in range(rows + end):
            position, tap_row = max(i - end, 0), min(i, end)
            offset = self.tables[-1].at(position * schedule.resident + tap_of(tap_row)).load()
            with self.code.when(offset >= 0):
                contributions = [(r, tap_of(i - r)) for r in range(rows) if 0 <= i - r <= end]
                for r, n in contributions:
                    self.trees[r].begin_row(tap * schedule.resident + n)
                tap_vectors = {
                    (r, k): values[n * kernel + k] for r, n in contributions for k in range(kernel)
                }
                self._add_products(x.at(offset), tap_vectors, self.pattern, self.table)

    def _add_row(self, x: Pointer, rows: TapRows) -> None:
        """Add the products of one row of x, at most T taps at a time."""
        code, schedule, pattern = self.code, self.schedule, self.pattern
        kernel, max_taps = len(pattern[0]), schedule.taps
        f_rows = [(r, self.f.at(n * kernel * self.f_stride)) for r, n in rows]
        for r, n in rows:
            self.trees[r].begin_row(n)
        if schedule.unrolled or kernel <= max_taps or schedule.alignment > 1:
            for k in range(0, kernel, max_taps):
                part = tuple(p[k : k + max_taps] for p in pattern)
                self._begin_blocks(rows, code.number(k))
                self._add_block(x, f_rows, code.number(k), part, self.table)
            return
        # The next taps have the same pattern, `tap_distance` elements later for each tap.
        tap_distance = pattern[0][1] - pattern[0][0]

        def add_block(k: Value, count: int) -> None:
            part = tuple(p[:count] for p in pattern)
            self._begin_blocks(rows, k)
            if self.table is None:
                self._add_block(x.at(k * self.x_stride * tap_distance), f_rows, k, part, None)
            else:
                self._add_block(x, f_rows, k, part, self.table.at(k * tap_distance))

        loop_over_blocks(code, kernel, max_taps, add_block)

    def _begin_blocks(self, rows: TapRows, first: Value) -> None:
        """Begin the blocks of tap `first` of these rows of taps."""
        kernel = len(self.pattern[0])
        for r, n in rows:
            self.trees[r].begin_tap(n * kernel + first)

    def _add_block(
        self, x: Pointer, f_rows: list[tuple[int, Pointer]], first: Value, pattern: Pattern,
        table: Pointer | None,
    ) -> None:  # fmt: skip
        """Load a few taps and add their products with a row of x."""
        tap_vectors: TapVectors = {}
        for r, f in f_rows:
            f = f.at(first * self.f_stride)
            for k in range(len(pattern[0])):
                if any(taps[k] != NO_ELEMENT for taps in pattern):
                    tap_vectors[r, k] = f.load(self.schedule.lanes, self.read)
                f = f.at(self.f_stride)
        self._add_products(x, tap_vectors, pattern, table)

    def _add_products(
        self, x: Pointer, tap_vectors: TapVectors, pattern: Pattern, table: Pointer | None
    ) -> None:
        """Add the products of a row of x with taps in registers."""
        schedule = self.schedule
        rows = sorted({r for r, _ in tap_vectors})
        x_format = Format(schedule.compute, schedule.compute) if schedule.packed else schedule.x

        def add_element(pointers: list[Pointer], pairs: Pairs) -> None:
            x_vector = load(pointers[0], x_format, schedule.lanes, self.read, None)
            if schedule.prefetch and table is None:
                pointers[0].at(self.code["x_prefetch"]).prefetch()
            for r in rows:
                for p, k in pairs:
                    multiply_add(self.sums.row(r)[p], x_vector, tap_vectors[r, k])

        loop_over_elements(self.code, [x], pattern, table, self.x_stride, add_element)
