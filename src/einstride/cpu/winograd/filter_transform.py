"""Transform a filter into panels: U[panel][point][tap, channel][vector of output channels].

The filter may have any strides. Contiguous output channels are loaded as vectors. Contiguous input
channels (of the transposed filter of an input gradient) are loaded as vectors and transposed in
registers, lanes x lanes at a time. Channels with other strides are loaded one by one.
"""

from __future__ import annotations

from collections.abc import Callable

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.linear_combinations import multiply_both_sides
from einstride.codegen.vector_ops import load_strided, local, transpose
from einstride.cpu.winograd.tiles import Form

ARGUMENTS = (
    "counter", "chunks", "pieces", "piece", "taps", "u", "f_panel", "f_point",
    "f", "f_tap", "f_0", "f_1", "f_c", "f_d", "channels", "filters",
)  # fmt: skip
"""Argument names. ``f_tap`` is a table of offsets; ``f_0``, ``f_1``, ``f_c``, ``f_d`` are strides
of f, ``f_panel`` and ``f_point`` of U. A chunk is (panel, tap, ``piece``: a block of channels)."""


def kernel(form: Form, reading: str) -> str:
    """Write the kernel. `reading` names the contiguous axis of f: "filters", "channels", "any"."""
    code = Code("winograd_filter", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        channel_block = chunk % code["pieces"]
        tap, panel = (
            (chunk // code["pieces"]) % code["taps"],
            (chunk // code["pieces"] // code["taps"]),
        )
        first = channel_block * code["piece"]
        count = (code["channels"] - first).minimum(code["piece"])
        row = tap * code["channels"] + first
        u = code.array("u", form.dtype).at(panel * code["f_panel"] + row * form.width)
        block(code, form, reading, panel, tap, first, count, u, code["f_point"])
    return code.text()


def block(
    code: Code, form: Form, reading: str, panel: Value, tap: Value, first: Value, count: Value,
    u: Pointer, point: Value,
) -> None:  # fmt: skip
    """Transform `count` input channels from `first` on, of one tap, for one panel."""
    offset = code.array("f_tap", "int64").at(tap).load()
    f = code.array("f", form.dtype).at(offset + first * code["f_c"])
    rows = form.pair(lambda m: m.taps)
    lanes = form.lanes
    with code.loop(0, form.vectors) as v:
        d = panel * form.width + v * lanes
        source, destination = f.at(d * code["f_d"]), u.at(v * lanes)
        left = code["filters"] - d  # zero or negative behind the last filter

        def tap_pointer(i: int, j: int, source: Pointer = source) -> Pointer:
            return source.at(code["f_0"] * i + code["f_1"] * j)

        with code.loop(0, count, lanes) as c:
            depth = (count - c).minimum(lanes)
            if reading == "channels":
                square = _transpose_taps(code, form, tap_pointer, c, depth, left)
            with code.loop(0, depth) as k:

                def load(i: int, j: int) -> Value:
                    if reading == "channels":
                        _, (_, r1) = form.outputs_and_taps
                        offset = (i * r1 + j) * lanes
                        return square.at((k + offset) * lanes).load(lanes)
                    start = tap_pointer(i, j).at((c + k) * code["f_c"])
                    if reading == "any":
                        return load_strided(start, code["f_d"], left, lanes)
                    return start.load(lanes, code.first_lanes(left, lanes))

                def store(i: int, j: int, value: Value) -> None:
                    offset = point * (i * form.sizes[1] + j) + (c + k) * form.width
                    destination.at(offset).store(value)

                multiply_both_sides(code, rows[0], rows[1], load, store, form.dtype)


def _transpose_taps(
    code: Code,
    form: Form,
    tap_pointer: Callable[[int, int], Pointer],
    c: Value,
    depth: Value,
    left: Value,
) -> Pointer:
    """Load lanes x lanes of each tap, (output channel, channel), and transpose on the stack."""
    lanes, ((_, r0), (_, r1)) = form.lanes, form.outputs_and_taps
    square = local(code, r0 * r1 * lanes, form.dtype, lanes)
    for i in range(r0):
        for j in range(r1):
            rows = []
            for n in range(lanes):
                valid = (code.number(n) < left).select(depth, code.number(0))
                start = tap_pointer(i, j).at(code["f_d"] * n + c)
                rows.append(start.load(lanes, code.first_lanes(valid, lanes)))
            for n, row in enumerate(transpose(rows)):
                square.at(((i * r1 + j) * lanes + n) * lanes).store(row)
    return square
