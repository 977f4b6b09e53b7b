"""Write the kernel of the dense filter gradient: outer products of x and gy, summed in registers.

A register tile is P input channels by V vectors of output channels for one tap:

    acc[p, v] += x[position under the tap, channel p] * gy[position, vector v]

The positions are summed in regions that fit the cache. A region's sums begin at zero and are added
to gf in the order of the regions, for any number of threads. Ranges leave out the positions whose
tap lies in a border of zeros; for other padding modes, tables hold the offsets of border elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable


@dataclass(frozen=True)
class OuterTile:
    """The parameters of a dense filter-gradient kernel.

    Attributes
    ----------
    x_dtype, gy_dtype, compute : str
        The dtypes of x, of gy, and of the sums and gf.
    lanes, channels, vectors : int
        Elements in a vector, P and V.
    rank : int
        Number of spatial axes.
    masked : bool
        True if the last panel of output channels is not full.
    """

    x_dtype: str
    gy_dtype: str
    compute: str
    lanes: int
    channels: int
    vectors: int
    rank: int
    masked: bool


def arguments(rank: int) -> tuple[str, ...]:
    """List the argument names; those with a number belong to a spatial axis."""
    names = ("table", "taps", "out", "first", "last", "gy_stride")
    axis_names = (f"{name}{a}" for a in range(rank) for name in names)
    return (
        "counter", "chunks", "panels", "slices", "slice", "channels", "examples",
        "x", "gy", "gf", "x_channel", "x_batch", "gy_batch", "gf_batch", "gf_channel",
        "tap_offsets", "batch", "region_batch", "region_rows",
        "panel_x", "panel_y", "panel_column", "panel_columns", *axis_names,
    )  # fmt: skip


def kernel(spec: OuterTile) -> str:
    """Write the LLVM IR of the kernel ``outer``."""
    code = Code("outer", arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        panel, remaining = chunk % code["panels"], chunk // code["panels"]
        slice_number, example = remaining % code["slices"], remaining // code["slices"]
        _compute_slice(code, spec, panel, slice_number, example)
    return code.text()


def _compute_slice(
    code: Code, spec: OuterTile, panel: Value, slice_number: Value, example: Value
) -> None:
    """Compute a slice of input channels of gf, for all taps and one panel of output channels."""
    x = code.array("x", spec.x_dtype).at(code.array("panel_x", "int64").at(panel).load())
    gy = code.array("gy", spec.gy_dtype).at(code.array("panel_y", "int64").at(panel).load())
    gf = code.array("gf", spec.compute).at(code.array("panel_column", "int64").at(panel).load())
    gf = gf.at(example * code["gf_batch"])
    columns = code.array("panel_columns", "int64").at(panel).load()
    masks = [code.first_lanes(columns - v * spec.lanes, spec.lanes) for v in range(spec.vectors)]
    c_first = slice_number * code["slice"]
    c_last = (c_first + code["slice"]).minimum(code["channels"])
    all_examples = code["examples"].equals(1)
    begin = all_examples.select(code.number(0), example)
    end = all_examples.select(code["batch"], example + 1)
    with (
        code.loop(begin, end, code["region_batch"]) as n0,
        code.loop(0, code["out0"], code["region_rows"]) as r0,
    ):
        region = (n0, (n0 + code["region_batch"]).minimum(end), r0, r0 + code["region_rows"])
        is_first = n0.equals(begin) & r0.equals(0)

        def loop_over_axes(a: int, tap: Value, taps: list[Value]) -> None:
            with code.loop(0, code[f"taps{a}"]) as k:
                tap_number = tap * code[f"taps{a}"] + k
                if a + 1 < spec.rank:
                    loop_over_axes(a + 1, tap_number, [*taps, k])
                    return
                gf_tap = gf.at(code.array("tap_offsets", "int64").at(tap_number).load())
                with code.loop(c_first, c_last, spec.channels) as c:
                    acc = _sum_region(code, spec, x, gy, region, [*taps, k], c, masks)
                    _store_sums(code, spec, gf_tap, c, c_last, acc, is_first, masks)

        loop_over_axes(0, code.number(0), [])


def _sum_region(
    code: Code, spec: OuterTile, x: Pointer, gy: Pointer, region: tuple[Value, ...],
    taps: list[Value], c: Value, masks: list[Mask],
) -> list[Variable]:  # fmt: skip
    """Sum the products of a region's positions for one tap, in the accumulators returned."""
    acc = [
        code.variable(code.zero(spec.compute, spec.lanes))
        for _ in range(spec.channels * spec.vectors)
    ]
    n0, n1, r0, r1 = region
    channels = [
        (c + p).minimum(code["channels"] - 1) * code["x_channel"] for p in range(spec.channels)
    ]

    def loop_over_axes(a: int, x_offset: Value, gy_offset: Value) -> None:
        first_output = code.array(f"first{a}", "int64").at(taps[a]).load()
        last_output = code.array(f"last{a}", "int64").at(taps[a]).load()
        if a == 0:
            first_output, last_output = first_output.maximum(r0), last_output.minimum(r1)
        table = code.array(f"table{a}", "int64").at(taps[a])
        with code.loop(first_output, last_output) as o:
            x_inner = x_offset + table.at(o * code[f"taps{a}"]).load()
            gy_inner = gy_offset + o * code[f"gy_stride{a}"]
            if a + 1 < spec.rank:
                loop_over_axes(a + 1, x_inner, gy_inner)
            else:
                _add_outer_product(
                    code, spec, [x.at(x_inner + q) for q in channels], gy.at(gy_inner), acc, masks
                )

    with code.loop(n0, n1) as n:
        loop_over_axes(0, n * code["x_batch"], n * code["gy_batch"])
    return acc


def _add_outer_product(
    code: Code, spec: OuterTile, pointers: list[Pointer], gy: Pointer, acc: list[Variable],
    masks: list[Mask],
) -> None:  # fmt: skip
    """Add the outer product of one position to the accumulators."""
    row = [
        gy.at(v * spec.lanes).load_as(
            spec.gy_dtype, spec.compute, spec.lanes, mask if spec.masked else None
        )
        for v, mask in enumerate(masks)
    ]
    for p, pointer in enumerate(pointers):
        x_vector = code.splat(pointer.load_as(spec.x_dtype, spec.compute), spec.lanes)
        for v, vector in enumerate(row):
            sums = acc[p * spec.vectors + v]
            sums.set(x_vector.multiply_add(vector, sums.get()))


def _store_sums(
    code: Code, spec: OuterTile, gf_tap: Pointer, c: Value, last: Value, acc: list[Variable],
    is_first: Value, masks: list[Mask],
) -> None:  # fmt: skip
    """Store the first region's sums in gf, or add those of a later region to gf."""
    for p in range(spec.channels):
        with code.when(c + p < last):
            row = gf_tap.at((c + p) * code["gf_channel"])
            for v, mask in enumerate(masks):
                pointer, sums = row.at(v * spec.lanes), acc[p * spec.vectors + v]
                with code.when(is_first ^ 1):
                    sums.set(sums.get() + pointer.load(spec.lanes, mask))
                pointer.store(sums.get(), mask)
