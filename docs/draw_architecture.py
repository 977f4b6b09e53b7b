"""Draw docs/architecture.svg: the rooms, the imports between them, and the way of one call.

    python docs/draw_architecture.py            write the picture
    python docs/draw_architecture.py --check    say whether the committed picture is this one

Nothing in the picture is written by hand. The rooms and their order come from the import contract
in pyproject.toml, what each is for from the first line of its docstring, the imports from grimp,
and the way of a call from a call that is run and watched. Numbers that change with every commit
are rounded, so that the picture changes only where the architecture does.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from html import escape
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "einstride"
PICTURE = Path(__file__).with_name("architecture.svg")

CALL = 'es.conv(x, f, algorithm="direct")'
"""The call that is watched: the first one of a process. Its algorithm is named, since the fastest
one depends on the machine."""

FEW, MANY = 4, 20
"""Imports from which an arrow is of middle width, and thick."""

# ---- what is drawn -------------------------------------------------------------------------------


class Room(NamedTuple):
    """A box of the picture."""

    name: str
    purpose: str
    size: str


class Step(NamedTuple):
    """A room that the watched call enters, from which room, and how many modules it runs there."""

    room: str
    caller: str
    modules: int


def layers() -> list[list[str]]:
    """The rooms of each layer, from the top, as import-linter's contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    written = next(c["layers"] for c in contracts if c["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in written]


def rounded(number: int) -> int:
    """A number with one significant digit."""
    unit = 10 ** (len(str(number)) - 1)
    return (number + unit // 2) // unit * unit


def describe(name: str) -> Room:
    """A room's name, the first line of its docstring, and its size."""
    folder = PACKAGE / name
    start = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [start]
    text = ast.get_docstring(ast.parse(start.read_text(encoding="utf-8"))) or ""
    lines = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files)
    modules = f"{len(files)} modules" if len(files) > 1 else "1 module"
    return Room(
        name, text.splitlines()[0].replace("`", ""), f"{modules}, about {rounded(lines)} lines"
    )


def imports(rooms: list[str]) -> Counter[tuple[str, str]]:
    """How often each room imports from each other one; imports for types alone do not count."""
    graph = grimp.build_graph("einstride", exclude_type_checking_imports=True, cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = room_of(module.split(".")), room_of(imported.split("."))
            if ends[0] != ends[1] and all(end in rooms for end in ends):
                found[ends] += 1
    return found


def room_of(path: list[str]) -> str:
    """The room of a module, given its dotted name in parts."""
    return path[1] if len(path) > 1 else ""


# ---- the way of a call ---------------------------------------------------------------------------


def way() -> list[Step]:
    """The rooms that the first call of a process enters, in order, without any kernel on disk."""
    with tempfile.TemporaryDirectory() as empty:
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        given = {**os.environ, **threads, "EINSTRIDE_CACHE": empty}
        given["PYTHONPATH"] = str(PACKAGE.parent)
        done = subprocess.run(
            [sys.executable, __file__, "--watch"], env=given, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
    return [Step(*step) for step in json.loads(done.stdout)]


def watch() -> list[Step]:
    """Run the call and note, on each entry into a room, from which room it was entered."""
    import numpy as np

    import einstride as es
    from einstride.support import workers

    workers.in_worker = lambda function: function()  # compile where it is watched, not in a thread
    x, f = np.ones((1, 32, 32, 16), "float32"), np.ones((3, 3, 16, 32), "float32")
    outside, importing = "outside", "importing"
    stack: list[str] = [outside]
    callers: dict[str, str] = {}
    modules: dict[str, set[Path]] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and len(stack) > 1:
            stack.pop()
        if event != "call":
            return
        file, room = Path(frame.f_code.co_filename), stack[-1]
        if room != importing and PACKAGE in file.parents:
            room = importing
            if frame.f_code.co_name != "<module>":
                room = file.relative_to(PACKAGE).parts[0]
                callers.setdefault(room, stack[-1])
                modules.setdefault(room, set()).add(file)
        stack.append(room)

    sys.setprofile(note)
    try:
        eval(CALL, {"es": es, "x": x, "f": f})
    finally:
        sys.setprofile(None)
    return [Step(room, caller, len(modules[room])) for room, caller in callers.items()]


# ---- the picture ---------------------------------------------------------------------------------

WIDTH, HEIGHT = 620, 48
"""Of a room's box."""

BETWEEN_LAYERS, BETWEEN_ROOMS = 14, 4

LEFT, RIGHT, TOP, BOTTOM = 184, 156, 92, 92
"""Margins: imports on the left, calls on the right, the title above, the legend below."""

STROKES = {"few": (0.8, 0.5), "some": (1.6, 0.65), "many": (3.0, 0.8)}
"""Width and opacity of an arrow, by the number of its imports."""

LIGHT = {"paper": "#ffffff", "box": "#f6f8fa", "edge": "#c9d1d9", "ink": "#1f2933",
         "soft": "#566370", "arrow": "#64748b", "way": "#c2410c"}  # fmt: skip
DARK = {"paper": "#0f151c", "box": "#19222c", "edge": "#3b4856", "ink": "#e6edf3",
        "soft": "#a3b0bd", "arrow": "#94a3b8", "way": "#fb923c"}  # fmt: skip


def colours(palette: dict[str, str]) -> str:
    """The rules of a style sheet that depend on the palette."""
    rules = {
        ".paper": "fill: {paper}", ".room": "fill: {box}; stroke: {edge}",
        ".on": "stroke: {way}; stroke-width: 1.5", "text, .soft": "fill: {soft}",
        ".ink": "fill: {ink}", ".hot": "fill: {way}", ".number": "fill: {paper}",
        ".import": "stroke: {arrow}", ".head": "fill: {arrow}", ".way": "stroke: {way}",
    }  # fmt: skip
    return "\n".join(f"{name} {{ {rule.format(**palette)} }}" for name, rule in rules.items())


STYLE = f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif }}
.title {{ font-size: 21px; font-weight: 600 }}
.name {{ font-size: 15px; font-weight: 600 }}
.code {{ font-family: ui-monospace, Menlo, Consolas, monospace }}
.number {{ font-weight: 700; text-anchor: middle }}
.end {{ text-anchor: end }}
.import, .way {{ fill: none }}
.way {{ stroke-width: 2 }}
{colours(LIGHT)}
@media (prefers-color-scheme: dark) {{
{colours(DARK)}
}}
"""


def kind(count: int) -> str:
    """How wide the arrow of so many imports is."""
    return "few" if count < FEW else "some" if count < MANY else "many"


def text(x: float, y: float, words: str, style: str = "") -> str:
    """A line of text, with its words escaped already."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{words}</text>'


def arc(x: float, y: float, to: float, reach: float) -> str:
    """The path of an arrow from (x, y) to (x, to) that bows out sideways."""
    return f"M{x:g} {y:g}C{x + reach:g} {y:g} {x + reach:g} {to:g} {x:g} {to:g}"


def head(x: float, y: float, size: float, style: str) -> str:
    """The point of an arrow at (x, y); a negative size points to the left."""
    back, half = x - 1.7 * size, abs(size)
    return f'<path class="{style}" d="M{x:g} {y:g}L{back:g} {y - half:g}V{y + half:g}z"/>'


def draw() -> str:
    """The picture as SVG."""
    order = layers()
    names = [name for layer in order for name in layer]
    top, rows = float(TOP), {}
    for layer in order:
        for name in layer:
            rows[name] = top
            top += HEIGHT + BETWEEN_ROOMS
        top += BETWEEN_LAYERS - BETWEEN_ROOMS
    width, height = LEFT + WIDTH + RIGHT, top - BETWEEN_LAYERS + BOTTOM
    steps = way()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" '
        f'width="{width}" height="{height:g}" role="img" aria-label="The rooms of einstride">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height:g}" rx="8"/>',
        text(LEFT, 42, "The rooms of einstride", "title ink"),
        text(LEFT, 64, "Imports go down only. Rooms that touch do not import each other."),
        *draw_imports(names, rows),
        *draw_way(steps, rows),
        *(draw_room(describe(name), rows[name], steps) for name in names),
        *draw_legend(height - BOTTOM + 34),
        "</svg>\n",
    ]
    return "\n".join(parts)


def draw_room(room: Room, y: float, steps: list[Step]) -> str:
    """The box of a room, with its step of the call if it has one."""
    number, step = next(
        ((i, s) for i, s in enumerate(steps, 1) if s.room.removesuffix(".py") == room.name),
        (0, None),
    )
    right = LEFT + WIDTH
    box = f'<rect class="room{" on" if step else ""}" x="{LEFT}" y="{y:g}" rx="6" '
    parts = [
        f'{box}width="{WIDTH}" height="{HEIGHT}"/>',
        text(LEFT + 14, y + 20, escape(room.name), "name ink"),
        text(right - 18, y + 20, escape(room.size), "end"),
        text(LEFT + 14, y + 38, escape(room.purpose)),
    ]
    if step:
        middle, noun = y + HEIGHT / 2, "module" if step.modules == 1 else "modules"
        parts.append(text(LEFT + 130, y + 20, f"the call runs {step.modules} {noun}", "hot"))
        parts.append(f'<circle class="hot" cx="{right}" cy="{middle:g}" r="11"/>')
        parts.append(text(right, middle + 4.3, str(number), "number"))
    return "\n".join(parts)


def draw_imports(names: list[str], rows: dict[str, float]) -> list[str]:
    """An arrow on the left for the imports from each room to each other one.

    Arrows leave the lower half of a box and arrive in the upper half of another. The nearer their
    other ends are, the closer they are to the corner, so that arrows of one box do not cross.
    """
    found, place = imports(names), {n: i for i, n in enumerate(names)}
    parts = []
    for (source, target), count in sorted(
        found.items(), key=lambda item: (place[item[0][0]], place[item[0][1]])
    ):
        outgoing = sorted((t for s, t in found if s == source), key=lambda n: place[n])
        incoming = sorted((s for s, t in found if t == target), key=lambda n: -place[n])
        gap_out = min(5.0, 0.5 * HEIGHT / len(outgoing))
        gap_in = min(5.0, 0.5 * HEIGHT / len(incoming))
        begin = rows[source] + HEIGHT - 5 - gap_out * outgoing.index(target)
        end = rows[target] + 5 + gap_in * incoming.index(source)
        stroke, opacity = STROKES[kind(count)]
        reach = 16 + 0.21 * (end - begin)
        size = 2.2 + stroke / 2
        parts.append(
            f'<g opacity="{opacity}"><path class="import" stroke-width="{stroke}" '
            f'd="{arc(LEFT, begin, end, -reach)}"/>{head(LEFT, end, size, "head")}</g>'
        )
    return parts


def draw_way(steps: list[Step], rows: dict[str, float]) -> list[str]:
    """An arrow on the right for each step of the call."""
    right, first = LEFT + WIDTH, rows[steps[0].room]
    start = first - BETWEEN_LAYERS - HEIGHT / 2
    parts = [
        text(right + 24, start - 6, escape(CALL.split(",")[0] + ", f, …)"), "code hot"),
        f'<path class="way" d="M{right + 60} {start + 4:g}'
        f"C{right + 60} {first + HEIGHT / 2:g} {right + 40} {first + HEIGHT / 2:g} "
        f'{right + 15} {first + HEIGHT / 2:g}"/>',
        head(right + 11, first + HEIGHT / 2, -4, "hot"),
    ]
    for step in steps[1:]:
        begin, end = rows[step.caller] + HEIGHT - 8, rows[step.room] + HEIGHT / 2
        reach = 26 + 0.21 * abs(end - begin)
        path = (
            f"M{right} {begin:g}C{right + reach:g} {begin:g} {right + reach:g} {end:g} "
            f"{right + 15} {end:g}"
        )
        parts.append(f'<path class="way" d="{path}"/>')
        parts.append(head(right + 11, end, -4, "hot"))
    return parts


def draw_legend(y: float) -> list[str]:
    """What the arrows mean."""
    parts, x = [], LEFT
    labels = {
        "few": f"1 to {FEW - 1} imports",
        "some": f"{FEW} to {MANY - 1}",
        "many": f"{MANY} or more",
    }
    for name, label in labels.items():
        stroke, opacity = STROKES[name]
        parts.append(
            f'<g opacity="{opacity}"><path class="import" stroke-width="{stroke}" '
            f'd="M{x} {y:g}h32"/>{head(x + 34, y, 2.2 + stroke / 2, "head")}</g>'
        )
        parts.append(text(x + 44, y + 4, label))
        x += 70 + 7 * len(label)
    y += 26
    parts.append(f'<path class="way" d="M{LEFT} {y:g}h30"/>')
    parts.append(head(LEFT + 34, y, 4, "hot"))
    parts.append(
        text(LEFT + 44, y + 4, "the way of one call: which room enters which for the first time")
    )
    return parts


def main() -> int:
    """Write the picture, or compare it with the committed one."""
    if "--watch" in sys.argv:
        print(json.dumps(watch()))
        return 0
    drawn = draw()
    if "--check" in sys.argv:
        same = PICTURE.read_text(encoding="utf-8") == drawn
        print("the picture is this one" if same else "run python docs/draw_architecture.py")
        return 0 if same else 1
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
