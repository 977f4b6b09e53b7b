"""The phases of a line with a denominator: outputs p, p + den, ... see whole places, or nothing.

So an input gradient with a stride falls into products without holes: the phases of all axes, each
with each. Integers; no array library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from einstride.cuda.axis_map import Line
from einstride.geometry.padding_modes import first_tap
from einstride.support.caches import cached


@dataclass(frozen=True)
class Phase:
    """Outputs first + q * den of a line see places q * move + start, then one after the other.

    Attributes
    ----------
    first, count : int
        The first output, and how many.
    start : int
        What output 0 of them sees by the first of their taps.
    tap, taps : int
        That tap, and how many there are; none for outputs that see nothing.
    """

    first: int
    count: int
    start: int
    tap: int
    taps: int


def apart(line: Line) -> int:
    """From one tap of a phase to the next."""
    return line.den // gcd(line.den, line.reach)


@cached(1024)
def phases(line: Line) -> tuple[Phase, ...]:
    """All of them, in the order of their first outputs."""
    step, found = apart(line), []
    for p in range(min(line.den, line.count)):
        count = len(range(p, line.count, line.den))
        here = p * line.move + line.start
        tap = first_tap(line.den, line.reach, -here % line.den)
        if tap is None or tap >= line.taps:
            found.append(Phase(p, count, 0, 0, 0))
        else:
            start = (here + tap * line.reach) // line.den
            found.append(Phase(p, count, start, tap, len(range(tap, line.taps, step))))
    return tuple(found)


def folded(line: Line) -> Line:
    """A line without a denominator that has room for each phase."""
    if line.den == 1:
        return line
    found = phases(line)
    reach = apart(line) * line.reach // line.den
    taps = max(p.taps for p in found)
    return replace(line, count=found[0].count, taps=taps, start=0, reach=reach, den=1)


@cached(1024)
def shares(lines: tuple[Line, ...], most: int) -> tuple[tuple[tuple[Phase, ...], ...], ...]:
    """Phases of each axis, at most so many, for one launch after the other.

    Where an axis has more than `most`, those that see nothing are left out: see `covers`.
    """
    axes = []
    for v in lines:
        every = phases(v)
        if len(every) > most:
            every = tuple(p for p in every if p.taps)
        each = -(-len(every) // max(1, -(-len(every) // most)))
        axes.append([every[i : i + each] for i in range(0, len(every), max(each, 1))])
    return tuple(product(*axes))


def covers(lines: tuple[Line, ...], most: int) -> bool:
    """Do the launches of `shares` write every output?"""
    made = sum(prod(sum(p.count for p in axis) for axis in share) for share in shares(lines, most))
    return made == prod(v.count for v in lines)
