"""The joined filter as panels: (panel, tap, d, V vectors of columns), zeros where none is met.

A column's numbers lie side by side along d, columns far apart: squares of as many columns as a
vector has lanes are turned in registers.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.function_builder import Code, Value

ARGUMENTS = ("counter", "chunks", "f", "to", "channels", "columns", "zeros")


def kernel(dtype: str, lanes: int, vectors: int) -> str:
    """The text of the kernel ``block_panels``.

    `columns` holds an offset in f for each panel, tap and column; negative where zeros stand.
    """
    code = Code("block_panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        channels = code["channels"]
        f, zeros = code.array("f", dtype), code.array("zeros", dtype)
        offsets = code.array("columns", "int64").at(chunk * width)
        to = code.array("to", dtype).at(chunk * channels * width)
        with code.loop(0, width, lanes) as column:
            found = [offsets.at(column + i).load() for i in range(lanes)]
            inside = [o >= 0 for o in found]
            with code.loop(0, channels, lanes) as d:
                mask = code.first_lanes(channels - d, lanes)
                rows = [
                    i.pick_pointer(f.at(o + d), zeros).load(lanes, mask)
                    for i, o in zip(inside, found, strict=True)
                ]
                for i, row in enumerate(_turned(rows)):
                    with code.when(d + i < channels):
                        to.at((d + i) * width + column).store(row)
    return code.text()


def _turned(rows: list[Value]) -> list[Value]:
    """The rows of a square as its columns: halves are exchanged, then quarters, and so on."""
    n = len(rows)
    step = n // 2
    while step:
        low = [i // step % 2 == 0 for i in range(n)]
        first = [i if low[i] else n + i - step for i in range(n)]
        second = [i + step if low[i] else n + i for i in range(n)]
        found = list(rows)
        for i in range(n):
            if low[i]:
                found[i] = _mixed(rows[i], rows[i + step], first)
                found[i + step] = _mixed(rows[i], rows[i + step], second)
        rows, step = found, step // 2
    return rows


def _mixed(one: Value, two: Value, order: list[int]) -> Value:
    """Lanes of two vectors."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return Value(one.code, one.code.builder.shuffle_vector(one.ir, two.ir, lanes))
