"""Load the 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from einstride.demo.unavailable import UnavailableError

CLASSES = 10


class Digits(NamedTuple):
    """Pictures with values in [0, 1] and their labels, as a training set and a test set."""

    train_images: NDArray[np.float32]  # (B, 8, 8, 1)
    train_labels: NDArray[np.int64]  # (B,)
    test_images: NDArray[np.float32]  # (T, 8, 8, 1)
    test_labels: NDArray[np.int64]  # (T,)

    def part(self, train: int, test: int) -> Digits:
        """Return the first `train` training examples and the first `test` test examples."""
        return Digits(
            self.train_images[:train],
            self.train_labels[:train],
            self.test_images[:test],
            self.test_labels[:test],
        )


def load() -> Digits:
    """Load all digits; the same random fifth is the test set, whatever the seed of a run."""
    scans = _scans()
    images = (scans.images / 16).astype(np.float32)[..., np.newaxis]
    labels = scans.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = np.split(order, [len(labels) // 5])
    return Digits(images[train], labels[train], images[test], labels[test])


def _scans() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise  # scikit-learn is installed, but not a package it needs
        raise UnavailableError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'einstride[demo]'"
        ) from error
    return load_digits()
