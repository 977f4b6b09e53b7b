"""Filter gradient kernel for few input channels: rows of a tile are (tap, input channel) pairs.

The taps of the last axis with their channels are a contiguous span of x, which moves by the stride
from one output to the next:

    acc[r, v] += x[span of the output, element r] * gy[output, vector v]

Outputs are summed in regions that fit the cache. Each partial sum covers consecutive regions and
adds them in order, on whichever thread. Outputs whose span leaves x look up the offset of each
element, for any padding mode; elements in padding of zeros are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable


@dataclass(frozen=True)
class RunTile:
    """What the kernel is compiled for.

    Attributes
    ----------
    x_dtype, gy_dtype, compute : str
        The dtypes of x, of gy, and of the sums.
    lanes, rows, vectors : int
        Lanes of a vector; elements of a span, and vectors of output channels, per tile.
    channels : int
        Input channels.
    rank : int
        Spatial axes.
    masked : bool
        True if the last panel of output channels is not full.
    """

    x_dtype: str
    gy_dtype: str
    compute: str
    lanes: int
    rows: int
    vectors: int
    channels: int
    rank: int
    masked: bool

    @property
    def width(self) -> int:
        """Output channels per panel."""
        return self.lanes * self.vectors


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    outer = (
        f"{name}{a}" for a in range(rank - 1) for name in ("table", "taps", "out", "gy_stride")
    )
    return (
        "counter", "chunks", "panels", "panels_apart", "slices", "slice", "tiles", "partial_sums",
        "x", "gy", "sums", "zeros", "x_batch", "gy_batch", "gy_last", "x_last",
        "sums_partial", "filters", "span", "lines", "line", "lines_at_once", "line_at_once",
        "regions", "line_parts", "edge", "kernel", "tile_first", "tile_own", "inside_first",
        "inside_last", "x_start",
        *outer,
    )  # fmt: skip


def kernel(spec: RunTile) -> str:
    """Write the LLVM IR of the kernel ``runs``."""
    code = Code("runs", arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        slice_number, remaining = chunk % code["slices"], chunk // code["slices"]
        separate_panels = code["panels_apart"]  # a chunk is one panel, or all panels
        first, partial = remaining % separate_panels, remaining // separate_panels
        last = separate_panels.equals(1).select(code["panels"], first + 1)
        _compute_chunk(code, spec, (first, last), slice_number, partial)
    return code.text()


@dataclass(frozen=True)
class _Region:
    """A region of outputs: lines from first to last, outputs from begin to end of each.

    `gy` and `masks` give the vectors of a panel of output channels.
    """

    first: Value
    last: Value
    begin: Value
    end: Value
    gy: Pointer
    masks: list[Mask]


def _compute_chunk(
    code: Code, spec: RunTile, panels: tuple[Value, Value], part: Value, partial: Value
) -> None:
    """Sum some tiles of all outer taps, for some panels of output channels, to one partial sum."""
    tiles = (part * code["slice"], (part * code["slice"] + code["slice"]).minimum(code["tiles"]))
    begin = partial * code["regions"] // code["partial_sums"]
    end = (partial + 1) * code["regions"] // code["partial_sums"]
    with code.loop(begin, end) as region_number, code.loop(*panels) as panel:
        column = panel * spec.width
        left = code["filters"] - column
        masks = [code.first_lanes(left - v * spec.lanes, spec.lanes) for v in range(spec.vectors)]
        gy = code.array("gy", spec.gy_dtype).at(column)
        sums = code.array("sums", spec.compute).at(partial * code["sums_partial"] + column)
        line, line_part = region_number // code["line_parts"], region_number % code["line_parts"]
        first, left = line * code["lines_at_once"], line_part * code["line_at_once"]
        last = (first + code["lines_at_once"]).minimum(code["lines"])
        right = (left + code["line_at_once"]).minimum(code["line"])
        region = _Region(first, last, left, right, gy, masks)
        is_first = region_number.equals(begin)

        def loop_over_axes(
            a: int, tap: Value, taps: list[Value], region: _Region, is_first: Value
        ) -> None:
            if a < spec.rank - 1:
                with code.loop(0, code[f"taps{a}"]) as k:
                    loop_over_axes(a + 1, tap * code[f"taps{a}"] + k, [*taps, k], region, is_first)
                return
            tap_sums = sums.at(tap * code["span"] * code["filters"])
            with code.loop(*tiles) as tile:
                acc = _sum_region(code, spec, region, taps, tile)
                _store_sums(code, spec, tap_sums, tile, acc, is_first, masks)

        loop_over_axes(0, code.number(0), [], region, is_first)


def _sum_region(
    code: Code, spec: RunTile, region: _Region, taps: list[Value], tile: Value
) -> list[Variable]:
    """Sum one tile over a region."""
    count = spec.rows * spec.vectors
    acc = [code.variable(code.zero(spec.compute, spec.lanes)) for _ in range(count)]
    first, low, high = (
        code.array(name, "int64").at(tile).load()
        for name in ("tile_first", "inside_first", "inside_last")
    )
    low, high = (
        low.maximum(region.begin).minimum(region.end),
        high.minimum(region.end).maximum(region.begin),
    )
    high = high.maximum(low)
    with code.loop(region.first, region.last) as line:
        remaining, offset, gy_offset = line, code.number(0), code.number(0)
        for a in reversed(range(spec.rank - 1)):
            o, remaining = remaining % code[f"out{a}"], remaining // code[f"out{a}"]
            axis_offset = code.array(f"table{a}", "int64").at(o * code[f"taps{a}"] + taps[a]).load()
            offset = offset + axis_offset
            gy_offset = gy_offset + o * code[f"gy_stride{a}"]
        with code.when(offset >= 0):
            x = code.array("x", spec.x_dtype).at(remaining * code["x_batch"] + offset)
            gy = region.gy.at(remaining * code["gy_batch"] + gy_offset)
            for begin, end in ((region.begin, low), (high, region.end)):
                with code.loop(begin, end) as o:
                    _add_edge(
                        code, spec, x, gy.at(o * code["gy_last"]), o, first, acc, region.masks
                    )
            inside = x.at(first - code["x_start"])
            with code.loop(low, high) as o:
                row = _load_gy(spec, gy.at(o * code["gy_last"]), region.masks)
                span = inside.at(o * code["x_last"])
                for r in range(spec.rows):
                    number = span.at(r).load_as(spec.x_dtype, spec.compute)
                    _add_outer_product(code, spec, number, row, acc, r)
    return acc


def _load_gy(spec: RunTile, gy: Pointer, masks: list[Mask]) -> list[Value]:
    """Load the vectors of gy at one output."""
    return [
        gy.at(v * spec.lanes).load_as(
            spec.gy_dtype, spec.compute, spec.lanes, mask if spec.masked else None
        )
        for v, mask in enumerate(masks)
    ]


def _add_outer_product(
    code: Code, spec: RunTile, number: Value, row: list[Value], acc: list[Variable], r: int
) -> None:
    """Add one row of the outer product."""
    broadcast = code.splat(number, spec.lanes)
    for v, numbers in enumerate(row):
        sums = acc[r * spec.vectors + v]
        sums.set(broadcast.multiply_add(numbers, sums.get()))


def _add_edge(
    code: Code, spec: RunTile, x: Pointer, gy: Pointer, o: Value, first: Value, acc: list[Variable],
    masks: list[Mask],
) -> None:  # fmt: skip
    """Add the outer product of an output whose span leaves x."""
    row = _load_gy(spec, gy, masks)
    table = code.array("edge", "int64").at(o * code["kernel"])
    zeros, zero = code.array("zeros", spec.x_dtype), code.zero(spec.compute, spec.lanes)
    for r in range(spec.rows):
        tap, channel = (first + r) // spec.channels, (first + r) % spec.channels
        offset = table.at(tap).load()
        inside = offset >= 0
        number = inside.select_pointer(x.at(offset + channel), zeros).load_as(
            spec.x_dtype, spec.compute
        )
        _add_outer_product(code, spec, number, [inside.select(v, zero) for v in row], acc, r)


def _store_sums(
    code: Code, spec: RunTile, tap_sums: Pointer, tile: Value, acc: list[Variable], is_first: Value,
    masks: list[Mask],
) -> None:  # fmt: skip
    """Store the sums of the first region to the partial sum, and add those of the others.

    The last tile of a span overlaps the one before it rather than ending behind the span:
    `tile_own` is its first row that no other tile has.
    """
    first = code.array("tile_first", "int64").at(tile).load()
    first_own = code.array("tile_own", "int64").at(tile).load()
    for r in range(spec.rows):
        with code.when(first + r >= first_own):
            row = tap_sums.at((first + r) * code["filters"])
            for v, mask in enumerate(masks):
                pointer, sums = row.at(v * spec.lanes), acc[r * spec.vectors + v]
                with code.when(is_first ^ 1):
                    sums.set(sums.get() + pointer.load(spec.lanes, mask))
                pointer.store(sums.get(), mask)
