"""Set five exercises about byte offsets, with answers, from the numbers of one page."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from einstride.geometry.convolution import Geometry
from einstride.viewer.memory import Memory


class Exercise(NamedTuple):
    """Hold a question about bytes, its answer, and the sum that gives the answer."""

    question: str
    answer: int
    worked: str


def exercises(g: Geometry, m: Memory, name: str) -> list[Exercise]:
    """Set five exercises, of which each needs the ones before. `name` is that of the array."""
    n = g.rank
    element = tuple(min(2 if a else 1, s - 1) for a, s in enumerate(m.shape[1:-1]))
    index = (0, *element, m.shape[-1] - 1)
    output = tuple(o - 1 for o in g.out)
    tap = tuple(k - 1 for k in g.kernel)
    step, neighbour = m.windows_strides, (0,) * (n - 1) + (min(1, g.out[-1] - 1),)
    whole = (0, *output, *tap, 0)
    known = f"{name}, a copy of x with its border," if m.copied else name
    return [
        Exercise(
            f"{known} has the shape {m.shape} and the strides {m.strides} in bytes. How many bytes "
            f"after its first element does the element {name}{list(index)} begin?",
            _product(index, m.strides),
            _worked(index, m.strides),
        ),
        Exercise(
            f"How many bytes after the first element of the window of output {(0,) * n} does the "
            f"first element of the window of output {neighbour} begin?",
            _product(neighbour, step[1 : n + 1]),
            _worked(neighbour, step[1 : n + 1]),
        ),
        Exercise(
            f"Inside one window, how many bytes after tap {(0,) * n} does tap {tap} begin?",
            _product(tap, step[n + 1 : -1]),
            _worked(tap, step[n + 1 : -1]),
        ),
        Exercise(
            f"At which byte of {name} does the element begin that output {output} of example 0 "
            f"multiplies by tap {tap} of channel 0?",
            m.base + _product(whole, step),
            (f"{m.base} + " if m.base else "") + _worked(whole, step),
        ),
        Exercise(
            f"The view of all windows has the shape {m.windows_shape} and takes no memory. How "
            "many bytes would a copy of it take?",
            prod(m.windows_shape) * m.itemsize,
            " \N{MULTIPLICATION SIGN} ".join(map(str, (*m.windows_shape, m.itemsize)))
            + f" = {prod(m.windows_shape) * m.itemsize}",
        ),
    ]


def _product(index: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum(i * s for i, s in zip(index, strides, strict=True))


def _worked(index: tuple[int, ...], strides: tuple[int, ...]) -> str:
    terms = " + ".join(f"{i}·{s}" for i, s in zip(index, strides, strict=True))
    return f"{terms} = {_product(index, strides)}"
