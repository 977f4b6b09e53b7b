"""Map each position of a padded axis to the element of x that it holds.

With size S, position i outside [0, S) holds

- zeros      0
- replicate  x[0] or x[S - 1]                    (NumPy's "edge")
- reflect    x[-i] or x[2 * (S - 1) - i]         (the edge itself is not repeated)
- symmetric  x[-1 - i] or x[2 * S - 1 - i]       (the edge is repeated: SciPy's "reflect")
- circular   x[i mod S]                          (NumPy's "wrap")
- constant   the number `fill`

Algorithms know one mode for all axes, and zeros as the only constant. Any other border (`Border`)
is filled before an algorithm runs, in a copy of x: see `Job.inner` in `einstride.geometry.problem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

PADDING_MODES = ("zeros", "reflect", "replicate", "circular", "symmetric", "constant")
OTHER_NAMES = {
    "mirror": "reflect", "grid-mirror": "symmetric", "nearest": "replicate", "edge": "replicate",
    "border": "replicate", "wrap": "circular", "grid-wrap": "circular", "periodic": "circular",
    "grid-constant": "constant", "fill": "constant",
}  # fmt: skip
"""Our word for what another library calls otherwise. SciPy's "reflect" is "symmetric" here; that
name cannot be refused, because NumPy, PyTorch and TensorFlow mean by it what is meant here."""

Number = int | float | complex


@dataclass(frozen=True, slots=True)
class Border:
    """Hold the padding mode of each axis, and the number that "constant" fills in.

    Attributes
    ----------
    modes : tuple of str
        One mode for each spatial axis.
    fill : int, float or complex
        The number in a border of mode "constant".
    """

    modes: tuple[str, ...]
    fill: Number = 0


def border_of(
    modes: tuple[str, ...], fill: Number, pads: tuple[tuple[int, int], ...]
) -> tuple[str, Border | None]:
    """Return the one mode that all axes with a border share, and None; else "zeros", and a border.

    A constant of zero is the mode "zeros", and an axis without a border has any mode.
    """
    plain = tuple("zeros" if mode == "constant" and fill == 0 else mode for mode in modes)
    used = {mode for mode, ends in zip(plain, pads, strict=True) if max(ends) > 0}
    if not used:
        return "zeros", None
    if len(used) == 1 and used != {"constant"}:
        return used.pop(), None
    return "zeros", Border(plain, fill if "constant" in used else 0)


@dataclass(frozen=True, slots=True)
class Segment:
    """Hold a contiguous span of positions and the consecutive elements that fill it.

    Attributes
    ----------
    start, stop : int
        The positions [start, stop), counted from the start of the range that was asked for.
    source : int
        The element that the first position holds; -1 for zeros or another constant.
    step : {1, -1, 0}
        The difference between the elements of neighbouring positions; 0 repeats one element.
    """

    start: int
    stop: int
    source: int
    step: int

    @property
    def positions(self) -> slice:
        """Index of the span in the padded range."""
        return slice(self.start, self.stop)

    @property
    def elements(self) -> slice:
        """Index of the elements that fill the span, in ascending order."""
        if self.step == 0:
            return slice(self.source, self.source + 1)
        length = self.stop - self.start
        first = self.source if self.step == 1 else self.source - length + 1
        return slice(first, first + length)


def segments(start: int, stop: int, size: int, mode: str) -> tuple[Segment, ...]:
    """Split the positions [start, stop) of an axis of `size` elements and its border into segments.

    The segments are in ascending order of their positions.
    """
    if stop <= start:
        return ()
    if start >= 0 and stop <= size:
        return (Segment(0, stop - start, start, 1),)
    inside = (max(start, 0), min(stop, size))
    spans = [_filled(i, j, size, mode) for i, j in _split(start, min(stop, 0), size, mode)]
    if inside[0] < inside[1]:
        spans.append((*inside, inside[0], 1))
    spans += [_filled(i, j, size, mode) for i, j in _split(max(start, size), stop, size, mode)]
    return tuple(Segment(i - start, j - start, source, step) for i, j, source, step in spans)


def _split(start: int, stop: int, size: int, mode: str) -> list[tuple[int, int]]:
    """Split a range of the border where consecutive positions hold no consecutive elements."""
    if mode != "circular":
        return [(start, stop)] if start < stop else []
    spans = []
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        spans.append((start, end))
        start = end
    return spans


def _filled(start: int, stop: int, size: int, mode: str) -> tuple[int, int, int, int]:
    """Return start, stop, source and step of one span of the border."""
    if mode in ("zeros", "constant"):
        return start, stop, -1, 0
    if mode == "replicate":
        return start, stop, 0 if start < 0 else size - 1, 0
    if mode == "circular":
        return start, stop, start % size, 1
    if mode == "symmetric":
        return start, stop, -1 - start if start < 0 else 2 * size - 1 - start, -1
    return start, stop, -start if start < 0 else 2 * (size - 1) - start, -1


def repeats(low: int, high: int, mode: str) -> int:
    """Return the most positions of a padded axis that can hold the same element."""
    if mode in ("zeros", "constant"):
        return 1
    return 1 + max(low, 0) + max(high, 0) if mode == "replicate" else 3


def pairs_met(
    out: int, stride: int, kernel: int, dilation: int, low: int, size: int, mode: str
) -> int:
    """Count the (output, tap) pairs of an axis that read an element and not a zero of the border.

    Output o and tap k read position o * stride + k * dilation - low. The count is a formula, whose
    time grows with the logarithm of the sizes.
    """
    if mode != "zeros":
        return out * kernel
    above = _pairs_below(size + low, out, stride, kernel, dilation)
    return above - _pairs_below(low, out, stride, kernel, dilation)


def _pairs_below(end: int, out: int, stride: int, kernel: int, dilation: int) -> int:
    """Count the pairs with o * stride + k * dilation < end, o in [0, out) and k in [0, kernel).

    Tap k has ceil((end - k * dilation) / stride) such outputs, clipped to [0, out].
    """
    every = min(max((end - 1 - (out - 1) * stride) // dilation + 1, 0), kernel)  # taps with all
    some = min(max((end - 1) // dilation + 1, every), kernel)  # taps with at least one output
    last = end - (some - 1) * dilation  # from the last such tap backwards it grows by `dilation`
    return every * out + _sum_of_floors(some - every, stride, dilation, last + stride - 1)


def _sum_of_floors(n: int, m: int, a: int, b: int) -> int:
    """Sum (a * i + b) // m over i in [0, n), in as many steps as Euclid's algorithm takes."""
    total = 0
    while n > 0:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        end = a * n + b
        if end < m:
            break
        n, b, m, a = end // m, end % m, a, m
    return total


def elements_seen(start: int, stop: int, size: int, mode: str) -> tuple[int, int]:
    """Return the range of elements that the positions [start, stop) hold; (0, 0) if only zeros."""
    spans = [s.elements for s in segments(start, stop, size, mode) if s.source >= 0]
    if not spans:
        return 0, 0
    return min(span.start for span in spans), max(span.stop for span in spans)


def first_tap(stride: int, dilation: int, remainder: int) -> int | None:
    """Return the least k >= 0 with k * dilation = remainder modulo the stride; None if none has."""
    common = gcd(stride, dilation)
    if remainder % common:
        return None
    period = stride // common
    return remainder // common * pow(dilation // common, -1, period) % period
