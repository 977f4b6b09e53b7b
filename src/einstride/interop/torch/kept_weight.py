"""Keep the transforms of a module's weight from call to call, while the weight stays as it is."""

from __future__ import annotations

from typing import Any

from einstride.dispatch.filter_cache import Prepared


class KeptWeight:
    """Hold the transforms of one weight, and what tells that the weight is still the same.

    A weight has changed if it is other memory, or if PyTorch counted a write to it. Writes through
    ``.data`` or through an array on its memory are not counted. A copy of this object is empty.
    """

    def __init__(self) -> None:
        self._state: tuple[Any, Any, Prepared] | None = None

    def of(self, weight: Any) -> Prepared | None:
        """Return the transforms of a weight; None if PyTorch does not count writes to it."""
        if weight.is_inference():
            return None
        key = (weight.data_ptr(), weight._version, weight.shape, weight.stride(), weight.dtype)
        state = self._state
        if state is not None and state[0] == key:
            return state[2]
        # The detached weight keeps its memory, so that no other weight gets this address.
        self._state = (key, weight.detach(), prepared := Prepared())
        return prepared

    def __reduce__(self) -> tuple[type[KeptWeight], tuple[()]]:
        """Make copies, also through pickle, empty."""
        return type(self), ()
