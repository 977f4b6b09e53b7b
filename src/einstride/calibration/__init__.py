"""Look up the measured seconds per product, byte and call from which times are predicted.

What may enter: measured figures with their date and device, and functions that look them up.
Start with `rates`. ``python -m bench.calibrate`` measures `calibration.json`.
`calibration_gpu.json` holds estimates from published figures, until a run of `ci/gpu` on a device
writes measurements.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from einstride.support.caches import cached


@dataclass(frozen=True)
class Figures:
    """Hold the origin of a library's figures; ``str`` writes it for a plan.

    Attributes
    ----------
    measured : bool
        False if the figures are estimates from published ones, since no device was available.
    date : str
        The date of the measurement or of the estimate.
    device : str
        The measured GPU; "" for the figures in `calibration.json`.
    source : str
        The published figures that an estimate is based on.
    """

    measured: bool
    date: str
    device: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Write the origin as a clause for the text of a plan."""
        if not self.measured:
            return f"times are PREDICTIONS from {self.source}, not measurements; {self.date}"
        if self.device:
            return f"times predicted from figures measured on {self.device}, {self.date}"
        return f"times predicted from the calibration of {self.date}"


@cached(4, "process")  # there are 4 files
def calibration(name: str = "calibration") -> dict[str, Any]:
    """Read a file of figures: seconds per product, per byte and per call, by library and dtype."""
    text = files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def table(library: str) -> dict[str, Any]:
    """Return the figures of a library; NumPy's figures if it has none."""
    gpu = calibration("calibration_gpu")
    if library == gpu["library"]:
        return gpu
    table: dict[str, Any] = calibration()["libraries"]
    return dict(table.get(library, table["numpy"]))


def rates(library: str, compute: str, tf32: bool = False) -> dict[str, float]:
    """Return the figures for a library and the dtype of the products.

    A library without figures has NumPy's, a dtype without figures those of "other". `tf32` is True
    if the call allows TF32: products of float32 then take the time of tensor cores, if measured.
    """
    figures = table(library)
    by_dtype = figures["dtypes"].get(compute, figures["dtypes"]["other"])
    found = {**figures["calls"], **by_dtype}
    if tf32 and compute == "float32" and "tf32" in found:
        found["matmul"] = found["tf32"]
    return found


def of(library: str) -> Figures:
    """Return the origin of the figures for a library."""
    figures = table(library)
    if "measured" not in figures:
        return Figures(True, calibration()["date"])
    return Figures(
        figures["measured"], figures["date"], figures["device"], figures.get("source", "")
    )


def of_compiled_library(library: str) -> dict[str, float]:
    """Return the seconds of a library's own convolutions, and of calls back from compiled code."""
    found: dict[str, float] = calibration(f"calibration_{library}")["seconds"]
    return found


def auto_algorithms(library: str) -> tuple[str, ...]:
    """List the algorithms that "auto" may choose for a library; an empty list allows all."""
    return tuple(table(library).get("auto", ()))
