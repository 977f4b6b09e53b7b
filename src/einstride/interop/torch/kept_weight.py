"""Keep the transforms of a module's weight from call to call, while the weight stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from einstride.dispatch.filter_cache import Prepared

SAMPLES = 64
"""Elements of a weight, spread over it, that are compared in every call: about a microsecond."""


class KeptWeight:
    """Hold the transforms of one weight, and what tells that the weight is still the same.

    A weight has changed if it is other memory, or if PyTorch counted a write to it. Writes through
    ``.data`` or through an array on its memory are not counted: the samples show them, unless each
    sample is as it was. A copy of this object is empty.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, Any, Any, bytes, Prepared] | None = None

    def of(self, weight: Any) -> Prepared | None:
        """Return the transforms of a weight; None if PyTorch does not count writes to it."""
        if weight.is_inference():
            return None
        key = (weight.data_ptr(), weight._version, weight.shape, weight.stride(), weight.dtype)
        state = self._state
        if state is not None and state[0] == key and state[2].tobytes() == state[3]:
            return state[4]
        samples = _samples(weight)
        if samples is None:
            self._state = None
            return None
        # The detached weight keeps its memory, so that no other weight gets this address.
        self._state = (key, weight.detach(), samples, samples.tobytes(), prepared := Prepared())
        return prepared

    def __reduce__(self) -> tuple[type[KeptWeight], tuple[()]]:
        """Make copies, also through pickle, empty."""
        return type(self), ()


def _samples(weight: Any) -> Any:
    """Return a view of elements spread over a weight; None unless it is dense memory."""
    if weight.dtype not in (torch.float32, torch.float64):
        return None
    array = weight.detach().numpy()
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    dense = array.transpose(order)
    if not dense.flags.c_contiguous:
        return None
    flat = dense.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLES)] if flat.size else np.empty(0)
