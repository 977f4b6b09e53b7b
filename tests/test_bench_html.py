"""The page of a benchmark shows every row of its run, and escapes what it is given."""

import json
import re
from pathlib import Path

from bench.html import main, page

RUN = Path(__file__).parent.parent / "bench" / "results" / "2026-11-24-cpu.json"


def test_every_row_is_there(tmp_path):
    data = json.loads(RUN.read_text(encoding="utf-8"))
    assert main([str(RUN), str(tmp_path / "page.html")]) == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    ratios = re.findall(r'data-ratio="([^"]*)"', html)
    assert len(ratios) == len(data["rows"]) == 422
    assert [float(r) for r in ratios if r] == [r["ratio"] for r in data["rows"] if r["ratio"]]
    widths = re.findall(r'<i( class="below")? style="left:([\d.]+)%;width:([\d.]+)%', html)
    for (below, left, width), ratio in zip(widths, filter(None, ratios), strict=True):
        assert bool(below) == (float(ratio) < 1)
        assert (float(left) + float(width) if below else float(left)) == 50
    title = re.search(r"<h1>(.*)</h1>", html).group(1)
    table = RUN.with_suffix(".md").read_text(encoding="utf-8")
    assert table.startswith(f"# {title}\n")
    assert "422 rows" in title
    assert not re.findall(r"https?:|src=|href=|@import|url\(", html)


def test_names_are_escaped():
    data = json.loads(RUN.read_text(encoding="utf-8"))
    hostile = "\"'><script>alert(1)</script>"
    data["rows"] = data["rows"][:2]
    data["rows"][0] |= {"case": hostile, "peer": hostile, "note": hostile, "status": hostile}
    data["command"] = data["groups"][0]["name"] = hostile
    html = page(data)
    assert "<script>alert" not in html
    assert html.count("<script>") == 1


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert main([str(other), str(tmp_path / "page.html")]) == 2
    assert "holds no run" in capsys.readouterr().err
