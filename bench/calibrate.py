"""Measures the figures that the package ships for a kind of CPU.

    python -m bench.calibrate [--vectors BYTES] [--runs N] [--write]

measures as `python -m einstride calibrate` does, `N` times, takes the median of each figure, and
prints the file, or writes it to `src/einstride/calibration`. Narrower vectors than the CPU's and
other kernels of BLAS stand for other CPUs: a plain x86-64 one is

    OPENBLAS_CORETYPE=Nehalem python -m bench.calibrate --vectors 16 --write
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from einstride import calibration
from einstride._testing import use, vector_widths
from einstride.codegen import jit
from einstride.tools import calibrate

FOLDER = Path(calibration.__file__).parent


def medians(runs: list[Any]) -> Any:
    """Return the median of each number of several files; texts are those of the first."""
    first = runs[0]
    if isinstance(first, dict):
        return {name: medians([each[name] for each in runs]) for name in first}
    return first if isinstance(first, str) else median(runs)


def main() -> None:
    """Print the figures, or write them to the package's file for this CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, choices=(16, 32, 64), metavar="BYTES",
                        help="of vectors, 16 or 32, instead of the CPU's own")  # fmt: skip
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--write", action="store_true", help="write the package's file")
    args = parser.parse_args()
    targets = {target.vector_bytes: target for target in vector_widths().values()}
    with use(target=targets[args.vectors or jit.host_target().vector_bytes]):
        of = calibration.cpu()
        figures = medians([calibrate.measure(calibrate.show) for _ in range(args.runs)])
    text = json.dumps(figures, indent=2) + "\n"
    if args.write:
        (FOLDER / f"{of.file}.json").write_text(text, encoding="utf-8")
    print(f"\n{of}\n{text}", end="")


if __name__ == "__main__":
    main()
