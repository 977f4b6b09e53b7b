"""A resumed benchmark keeps the rows of the earlier run, and refuses a run of another machine."""

from __future__ import annotations

import dataclasses
import json

import pytest
from bench.cases import select
from bench.layouts import layout_of
from bench.measure import Timing, conclude
from bench.options import Options
from bench.report import Run, to_json, to_markdown
from bench.resume import Unlike, take_over
from bench.summary import summarise

ROWS = select(pattern="tiny/*")


def run(rounds=2, **changes):
    new = Run("today", "bench", "processor", "avx", Options(), rounds, {})
    new.about = {"torch": {"versions": {"torch": "1"}, "blas": []}}
    return dataclasses.replace(new, **changes)


def earlier(tmp_path, row):
    old = run(date="yesterday", peaks={"float32": 5.0}, peak_library={"float32": "torch"})
    ours = Timing("ours", "plain", 0.0, None, False, 1.0, [1.0, 2.0], [0.0, 0.0])
    peer = Timing("torch", "NCHW", 0.0, None, False, 1.0, [2.0, 6.0], [0.0, 0.5])
    late = Timing("jax", "NHWC", 0.0, None, False, 9.0, [0.5], [0.0])  # stopped after one round
    timings = [ours, peer, late]
    old.results = [conclude(row, timings, [ours, peer])]
    old.results[0].workspace, old.results[0].note = 7, "a note"
    path = tmp_path / "table.json"
    path.write_text(to_json(old))
    return path, old.results[0]


def test_rows_are_taken_over_whole(tmp_path):
    path, before = earlier(tmp_path, ROWS[0])
    now = run()
    take_over(now, path, ROWS)
    assert now.results == [before]
    assert now.results[0].ratio == 2.5
    assert now.date == "yesterday, today"
    assert now.peaks == {"float32": 5.0}


def test_the_headline_is_the_slower_layout_of_ours():
    last = Timing("ours", "function", 0.0, None, False, 1.0, [1.0, 1.0], [0.0, 0.0])
    first = Timing(
        "ours", "function, channels_first", 0.0, None, False, 1.0, [2.0, 2.0], [0.0, 0.0]
    )
    peer = Timing("torch", "NCHW", 0.0, None, False, 1.0, [3.0, 3.0], [0.0, 0.0])
    slow = Timing("torch", "channels_last", 0.0, None, False, 6.0)  # dropped after its trial
    result = conclude(ROWS[0], [last, first, peer, slow], [last, first, peer])
    assert result.ours is first
    assert result.ratio == 1.5
    assert result.layouts == {
        "channels_last": {"ours": 3.0, "torch": 6.0},
        "channels_first": {"ours": 1.5, "torch": 1.5},
    }
    summary = summarise([result], {})[-1]
    assert summary.layouts["torch channels_last"] == 6.0
    assert "torch channels_first" in to_markdown(run(results=[result]))


@pytest.mark.parametrize(
    ("variant", "layout"),
    [
        ("NCHW, weights prepared", "channels_first"),
        ("channels first", "channels_first"),
        ("as 2-D, channels_last", "channels_last"),
        ("NDHWC", "channels_last"),
        ("NWC", "channels_last"),
        ("NCW", "channels_first"),
        ("filter2D", None),
    ],
)
def test_layouts_of_variants(variant, layout):
    assert layout_of(variant) == layout


def test_rows_that_are_not_asked_for_stay_away(tmp_path):
    path, _ = earlier(tmp_path, ROWS[0])
    now = run()
    take_over(now, path, ROWS[1:])
    assert now.results == []


def test_a_first_run_has_nothing_to_take_over(tmp_path):
    now = run()
    take_over(now, tmp_path / "none.json", ROWS)
    assert now.results == []
    assert now.date == "today"


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"vector": "sse"},
        {"rounds": 3},
        {"environment": {"OPENBLAS_CORETYPE": "Haswell"}},
        {"options": Options(threads=1)},
        {"about": {"torch": {"versions": {"torch": "2"}, "blas": []}}},
    ],
)
def test_another_machine_or_release_is_refused(tmp_path, change):
    path, _ = earlier(tmp_path, ROWS[0])
    with pytest.raises(Unlike, match=next(iter(change)).replace("about", "torch")):
        take_over(run(**change), path, ROWS)


def test_what_is_written_can_be_read_again(tmp_path):
    path, _ = earlier(tmp_path, ROWS[0])
    now = run()
    take_over(now, path, ROWS)
    reread = json.loads(to_json(now))["rows"]
    assert reread == json.loads(path.read_text())["rows"]
