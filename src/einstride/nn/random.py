"""Random numbers: drawn by NumPy on the host, so that they are the same for every library."""

from __future__ import annotations

import numpy as np


def generator(seed: int | None = 0) -> np.random.Generator:
    """A PCG64 generator: the same seed gives the same numbers on every machine."""
    return np.random.Generator(np.random.PCG64(seed))


def stream(seed: int, *numbers: int) -> np.random.Generator:
    """A generator of its own for a purpose, e.g. an epoch, independent of what was drawn before."""
    return np.random.Generator(np.random.PCG64([seed, *numbers]))
