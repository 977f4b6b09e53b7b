"""How the direct kernels see a convolution: lines of places, steps in memory, integer types.

Plain numbers and CuPy arrays, no geometry: what is here knows neither passes nor layouts by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MOST_BLOCKS = 2**31 - 1
COORDINATES = 2**28  # of tiles.cu, whose entries without a place lie 2**29 below
OFFSETS = 2**31 - 2**12


@dataclass(frozen=True)
class Line:
    """One spatial axis: output p and tap k see place (p * move + start + k * reach) / den.

    Attributes
    ----------
    count, size, taps : int
        Outputs, places of the array that is seen, taps.
    move, start, reach, den : int
        As above; a place that is no integer is not seen.
    """

    count: int
    size: int
    taps: int
    move: int
    start: int
    reach: int
    den: int = 1

    @property
    def usual(self) -> Line:
        """The same with `reach` positive, and small where nothing moves: taps run the other way."""
        line = self
        if self.reach < 0:
            line = replace(self, start=self.start + (self.taps - 1) * self.reach, reach=-self.reach)
        if self.taps == 1:
            line = replace(line, reach=1)
        return replace(line, move=1) if self.count == 1 else line


@dataclass(frozen=True)
class View:
    """What of an array decides how a kernel is launched: not its numbers, nor quite its place.

    Attributes
    ----------
    shape, strides : tuple of int
        As NumPy has them.
    dtype : numpy.dtype
        Of the elements.
    address : int
        Where it begins, modulo 16: the widest word of a device.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    address: int


def view(a: Any) -> View:
    """The view of an array."""
    return View(a.shape, a.strides, a.dtype, a.data.ptr % 16)


def steps(a: Any) -> list[int]:
    """The steps of an array in elements."""
    return [s // a.dtype.itemsize for s in a.strides]


def readable(a: Any) -> bool:
    """Do its elements lie where a kernel may read them?"""
    item = a.dtype.itemsize
    return not any(s % item for s in a.strides) and a.data.ptr % item == 0


def index(arrays: Iterable[Any], lines: Sequence[Line], totals: Iterable[int] = ()) -> str:
    """The integer type in which every place and every offset fits."""
    reach = [*totals]
    for a in arrays:
        reach.append(sum(max(n - 1, 0) * abs(t) for n, t in zip(a.shape, steps(a), strict=True)))
        reach += [abs(t) * max(n, 1) for n, t in zip(a.shape, steps(a), strict=True)]
    places = [0]
    for v in lines:
        ends = abs(v.start) + v.count * v.move + v.taps * abs(v.reach)
        places += [ends + 2 * v.size, v.den, v.count * 2]
    narrow = max(reach, default=0) < OFFSETS and max(places) < COORDINATES
    return "int" if narrow else "long long"


def packed(fields: Sequence[int]) -> Any:
    """A struct of 64-bit integers, as a kernel takes it by value."""
    job = np.array(fields, np.int64)
    return job.view(f"V{job.nbytes}")


def upto(n: int, unit: int) -> int:
    """The first multiple of `unit` that is not below n."""
    return -(-n // unit) * unit


def split_even(count: int, unit: int, most: int) -> list[int]:
    """Lengths of boxes, multiples of `unit`, that cut `count` into equal parts: large first."""
    found: list[int] = []
    parts = max(1, -(-count // most))
    while len(found) < 8:
        equal = -(-count // parts)
        size = upto(equal, unit)
        if size not in found:
            found.append(size)
        if size <= unit:
            break
        parts = max(parts + 1, -(-count // (equal - 1)))
    return found
