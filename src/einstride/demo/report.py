"""Format the demo's results as tables of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from einstride.demo.checks import DIFFERENCES, LOOPS, Deviation
from einstride.demo.digits import CLASSES
from einstride.demo.training import Epoch


def checks(deviations: Sequence[Deviation]) -> str:
    """Format deviations: one row per function, one column per reference."""
    sizes = {(d.function, d.against): f"{d.size:.1e}" for d in deviations}
    rows: list[tuple[str, ...]] = [("largest relative deviation from", LOOPS, DIFFERENCES)]
    for function in dict.fromkeys(d.function for d in deviations):
        rows.append((function, *(sizes.get((function, a), "-") for a in (LOOPS, DIFFERENCES))))
    return table(rows)


def curve(epochs: Sequence[Epoch]) -> str:
    """Format losses and accuracies: one row per epoch."""
    rows = [("epoch", "loss", "held-out loss", "held-out accuracy")]
    for number, e in enumerate(epochs, 1):
        rows.append(
            (f"{number:5}", f"{e.train_loss:.4f}", f"{e.test_loss:.4f}", f"{e.test_accuracy:.1%}")
        )
    return table(rows)


def confusion(labels: NDArray[np.int64], answers: NDArray[np.int64]) -> str:
    """Format the confusion matrix: digits in rows, answers in columns, a dot for zero."""
    counts = np.zeros((CLASSES, CLASSES), int)
    np.add.at(counts, (labels, answers), 1)
    rows = [("digit \\ answer", *map(str, range(CLASSES)))]
    for digit, row in enumerate(counts):
        rows.append((f"{digit:14}", *(str(n) if n else "." for n in row)))
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as columns of equal width, the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
    return "\n".join("  " + line.rstrip() for line in lines)
