"""Random number generators of NumPy, on the host so that all libraries get the same numbers."""

from __future__ import annotations

import numpy as np


def generator(seed: int | None = 0) -> np.random.Generator:
    """Make a PCG64 generator: the same seed gives the same numbers on every machine."""
    return np.random.Generator(np.random.PCG64(seed))


def stream(seed: int, *numbers: int) -> np.random.Generator:
    """Make a generator for one purpose, e.g. one epoch, independent of all numbers drawn before."""
    return np.random.Generator(np.random.PCG64([seed, *numbers]))
