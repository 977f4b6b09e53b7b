"""Writes the report as an HTML page: rows to search, a bar for each ratio, figures under the mouse.

    python -m bench.html bench/results/2026-11-24-cpu.json page.html

makes the page of an earlier run from its JSON; ``python -m bench --html page.html`` that of a new
one. The style is that of the page of `einstride.show`; the page loads nothing.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from bench import report

WIDEST = math.log2(16)  # of a bar: ratios of 16 and 1/16 reach the ends of the track

STYLE = """
#find{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin:16px 0}
#find input{font:inherit;color:var(--ink);background:var(--paper);border:1px solid var(--strong);
border-radius:8px;padding:8px 12px;flex:1 1 240px}
.wide{overflow-x:auto}table{width:100%;font-size:.85rem}td:first-child,th:first-child{text-align:left}
tbody td:first-child{overflow-wrap:anywhere;min-width:6em}td.bars{min-width:190px;padding:3px 0}
.ratio{position:relative;display:block;height:16px}
.ratio::after{content:"";position:absolute;left:50%;top:-4px;bottom:-4px;
border-left:1px solid var(--ink)}
.ratio i{position:absolute;top:1px;bottom:1px;background:var(--bar-chosen);border-radius:2px}
.ratio i.below{background:var(--read-line)}tr:focus-visible{outline-offset:-3px}
#figures{position:sticky;bottom:0;min-height:4.6em;background:var(--paper);
border:1px solid var(--line);border-radius:10px;padding:8px 14px;font-size:.85rem;margin-top:8px}
"""

SCRIPT = """
const rows = [...document.querySelectorAll("tbody.rows tr")];
const find = document.getElementById("search"), count = document.getElementById("count");
function filter() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0, logs = 0;
  for (const row of rows) {
    row.hidden = !words.every((word) => row.dataset.text.includes(word));
    if (row.hidden || !row.dataset.ratio) continue;
    shown += 1;
    logs += Math.log(row.dataset.ratio);
  }
  const mean = Math.exp(logs / shown).toFixed(2);
  count.textContent = shown ? `${shown} rows, geometric mean ${mean}` : "no row";
}
function tell(event) {
  const row = event.target.closest("tr[data-figures]");
  if (row) document.getElementById("figures").textContent = row.dataset.figures;
}
find.addEventListener("input", filter);
document.addEventListener("mouseover", tell);
document.addEventListener("focusin", tell);
filter();
"""


def page(data: dict[str, Any]) -> str:
    """Write the page of a run from the object that its JSON holds."""
    style = files("einstride.viewer").joinpath("assets", "page.css").read_text(encoding="utf-8")
    title = report.title(data["date"], len(data["rows"]))
    about = (
        f"{data['processor']} ({data['vector']}), {data['options']['threads']} threads, "
        f"{data['rounds']} interleaved rounds; {data['date']}; {data['command']}"
    )
    libraries = "; ".join(
        f"{name}: " + ", ".join(f"{p} {v}" for p, v in known["versions"].items())
        for name, known in data["about"].items()
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title><style>{style}{STYLE}</style></head><body>
<header><h1>{escape(title)}</h1><p id="summary">{escape(about)}</p>
<p>Ratio: the time of the best peer of a row, in its best layout, divided by einstride's; above 1
einstride is faster. Bars are logarithmic, from 1/16 to 16. {escape(libraries)}.</p></header>
<main><div class="wide"><table><thead><tr><th scope="col">group</th><th scope="col">rows</th>
<th scope="col">geometric mean</th><th scope="col">lowest</th><th scope="col">highest</th>
<th scope="col">at 1 or above</th></tr></thead><tbody>{"".join(map(_group, data["groups"]))}</tbody>
</table></div>
<div id="find"><label for="search">Find rows</label>
<input id="search" type="search" placeholder="words of a case, a group, a pass, a peer">
<output id="count" for="search"></output></div>
<div class="wide"><table><thead><tr><th scope="col">case</th><th scope="col">pass</th>
<th scope="col">ratio</th><th scope="col">bar from 1/16 to 16</th>
<th scope="col">best peer</th></tr></thead>
<tbody class="rows">{"".join(map(_row, data["rows"]))}</tbody></table></div>
<div id="figures" role="status">Figures of a row appear here under the mouse, or with the tab key.
</div></main><script>{SCRIPT}</script></body></html>
"""


def _group(group: dict[str, Any]) -> str:
    cells = [group["name"], group["rows"]]
    cells += map(_number, (group["mean"], group["lowest"], group["highest"]))
    cells.append(group["won"])
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _row(row: dict[str, Any]) -> str:
    ratio, peer = row["ratio"], row["peer"] or "-"
    counted = "" if ratio is None or row["status"] == "WRONG" else ratio  # in the means
    words = " ".join([row["row"], row["group"], row["dtype"], row["pass"], peer, row["status"]])
    cells = [
        f"{escape(row['case'])} b{row['batch']}", escape(row["pass"]), _number(ratio),
        "" if ratio is None else _bar(ratio), escape(peer),
    ]  # fmt: skip
    kinds = ["", "", "", ' class="bars"', ""]
    return (
        f'<tr tabindex="0" data-text="{escape(words.lower())}" data-ratio="{counted}" '
        f'data-figures="{escape(_figures(row))}">'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True))
        + "</tr>\n"
    )


def _bar(ratio: float) -> str:
    """Draw a bar from the middle, where the ratio is 1, to the right or to the left."""
    share = min(abs(math.log2(ratio)) / WIDEST, 1) * 50
    if ratio >= 1:
        return f'<span class="ratio"><i style="left:50%;width:{share:.1f}%"></i></span>'
    where = f"left:{50 - share:.1f}%;width:{share:.1f}%"
    return f'<span class="ratio"><i class="below" style="{where}"></i></span>'


def _figures(row: dict[str, Any]) -> str:
    times = [
        f"{t['library']} {t['variant']} {median(t['seconds']) * 1e3:.3g} ms"
        for t in row["timings"]
        if t["seconds"]
    ]
    shape = f"x {tuple(row['x_shape'])}, f {tuple(row['f_shape'])}, stride {tuple(row['stride'])}"
    note = f"; {row['status']}: {row['note']}" if row["status"] != "ok" else ""
    workspace = row["workspace_bytes"]
    room = "" if workspace is None else f", workspace {workspace / 2**20:.1f} MiB"
    return f"{row['row']}: {shape}, {row['dtype']}{room}. {'; '.join(times)}{note}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(arguments: list[str]) -> int:
    """Write the page of a run that was saved as JSON."""
    if len(arguments) != 2:
        print("usage: python -m bench.html RUN.json PAGE.html", file=sys.stderr)
        return 2
    data = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if "rows" not in data or "groups" not in data:
        print(f"bench.html: {arguments[0]} holds no run of python -m bench", file=sys.stderr)
        return 2
    Path(arguments[1]).write_text(page(data), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
