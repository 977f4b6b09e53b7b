"""Each cell of docs/mapping.md runs, and gives the result of the library that it names."""

import re
from pathlib import Path

import numpy as np
import pytest

import mapping_jax
import mapping_others
import mapping_torch
from mapping import CELLS

PAGE = Path(__file__).parent.parent / "docs" / "mapping.md"
NOTHING = "\u2013"


def table():
    """Parse the table: {(row, library): text of the cell}."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cut = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    head, _, *rows = cut
    assert head[:2] == ["row", "einstride"]
    assert all(len(row) == len(head) for row in rows)
    return {(row[0], library): text for row in rows for library, text in zip(
        head[1:], row[1:], strict=True)}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # warnings of other libraries
@pytest.mark.parametrize(("row", "library"), CELLS, ids=lambda v: v)
def test_cell(row, library):
    ours, theirs = CELLS[row, library]()
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_every_cell_of_the_table_is_tested_and_every_test_is_in_the_table():
    said = {key for key, text in table().items() if text != NOTHING and key[1] != "einstride"}
    assert said == set(CELLS)
    assert mapping_torch
    assert mapping_jax
    assert mapping_others


def test_every_row_says_how_it_is_written_here():
    assert all(text.startswith("`") for (_, name), text in table().items() if name == "einstride")
