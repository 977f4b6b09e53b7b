"""The page of `show` in a real Chromium: steps, keys, offsets, contrast, widths.

The tests run where Chromium and playwright are installed (the extra `test`). No browser is
downloaded: it is the system's own, or that of the variable CHROMIUM.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import einstride as es

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

X = np.arange(60).reshape(1, 6, 5, 2) % 11
F = np.arange(36).reshape(3, 3, 2, 2) % 5 - 2
CASES = {
    "plain": ((X, F), {}),
    "stride": ((X, F), {"stride": 2, "padding": "same"}),
    "reflect": ((X, F), {"padding": ((2, 1), (1, 0)), "padding_mode": "reflect"}),
    "groups": (((2, 5, 5, 4), (3, 3, 2, 4)), {"groups": 2, "dilation": 2, "padding": 1}),
    "one axis": (((1, 14, 2), (3, 2, 2)), {"dilation": 2, "padding": "causal"}),
    "three axes": (((1, 3, 4, 4, 1), (2, 2, 2, 1, 1)), {"padding": ((0, 1), 0, 0)}),
    "large": (((8, 512, 512, 64), (3, 3, 64, 64)), {"stride": 2, "at": 100}),
    "complex": (((1, 6, 6, 1), (3, 3, 1, 1)), {"dtype": "complex64"}),
    "holes": (((1, 4, 4, 1), (3, 3, 1, 1)), {"input_dilation": 2, "padding": ((1, -1), 1)}),
}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def visit(browser, tmp_path):
    """Open a page; at the end, nothing may have been requested, and nothing said on the console."""
    said, opened = [], []

    def open_page(shown, *, width=1280, dark=False):
        path = shown.save(tmp_path / "page.html")
        scheme = "dark" if dark else "light"
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda r: said.append(r.url) if r.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not said


def shown(case, **more):
    operands, keywords = CASES[case]
    return es.show(*operands, **keywords, **more)


STEPS = """(limit) => {
  const found = [];
  for (let i = 0; i < Math.min(steps(), limit); i++) {
    go(i);
    const terms = [...document.querySelectorAll(".term")].map((t) => [Number(t.dataset.offset), t.title]);
    found.push({
      target: state.shown.target[1], total: document.getElementById("total")?.title ?? null, terms,
      read: [...document.querySelectorAll("#line .byte.read")].map((g) => Number(g.dataset.offset)),
      offset: Number(document.getElementById("offset")?.textContent),
    });
  }
  return found;
}"""  # noqa: E501


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-"))


def padded(page, x):
    """Return the array that the view of all windows is made of."""
    if not page.data["memory"]["copied"]:
        return x
    pads = [(0, 0), *((a["low"], a["high"]) for a in page.data["axes"]), (0, 0)]
    return np.pad(x, pads, "reflect" if page.data["repeats"] else "constant")


@pytest.mark.parametrize("case", ["plain", "stride", "reflect"])
def test_every_offset_that_is_shown_is_that_of_the_view(visit, case):
    made = shown(case)
    keywords = CASES[case][1]
    whole = padded(made, X)
    w = es.windows(whole, 3, keywords.get("stride", 1))
    y = es.conv(X, F, **keywords)
    start = whole.__array_interface__["data"][0]
    found = visit(made).evaluate(STEPS, 10**6)
    assert len(found) == y.size
    for step in found:
        b, h, v, d = step["target"]
        expected = [
            w[b, h, v, i, j, c, ...].__array_interface__["data"][0] - start
            for i in range(3)
            for j in range(3)
            for c in range(2)
        ]
        assert [offset for offset, _ in step["terms"]] == expected
        assert sorted(step["read"]) == sorted(expected)
        assert step["offset"] == expected[0]
        assert number(step["total"]) == y[b, h, v, d]


@pytest.mark.parametrize("case", ["stride", "reflect", "groups", "three axes"])
def test_the_products_of_all_passes_add_up_to_the_totals(visit, case):
    page = visit(shown(case))
    for tab in ("forward", "input_grad", "filter_grad"):
        page.click(f"#tab-{tab}")
        sums = page.evaluate(
            """() => {
              const found = [];
              for (let i = 0; i < steps(); i += Math.ceil(steps() / 24)) {
                const { products, total } = state.pass.step(i);
                const added = products.reduce((s, p) => s + p.left[1] * p.right[1], 0);
                found.push([added, Number(total)]);
              }
              return found;
            }"""
        )
        assert len(sums) >= 8
        assert any(total for _, total in sums)
        for added, total in sums:
            assert added == total


@pytest.mark.parametrize("case", ["stride", "reflect", "one axis", "holes"])
def test_scatter_and_gather_end_with_the_same_gradient(visit, case):
    made = shown(case, direction="input_grad")
    page = visit(made)
    read = """() => { go(steps() - 1); return state.pass.x.cells.map((cell) => cell.title); }"""
    gathered = page.evaluate(read)
    page.click("#choose-ways-scatter")
    scattered = page.evaluate(read)
    assert gathered == scattered
    assert any(gathered)


@pytest.mark.parametrize("case", CASES)
def test_every_tab_of_every_case(visit, case):
    """No step raises an error, and the page is no wider than a phone."""
    page = visit(shown(case), width=360)
    for tab in ("forward", "input_grad", "filter_grad"):
        page.click(f"#tab-{tab}")
        count = page.evaluate("steps()")
        page.evaluate("[0, 1, 7, steps() - 1].forEach((i) => go(i))")
        assert page.text_content("#count") == f"{count} of {count}"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#tab-input_grad")
    page.click("#choose-ways-scatter")
    page.evaluate("[0, 1, 7, steps() - 1].forEach((i) => go(i))")
    page.click("#tab-plan")
    for name in ("input_grad", "filter_grad", "forward"):
        page.click(f"#choose-plan-{name}")
        assert page.locator(".algorithm").count() == 7
        assert page.locator(".algorithm.chosen").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_keyboard_is_enough(visit):
    page = visit(shown("stride"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-forward"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-input_grad"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "tab-exercises"
    page.keyboard.press("1")  # from here on the arrows step
    for key, count in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", 18)):
        page.keyboard.press(key)
        assert page.text_content("#count") == f"{count} of 18"
    page.keyboard.press("Home")
    first = page.text_content("#offset")
    page.keyboard.press("]")
    assert page.text_content("#offset") != first
    page.keyboard.press("[")
    assert page.text_content("#offset") == first
    page.keyboard.press("Space")
    assert page.text_content("#play") == "Pause"
    sync_api.expect(page.locator("#count")).not_to_have_text("1 of 18")
    page.keyboard.press("Space")
    assert page.text_content("#play") == "Play"
    page.focus("#first")
    for control in ("back", "play", "next", "last", "slider", "line"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == control
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("case", ["plain", "stride", "one axis", "three axes"])
def test_no_label_of_a_stride_covers_another(visit, case):
    page = visit(shown(case))
    for tab in ("forward", "input_grad", "filter_grad"):
        page.click(f"#tab-{tab}")
        for step in (0, 5):
            page.evaluate("(i) => go(i)", step)
            boxes = page.evaluate(
                """() => [...document.querySelectorAll("#line .jump-text")].map((text) => {
                  const { x, y, width, height } = text.getBBox();
                  return [x, y, x + width, y + height];
                })"""
            )
            height = float(page.get_attribute("#line svg", "height"))
            for left, top, right, bottom in boxes:
                assert 0 <= top < bottom <= height
                met = [
                    b
                    for b in boxes
                    if left < b[2] and b[0] < right and top < b[3] and b[1] < bottom
                ]
                assert len(met) == 1


def test_each_axis_of_the_view_is_named(visit):
    page = visit(shown("stride"))
    for table in ("#strides", "#panel-exercises table"):
        names = page.locator(f"{table} .names td").all_text_contents()
        assert names == [
            "example",
            "output row",
            "output column",
            "tap row",
            "tap column",
            "channel",
        ]


@pytest.mark.parametrize("case", ["plain", "groups", "one axis", "three axes"])
def test_a_letter_means_one_thing(visit, case):
    """The view's name is no letter of an axis, in both tables; each letter has a colour."""
    page = visit(shown(case))
    for tab, table in (("forward", "#strides"), ("exercises", "#panel-exercises table")):
        page.click(f"#tab-{tab}")
        head = page.locator(f"{table} thead th").all_text_contents()
        assert head[0] == "v"
        assert len({*head, "x", "f", "y"}) == len(head) + 3
    page.click("#tab-forward")
    assert "one view v of" in page.text_content("#story")
    letters = page.locator("#equation .ax").all_text_contents()
    assert "v" not in "".join(letters)
    colours = "(spans) => spans.map((s) => [s.textContent, getComputedStyle(s).color])"
    coloured = dict(page.locator("#equation .ax").evaluate_all(colours))
    table = dict(page.locator("#strides thead .ax").evaluate_all(colours))
    assert table.items() <= coloured.items()
    assert len(set(coloured.values())) == len(coloured)
    page.click("#tab-input_grad")
    positions = page.text_content("#equation").partition(" = ")[0]  # gx[b, p, q, c]
    outputs = page.locator("#strides thead .ax").all_text_contents()
    assert set(re.findall(r"\b[a-z]\b", positions)) & set(outputs) == {"b"}


FRAMES = Path(__file__).parent.parent / "docs" / "static" / "frames.js"
ALONE = """async () => {
  const frame = document.querySelector("iframe");
  await new Promise((done) => setTimeout(done, 300));
  return frame.clientHeight;
}"""


@pytest.mark.parametrize("width", [360, 1280])
def test_a_frame_of_the_site_is_as_high_as_its_page(browser, tmp_path, width):
    """Nothing is cut in any tab, and the outer page stays where it is."""
    shown("stride").save(tmp_path / "live.html")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f"<script>{FRAMES.read_text(encoding='utf-8')}</script><p style='height:700px'>above</p>"
        "<iframe src='live.html?tab=filter_grad' style='width:100%;height:820px'></iframe>"
    )
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(outer.as_uri())
    inner = page.frames[1]
    assert inner.get_attribute("#tab-filter_grad", "aria-selected") == "true"
    assert page.evaluate("scrollY") == 0
    for tab in ("forward", "input_grad", "filter_grad", "plan", "exercises"):
        inner.click(f"#tab-{tab}")
        height = page.evaluate(ALONE)
        assert inner.evaluate("document.documentElement.scrollHeight") <= height
        assert (
            inner.evaluate("document.documentElement.getBoundingClientRect().height") > 0.6 * height
        )
    page.close()


def test_a_plan_of_any_batch_says_so(visit):
    page = visit(es.show((None, 6, 6, 1), (3, 3, 1, 2)))
    assert "The batch may be any" in page.text_content("#part")
    page.click("#tab-plan")
    for name in ("input_grad", "filter_grad", "forward"):
        page.click(f"#choose-plan-{name}")
        assert "x (None, 6, 6, 1)" in page.text_content("#plan")
        assert "for any batch; the figures are those of one example" in page.text_content("#plan")


def test_clicks_slide_and_answers(visit):
    made = shown("stride")
    page = visit(made)
    page.locator("#stage .operand").last.locator(".cell").nth(5).click()
    assert page.text_content("#count") == "6 of 18"
    page.locator(".term").nth(4).click()
    assert page.text_content("#offset") == page.locator(".term").nth(4).get_attribute("data-offset")
    page.fill("#slider", "11")
    assert page.text_content("#count") == "12 of 18"
    page.click("#tab-exercises")
    for number, exercise in enumerate(made.data["exercises"]):
        page.fill(f"#answer-{number}", "x")
        item = page.locator(".exercises li").nth(number)
        item.locator("button").click()
        assert item.locator("output").text_content() == (
            "Not yet: look at the worked answer, or try again."
        )
        page.fill(f"#answer-{number}", exercise["answer"])
        item.locator("button").click()
        assert item.locator("output").text_content() == "Right."
        assert exercise["answer"] in item.locator("details").text_content()


CONTRAST = """() => {
  const channel = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  const ground = (node) => {
    const layers = [];
    for (let n = node; n; n = n.parentElement) layers.push(parse(getComputedStyle(n).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || node.closest("script,style,.aside,noscript") || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const text = node.namespaceURI.endsWith("svg") ? style.fill : style.color;
    let under = ground(node.closest("svg") ?? node);
    const box = node.closest(".byte")?.querySelector("rect");
    if (box && node.classList.contains("value")) under = over(parse(getComputedStyle(box).fill), under);
    const [a, b] = [light(over(parse(text), under)), light(under)].sort((p, q) => q - p);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push([walk.currentNode.textContent.trim().slice(0, 30), node.className.baseVal ?? node.className, ratio.toFixed(2)]);
  }
  return bad;
}"""  # noqa: E501


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast(visit, dark):
    """At least 4.5 to 1, as WCAG's level AA asks."""
    page = visit(shown("reflect"), dark=dark)
    for tab in ("forward", "input_grad", "filter_grad", "plan", "exercises"):
        page.click(f"#tab-{tab}")
        if tab in ("forward", "input_grad", "filter_grad"):
            page.evaluate("go(9)")
        assert not page.evaluate(CONTRAST), tab


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_width_scrolls_sideways(visit, width):
    page = visit(shown("groups"), width=width)
    for tab in ("forward", "input_grad", "filter_grad", "plan", "exercises"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_title_is_text(visit):
    hostile = "</script><script>window.hostile = 1</script><img src=x onerror='window.hostile = 1'>"
    page = visit(shown("plain", title=hostile))
    assert page.text_content("h1") == page.title() == hostile
    assert page.evaluate("window.hostile === undefined")


def test_a_notebook_shows_it_in_a_frame(browser):
    page = browser.new_page()
    page.set_content(f"<body>{shown('plain')._repr_html_()}</body>")
    frame = page.frame_locator("iframe")
    frame.locator("#next").click()
    assert frame.locator("#count").text_content().startswith("2 of")
    page.close()
