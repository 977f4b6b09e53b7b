"""Split an axis map with denominator d into phases: the outputs p, p + d, p + 2 * d, ...

The outputs of a phase read consecutive positions through the same taps, or none at all. So an input
gradient with a stride is one dense product per combination of the phases of all axes. Integers
only; no array library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from einstride.cuda.axis_map import AxisMap
from einstride.geometry.padding_modes import first_tap
from einstride.support.caches import cached


@dataclass(frozen=True)
class Phase:
    """The outputs first + q * denominator of an axis map, for q from 0 up to count - 1.

    The first tap of such an output reads position q * output_step + start.

    Attributes
    ----------
    first, count : int
        The first output of the phase, and the number of its outputs.
    start : int
        The position that output q = 0 reads through the first tap of the phase.
    tap, taps : int
        The first tap, and the number of taps; 0 for outputs that read nothing.
    """

    first: int
    count: int
    start: int
    tap: int
    taps: int


def tap_stride(axis: AxisMap) -> int:
    """Return the distance between neighbouring taps of a phase, in taps of the filter."""
    return axis.denominator // gcd(axis.denominator, axis.tap_step)


@cached(1024)
def phases(axis: AxisMap) -> tuple[Phase, ...]:
    """Return all phases of an axis, in the order of their first outputs."""
    step, found = tap_stride(axis), []
    for p in range(min(axis.denominator, axis.count)):
        count = len(range(p, axis.count, axis.denominator))
        here = p * axis.output_step + axis.start
        tap = first_tap(axis.denominator, axis.tap_step, -here % axis.denominator)
        if tap is None or tap >= axis.taps:
            found.append(Phase(p, count, 0, 0, 0))
        else:
            start = (here + tap * axis.tap_step) // axis.denominator
            found.append(Phase(p, count, start, tap, len(range(tap, axis.taps, step))))
    return tuple(found)


def largest_phase(axis: AxisMap) -> AxisMap:
    """Return an axis map without denominator that has the most outputs and taps of all phases."""
    if axis.denominator == 1:
        return axis
    found = phases(axis)
    step = tap_stride(axis) * axis.tap_step // axis.denominator
    taps = max(p.taps for p in found)
    return replace(axis, count=found[0].count, taps=taps, start=0, tap_step=step, denominator=1)


@cached(1024)
def launches(axes: tuple[AxisMap, ...], most: int) -> tuple[tuple[tuple[Phase, ...], ...], ...]:
    """Group the phases of each axis into launches, with at most `most` phases of an axis in each.

    Of an axis with more phases than that, phases without taps are left out: see `covers`.
    """
    groups = []
    for axis in axes:
        found = phases(axis)
        if len(found) > most:
            found = tuple(p for p in found if p.taps)
        size = -(-len(found) // max(1, -(-len(found) // most)))
        groups.append([found[i : i + size] for i in range(0, len(found), max(size, 1))])
    return tuple(product(*groups))


def covers(axes: tuple[AxisMap, ...], most: int) -> bool:
    """True if the launches of `launches` write every output."""
    written = sum(
        prod(sum(p.count for p in axis) for axis in launch) for launch in launches(axes, most)
    )
    return written == prod(v.count for v in axes)
