"""Report progress on standard error: a tqdm bar on a terminal, else one line per epoch."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Counts training steps and reports losses; prints nothing unless `wanted`.

    The number of steps is None where nobody knows it.
    """

    def __init__(self, steps: int | None, wanted: bool) -> None:
        self._wanted = wanted
        self._bar = _bar(steps) if wanted and sys.stderr.isatty() else None

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def step(self) -> None:
        """Count one step."""
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """Show a text beside the bar, or print it as a line."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._wanted:
            print(text, file=sys.stderr, flush=True)


def _bar(steps: int | None) -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tqdm":
            raise
        return None
    return tqdm(total=steps, unit="batch", file=sys.stderr, dynamic_ncols=True)
