"""Defines the interface of peers, one module per library. Each module has

- ``start(options)``: import the library, fix its threads, return {package: version}; -
``builders(row)``: {variant name: function of the arrays that returns a `Variant`}, for the layouts
and
  functions in which the library may compute the row; raises `Unsupported` with the reason if there
  is none;
- ``gemm(dtype, size)`` (optional): a call that multiplies two square matrices.

A variant's operands are already in its own layout; only the convolution is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# names of the modules; the fastest peers for very long filters come first, which sets the time
# limit of the others
PEERS = ("scipy", "opencv", "onnxruntime", "torch", "jax")
OURS = "ours"


class Unsupported(Exception):
    """Report that the library cannot compute a row."""


@dataclass(frozen=True)
class Variant:
    """Hold one way to compute a row."""

    run: Callable[[], Any]
    answer: Callable[[Any], np.ndarray]  # the result as a channels_last NumPy array
