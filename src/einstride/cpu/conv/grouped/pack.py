"""Write kernels that pack a grouped filter: (panel, outer tap, channel, last tap, output lanes).

A table holds the offset of each lane's element in the filter, so that several groups in a vector,
flipped filters and the transposed filter of an input gradient are packed without another copy.
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code
from einstride.codegen.vector_formats import Format, gather
from einstride.codegen.vector_ops import transpose

ARGUMENTS = (
    "counter", "chunks", "f", "panels", "outer", "taps", "channels", "padded", "tap_offsets",
    "f_channel", "lane_offsets", "panel_f", "panel_columns",
)  # fmt: skip


def kernel(operand: str, compute: str, lanes: int, vectors: int, contiguous: bool) -> str:
    """Write the LLVM IR of ``grouped_panels``; `contiguous`: True if lanes are contiguous in f."""
    code = Code("grouped_panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as panel:
        f = code.array("f", operand).at(code.array("panel_f", "int64").at(panel).load())
        columns = code.array("panel_columns", "int64").at(panel).load()
        size = code["padded"] * code["taps"] * width
        panel_pointer = code.array("panels", compute).at(panel * code["outer"] * size)
        masks = [code.first_lanes(columns - v * lanes, lanes) for v in range(vectors)]
        table = code.array("lane_offsets", "int64")
        lane_offsets = [table.at(v * lanes).load(lanes) for v in range(vectors)]
        with code.loop(0, code["outer"]) as o, code.loop(0, code["taps"]) as k:
            tap = code.array("tap_offsets", "int64").at(o * code["taps"] + k).load()
            with code.loop(0, code["padded"]) as c:
                row = f.at(tap + c * code["f_channel"])
                pointer = panel_pointer.at(o * size + (c * code["taps"] + k) * width)
                inside = code.every_lane(c < code["channels"], lanes)
                for v in range(vectors):
                    mask = masks[v] & inside
                    if contiguous:
                        stored = row.at(v * lanes).load(lanes, mask)
                    else:
                        stored = gather(row, Format(operand, operand), lane_offsets[v], mask)
                    pointer.at(v * lanes).store(code.convert(stored, operand, compute))
    return code.text()


def transposing_kernel(operand: str, compute: str, lanes: int, vectors: int) -> str:
    """Write the LLVM IR of the kernel ``grouped_panels`` for a filter with contiguous channels.

    Vectors of channels are loaded for each output and transposed in registers.
    """
    code = Code("grouped_panels", ARGUMENTS)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as panel:
        f = code.array("f", operand).at(code.array("panel_f", "int64").at(panel).load())
        columns = code.array("panel_columns", "int64").at(panel).load()
        size = code["padded"] * code["taps"] * width
        panel_pointer = code.array("panels", compute).at(panel * code["outer"] * size)
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
                    inside = mask & code.every_lane(code.number(lane) < columns, lanes)
                    rows.append(pointer.load_as(operand, compute, lanes, inside))
                for i, row in enumerate(transpose(rows)):
                    with code.when(c0 + i < code["padded"]):
                        pointer = panel_pointer.at(o * size + ((c0 + i) * code["taps"] + k) * width)
                        pointer.at(v * lanes).store(row)
    return code.text()
