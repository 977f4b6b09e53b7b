"""Write kernels that pack a grouped filter: (panel, outer tap, channel, last tap, output lanes).

A table holds the offset of each lane's element in the filter, so that several groups in a vector,
flipped filters and the transposed filter of an input gradient are packed without another copy.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER, bytes_of, letter

ARGUMENTS = (
    "counter", "chunks", "f", "panels", "outer", "taps", "channels", "padded", "tap_offsets",
    "f_channel", "lane_offsets", "panel_f", "panel_columns",
)  # fmt: skip


def kernel(operand: str, compute: str, lanes: int, vectors: int, dense: bool) -> str:
    """The LLVM IR of the kernel ``grouped_panels``; `dense` if lanes are contiguous in f."""
    code = Code("grouped_panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as panel:
        f = code.array("f", operand).at(code.array("panel_f", "int64").at(panel).load())
        columns = code.array("panel_columns", "int64").at(panel).load()
        size = code["padded"] * code["taps"] * width
        to = code.array("panels", compute).at(panel * code["outer"] * size)
        masks = [code.first_lanes(columns - v * lanes, lanes) for v in range(vectors)]
        table = code.array("lane_offsets", "int64")
        wheres = [table.at(v * lanes).load(lanes) for v in range(vectors)]
        with code.loop(0, code["outer"]) as o, code.loop(0, code["taps"]) as k:
            tap = code.array("tap_offsets", "int64").at(o * code["taps"] + k).load()
            with code.loop(0, code["padded"]) as c:
                row = f.at(tap + c * code["f_channel"])
                pointer = to.at(o * size + (c * code["taps"] + k) * width)
                inside = code.every_lane(c < code["channels"], lanes)
                for v in range(vectors):
                    mask = masks[v] & inside
                    if dense:
                        found = row.at(v * lanes).load(lanes, mask)
                    else:
                        found = _gathered(row, wheres[v], mask)
                    pointer.at(v * lanes).store(code.convert(found, operand, compute))
    return code.text()


def turned(operand: str, compute: str, lanes: int, vectors: int) -> str:
    """The LLVM IR of the kernel ``grouped_panels`` for a filter with contiguous channels.

    Vectors of channels are loaded for each output and transposed in registers.
    """
    code = Code("grouped_panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as panel:
        f = code.array("f", operand).at(code.array("panel_f", "int64").at(panel).load())
        columns = code.array("panel_columns", "int64").at(panel).load()
        size = code["padded"] * code["taps"] * width
        to = code.array("panels", compute).at(panel * code["outer"] * size)
        table = code.array("lane_offsets", "int64")
        with (
            code.loop(0, code["outer"]) as o,
            code.loop(0, code["taps"]) as k,
            code.loop(0, code["padded"], lanes) as c0,
        ):
            tap = code.array("tap_offsets", "int64").at(o * code["taps"] + k).load()
            mask = code.first_lanes(code["channels"] - c0, lanes)
            for v in range(vectors):
                rows = []
                for lane in range(v * lanes, (v + 1) * lanes):
                    pointer = f.at(tap + c0 + table.at(lane).load())
                    there = mask & code.every_lane(code.number(lane) < columns, lanes)
                    rows.append(pointer.load_as(operand, compute, lanes, there))
                for i, row in enumerate(_transposed(rows)):
                    with code.when(c0 + i < code["padded"]):
                        pointer = to.at(o * size + ((c0 + i) * code["taps"] + k) * width)
                        pointer.at(v * lanes).store(row)
    return code.text()


def _transposed(rows: list[Value]) -> list[Value]:
    """Transpose a square of vectors, as many as each has lanes."""
    count, step = len(rows), 1
    while step < count:
        first = [j + count - step if j & step else j for j in range(count)]
        second = [j + count if j & step else j + step for j in range(count)]
        found = list(rows)
        for i in (i for i in range(count) if not i & step):
            a, b = rows[i], rows[i | step]
            found[i], found[i | step] = _mixed(a, b, first), _mixed(a, b, second)
        rows, step = found, 2 * step
    return rows


def _mixed(a: Value, b: Value, order: list[int]) -> Value:
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return Value(a.code, a.code.builder.shuffle_vector(a.ir, b.ir, lanes))


def _gathered(pointer: Pointer, offsets: Value, mask: Mask) -> Value:
    """Gather the elements at a vector of offsets; zeros where the mask is off."""
    code, lanes = pointer.code, offsets.ir.type.count
    kind = ir.VectorType(pointer.element, lanes)
    size = bytes_of(pointer.element)
    base = code.splat(Value(code, code.builder.ptrtoint(pointer.ir, INT64)), lanes)
    sizes = Value(code, ir.Constant(ir.VectorType(INT64, lanes), [size] * lanes))
    addresses = base + offsets * sizes
    where = Value(code, code.builder.inttoptr(addresses.ir, ir.VectorType(POINTER, lanes)))
    name = f"llvm.masked.gather.v{lanes}{letter(pointer.element)}.v{lanes}p0"
    return code.intrinsic(name, kind, [where, size, mask, Value(code, ir.Constant(kind, None))])
