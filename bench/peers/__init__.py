"""One file, one library. Each offers

- ``start(options)``: import the library, fix its threads, return {package: version};
- ``builders(row)``: {variant name: function of the arrays that returns a `Variant`}, the ways in
  which the library may do the row (its layouts, its functions); raises `Unsupported` with the
  reason where it cannot;
- ``gemm(dtype, size)`` (optional): a call that multiplies two square matrices.

A variant's operands are already in the layout that it likes; only the convolution is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# names of the files; the best peers of hopelessly long filters come first, so that the others need
# not be waited for
PEERS = ("scipy", "opencv", "onnxruntime", "torch", "jax")
OURS = "ours"


class Unsupported(Exception):
    """The library cannot do this row."""


@dataclass(frozen=True)
class Variant:
    """One way to compute a row."""

    run: Callable[[], Any]
    answer: Callable[[Any], np.ndarray]  # the result as a channels_last NumPy array
