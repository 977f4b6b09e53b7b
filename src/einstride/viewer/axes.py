"""Tabulate one spatial axis: what each position holds, and which gradients reach it.

Positions count as in `geometry.convolution`: output o and tap k read position
o * stride + k * dilation - low, and positions outside [0, S) are the border. The tables come from
`geometry.padding_modes` and `geometry.input_gradient_phases`, which the calls use, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from einstride.geometry import input_gradient_phases
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import segments

MOST_POSITIONS = {1: (40,), 2: (16, 16), 3: (6, 10, 10)}
"""Positions that are drawn on each axis, by the number of axes: about as many as fit on a screen.
An input with more positions is drawn in part."""

EMPTY = ("zeros", "constant")
"""Padding modes whose border holds no element of x, and so has no gradient."""


@dataclass(frozen=True)
class DrawnAxis:
    """Hold one spatial axis of the drawing.

    Attributes
    ----------
    start, stop : int
        The positions [start, stop) that are drawn; negative ones are in the border.
    outputs : tuple of int
        The outputs [first, last) that are drawn.
    taps : int
        The number of taps that are drawn, from the first one.
    sources : tuple of int
        For each drawn position, the element of x that it holds; -1 for a zero or a constant.
    kinds : tuple of str
        For each drawn position: "inside", "border", "hole" (a zero between the elements of a
        dilated input) or "cropped" (an element that negative padding leaves out).
    """

    start: int
    stop: int
    outputs: tuple[int, int]
    taps: int
    sources: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def elements(self) -> tuple[int, ...]:
        """The elements of x that the drawn positions hold, in ascending order."""
        return tuple(sorted({i for i in self.sources if i >= 0}))


def drawn_axes(g: Geometry, at: tuple[int, ...]) -> tuple[DrawnAxis, ...]:
    """Choose the part of each axis that is drawn: all of it, or outputs from `at` on."""
    return tuple(_drawn_axis(g, a, MOST_POSITIONS[g.rank][a], at[a]) for a in range(g.rank))


def _drawn_axis(g: Geometry, a: int, most: int, at: int) -> DrawnAxis:
    size, stride, dilation, (low, high) = g.size[a], g.stride[a], g.dilation[a], g.padding[a]
    start, stop = min(-low, 0), max(size + high, size)
    first, last, taps = 0, g.out[a], g.kernel[a]
    if stop - start > most:
        taps = min(taps, (most - 1) // dilation + 1)
        extent = (taps - 1) * dilation + 1
        first = min(at, g.out[a] - 1)
        last = min(g.out[a], first + (most - extent) // stride + 1)
        start = first * stride - low
        stop = start + (last - 1 - first) * stride + extent
    sources, kinds = zip(*_held(g, a, start, stop), strict=True)
    return DrawnAxis(start, stop, (first, last), taps, sources, kinds)


def _held(g: Geometry, a: int, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """Yield the element and the kind of each position, in order."""
    size, (low, high) = g.size[a], g.padding[a]
    step = g.input_dilation[a] if g.input_dilation else 1
    for span in segments(start, stop, size, g.modes[a]):
        for n in range(span.stop - span.start):
            position = start + span.start + n
            held = span.source + n * span.step if span.source >= 0 else -1
            hole = held % step > 0
            source = -1 if held < 0 or hole else held // step
            if not 0 <= position < size:
                yield source, "border"
            elif not -low <= position < size + high:
                yield source, "cropped"
            else:
                yield source, "hole" if hole else "inside"


@dataclass(frozen=True)
class Gathered:
    """Hold how the gradient of one position is computed: its phase and its products.

    Attributes
    ----------
    phase : int
        The remainder of the position modulo the stride.
    pairs : tuple of (int, int)
        The taps and outputs whose products the gradient sums: f[tap] * gy[output].
    """

    phase: int
    pairs: tuple[tuple[int, int], ...]


def gathered(g: Geometry, a: int, axis: DrawnAxis) -> tuple[Gathered, ...] | None:
    """Tabulate the drawn positions of an axis by the phases that an input gradient computes.

    None if the stride splits the gradient into more phases than einstride computes.
    """
    one = replace(
        g, size=(g.size[a],), kernel=(g.kernel[a],), stride=(g.stride[a],),
        dilation=(g.dilation[a],), padding=(g.padding[a],), out=(g.out[a],), input_dilation=(),
        padding_mode=g.modes[a], border=None, batch=1, channels=1, filters=1, groups=1,
    )  # fmt: skip
    base = 0
    if g.modes[a] not in EMPTY and any(g.padding[a]):  # the gradient of the padded input
        base, one = g.padding[a][0], one.extended
    if input_gradient_phases.refused(one) is not None:
        return None
    by_remainder = {p.remainder[0]: p for p in input_gradient_phases.phases(one)}
    found = []
    for position in range(axis.start, axis.stop):
        q, s = position + base, g.stride[a]
        pairs: list[tuple[int, int]] = []
        if 0 <= q < one.size[0]:
            met = _pairs(by_remainder[q % s], q // s, g.kernel[a], axis.taps)
            pairs = [p for p in met if axis.outputs[0] <= p[1] < axis.outputs[1]]
        found.append(Gathered((position + g.padding[a][0]) % s, tuple(pairs)))
    return tuple(found)


def _pairs(
    phase: input_gradient_phases.Phase, n: int, kernel: int, drawn: int
) -> Iterator[tuple[int, int]]:
    """Yield the (tap, output) pairs of position n of a phase, for taps below `drawn`, last first.

    Tap number t of the phase is number `len(taps) - 1 - t` of its filter, which is reversed.
    """
    if phase.geometry is None:
        return
    taps = range(kernel)[phase.taps[0]]
    first = n - phase.geometry.padding[0][0]
    for t in reversed(range(len(range(taps.start, min(taps.stop, drawn), taps.step)))):
        output = first + (len(taps) - 1 - t) * phase.geometry.dilation[0]
        if 0 <= output < phase.geometry.size[0]:
            yield taps[t], output
