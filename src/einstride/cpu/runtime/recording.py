"""Do what an engine does besides running kernels: now, or as steps of a program.

`launch` runs kernels. In its place an engine may be given a `Recording`, which keeps kernel calls,
copies and sums instead (`recorder`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Recording(ABC):
    """What keeps the steps of an engine instead of doing them."""

    @abstractmethod
    def record(self, call: Any, addresses: dict[str, int]) -> None:
        """Append a kernel call; the address 0 stands for an array that is not given."""

    @abstractmethod
    def copy(self, destination: Any, source: Any) -> None:
        """Append a step that copies an array."""

    @abstractmethod
    def add(self, sums: Any, out: Any) -> None:
        """Append a step that adds the partial sums of one result, or of one for each example."""

    @abstractmethod
    def allocate(self, shape: Sequence[int], dtype: str) -> Any:
        """Reserve scratch memory, for as long as an array that is returned exists."""


def assign(destination: Any, source: Any, launch: Any) -> None:
    """Copy an array, or a number, to another array."""
    if isinstance(launch, Recording):
        launch.copy(destination, source)
    else:
        destination[...] = source
