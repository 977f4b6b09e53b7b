"""The demo from beginning to end: check, train, report, draw."""

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
ENOUGH, ENOUGH_TWIST = 0.97, 0.8  # the accuracy that a full training must reach
CHECKED = 2  # digits; more would take the seven loops long


def tell(
    backend: str, epochs: int | None, seed: int, picture: Path, quick: bool, twist: bool = False
) -> int:
    """Run the demo; 0 if all went well, 1 if a result is wrong, 2 if something is not installed."""
    begin = time.perf_counter()
    try:
        if not picture.parent.is_dir():
            raise UnavailableError(f"--picture {picture}: there is no directory {picture.parent}")
        if picture.is_dir():
            raise UnavailableError(f"--picture {picture}: this is a directory; name a file")
        library = libraries.load(backend)
        data = digits.load()
    except UnavailableError as error:
        return _complain(str(error), 2)
    if quick:
        data = data.part(320, 80)
    print(f"Handwritten digits, 8 x 8 pixels: {len(data.train_labels)} to learn from, "
          f"{len(data.test_labels)} held out. Arrays: {library.name}.")  # fmt: skip

    failed = _check(data, library)
    if failed is not None:
        return _complain(failed, 1)
    full = not quick and (epochs is None or epochs >= EPOCHS)
    recipe, enough = (network.twist(), ENOUGH_TWIST) if twist else (network.small(), ENOUGH)
    result = _train(data, recipe, library, epochs or (1 if quick else EPOCHS), seed)
    status = 0
    try:
        print(save(picture, data, result, library))
    except OSError as error:
        status = _complain(f"--picture {picture}: {error.strerror or error}", 2)
    print(f"Total time {time.perf_counter() - begin:.1f} s.")
    accuracy = result.curve[-1].test_accuracy
    if full and accuracy < enough:
        return _complain(f"the accuracy is {accuracy:.1%}; expected {enough:.0%} or more", 1)
    return status


def _check(data: Digits, library: Library) -> str | None:
    """Print the deviations; a sentence if one is too large."""
    print(
        f"\nChecking on {CHECKED} digits, both layers, in float64, algorithms "
        f"{' and '.join(checks.ALGORITHMS)}:"
    )
    found = checks.check(data.test_images[:CHECKED], library)
    print(report.checks(found))
    for d in found:
        if not d.passed:
            return (
                f"{d.function} deviates from {d.against} by {d.size:.1e}; "
                f"expected {checks.ALLOWED[d.against]:.0e} at most"
            )
    return None


def _train(data: Digits, recipe: Recipe, library: Library, epochs: int, seed: int) -> Result:
    layers = ", ".join(type(layer).__name__ for layer in recipe.network.layers)
    print(f"\nTraining: {layers}; {type(recipe.optimiser).__name__}, float32.", flush=True)
    begin = time.perf_counter()
    result = training.train(data, recipe, library, epochs, seed)
    seconds = time.perf_counter() - begin
    right = int(np.sum(result.answers == data.test_labels))
    count = sum(math.prod(p.shape) for p in result.model.parameters.values())
    print(report.curve(result.curve))
    print(
        f"\nAnswers on the held-out digits:\n{report.confusion(data.test_labels, result.answers)}"
    )
    print(
        f"\nAccuracy {result.curve[-1].test_accuracy:.1%} ({right} of {len(data.test_labels)}) "
        f"with {count:,} parameters, trained in {seconds:.1f} s."
    )
    return result


def _complain(sentence: str, status: int) -> int:
    print(f"einstride demo: {sentence}", file=sys.stderr)
    return status
