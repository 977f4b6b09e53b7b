"""The filter gradient of few channels: a tile's rows are a run of (tap on the last axis, channel).

Such a run lies side by side in x, and moves on by the stride from one output to the next:

    acc[r, v] += x[run of the output, number r] * gy[output, vector v]

Outputs are visited in regions that fit the cache, which are sorted into a few tables; a table's
sums are added up region by region, whoever computes them. Outputs whose run leaves x at an end, or
meets a border of another kind, look each number up; one in a border of zeros takes no part.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable


@dataclass(frozen=True)
class RunTile:
    """What a kernel is compiled for.

    Attributes
    ----------
    first, second, compute : str
        The dtypes of x, of gy, and of the sums.
    lanes, rows, vectors : int
        Numbers in a vector, numbers of a run and vectors of output channels in a tile.
    channels : int
        Input channels.
    rank : int
        Spatial axes.
    masked : bool
        Whether the last panel of output channels is not full.
    """

    first: str
    second: str
    compute: str
    lanes: int
    rows: int
    vectors: int
    channels: int
    rank: int
    masked: bool

    @property
    def width(self) -> int:
        """Output channels in a panel."""
        return self.lanes * self.vectors


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    outer = (f"{name}{a}" for a in range(rank - 1) for name in ("table", "taps", "out", "gy_step"))
    return (
        "counter", "chunks", "panels", "panels_apart", "slices", "slice", "tiles", "tables",
        "x", "gy", "sums", "zeros", "x_batch", "gy_batch", "gy_last", "x_last", "sums_table",
        "filters", "run", "lines", "line", "lines_at_once", "line_at_once", "regions", "pieces",
        "edge", "kernel", "tile_first", "tile_own", "inside_first", "inside_last", "x_start",
        *outer,
    )  # fmt: skip


def kernel(t: RunTile) -> str:
    """The text of the kernel ``runs``."""
    code = Code("runs", arguments(t.rank))
    with code.chunks(code["chunks"]) as chunk:
        part, rest = chunk % code["slices"], chunk // code["slices"]
        apart = code["panels_apart"]  # chunks of each panel, or all panels in one chunk
        first, table = rest % apart, rest // apart
        last = apart.equals(1).pick(code["panels"], first + 1)
        _chunk(code, t, (first, last), part, table)
    return code.text()


@dataclass(frozen=True)
class _Region:
    """Some outputs: lines, and a part of each; and the vectors of gy that are read there."""

    first: Value
    last: Value
    begin: Value
    end: Value
    gy: Pointer
    masks: list[Mask]


def _chunk(code: Code, t: RunTile, panels: tuple[Value, Value], part: Value, table: Value) -> None:
    """Some tiles of all outer taps, for some panels of output channels and one table."""
    tiles = (part * code["slice"], (part * code["slice"] + code["slice"]).least(code["tiles"]))
    begin = table * code["regions"] // code["tables"]
    end = (table + 1) * code["regions"] // code["tables"]
    with code.loop(begin, end) as number, code.loop(*panels) as panel:
        column = panel * t.width
        left = code["filters"] - column
        masks = [code.first_lanes(left - v * t.lanes, t.lanes) for v in range(t.vectors)]
        gy = code.array("gy", t.second).at(column)
        sums = code.array("sums", t.compute).at(table * code["sums_table"] + column)
        line, piece = number // code["pieces"], number % code["pieces"]
        first, left = line * code["lines_at_once"], piece * code["line_at_once"]
        last = (first + code["lines_at_once"]).least(code["lines"])
        right = (left + code["line_at_once"]).least(code["line"])
        region = _Region(first, last, left, right, gy, masks)
        fresh = number.equals(begin)

        def axis(a: int, tap: Value, taps: list[Value], region: _Region, fresh: Value) -> None:
            if a < t.rank - 1:
                with code.loop(0, code[f"taps{a}"]) as k:
                    axis(a + 1, tap * code[f"taps{a}"] + k, [*taps, k], region, fresh)
                return
            to = sums.at(tap * code["run"] * code["filters"])
            with code.loop(*tiles) as tile:
                acc = _sums(code, t, region, taps, tile)
                _add(code, t, to, tile, acc, fresh, masks)

        axis(0, code.number(0), [], region, fresh)


def _sums(
    code: Code, t: RunTile, region: _Region, taps: list[Value], tile: Value
) -> list[Variable]:
    """The sums over a region for one tile."""
    count = t.rows * t.vectors
    acc = [code.variable(code.zero(t.compute, t.lanes)) for _ in range(count)]
    first, low, high = (
        code.array(name, "int64").at(tile).load()
        for name in ("tile_first", "inside_first", "inside_last")
    )
    low, high = low.most(region.begin).least(region.end), high.least(region.end).most(region.begin)
    high = high.most(low)
    with code.loop(region.first, region.last) as line:
        rest, offset, gy_offset = line, code.number(0), code.number(0)
        for a in reversed(range(t.rank - 1)):
            o, rest = rest % code[f"out{a}"], rest // code[f"out{a}"]
            found = code.array(f"table{a}", "int64").at(o * code[f"taps{a}"] + taps[a]).load()
            offset = offset + found
            gy_offset = gy_offset + o * code[f"gy_step{a}"]
        with code.when(offset >= 0):
            x = code.array("x", t.first).at(rest * code["x_batch"] + offset)
            gy = region.gy.at(rest * code["gy_batch"] + gy_offset)
            for begin, end in ((region.begin, low), (high, region.end)):
                with code.loop(begin, end) as o:
                    _edge(code, t, x, gy.at(o * code["gy_last"]), o, first, acc, region.masks)
            inside = x.at(first - code["x_start"])
            with code.loop(low, high) as o:
                row = _vectors(t, gy.at(o * code["gy_last"]), region.masks)
                run = inside.at(o * code["x_last"])
                for r in range(t.rows):
                    number = run.at(r).load_as(t.first, t.compute)
                    _outer(code, t, number, row, acc, r)
    return acc


def _vectors(t: RunTile, gy: Pointer, masks: list[Mask]) -> list[Value]:
    """The vectors of gy at one output."""
    return [
        gy.at(v * t.lanes).load_as(t.second, t.compute, t.lanes, mask if t.masked else None)
        for v, mask in enumerate(masks)
    ]


def _outer(
    code: Code, t: RunTile, number: Value, row: list[Value], acc: list[Variable], r: int
) -> None:
    """One row of the outer product."""
    spread = code.splat(number, t.lanes)
    for v, numbers in enumerate(row):
        sums = acc[r * t.vectors + v]
        sums.set(spread.times_plus(numbers, sums.get()))


def _edge(
    code: Code, t: RunTile, x: Pointer, gy: Pointer, o: Value, first: Value, acc: list[Variable],
    masks: list[Mask],
) -> None:  # fmt: skip
    """The outer product of an output whose run is not inside."""
    row = _vectors(t, gy, masks)
    table = code.array("edge", "int64").at(o * code["kernel"])
    zeros, nothing = code.array("zeros", t.first), code.zero(t.compute, t.lanes)
    for r in range(t.rows):
        tap, channel = (first + r) // t.channels, (first + r) % t.channels
        found = table.at(tap).load()
        inside = found >= 0
        number = inside.pick_pointer(x.at(found + channel), zeros).load_as(t.first, t.compute)
        _outer(code, t, number, [inside.pick(v, nothing) for v in row], acc, r)


def _add(
    code: Code, t: RunTile, to: Pointer, tile: Value, acc: list[Variable], fresh: Value,
    masks: list[Mask],
) -> None:  # fmt: skip
    """Put the first region's sums into the table, and add the others'.

    The last tile of a run begins early rather than ending behind it: `tile_own` is its first row
    that no other tile has.
    """
    first = code.array("tile_first", "int64").at(tile).load()
    own = code.array("tile_own", "int64").at(tile).load()
    for r in range(t.rows):
        with code.when(first + r >= own):
            row = to.at((first + r) * code["filters"])
            for v, mask in enumerate(masks):
                pointer, sums = row.at(v * t.lanes), acc[r * t.vectors + v]
                with code.when(fresh ^ 1):
                    sums.set(sums.get() + pointer.load(t.lanes, mask))
                pointer.store(sums.get(), mask)
