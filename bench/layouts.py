"""Names the memory layouts of arrays, and tells in which of them a library's variant was timed."""

from __future__ import annotations

import re

CHANNELS_LAST, CHANNELS_FIRST = LAYOUTS = ("channels_last", "channels_first")

BOTH = ("ours", "torch", "jax")
"""The libraries that have variants in both layouts: a pair of columns of the report for each."""

_FIRST = re.compile(r"channels[_ ]first|\bNC[DHW]*\b")
_LAST = re.compile(r"channels[_ ]last|\bN[DHW]*C\b")


def layout_of(variant: str) -> str | None:
    """Return the layout that a variant's name tells, None if it tells none.

    einstride's variants are channels_last unless their names say otherwise.
    """
    if _FIRST.search(variant):
        return CHANNELS_FIRST
    return CHANNELS_LAST if _LAST.search(variant) else None
