"""Run the demo: check the convolutions, train, report and draw."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np

from einstride.demo import checks, digits, libraries, network, report, training
from einstride.demo.digits import Digits
from einstride.demo.libraries import Library
from einstride.demo.network import Recipe
from einstride.demo.picture import save
from einstride.demo.training import Result
from einstride.demo.unavailable import UnavailableError

EPOCHS = 30
MIN_ACCURACY, MIN_ACCURACY_TWIST = 0.97, 0.8  # smallest accuracy of a full training
CHECKED_DIGITS = 2  # the seven loops are slow


def run(
    backend: str, epochs: int | None, seed: int, picture: Path, quick: bool, twist: bool = False
) -> int:
    """Run the demo; return 0 on success, 1 for a wrong result, 2 if something is not installed."""
    begin = time.perf_counter()
    try:
        if not picture.parent.is_dir():
            raise UnavailableError(f"--picture {picture}: there is no directory {picture.parent}")
        if picture.is_dir():
            raise UnavailableError(f"--picture {picture}: this is a directory; name a file")
        library = libraries.load(backend)
        data = digits.load()
    except UnavailableError as error:
        return _report_error(str(error), 2)
    if quick:
        data = data.part(320, 80)
    print(f"Handwritten digits, 8 x 8 pixels: {len(data.train_labels)} to learn from, "
          f"{len(data.test_labels)} held out. Arrays: {library.name}.")  # fmt: skip

    failed = _check(data, library)
    if failed is not None:
        return _report_error(failed, 1)
    full = not quick and (epochs is None or epochs >= EPOCHS)
    recipe, min_accuracy = (
        (network.twist(), MIN_ACCURACY_TWIST) if twist else (network.small(), MIN_ACCURACY)
    )
    result = _train(data, recipe, library, epochs or (1 if quick else EPOCHS), seed)
    status = 0
    try:
        saved = save(picture, data, result, library)
    except OSError as error:
        status = _report_error(f"--picture {picture}: {error.strerror or error}", 2)
    else:
        print(saved)
    print(f"Total time {time.perf_counter() - begin:.1f} s.")
    accuracy = result.curve[-1].test_accuracy
    if full and accuracy < min_accuracy:
        return _report_error(
            f"the accuracy is {accuracy:.1%}; expected {min_accuracy:.0%} or more", 1
        )
    return status


def _check(data: Digits, library: Library) -> str | None:
    """Print the deviations; return an error text if one is too large, else None."""
    print(
        f"\nChecking on {CHECKED_DIGITS} digits, both layers, in float64, algorithms "
        f"{' and '.join(checks.ALGORITHMS)}:"
    )
    found = checks.check(data.test_images[:CHECKED_DIGITS], library)
    print(report.checks(found))
    for d in found:
        if not d.passed:
            return (
                f"{d.function} deviates from {d.against} by {d.size:.1e}; "
                f"expected {checks.TOLERANCES[d.against]:.0e} at most"
            )
    return None


def _train(data: Digits, recipe: Recipe, library: Library, epochs: int, seed: int) -> Result:
    layers = ", ".join(type(layer).__name__ for layer in recipe.network.layers)
    print(f"\nTraining: {layers}; {type(recipe.optimiser).__name__}, float32.", flush=True)
    begin = time.perf_counter()
    result = training.train(data, recipe, library, epochs, seed)
    seconds = time.perf_counter() - begin
    correct = int(np.sum(result.answers == data.test_labels))
    count = sum(math.prod(p.shape) for p in result.model.parameters.values())
    print(report.curve(result.curve))
    print(
        f"\nAnswers on the held-out digits:\n{report.confusion(data.test_labels, result.answers)}"
    )
    print(
        f"\nAccuracy {result.curve[-1].test_accuracy:.1%} ({correct} of {len(data.test_labels)}) "
        f"with {count:,} parameters, trained in {seconds:.1f} s."
    )
    return result


def _report_error(sentence: str, status: int) -> int:
    print(f"einstride demo: {sentence}", file=sys.stderr)
    return status
