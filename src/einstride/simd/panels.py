"""The filter as panels: (panel, tap, channel, V vectors of output channels), zeros at the end.

A product then reads the filter as one stream. Strides of any kind are read, so flipped filters, the
taps of one phase and the exchanged channels of an input gradient need no copy of their own.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.simd.code import Code, Place, Value
from einstride.simd.elements import POINTER, WORD, bytes_of, letter

ARGUMENTS = (
    "counter", "chunks", "f", "panels", "taps", "channels", "tap_offsets",
    "f_channel", "f_column", "panel_f", "panel_columns",
)  # fmt: skip


def kernel(operand: str, compute: str, lanes: int, vectors: int, dense: bool) -> str:
    """The text of the kernel ``panels``; `dense` where output channels are neighbours in f."""
    code = Code("panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        taps, channels = code["taps"], code["channels"]
        panel, tap = chunk // taps, chunk % taps
        f = code.array("f", operand)
        f = f.at(code.array("tap_offsets", "int64").at(tap).load())
        f = f.at(code.array("panel_f", "int64").at(panel).load())
        columns = code.array("panel_columns", "int64").at(panel).load()
        to = code.array("panels", compute).at((panel * taps + tap) * channels * width)
        for v in range(vectors):
            mask = code.first_lanes(columns - v * lanes, lanes)
            with code.loop(0, channels) as c:
                row = f.at(c * code["f_channel"])
                if dense:
                    found = row.at(v * lanes).load_as(operand, compute, lanes, mask)
                else:
                    found = code.convert(
                        _gathered(row, code["f_column"], v * lanes, lanes, mask), operand, compute
                    )
                to.at(c * width + v * lanes).store(found)
    return code.text()


def _gathered(place: Place, step: Value, first: int, lanes: int, mask: Value) -> Value:
    """A vector of the numbers first, first + 1, ... times `step` elements from a place."""
    code, kind = place.code, ir.VectorType(place.element, lanes)
    numbers = ir.Constant(ir.VectorType(WORD, lanes), list(range(first, first + lanes)))
    size = bytes_of(place.element)
    base = code.splat(Value(code, code.builder.ptrtoint(place.ir, WORD)), lanes)
    addresses = base + Value(code, numbers) * code.splat(step * size, lanes)
    where = Value(code, code.builder.inttoptr(addresses.ir, ir.VectorType(POINTER, lanes)))
    name = f"llvm.masked.gather.v{lanes}{letter(place.element)}.v{lanes}p0"
    return code.intrinsic(name, kind, [where, size, mask, Value(code, ir.Constant(kind, None))])
