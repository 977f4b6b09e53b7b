"""Define the types of the keywords that all public functions share."""

from __future__ import annotations

Ints = int | tuple[int, ...]
PaddingMode = str | tuple[str, ...]
Padding = int | str | tuple[int | str | tuple[int, int], ...]
