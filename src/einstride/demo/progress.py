"""Progress on standard error: tqdm's bar on a terminal that has tqdm, elsewhere a line an epoch."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """Counts steps; a context manager."""

    def __init__(self, steps: int) -> None:
        self._bar = _bar(steps) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """How it goes."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            print(text, file=sys.stderr, flush=True)


def _bar(steps: int) -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tqdm":
            raise
        return None
    return tqdm(total=steps, unit="batch", file=sys.stderr, dynamic_ncols=True)
