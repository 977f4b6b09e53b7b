"""Generate the kernel that rearranges a filter into panels (panel, tap, d, V vectors of columns).

Zeros fill the columns that a tap does not meet. In the filter a column is contiguous along d, while
a panel is contiguous along columns: squares of as many columns as a vector has lanes are transposed
in registers.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.function_builder import Code, Value

ARGUMENTS = ("counter", "chunks", "f", "to", "channels", "columns", "zeros")


def kernel(dtype: str, lanes: int, vectors: int) -> str:
    """Write the LLVM IR of the kernel ``block_panels``.

    `columns` holds the offset in f of each panel, tap and column; negative for zeros.
    """
    code = Code("block_panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        channels = code["channels"]
        f, zeros = code.array("f", dtype), code.array("zeros", dtype)
        offsets = code.array("columns", "int64").at(chunk * width)
        panel = code.array("to", dtype).at(chunk * channels * width)
        with code.loop(0, width, lanes) as column:
            column_offsets = [offsets.at(column + i).load() for i in range(lanes)]
            exists = [o >= 0 for o in column_offsets]
            with code.loop(0, channels, lanes) as d:
                mask = code.first_lanes(channels - d, lanes)
                rows = [
                    i.select_pointer(f.at(o + d), zeros).load(lanes, mask)
                    for i, o in zip(exists, column_offsets, strict=True)
                ]
                for i, row in enumerate(_transpose(rows)):
                    with code.when(d + i < channels):
                        panel.at((d + i) * width + column).store(row)
    return code.text()


def _transpose(rows: list[Value]) -> list[Value]:
    """Transpose a square of vectors: exchange halves, then quarters, and so on."""
    n = len(rows)
    step = n // 2
    while step:
        low = [i // step % 2 == 0 for i in range(n)]
        first = [i if low[i] else n + i - step for i in range(n)]
        second = [i + step if low[i] else n + i for i in range(n)]
        exchanged = list(rows)
        for i in range(n):
            if low[i]:
                exchanged[i] = _select_lanes(rows[i], rows[i + step], first)
                exchanged[i + step] = _select_lanes(rows[i], rows[i + step], second)
        rows, step = exchanged, step // 2
    return rows


def _select_lanes(a: Value, b: Value, order: list[int]) -> Value:
    """Return the lanes of two vectors that `order` names."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return Value(a.code, a.code.builder.shuffle_vector(a.ir, b.ir, lanes))
