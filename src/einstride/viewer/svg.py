"""Draw one window, its elements in memory, and the strides between them as an SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import product
from typing import Any, NamedTuple

from einstride.geometry import keywords as parse
from einstride.support.errors import bad_value

CELL, SMALL = 34, 26
"""Width of a cell of the grid and of the line of memory, in units of the picture."""

MOST_CELLS = 64
"""Elements on the line of memory: more would be too small to read."""

STYLE = """
.ground{fill:#fff}
text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1b1f27}
.cell{fill:#fff;stroke:#c3c9d3}.border{fill:#e9ecf1}.read{fill:#ffe3b3}
.frame{fill:none;stroke:#b45309;stroke-width:3}
.middle{text-anchor:middle}.soft{fill:#59616e}.small{font-size:10.5px}.bold{font-weight:700}
.arc{fill:none;stroke-width:2}.h{fill:#1d5fd0}.w{fill:#0b6b75}.i{fill:#b93c0b}.j{fill:#a21caf}
.b{fill:#4b5563}.c{fill:#2f6b1a}
.arc.h{stroke:#1d5fd0}.arc.w{stroke:#0b6b75}.arc.i{stroke:#b93c0b}.arc.j{stroke:#a21caf}
.arc{fill:none!important}
@media(prefers-color-scheme:dark){.ground{fill:#0d1117}text{fill:#e8ebf0}
.cell{fill:#171b22;stroke:#4a5361}.border{fill:#262c36}
.read{fill:#573a10}.frame{stroke:#f5b14c}.soft{fill:#a3acb9}.h{fill:#7db3ff}.w{fill:#5fd4d6}
.i{fill:#ff9d5c}.j{fill:#f09cf5}
.b{fill:#b3bcc9}.c{fill:#93d67c}.arc.h{stroke:#7db3ff}.arc.w{stroke:#5fd4d6}.arc.i{stroke:#ff9d5c}
.arc.j{stroke:#f09cf5}}
"""


class Drawing(NamedTuple):
    """Hold what the picture needs of a page's data, in integers."""

    rows: int
    columns: int
    window: tuple[tuple[int, int], ...]
    values: list[list[str]]
    strides: dict[str, int]
    offsets: list[int]
    start: int
    item: int
    elements: dict[int, tuple[str, bool]]


def window(where: str, data: dict[str, Any], output: tuple[int, ...] | None) -> str:
    """Draw the window of one output of the first example and channel of a page with two axes.

    Errors name `where`.
    """
    d = _drawing(where, data, output)
    grid = list(_grid(d))
    height = max(d.rows * CELL, 150) + 230
    width = max(len(d.elements) * SMALL + 32, d.columns * CELL + 420)
    parts = [*grid, *_table(data, d), *_line(d, max(d.rows * CELL, 150) + 120)]
    title = escape(f"One window of {data['summary']} and its strides in memory")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{title}">'
        f'<style>{STYLE}</style><rect class="ground" width="{width}" height="{height}"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _drawing(where: str, data: dict[str, Any], output: tuple[int, ...] | None) -> Drawing:
    """Take what one picture needs from the data of a page."""
    if data["rank"] != 2:
        raise bad_value(where, "the picture has two spatial axes", data["rank"], "show two axes")
    axes, memory = data["axes"], data["memory"]
    if output is None:
        output = tuple((a["outputs"][0] + a["outputs"][1]) // 2 for a in axes)
    output = parse.per_axis(where, "output", parse.ints(where, "output", output), 2, 0)
    if any(not a["outputs"][0] <= o < a["outputs"][1] for a, o in zip(axes, output, strict=True)):
        ranges = tuple(tuple(a["outputs"]) for a in axes)
        raise bad_value(where, f"output must lie in {ranges}", output, "choose another")
    rows, columns = (a["stop"] - a["start"] for a in axes)
    if rows * columns > MOST_CELLS or data["shapes"]["x"][-1] > 1:
        raise bad_value(
            where, f"the picture has one channel and at most {MOST_CELLS} positions",
            data["shapes"]["x"], "show a smaller input",
        )  # fmt: skip
    view = list(map(int, memory["windows_strides"]))
    steps = dict(zip("bhwijc", view, strict=True))
    sides, base = list(map(int, memory["strides"])), int(memory["base"])
    start = base + output[0] * steps["h"] + output[1] * steps["w"]
    taps = product(range(axes[0]["taps"]), range(axes[1]["taps"]))
    offsets = [start + i * steps["i"] + j * steps["j"] for i, j in taps]
    elements, values = {}, []
    numbers = data["values"]["x"]
    inner = data["drawn"]["groups"] * data["drawn"]["channels"]
    for r in range(rows):
        values.append([str(numbers[(r * columns + c) * inner]) for c in range(columns)])
        for c in range(columns):
            low = [a["low"] if memory["copied"] else 0 for a in axes]
            at = [axes[0]["start"] + r + low[0], axes[1]["start"] + c + low[1]]
            border = "border" in (axes[0]["kinds"][r], axes[1]["kinds"][c])
            elements[at[0] * sides[1] + at[1] * sides[2]] = (values[r][c], border)
    span = tuple(
        (o * a["stride"] - a["low"] - a["start"], (a["taps"] - 1) * a["dilation"] + 1)
        for a, o in zip(axes, output, strict=True)
    )
    return Drawing(
        rows, columns, span, values, steps, offsets, start, memory["itemsize"],
        dict(sorted(elements.items())),
    )  # fmt: skip


def _grid(d: Drawing) -> Iterator[str]:
    at = dict(zip(d.elements, product(range(d.rows), range(d.columns)), strict=True))
    for offset, (row, column) in at.items():
        text, border = d.elements[offset]
        kind = " read" if offset in d.offsets else " border" if border else ""
        x, y = 16 + column * CELL, 40 + row * CELL
        yield f'<rect class="cell{kind}" x="{x}" y="{y}" width="{CELL}" height="{CELL}"/>'
        soft = " soft" if border else ""
        yield _text(x + CELL / 2, y + 22, text, f"middle{soft}")
    (top, height), (left, width) = d.window
    yield (
        f'<rect class="frame" x="{14 + left * CELL}" y="{38 + top * CELL}" '
        f'width="{width * CELL + 4}" height="{height * CELL + 4}" rx="5"/>'
    )
    yield _text(16, 26, "x", "bold")


def _table(data: dict[str, Any], d: Drawing) -> Iterator[str]:
    """Write the view's shape and strides, a column for each letter."""
    left, text, name = 16 + d.columns * CELL + 36, "x", "x"
    if data["memory"]["copied"]:
        text, name = "x with its border", "padded"
    lines = (f"all windows of {text}, a view:", f"v = as_strided({name}, shape, strides)")
    yield _text(left, 60, lines[0], "")
    yield _text(left, 80, lines[1], "bold")
    for column, (letter, stride) in enumerate(d.strides.items()):
        x = left + 106 + column * 46
        size = data["memory"]["windows_shape"][column]
        yield _text(x, 110, letter, f"middle bold {letter}")
        yield _text(x, 132, str(size), "middle")
        yield _text(x, 154, str(stride), f"middle bold {letter}")
    yield _text(left, 132, "shape", "soft")
    yield _text(left, 154, "bytes", "soft")
    letters = "bhwijc,ijcd->bhwd"
    yield _text(left, 186, f'y = einsum("{letters}", v, f)', "bold")


def _line(d: Drawing, top: int) -> Iterator[str]:
    """Draw the elements in the order of memory, with arcs for the strides."""
    place = {offset: 16 + n * SMALL for n, offset in enumerate(d.elements)}
    for offset, (text, border) in d.elements.items():
        kind = " read" if offset in d.offsets else " border" if border else ""
        x = place[offset]
        yield f'<rect class="cell{kind}" x="{x}" y="{top}" width="{SMALL}" height="{SMALL}"/>'
        yield _text(x + SMALL / 2, top + 17, text, f"middle{' soft' if border else ''}")
        if offset in d.offsets:
            yield _text(x + SMALL / 2, top + SMALL + 13, str(offset), "middle small")
    for letter in "jiwh":
        end = d.start + d.strides[letter]
        if d.strides[letter] and end in place and end != d.start:
            yield from _arc(place[d.start], place[end], top, letter, d.strides[letter])


def _arc(start: int, end: int, top: int, letter: str, stride: int) -> Iterator[str]:
    above = letter in "ij"
    y = top - 3 if above else top + SMALL + 19
    reach = min(12 + (end - start) / 8, 34) * (-1 if above else 1)
    x0, x1 = start + SMALL / 2, end + SMALL / 2
    yield f'<path class="arc {letter}" d="M{x0} {y} Q{(x0 + x1) / 2} {y + 2 * reach} {x1} {y}"/>'
    yield f'<circle class="{letter}" cx="{x1}" cy="{y}" r="2.5"/>'
    label = y + reach + (-5 if above else 14)
    yield _text((x0 + x1) / 2, label, f"{letter} +{stride}", f"middle bold {letter}")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'
