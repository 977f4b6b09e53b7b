"""The filter of small groups as panels: (panel, outer tap, channel, last tap, lanes of outputs).

Where each lane's number lies is told by a table, so that groups side by side, flipped filters and
the exchanged channels of an input gradient need no copy of their own.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.simd.code import Code, Place, Value
from einstride.simd.elements import POINTER, WORD, bytes_of, letter

ARGUMENTS = (
    "counter", "chunks", "f", "panels", "outer", "taps", "channels", "padded", "tap_offsets",
    "f_channel", "lane_offsets", "panel_f", "panel_columns",
)  # fmt: skip


def kernel(operand: str, compute: str, lanes: int, vectors: int, dense: bool) -> str:
    """The text of the kernel ``grouped_panels``; `dense` where lanes are neighbours in f."""
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
                place = to.at(o * size + (c * code["taps"] + k) * width)
                inside = code.splat(c < code["channels"], lanes)
                for v in range(vectors):
                    mask = masks[v] & inside
                    if dense:
                        found = row.at(v * lanes).load(lanes, mask)
                    else:
                        found = _gathered(row, wheres[v], mask)
                    place.at(v * lanes).store(code.convert(found, operand, compute))
    return code.text()


def _gathered(place: Place, offsets: Value, mask: Value) -> Value:
    """The numbers so many elements from a place; zeros where the mask is off."""
    code, lanes = place.code, offsets.ir.type.count
    kind = ir.VectorType(place.element, lanes)
    size = bytes_of(place.element)
    base = code.splat(Value(code, code.builder.ptrtoint(place.ir, WORD)), lanes)
    sizes = Value(code, ir.Constant(ir.VectorType(WORD, lanes), [size] * lanes))
    addresses = base + offsets * sizes
    where = Value(code, code.builder.inttoptr(addresses.ir, ir.VectorType(POINTER, lanes)))
    name = f"llvm.masked.gather.v{lanes}{letter(place.element)}.v{lanes}p0"
    return code.intrinsic(name, kind, [where, size, mask, Value(code, ir.Constant(kind, None))])
