"""Look up the measured seconds per product, byte and call from which times are predicted.

What may enter: measured figures with their date and device, and functions that look them up.
Start with `rates`. The figures of CPUs depend on the bytes of a vector and on the kernels that
NumPy's BLAS has chosen for the CPU, so there is a file for each pair that was measured:
``cpu_32_avx2.json`` has vectors of 32 bytes and BLAS kernels for AVX2. The file that a user has
written by ``python -m einstride calibrate`` comes first.
`calibration_gpu.json` holds estimates from published figures, until a run of `ci/gpu` on a device
writes measurements.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from einstride.codegen import disk_cache, jit
from einstride.support.caches import cached
from einstride.support.errors import bad_value

SETTING = "EINSTRIDE_CALIBRATION"
"""The environment variable that names a file of figures; "shipped": no file of the user."""

BLAS_KERNELS = {
    "SkylakeX": "avx512", "Cooperlake": "avx512", "SapphireRapids": "avx512",
    "Haswell": "avx2", "Zen": "avx2",
}  # fmt: skip
"""{OpenBLAS's name of its kernels: the instructions they are written for}; all others are
"other"."""

VECTOR_BYTES_WITHOUT_LLVM = 32
"""Bytes of a vector of the file that is taken where there are no compiled kernels, as most CPUs
have them; then only the rates of NumPy and its BLAS matter."""


class Cpu(NamedTuple):
    """Name what the figures of a CPU depend on: the key of a file of figures.

    Attributes
    ----------
    vector_bytes : int
        Bytes of a vector of the compiled kernels.
    blas : str
        The instructions of NumPy's BLAS kernels: "avx512", "avx2" or "other".
    """

    vector_bytes: int
    blas: str

    def __str__(self) -> str:
        """Write the pair for plans."""
        kernels = {"avx512": "AVX-512", "avx2": "AVX2"}.get(self.blas, "other instructions")
        return f"vectors of {self.vector_bytes} bytes, BLAS kernels for {kernels}"

    @property
    def file(self) -> str:
        """The name of the file of figures, without its suffix."""
        return f"cpu_{self.vector_bytes}_{self.blas}"


SHIPPED = (Cpu(64, "avx512"), Cpu(32, "avx2"), Cpu(16, "other"))
"""The pairs whose measured figures are part of this package."""


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
        The measured GPU, or the pair `Cpu` of figures for CPUs.
    source : str
        The published figures that an estimate is based on; for figures that a user has measured,
        their file.
    """

    measured: bool
    date: str
    device: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Write the origin as a clause for the text of a plan."""
        if not self.measured:
            return f"times are PREDICTIONS from {self.source}, not measurements; {self.date}"
        where = f", from {self.source}" if self.source else ""
        return f"times predicted from figures measured on {self.device}, {self.date}{where}"


@cached(1, "process")
def _blas() -> str:
    """Return the instructions of the BLAS kernels; all libraries choose them by the same CPU."""
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    known = [BLAS_KERNELS.get(str(getattr(each, "architecture", ""))) for each in libraries]
    return next(filter(None, known), "other")


def cpu() -> Cpu:
    """Return the pair for this process: the target of its kernels, and its BLAS."""
    compiled = jit.available()
    return Cpu(jit.host_target().vector_bytes if compiled else VECTOR_BYTES_WITHOUT_LLVM, _blas())


def nearest(wanted: Cpu) -> Cpu:
    """Return the shipped pair that is most like one that may not have been measured.

    The bytes of a vector count more than BLAS, because compiled kernels do most work.
    """
    return min(
        SHIPPED,
        key=lambda each: (abs(each.vector_bytes - wanted.vector_bytes), each.blas != wanted.blas),
    )


def user_file(of: Cpu) -> Path | None:
    """Return the file for a user's own figures; None if there is no folder for it."""
    folder = disk_cache.folder()
    return folder and folder / f"calibration-{of.file}.json"


@cached(8, "process")  # there are 6 files
def _shipped_file(name: str) -> dict[str, Any]:
    text = files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cached(8, "process")
def _of_cpu(of: Cpu) -> dict[str, Any]:
    """Read the figures for a CPU: the user's own, or those of the nearest pair that are shipped."""
    setting = os.environ.get(SETTING, "")
    shipped = _shipped_file(nearest(of).file)
    path = Path(setting) if setting and setting != "shipped" else user_file(of)
    if setting == "shipped" or path is None or not (setting or path.is_file()):
        return shipped
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _invalid(path, str(error)) from error
    if not complete(found, shipped):
        raise _invalid(path, "figures are missing, or are no positive numbers")
    return {**found, "file": str(path)}


def _invalid(path: Path, reason: str) -> ValueError:
    return bad_value(
        "calibration", "a file of figures holds all rates of the shipped ones, as JSON",
        f"{path}: {reason}",
        f"write it anew by python -m einstride calibrate, or delete it, or set {SETTING}=shipped",
    )  # fmt: skip


def complete(found: Any, shipped: Any) -> bool:
    """True if every field of shipped figures is there: numbers positive and finite, texts any."""
    if isinstance(shipped, dict):
        return isinstance(found, dict) and all(
            name in found and complete(found[name], each) for name, each in shipped.items()
        )
    if isinstance(shipped, str):
        return isinstance(found, str)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return is_number and isfinite(found) and found > 0


def calibration(name: str = "calibration") -> dict[str, Any]:
    """Return a file's figures: seconds per product, per byte and per call, by library and dtype.

    "calibration" is the file for this process' CPU; the others are named without their suffix.
    """
    return _of_cpu(cpu()) if name == "calibration" else _shipped_file(name)


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
        known = calibration()
        return Figures(True, known["date"], known["cpu"], known.get("file", ""))
    return Figures(
        figures["measured"], figures["date"], figures["device"], figures.get("source", "")
    )


@cached(4)
def of_compiled_library(library: str) -> dict[str, Any]:
    """Return the rates of a library's own convolutions, and of calls back from compiled code.

    They were measured on one CPU. On another one all seconds are longer in the proportion in which
    a multiply-add of a lane of the compiled kernels is: the library's kernels use the same
    vectors.
    """
    known = calibration(f"calibration_{library}")
    lanes = cpu().vector_bytes // 4
    slower = rates("numpy", "float32")["vector"] / lanes / known["lane"]
    factors: dict[str, Any] = known["factors"]
    return _multiplied(known["seconds"], slower) | factors


def _multiplied(seconds: dict[str, Any], factor: float) -> dict[str, Any]:
    return {
        name: _multiplied(value, factor) if isinstance(value, dict) else value * factor
        for name, value in seconds.items()
    }


def auto_algorithms(library: str) -> tuple[str, ...]:
    """List the algorithms that "auto" may choose for a library; an empty list allows all."""
    return tuple(table(library).get("auto", ()))
