"""What stands around an array: where each element of a padded axis comes from. Whole numbers.

With size S, position i outside [0, S) holds

- zeros      0
- replicate  x[0] or x[S - 1]                    (NumPy's "edge")
- reflect    x[-i] or x[2 * (S - 1) - i]         (the edge itself is not repeated)
- circular   x[i mod S]                          (NumPy's "wrap")
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of positions that come from consecutive elements.

    Attributes
    ----------
    start, stop : int
        Of the run, counted from the start of the range asked for.
    source : int
        The element that the first position holds; -1 for zeros.
    step : {1, -1, 0}
        How the source goes on: forwards, backwards, or the same element again.
    """

    start: int
    stop: int
    source: int
    step: int

    @property
    def there(self) -> slice:
        """The run as an index of the padded range."""
        return slice(self.start, self.stop)

    @property
    def here(self) -> slice:
        """The elements it comes from, in ascending order."""
        if self.step == 0:
            return slice(self.source, self.source + 1)
        length = self.stop - self.start
        first = self.source if self.step == 1 else self.source - length + 1
        return slice(first, first + length)


def segments(start: int, stop: int, size: int, mode: str) -> tuple[Segment, ...]:
    """The range [start, stop) around an axis of `size` elements, as runs, in order."""
    if stop <= start:
        return ()
    if start >= 0 and stop <= size:
        return (Segment(0, stop - start, start, 1),)
    inside = (max(start, 0), min(stop, size))
    runs = [_run(i, j, size, mode) for i, j in _cuts(start, min(stop, 0), size, mode)]
    if inside[0] < inside[1]:
        runs.append((*inside, inside[0], 1))
    runs += [_run(i, j, size, mode) for i, j in _cuts(max(start, size), stop, size, mode)]
    return tuple(Segment(i - start, j - start, source, step) for i, j, source, step in runs)


def _cuts(start: int, stop: int, size: int, mode: str) -> list[tuple[int, int]]:
    """A range outside the axis, cut where its source starts anew."""
    if mode != "circular":
        return [(start, stop)] if start < stop else []
    cuts = []
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        cuts.append((start, end))
        start = end
    return cuts


def _run(start: int, stop: int, size: int, mode: str) -> tuple[int, int, int, int]:
    if mode == "zeros":
        return start, stop, -1, 0
    if mode == "replicate":
        return start, stop, 0 if start < 0 else size - 1, 0
    if mode == "circular":
        return start, stop, start % size, 1
    return start, stop, -start if start < 0 else 2 * (size - 1) - start, -1


def repeats(low: int, high: int, mode: str) -> int:
    """How often one element can stand in a padded axis, at most."""
    if mode == "zeros":
        return 1
    return 1 + max(low, 0) + max(high, 0) if mode == "replicate" else 3
