"""Write the kernel of a dense convolution: sums of outer products in registers, without im2col.

A register tile is P output positions by V vectors of output channels. It stays in registers during
the loops over taps and channels:

    acc[p, v] += x[position p under the tap, channel c] * f[tap, c, vector v]

An element of x is broadcast to a vector; a vector of f is read from a panel, (tap, channel, V
vectors). The offset of a tap is the sum of one table entry for each axis; a negative offset lies in
the border, and zeros are read instead. So stride, dilation and padding cost nothing in the inner
loop, and a tap for which all positions of a tile lie in the border is skipped. The batch is one
more axis, with one tap. Every output is summed in the same order, at any position.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.ir_types import ELEMENTS, bytes_of
from einstride.codegen.vector_ops import prefetch
from einstride.cpu.dense import vnni


@dataclass(frozen=True)
class Tile:
    """The parameters of a dense forward kernel.

    Attributes
    ----------
    operand, compute, result : str
        The dtypes of x, of f's panels and the sums, and of y.
    lanes : int
        Elements in a vector.
    positions, vectors : int
        P and V.
    tables : tuple of bool
        For the batch and each spatial axis: True if the axis has an offset table. An axis on which
        the filter has one tap that never leaves x has a constant stride and needs no table.
    contiguous_x, contiguous_y : bool
        True if the channels of x, or of y, are contiguous.
    vnni : bool
        True for VNNI dot products of four 8-bit channels (`einstride.cpu.dense.vnni`).
    """

    operand: str
    compute: str
    result: str
    lanes: int
    positions: int
    vectors: int
    tables: tuple[bool, ...]
    contiguous_x: bool = True
    contiguous_y: bool = True
    vnni: bool = False

    @property
    def width(self) -> int:
        """The number of output channels in a panel."""
        return self.lanes * self.vectors

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that have offset tables."""
        return tuple(a for a, table in enumerate(self.tables) if table)


def arguments(axes: int) -> tuple[str, ...]:
    """List the argument names; those with a number belong to the batch or a spatial axis."""
    names = ("table", "taps", "x_first", "x_stride", "out", "y_stride")
    axis_names = (f"{name}{a}" for a in range(axes) for name in names)
    return (
        "counter", "chunks", "blocks", "block", "positions", "panels", "panels_inner",
        "x", "y", "f", "bias", "zeros", "x_channel", "y_channel", "x_prefetch", "f_panel",
        "channels", "slice", "panel_x", "panel_y", "panel_column", "panel_columns", *axis_names,
    )  # fmt: skip


def kernel(spec: Tile) -> str:
    """Write the LLVM IR of the kernel ``dense``."""
    code = Code("dense", arguments(len(spec.tables)))
    with code.chunks(code["chunks"]) as chunk:
        panels_inner = code["panels_inner"]  # 1: panels are the inner loop of chunks; 0: blocks are
        count = panels_inner.equals(1).select(code["panels"], code["blocks"])
        inner_index, outer_index = chunk % count, chunk // count
        _compute_block(
            code,
            spec,
            panels_inner.equals(1).select(outer_index, inner_index),
            panels_inner.equals(1).select(inner_index, outer_index),
        )
    return code.text()


def _compute_block(code: Code, spec: Tile, block: Value, panel: Value) -> None:
    """Compute one block of positions for one panel of output channels."""
    x = code.array("x", spec.operand).at(code.array("panel_x", "int64").at(panel).load())
    y = code.array("y", spec.result).at(code.array("panel_y", "int64").at(panel).load())
    column = code.array("panel_column", "int64").at(panel).load()
    bias = code.array("bias", spec.compute).at(column)
    columns = code.array("panel_columns", "int64").at(panel).load()
    f = code.array("f", spec.compute).at(panel * code["f_panel"])
    masks = [code.first_lanes(columns - v * spec.lanes, spec.lanes) for v in range(spec.vectors)]
    first = block * code["block"]
    last = (first + code["block"]).minimum(code["positions"])
    with code.loop(0, code["channels"], code["slice"]) as c0:
        depth = (code["channels"] - c0).minimum(code["slice"])
        x_slice, f_slice = x.at(c0 * code["x_channel"]), f.at(c0 * spec.width)
        with code.loop(first, last, spec.positions) as start:
            coordinates = [
                _locate_position(code, spec, start + p, last) for p in range(spec.positions)
            ]
            outs = [out for _, _, out in coordinates]
            acc = [
                code.variable(code.zero(spec.compute, spec.lanes)) for _ in masks * spec.positions
            ]
            _start_sums(code, spec, acc, c0, bias, y, outs, masks)
            _loop_over_taps(code, spec, x_slice, f_slice, depth, [f[:2] for f in coordinates], acc)
            for p, out in enumerate(outs):
                with code.when(start + p < last):
                    _store_sums(
                        code,
                        spec,
                        y.at(out),
                        acc[p * spec.vectors :][: spec.vectors],
                        masks,
                        columns,
                    )


Position = tuple[Value, dict[int, Pointer]]
"""The constant part of a position's offset in x, and its row of each axis' offset table."""


def _locate_position(
    code: Code, spec: Tile, position: Value, last: Value
) -> tuple[Value, dict[int, Pointer], Value]:
    """Return the constant part of a position's offset in x, its table rows, and its offset in y."""
    remaining = position.minimum(last - 1)
    rows: dict[int, Pointer] = {}
    offset, out = code.number(0), code.number(0)
    for a in reversed(range(len(spec.tables))):
        index = remaining % code[f"out{a}"] if a else remaining
        remaining = remaining // code[f"out{a}"] if a else remaining
        if spec.tables[a]:
            rows[a] = code.array(f"table{a}", "int64").at(index * code[f"taps{a}"])
        else:
            offset = offset + code[f"x_first{a}"] + index * code[f"x_stride{a}"]
        out = out + index * code[f"y_stride{a}"]
    return offset, rows, out


def _start_sums(
    code: Code, spec: Tile, acc: list[Variable], c0: Value, bias: Pointer, y: Pointer,
    outs: list[Value], masks: list[Mask],
) -> None:  # fmt: skip
    """Initialise the sums with the bias, or from y with the sums over earlier channels."""
    with code.when(c0.equals(0) & (code["bias"].equals(0) ^ 1)):
        for v, mask in enumerate(masks):
            initial = bias.at(v * spec.lanes).load(spec.lanes, mask)
            for p in range(spec.positions):
                acc[p * spec.vectors + v].set(initial)
    if spec.result == spec.compute and spec.contiguous_y:
        with code.when(code.number(0) < c0):
            for p, out in enumerate(outs):
                for v, mask in enumerate(masks):
                    acc[p * spec.vectors + v].set(y.at(out + v * spec.lanes).load(spec.lanes, mask))


def _loop_over_taps(
    code: Code, spec: Tile, x: Pointer, f: Pointer, depth: Value, positions: list[Position],
    acc: list[Variable],
) -> None:  # fmt: skip
    """Write the loops over taps, which add each tap's products to the sums."""
    tap_size = code["channels"] * spec.width

    def loop_taps(axes: tuple[int, ...], offsets: list[Value], tap: Value) -> None:
        if not axes:
            _add_products(code, spec, x, offsets, f.at(tap * tap_size), depth, acc)
            return
        a, *inner_axes = axes
        with code.loop(0, code[f"taps{a}"]) as k:
            inner_offsets = [
                o + rows[a].at(k).load() for o, (_, rows) in zip(offsets, positions, strict=True)
            ]
            common = inner_offsets[0]
            for inner_offset in inner_offsets[1:]:
                common = common & inner_offset  # negative only if all are
            if spec.vnni:
                common = code.number(0)  # the correction counts every tap
            with code.when(common >= 0):
                loop_taps(tuple(inner_axes), inner_offsets, tap * code[f"taps{a}"] + k)

    loop_taps(spec.axes, [offset for offset, _ in positions], code.number(0))


def _add_products(
    code: Code, spec: Tile, x: Pointer, offsets: list[Value], f: Pointer, depth: Value,
    acc: list[Variable],
) -> None:  # fmt: skip
    """Add x[p, c] * f[c, v] to acc[p, v] for every channel c; zero for a negative offset."""
    zeros = code.array("zeros", spec.operand) if spec.contiguous_x else x
    inside = [o >= 0 for o in offsets]
    pointers = [x.at(o) for o in offsets]
    if spec.axes:
        pointers = [i.select_pointer(p, zeros) for i, p in zip(inside, pointers, strict=True)]
    zero = code.zero(spec.compute, 1)

    def add_channel(c: Value) -> None:
        row = f.at(c * spec.width)
        f_row = [row.at(v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        offset = c if spec.contiguous_x else c * code["x_channel"]
        for p, pointer in enumerate(pointers):
            if spec.vnni:
                x_bytes = vnni.broadcast_bytes(pointer.at(c * 4), spec.operand, spec.lanes)
                for v in range(spec.vectors):
                    sums = acc[p * spec.vectors + v]
                    sums.set(vnni.products(sums.get(), x_bytes, f_row[v]))
                continue
            number = pointer.at(offset).load_as(spec.operand, spec.compute)
            if spec.axes and not spec.contiguous_x:
                number = inside[p].select(number, zero)
            x_vector = code.splat(number, spec.lanes)
            for v in range(spec.vectors):
                sums = acc[p * spec.vectors + v]
                sums.set(x_vector.multiply_add(f_row[v], sums.get()))

    if not spec.contiguous_x:
        with code.loop(0, depth) as c:
            add_channel(c)
        return
    channels = 4 if spec.vnni else 1  # of x in a product
    line = 64 // bytes_of(ELEMENTS[spec.operand]) // channels
    with code.loop(0, depth, line) as c0:
        for pointer in pointers:  # x of the next tile, which the CPU's prefetchers miss
            prefetch(pointer.at(c0 * channels + code["x_prefetch"]))
        with code.loop(c0, (c0 + line).minimum(depth)) as c:
            add_channel(c)


def _store_sums(
    code: Code, spec: Tile, y: Pointer, acc: list[Variable], masks: list[Mask], columns: Value
) -> None:
    """Store the sums of one position, rounded to the dtype of the result."""
    results = [code.convert(a.get(), spec.compute, spec.result) for a in acc]
    if spec.contiguous_y:
        for v, mask in enumerate(masks):
            y.at(v * spec.lanes).store(results[v], mask)
        return
    scratch = code.scratch(spec.result, spec.width)
    for v in range(spec.vectors):
        scratch.at(v * spec.lanes).store(results[v])
    with code.loop(0, columns) as d:
        y.at(d * code["y_channel"]).store(scratch.at(d).load())
