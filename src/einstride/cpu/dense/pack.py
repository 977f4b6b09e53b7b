"""Write the kernel that packs a filter into panels (panel, tap, channel, V vectors of columns).

Columns are output channels; zeros fill the last panel. The convolution then reads the filter
contiguously. The filter may have any strides, so flipped filters, the taps of one phase and the
transposed filter of an input gradient are packed without another copy.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER, bytes_of, letter
from einstride.codegen.vector_ops import transpose

ARGUMENTS = (
    "counter", "chunks", "f", "panels", "taps", "channels", "tap_offsets",
    "f_channel", "f_column", "panel_f", "panel_columns",
)  # fmt: skip


def kernel(operand: str, compute: str, lanes: int, vectors: int, order: str) -> str:
    """Write the LLVM IR of the kernel ``panels``.

    `order` names the contiguous axis of f: "columns" (output channels), "channels", or "any".
    """
    code = Code("panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        taps, channels = code["taps"], code["channels"]
        panel, tap = chunk // taps, chunk % taps
        f = code.array("f", operand)
        f = f.at(code.array("tap_offsets", "int64").at(tap).load())
        f = f.at(code.array("panel_f", "int64").at(panel).load())
        columns = code.array("panel_columns", "int64").at(panel).load()
        panel_tap = code.array("panels", compute).at((panel * taps + tap) * channels * width)
        if order == "channels":
            for v in range(vectors):
                f_vector = f.at(code["f_column"] * (v * lanes))
                _transpose_panel(code, f_vector, panel_tap.at(v * lanes), columns - v * lanes,
                                 operand, compute, lanes, width)  # fmt: skip
        else:
            masks = [code.first_lanes(columns - v * lanes, lanes) for v in range(vectors)]
            with code.loop(0, channels) as c:  # the outer loop, since rows may lie far apart
                row = f.at(c * code["f_channel"])
                for v, mask in enumerate(masks):
                    if order == "columns":
                        vector = row.at(v * lanes).load(lanes, mask)
                    else:
                        vector = _gather(row, code["f_column"], v * lanes, lanes, mask)
                    panel_tap.at(c * width + v * lanes).store(
                        code.convert(vector, operand, compute)
                    )
    return code.text()


def _transpose_panel(
    code: Code, f: Pointer, panel: Pointer, columns: Value, operand: str, compute: str, lanes: int,
    width: int,
) -> None:  # fmt: skip
    """Pack one vector of output channels, transposing lanes x lanes elements in registers."""
    channels = code["channels"]
    rows = [f.at(code["f_column"] * j) for j in range(lanes)]
    full_squares = (columns >= lanes).select(channels - channels % lanes, code.number(0))
    with code.loop(0, full_squares, lanes) as c:
        square = transpose([row.at(c).load_as(operand, compute, lanes) for row in rows])
        for j, vector in enumerate(square):
            panel.at((c + j) * width).store(vector)
    with code.loop(full_squares, channels, lanes) as c:
        depth = channels - c
        square = transpose(
            [
                row.at(c).load_as(
                    operand, compute, lanes,
                    code.first_lanes((columns >= j + 1).select(depth, code.number(0)), lanes),
                )
                for j, row in enumerate(rows)
            ]
        )  # fmt: skip
        for j, vector in enumerate(square):
            with code.when(depth >= j + 1):
                panel.at((c + j) * width).store(vector)


def _gather(pointer: Pointer, stride: Value, first: int, lanes: int, mask: Mask) -> Value:
    """Gather the elements at the offsets (first, first + 1, ...) * stride."""
    code, kind = pointer.code, ir.VectorType(pointer.element, lanes)
    numbers = ir.Constant(ir.VectorType(INT64, lanes), list(range(first, first + lanes)))
    size = bytes_of(pointer.element)
    base = code.splat(Value(code, code.builder.ptrtoint(pointer.ir, INT64)), lanes)
    addresses = base + Value(code, numbers) * code.splat(stride * size, lanes)
    pointers = Value(code, code.builder.inttoptr(addresses.ir, ir.VectorType(POINTER, lanes)))
    name = f"llvm.masked.gather.v{lanes}{letter(pointer.element)}.v{lanes}p0"
    return code.intrinsic(name, kind, [pointers, size, mask, Value(code, ir.Constant(kind, None))])
