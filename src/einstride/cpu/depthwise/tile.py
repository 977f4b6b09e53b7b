"""Generate the register tile of the depthwise kernel (`depthwise.forward`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, load, store
from einstride.cpu.depthwise.spec import NO_ELEMENT, Pattern, Spec

TapRows = Sequence[tuple[int, Value]]
"""The rows of a tile that a row of x contributes to, each with the number of its row of taps."""

Pairs = Sequence[tuple[int, int]]
"""Pairs of a position of the tile and a tap, both known when the kernel is generated."""


@dataclass
class Tile:
    """The register tile of R rows by P columns of positions, for one vector of channels.

    Attributes
    ----------
    code : Code
        The kernel.
    spec : Spec
        What the kernel is compiled for.
    f, bias : Pointer
        The addresses of the vector's first tap and of its bias.
    tables : list of Pointer
        Offset tables of the taps on all axes but the last.
    pattern : tuple of tuple of int
        The elements that taps of the last axis meet.
    columns : Pointer or None
        The offset table of the last axis, for a tile that meets a border.
    x_stride, f_stride : Value
        Elements from one position to the next in x, and from one tap to the next in f.
    read, written : Mask or None
        The lanes that exist in x and f, and in y; None if all do.
    """

    code: Code
    spec: Spec
    f: Pointer
    bias: Pointer
    tables: list[Pointer]
    pattern: Pattern
    columns: Pointer | None
    x_stride: Value
    f_stride: Value
    read: Mask | None
    written: Mask | None
    accs: list[Variable] = field(default_factory=list)

    def generate(self, x: Pointer, y: Pointer) -> None:
        """Generate the sums of the tile and their stores to y."""
        code, spec, tile = self.code, self.spec, len(self.pattern)
        zero = code.zero(spec.x.computed, spec.lanes)
        self.accs = [code.variable(zero) for _ in range(spec.rows * tile)]
        with code.when(code["bias"].equals(0) ^ 1):
            numbers = self.bias.load(spec.lanes, self.written)
            for a in self.accs:
                a.set(numbers)
        self._loop_over_axes(0, x, code.number(0))
        for r in range(spec.rows):
            pointer = y.at(code[f"y_stride{spec.rank - 2}"] * r) if r else y
            for p in range(tile):
                store(pointer, self.accs[r * tile + p].get(), spec.y, self.written, None)
                if spec.prefetch:
                    prefetch_line(pointer.at(code["y_prefetch"]), True)
                pointer = pointer.at(code[f"y_stride{spec.rank - 1}"])

    def _loop_over_axes(self, a: int, x: Pointer, tap: Value) -> None:
        """Add the products of all taps of the axes from `a` on."""
        code, spec = self.code, self.spec
        if a + 1 == spec.rank:
            self._add_row(x, [(0, tap)])
        elif a + 2 == spec.rank and spec.resident:
            self._add_resident(x, tap)
        elif a + 2 == spec.rank and spec.rows > 1:
            self._add_rows(a, x, tap)
        else:
            with code.loop(0, code[f"taps{a}"]) as k:
                offset = self.tables[a].at(k).load()
                with code.when(offset >= 0):
                    self._loop_over_axes(
                        a + 1, x.at(offset), tap * code[f"taps{a}"] + k if a else k
                    )

    def _add_rows(self, a: int, x: Pointer, tap: Value) -> None:
        """Add the products of every row of x under a tile of several rows.

        The first and the last of these rows of x contribute to some rows of the tile only.
        """
        code, table, rows = self.code, self.tables[a], self.spec.rows
        taps = code[f"taps{a}"]
        first, end = tap * taps, taps - 1

        def tap_of(i: Value) -> Value:
            return end - i if self.spec.backwards else i

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
        code, spec, kernel = self.code, self.spec, len(self.pattern[0])
        end, rows = spec.resident - 1, spec.rows
        f, values = self.f.at(tap * (spec.resident * kernel) * self.f_stride), []
        for _ in range(spec.resident * kernel):
            values.append(f.load(spec.lanes, self.read))
            f = f.at(self.f_stride)

        def tap_of(i: int) -> int:
            return end - i if spec.backwards else i

        for i in range(rows + end):
            position, tap_row = max(i - end, 0), min(i, end)
            offset = self.tables[-1].at(position * spec.resident + tap_of(tap_row)).load()
            with code.when(offset >= 0):
                contributions = [(r, tap_of(i - r)) for r in range(rows) if 0 <= i - r <= end]
                tap_vectors = {
                    (r, k): values[n * kernel + k] for r, n in contributions for k in range(kernel)
                }
                self._add_products(x.at(offset), tap_vectors, self.pattern, self.columns)

    def _add_row(self, x: Pointer, rows: TapRows) -> None:
        """Add the products of one row of x, at most T taps at a time."""
        code, spec, pattern, columns = self.code, self.spec, self.pattern, self.columns
        kernel, max_taps = len(pattern[0]), spec.taps
        f_rows = [(r, self.f.at(n * kernel * self.f_stride)) for r, n in rows]
        if spec.unrolled or kernel <= max_taps or spec.alignment > 1:
            for k in range(0, kernel, max_taps):
                part = tuple(p[k : k + max_taps] for p in pattern)
                self._add_block(x, f_rows, code.number(k), part, columns)
            return
        # The next taps have the same pattern, `tap_distance` elements later for each tap.
        tap_distance, last_taps = pattern[0][1] - pattern[0][0], kernel % max_taps

        def add_block(k: Value, count: int) -> None:
            part = tuple(p[:count] for p in pattern)
            if columns is None:
                self._add_block(x.at(k * self.x_stride * tap_distance), f_rows, k, part, None)
            else:
                self._add_block(x, f_rows, k, part, columns.at(k * tap_distance))

        with code.loop(0, kernel - last_taps, max_taps) as first_tap:
            add_block(first_tap, max_taps)
        if last_taps:
            add_block(code.number(kernel - last_taps), last_taps)

    def _add_block(
        self, x: Pointer, f_rows: list[tuple[int, Pointer]], first: Value, pattern: Pattern,
        columns: Pointer | None,
    ) -> None:  # fmt: skip
        """Load a few taps and add their products with a row of x."""
        values: dict[tuple[int, int], Value] = {}
        for r, f in f_rows:
            f = f.at(first * self.f_stride)
            for k in range(len(pattern[0])):
                if any(taps[k] != NO_ELEMENT for taps in pattern):
                    values[r, k] = f.load(self.spec.lanes, self.read)
                f = f.at(self.f_stride)
        self._add_products(x, values, pattern, columns)

    def _add_products(
        self, x: Pointer, values: dict[tuple[int, int], Value], pattern: Pattern,
        columns: Pointer | None,
    ) -> None:  # fmt: skip
        """Add the products of a row of x with taps in registers: `values` by (row, tap)."""
        spec, tile = self.spec, len(pattern)
        rows = sorted({r for r, _ in values})
        x_format = Format(spec.x.computed, spec.x.computed) if spec.packed else spec.x

        def add_element(pointer: Pointer, pairs: Pairs) -> None:
            x_vector = load(pointer, x_format, spec.lanes, self.read, None)
            if spec.prefetch and columns is None:
                prefetch_line(pointer.at(self.code["x_prefetch"]), False)
            for r in rows:
                for p, k in pairs:
                    a = self.accs[r * tile + p]
                    a.set(x_vector.multiply_add(values[r, k], a.get()))

        walk_row(
            self.code,
            [x],
            pattern,
            columns,
            self.x_stride,
            lambda pointers, pairs: add_element(pointers[0], pairs),
        )


def walk_row(
    code: Code, x_rows: list[Pointer], pattern: Pattern, columns: Pointer | None, x_stride: Value,
    add: Callable[[list[Pointer], Pairs], None],
) -> None:  # fmt: skip
    """Call `add` for each element of the rows `x_rows` of x that taps meet.

    It gets the addresses of the element in each row, and the pairs of position and tap that meet
    it.
    """
    pairs_of_element: dict[int, list[tuple[int, int]]] = {}
    for p, taps in enumerate(pattern):
        for k, j in enumerate(taps):
            if j != NO_ELEMENT:
                pairs_of_element.setdefault(j, []).append((p, k))
    last_element = min(pairs_of_element, default=0)
    pointers = [x.at(x_stride * last_element) for x in x_rows]
    for j in sorted(pairs_of_element):
        if columns is not None:
            offset = columns.at(j).load()
            with code.when(offset >= 0):
                add([x.at(offset) for x in x_rows], pairs_of_element[j])
            continue
        if j > last_element:
            pointers = [x.at(x_stride * (j - last_element)) for x in pointers]
        last_element = j
        add(pointers, pairs_of_element[j])


def prefetch_line(pointer: Pointer, write: bool) -> None:
    """Prefetch a cache line that will be read, or written; the address need not be valid."""
    pointer.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, int(write), 3, 1])
