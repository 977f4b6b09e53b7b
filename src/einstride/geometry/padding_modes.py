"""What stands around an array: where each element of a padded axis comes from. Integers.

With size S, position i outside [0, S) holds

- zeros      0
- replicate  x[0] or x[S - 1]                    (NumPy's "edge")
- reflect    x[-i] or x[2 * (S - 1) - i]         (the edge itself is not repeated)
- circular   x[i mod S]                          (NumPy's "wrap")
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd


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


def pairs_met(
    out: int, stride: int, kernel: int, dilation: int, low: int, size: int, mode: str
) -> int:
    """How many pairs (output, tap) of an axis meet an element rather than a zero. By formula.

    Output o and tap k meet position o * stride + k * dilation - low.
    """
    if mode != "zeros":
        return out * kernel
    above = _pairs_below(size + low, out, stride, kernel, dilation)
    return above - _pairs_below(low, out, stride, kernel, dilation)


def _pairs_below(end: int, out: int, stride: int, kernel: int, dilation: int) -> int:
    """Pairs with o * stride + k * dilation < end, for o in [0, out) and k in [0, kernel).

    Tap k has ceil((end - k * dilation) / stride) such outputs, at least none and at most all.
    """
    every = min(max((end - 1 - (out - 1) * stride) // dilation + 1, 0), kernel)  # taps with all
    some = min(max((end - 1) // dilation + 1, every), kernel)  # and those with at least one
    last = end - (some - 1) * dilation  # from the last of them backwards, in even steps
    return every * out + _sum_of_floors(some - every, stride, dilation, last + stride - 1)


def _sum_of_floors(n: int, m: int, a: int, b: int) -> int:
    """The sum of (a * i + b) // m over i in [0, n), in steps as Euclid's algorithm has them."""
    total = 0
    while n > 0:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        reach = a * n + b
        if reach < m:
            break
        n, b, m, a = reach // m, reach % m, a, m
    return total


def elements_seen(start: int, stop: int, size: int, mode: str) -> tuple[int, int]:
    """The range of elements that the positions [start, stop) hold; (0, 0) if only zeros."""
    runs = [run.here for run in segments(start, stop, size, mode) if run.source >= 0]
    if not runs:
        return 0, 0
    return min(run.start for run in runs), max(run.stop for run in runs)


def first_tap(stride: int, dilation: int, remainder: int) -> int | None:
    """The least k >= 0 with k * dilation = remainder modulo the stride; None if there is none."""
    common = gcd(stride, dilation)
    if remainder % common:
        return None
    apart = stride // common
    return remainder // common * pow(dilation // common, -1, apart) % apart
