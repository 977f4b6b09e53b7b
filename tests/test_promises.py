"""docs/promises.md and docs/mapping.md name tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def named(page):
    text = page.read_text(encoding="utf-8")
    return sorted(set(re.findall(r"tests/((?:\w+/)?\w+\.py)::(\w+)", text)))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_that_is_named_exists(page):
    for file, name in named(page):
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, (file, name)


def test_every_promise_names_a_test():
    """Every row of the tables names a test, and its column of tests holds nothing else."""
    rows = [
        line.strip("|\n ").split(" | ")
        for line in (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| (?!what|promise)", line)
    ]
    assert sum(row[0].split(".")[0].isdigit() for row in rows) == 10
    for row in rows:
        tests = row[2].split(", ")
        assert all(re.fullmatch(r"`tests/(\w+/)?\w+\.py::\w+`", test) for test in tests), row


def test_every_page_is_looked_at():
    assert {"mapping.md", "promises.md"} <= {page.name for page in PAGES}
    assert all(named(page) for page in PAGES if page.name in ("mapping.md", "promises.md"))
