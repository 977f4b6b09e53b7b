"""Shows progress on standard error: by tqdm if it is installed, else one line per row."""

from __future__ import annotations

import sys
from types import TracebackType


class Progress:
    """Counts rows; a context manager."""

    def __init__(self, total: int) -> None:
        self._total, self._count = total, 0
        self._bar = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        if sys.stderr.isatty():  # a log file gets one line per row
            self._bar = tqdm(total=total, unit="row", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def done(self, *words: str) -> None:
        """Count one more row."""
        self._count += 1
        text = " ".join(word for word in words if word)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        else:
            print(f"[{self._count}/{self._total}] {text}", file=sys.stderr, flush=True)
