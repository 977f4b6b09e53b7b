"""One tile of a depthwise convolution: its sums stay in registers (`depthwise.forward`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, load, store
from einstride.cpu.depthwise.spec import NOWHERE, Pattern, Spec

Rows = Sequence[tuple[int, Value]]
"""The rows of a tile that a row of x belongs to, each with the number of its tap."""

Known = Sequence[tuple[int, int]]
"""The same, where the numbers are known as the kernel is written."""


@dataclass
class Tile:
    """The words of one tile and one vector of channels.

    Attributes
    ----------
    code : Code
        Where they are written.
    spec : Spec
        The kernel's.
    f, bias : Pointer
        The vector's first tap, and its bias.
    tables : list of Pointer
        Where the taps of the outer axes lie.
    pattern : tuple of tuple of int
        Where those of the last axis lie.
    columns : Pointer or None
        The table of the last axis, for a tile that meets a border.
    x_step, f_step : Value
        The distance of neighbouring positions, and of neighbouring taps.
    read, written : Mask or None
        The lanes that there are, in x and f and in y; None for all.
    """

    code: Code
    spec: Spec
    f: Pointer
    bias: Pointer
    tables: list[Pointer]
    pattern: Pattern
    columns: Pointer | None
    x_step: Value
    f_step: Value
    read: Mask | None
    written: Mask | None
    accs: list[Variable] = field(default_factory=list)

    def write(self, x: Pointer, y: Pointer) -> None:
        """Sum the tile and store it."""
        code, spec, tile = self.code, self.spec, len(self.pattern)
        zero = code.zero(spec.x.computed, spec.lanes)
        self.accs = [code.variable(zero) for _ in range(spec.rows * tile)]
        with code.when(code["bias"].equals(0) ^ 1):
            each = self.bias.load(spec.lanes, self.written)
            for a in self.accs:
                a.set(each)
        self._outer(0, x, code.number(0))
        for r in range(spec.rows):
            here = y.at(code[f"y_step{spec.rank - 2}"] * r) if r else y
            for p in range(tile):
                store(here, self.accs[r * tile + p].get(), spec.y, self.written, None)
                if spec.ahead:
                    fetch(here.at(code["y_ahead"]), True)
                here = here.at(code[f"y_step{spec.rank - 1}"])

    def _outer(self, a: int, x: Pointer, tap: Value) -> None:
        """The axes from `a` on; the last two together, if a tile has several rows."""
        code, spec = self.code, self.spec
        if a + 1 == spec.rank:
            self._row(x, [(0, tap)])
        elif a + 2 == spec.rank and spec.held:
            self._held(x, tap)
        elif a + 2 == spec.rank and spec.rows > 1:
            self._rows(a, x, tap)
        else:
            with code.loop(0, code[f"taps{a}"]) as k:
                offset = self.tables[a].at(k).load()
                with code.when(offset >= 0):
                    self._outer(a + 1, x.at(offset), tap * code[f"taps{a}"] + k if a else k)

    def _rows(self, a: int, x: Pointer, tap: Value) -> None:
        """The rows of x under a tile: the first and last ones belong to some of its rows only."""
        code, table, rows = self.code, self.tables[a], self.spec.rows
        taps = code[f"taps{a}"]
        first, end = tap * taps, taps - 1

        def number(i: Value) -> Value:
            return end - i if self.spec.backwards else i

        def one(position: int, i: Value, members: Rows) -> None:
            offset = table.at(taps * position + number(i)).load()
            with code.when(offset >= 0):
                self._row(x.at(offset), [(r, first + number(n)) for r, n in members])

        for i in range(rows - 1):
            one(0, code.number(i), [(r, code.number(i - r)) for r in range(i + 1)])
        with code.loop(rows - 1, taps) as at:
            one(0, at, [(r, at - r) for r in range(rows)])
        for i in range(1, rows):  # where the last tap of the tile's row i lies
            one(i, end, [(r, end + (i - r)) for r in range(i, rows)])

    def _held(self, x: Pointer, tap: Value) -> None:
        """The same with all taps in registers."""
        code, spec, kernel = self.code, self.spec, len(self.pattern[0])
        end, rows = spec.held - 1, spec.rows
        f, values = self.f.at(tap * (spec.held * kernel) * self.f_step), []
        for _ in range(spec.held * kernel):
            values.append(f.load(spec.lanes, self.read))
            f = f.at(self.f_step)

        def number(i: int) -> int:
            return end - i if spec.backwards else i

        for i in range(rows + end):
            position, at = max(i - end, 0), min(i, end)
            offset = self.tables[-1].at(position * spec.held + number(at)).load()
            with code.when(offset >= 0):
                members = [(r, number(i - r)) for r in range(rows) if 0 <= i - r <= end]
                known = {(r, k): values[n * kernel + k] for r, n in members for k in range(kernel)}
                self._products(x.at(offset), known, self.pattern, self.columns)

    def _row(self, x: Pointer, rows: Rows) -> None:
        """The products of one row of x, a few taps at a time."""
        code, spec, pattern, columns = self.code, self.spec, self.pattern, self.columns
        kernel, most = len(pattern[0]), spec.taps
        fs = [(r, self.f.at(n * kernel * self.f_step)) for r, n in rows]
        if spec.short or kernel <= most or spec.group > 1:
            for k in range(0, kernel, most):
                part = tuple(p[k : k + most] for p in pattern)
                self._block(x, fs, code.number(k), part, columns)
            return
        # The pattern of the next taps is the same, so much further on.
        move, rest = pattern[0][1] - pattern[0][0], kernel % most

        def block(k: Value, count: int) -> None:
            part = tuple(p[:count] for p in pattern)
            if columns is None:
                self._block(x.at(k * self.x_step * move), fs, k, part, None)
            else:
                self._block(x, fs, k, part, columns.at(k * move))

        with code.loop(0, kernel - rest, most) as at:
            block(at, most)
        if rest:
            block(code.number(kernel - rest), rest)

    def _block(
        self, x: Pointer, fs: list[tuple[int, Pointer]], first: Value, pattern: Pattern,
        columns: Pointer | None,
    ) -> None:  # fmt: skip
        """The products of a row of x with a few taps, which are loaded here."""
        values: dict[tuple[int, int], Value] = {}
        for r, f in fs:
            f = f.at(first * self.f_step)
            for k in range(len(pattern[0])):
                if any(taps[k] != NOWHERE for taps in pattern):
                    values[r, k] = f.load(self.spec.lanes, self.read)
                f = f.at(self.f_step)
        self._products(x, values, pattern, columns)

    def _products(
        self, x: Pointer, values: dict[tuple[int, int], Value], pattern: Pattern,
        columns: Pointer | None,
    ) -> None:  # fmt: skip
        """The products of a row of x with taps of these values."""
        spec, tile = self.spec, len(pattern)
        rows = sorted({r for r, _ in values})
        kind = Format(spec.x.computed, spec.x.computed) if spec.packed else spec.x

        def add(pointer: Pointer, pairs: Known) -> None:
            each = load(pointer, kind, spec.lanes, self.read, None)
            if spec.ahead and columns is None:
                fetch(pointer.at(self.code["x_ahead"]), False)
            for r in rows:
                for p, k in pairs:
                    a = self.accs[r * tile + p]
                    a.set(each.times_plus(values[r, k], a.get()))

        along(
            self.code,
            [x],
            pattern,
            columns,
            self.x_step,
            lambda places, pairs: add(places[0], pairs),
        )


def along(
    code: Code, xs: list[Pointer], pattern: Pattern, columns: Pointer | None, step: Value,
    add: Callable[[list[Pointer], Known], None],
) -> None:  # fmt: skip
    """Go along rows of x: each place that taps meet, with the pairs of position and tap."""
    meets: dict[int, list[tuple[int, int]]] = {}
    for p, taps in enumerate(pattern):
        for k, j in enumerate(taps):
            if j != NOWHERE:
                meets.setdefault(j, []).append((p, k))
    at = min(meets, default=0)
    here = [x.at(step * at) for x in xs]
    for j in sorted(meets):
        if columns is not None:
            offset = columns.at(j).load()
            with code.when(offset >= 0):
                add([x.at(offset) for x in xs], meets[j])
            continue
        if j > at:
            here = [x.at(step * (j - at)) for x in here]
        at = j
        add(here, meets[j])


def fetch(pointer: Pointer, write: bool) -> None:
    """Ask for a line of memory that will be read, or written; any address will do."""
    pointer.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, int(write), 3, 1])
