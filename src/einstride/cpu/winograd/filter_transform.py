"""The transformed filter, in panels: U[panel][point][tap, channel][vector of output channels].

The filter is read by any steps. Where output channels are neighbours, whole vectors are loaded;
where input channels are (the input gradient's filter is the transposed one), squares of vectors are
transposed in registers; anything else is gathered number by number.
"""

from __future__ import annotations

from collections.abc import Callable

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.linear_combinations import sandwiched
from einstride.codegen.vector_ops import local, spaced, transposed
from einstride.cpu.winograd.tiles import Form

ARGUMENTS = (
    "counter", "chunks", "pieces", "piece", "taps", "u", "f_panel", "f_point",
    "f", "f_tap", "f_0", "f_1", "f_c", "f_d", "channels", "filters",
)  # fmt: skip
"""f_tap is a table of offsets, the other f_ are steps; a chunk is (panel, tap, piece)."""


def kernel(form: Form, reading: str) -> str:
    """The text of the kernel. `reading`: "filters", "channels" or "any" lie side by side in f."""
    code = Code("winograd_filter", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        piece = chunk % code["pieces"]
        tap, panel = (
            (chunk // code["pieces"]) % code["taps"],
            (chunk // code["pieces"] // code["taps"]),
        )
        first = piece * code["piece"]
        count = (code["channels"] - first).least(code["piece"])
        row = tap * code["channels"] + first
        u = code.array("u", form.dtype).at(panel * code["f_panel"] + row * form.width)
        block(code, form, reading, panel, tap, first, count, u, code["f_point"])
    return code.text()


def block(
    code: Code, form: Form, reading: str, panel: Value, tap: Value, first: Value, count: Value,
    u: Pointer, point: Value,
) -> None:  # fmt: skip
    """Transform `count` channels from `first` of one tap for one panel."""
    offset = code.array("f_tap", "int64").at(tap).load()
    f = code.array("f", form.dtype).at(offset + first * code["f_c"])
    rows = form.pair(lambda m: m.taps)
    lanes = form.lanes
    with code.loop(0, form.vectors) as v:
        d = panel * form.width + v * lanes
        here, there = f.at(d * code["f_d"]), u.at(v * lanes)
        left = code["filters"] - d  # none or less: the panel's empty end

        def pointer(i: int, j: int, here: Pointer = here) -> Pointer:
            return here.at(code["f_0"] * i + code["f_1"] * j)

        with code.loop(0, count, lanes) as c:
            depth = (count - c).least(lanes)
            if reading == "channels":
                square = _square(code, form, pointer, c, depth, left)
            with code.loop(0, depth) as k:

                def load(i: int, j: int) -> Value:
                    if reading == "channels":
                        at = (i * form.axes[1][1] + j) * lanes
                        return square.at((k + at) * lanes).load(lanes)
                    start = pointer(i, j).at((c + k) * code["f_c"])
                    if reading == "any":
                        return spaced(start, code["f_d"], left, lanes)
                    return start.load(lanes, code.first_lanes(left, lanes))

                def store(i: int, j: int, value: Value) -> None:
                    at = point * (i * form.sizes[1] + j) + (c + k) * form.width
                    there.at(at).store(value)

                sandwiched(code, rows[0], rows[1], load, store, form.dtype)


def _square(
    code: Code,
    form: Form,
    pointer: Callable[[int, int], Pointer],
    c: Value,
    depth: Value,
    left: Value,
) -> Pointer:
    """A square of channels by output channels for each tap, transposed, on the stack."""
    lanes, (r0, r1) = form.lanes, (form.axes[0][1], form.axes[1][1])
    square = local(code, r0 * r1 * lanes, form.dtype, lanes)
    for i in range(r0):
        for j in range(r1):
            rows = []
            for n in range(lanes):
                there = (code.number(n) < left).pick(depth, code.number(0))
                start = pointer(i, j).at(code["f_d"] * n + c)
                rows.append(start.load(lanes, code.first_lanes(there, lanes)))
            for n, row in enumerate(transposed(rows)):
                square.at(((i * r1 + j) * lanes + n) * lanes).store(row)
    return square
