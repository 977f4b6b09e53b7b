"""Seconds per product, byte and call, from which times are predicted, by library and dtype.

What may enter: measured figures with their date and device, and functions that look them up.
Start with `rates`. `calibration.json` is measured by ``python -m bench.calibrate``;
`calibration_gpu.json` holds guesses from public figures until `ci/gpu` has run on a device, which
writes it anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from einstride.support.caches import cached


@dataclass(frozen=True)
class Figures:
    """Where a library's constants come from. Print it.

    Attributes
    ----------
    measured : bool
        False if no device was there: the constants are guesses from what is published.
    date : str
        When they were measured or written down.
    device : str
        The device, or "" where it is this library's own calibration file that tells.
    source : str
        What guesses are based on.
    """

    measured: bool
    date: str
    device: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Half a sentence for the plan."""
        if not self.measured:
            return f"times are PREDICTIONS from {self.source}, not measurements; {self.date}"
        if self.device:
            return f"times predicted from figures measured on {self.device}, {self.date}"
        return f"times predicted from the calibration of {self.date}"


@cached(2, "process")  # all files: there are 2
def calibration(name: str = "calibration") -> dict[str, Any]:
    """The shipped figures: seconds per product, per byte and per call, by library and dtype."""
    text = files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def table(library: str) -> dict[str, Any]:
    """The figures of a library; those of NumPy where nothing is known."""
    gpu = calibration("calibration_gpu")
    if library == gpu["library"]:
        return gpu
    table: dict[str, Any] = calibration()["libraries"]
    return dict(table.get(library, table["numpy"]))


def rates(library: str, compute: str, tf32: bool = False) -> dict[str, float]:
    """The figures for a library and a dtype; those of NumPy and float64 where nothing is known.

    `tf32`: for calls that allow it, products of float32 are those of tensor cores where there are.
    """
    mine = table(library)
    by_dtype = mine["dtypes"].get(compute, mine["dtypes"]["other"])
    found = {**mine["calls"], **by_dtype}
    if tf32 and compute == "float32" and "tf32" in found:
        found["matmul"] = found["tf32"]
    return found


def of(library: str) -> Figures:
    """Where the figures for a library come from."""
    mine = table(library)
    if "measured" not in mine:
        return Figures(True, calibration()["date"])
    return Figures(mine["measured"], mine["date"], mine["device"], mine.get("source", ""))


def proved(library: str) -> tuple[str, ...]:
    """What `algorithm="auto"` may choose for a library; nothing if it may choose everything."""
    return tuple(table(library).get("auto", ()))
