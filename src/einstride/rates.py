"""The calibration file: seconds per product, per byte and per call, by library and dtype."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def calibration() -> dict[str, Any]:
    """The shipped figures: seconds per product, per byte and per call, by library and dtype."""
    text = files("einstride").joinpath("calibration.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def rates(library: str, compute: str) -> dict[str, float]:
    """The figures for a library and a dtype; those of NumPy and float64 where nothing is known."""
    table = calibration()["libraries"]
    mine = table.get(library, table["numpy"])
    by_dtype = mine["dtypes"].get(compute, mine["dtypes"]["other"])
    return {**mine["calls"], **by_dtype}
