"""The filter as panels: (panel, tap, channel, V vectors of output channels), zeros at the end.

A product then reads the filter as one stream. Strides of any kind are read, so flipped filters, the
taps of one phase and the exchanged channels of an input gradient need no copy of their own.
"""

from __future__ import annotations

from einstride.simd.code import Code

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
                        row.gather(code["f_column"], v * lanes, lanes, mask), operand, compute
                    )
                to.at(c * width + v * lanes).store(found)
    return code.text()
