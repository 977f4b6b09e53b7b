"""Generate Fourier transforms along a line of vectors, in stages with twiddle factors between.

Forward transforms decimate in frequency, from natural to digit-reversed order; inverse transforms
decimate in time, from digit-reversed to natural order. Both factors of a product of spectra are
digit-reversed alike, so nothing is ever reordered. The first and the last stage read and write
through functions of the caller; positions that hold zeros, or that no result needs, generate no
code.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.fft.codelets import ZERO, Complex, dft, product, product_conjugate
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

Radices = tuple[int, ...]
Load = Callable[[Value, int], Complex]
"""Load the number at a position: a run-time integer plus one known when the kernel is generated."""
Store = Callable[[Value, int, Complex], None]
Product = Callable[[Value, int, Complex], Complex]
"""The product that replaces the number of a frequency, given its digit-reversed position."""

EFFORT = {2: 8, 3: 20, 4: 28, 5: 52, 6: 58, 7: 92, 8: 80, 9: 112, 10: 130}
"""By radix: vector instructions of a short transform with its twiddle factors, about."""


@cached(4096)
def radices(length: int) -> tuple[float, Radices]:
    """Choose the radices of a transform's stages; return its vector instructions and the radices.

    The instructions are infinite if the length has a prime factor that no radix has.
    """
    if length == 1:
        return 0.0, ()
    best: tuple[float, Radices] = (float("inf"), ())
    for r, effort in EFFORT.items():
        if length % r == 0:
            inner_effort, stages = radices(length // r)
            # a stage loads and stores each number, which takes about as long as three instructions
            total = r * inner_effort + length // r * (effort + 3.0 * r)
            if total < best[0]:
                best = total, tuple(sorted((*stages, r), reverse=True))
    return best


@kept
def order(stages: Radices) -> Any:
    """Return the digit-reversed position of each frequency."""
    length = prod(stages)
    positions = np.empty(length, np.int64)
    for position in range(length):
        remainder, size, frequency, unit = position, length, 0, 1
        for r in stages:
            size //= r
            digit, remainder = divmod(remainder, size)
            frequency += digit * unit
            unit *= r
        positions[frequency] = position
    positions.flags.writeable = False
    return positions


def _factor_offsets(stages: Radices) -> list[int]:
    """List the offsets of each stage's twiddle factors in the table `twiddles`, and its size."""
    offsets, size = [0], prod(stages)
    for r in stages:
        size //= r
        offsets.append(offsets[-1] + (2 * size * (r - 1) if size > 1 else 0))
    return offsets


@kept
def twiddles(stages: Radices, dtype: str) -> Any:
    """Return the twiddle factors exp(-2 pi i q k / n) of all stages, ordered by stage, k and q."""
    parts, size = [np.empty(0)], prod(stages)
    for r in stages:
        n, size = size, size // r
        if size > 1:
            turns = np.arange(size)[:, None] * np.arange(1, r) % n * (-2 * np.pi / n)
            parts.append(np.stack([np.cos(turns), np.sin(turns)], -1).ravel())
    return np.concatenate(parts).astype(dtype)


class Line:
    """Generator of the transforms of one length in a kernel.

    Parameters
    ----------
    code : Code
        The kernel.
    stages : tuple of int
        The radices of its stages; their product is the length.
    dtype : str
        The real dtype of the numbers.
    lanes : int
        Lanes of a vector.
    factors : Pointer
        The address of the table `twiddles`.
    scratch : Pointer
        The address of a buffer for the complex vectors of a line.
    """

    def __init__(
        self,
        code: Code,
        stages: Radices,
        dtype: str,
        lanes: int,
        factors: Pointer,
        scratch: Pointer,
    ) -> None:
        self.code, self.dtype, self.lanes = code, dtype, lanes
        self.stages = stages or (1,)
        self.length = prod(stages)
        self.factors, self.scratch = factors, scratch

    def get(self, position: Value, shift: int) -> Complex:
        """Load the number at a position of the scratch."""
        return load(
            self.scratch.at(position * (2 * self.lanes)).at(shift * 2 * self.lanes), self.lanes
        )

    def put(self, position: Value, shift: int, number: Complex) -> None:
        """Store the number at a position of the scratch."""
        pointer = self.scratch.at(position * (2 * self.lanes)).at(shift * 2 * self.lanes)
        store(pointer, number, self.dtype, self.lanes)

    def forward(self, get: Load, put: Store, inputs: int) -> None:
        """Generate a forward transform, of which only the first `inputs` positions are not zero."""
        last = len(self.stages) - 1
        for s in range(last + 1):
            source, count = (get, inputs) if s == 0 else (self.get, self.length)
            self._forward_stage(s, source, put if s == last else self.put, count)

    def inverse(self, get: Load, put: Store, outputs: int) -> None:
        """Generate an inverse transform, of which the first `outputs` positions are stored."""
        last = len(self.stages) - 1
        for s in range(last, -1, -1):
            put_stage, count = (put, outputs) if s == 0 else (self.put, self.length)
            self._inverse_stage(s, get if s == last else self.get, put_stage, count)

    def round_trip(
        self, get: Load, multiply: Product, put: Store, inputs: int, outputs: int
    ) -> None:
        """Generate a forward transform, a product at each frequency and the inverse transform.

        The frequencies stay in registers between the last forward and the first inverse stage.
        """
        last, r = len(self.stages) - 1, self.stages[-1]
        for s in range(last):
            get_stage, count = (get, inputs) if s == 0 else (self.get, self.length)
            self._forward_stage(s, get_stage, self.put, count)
        get_last, put_last = (self.get, self.put) if last else (get, put)
        with self.code.loop(0, self.length, r) as position:
            numbers = [get_last(position, j) if last or j < inputs else ZERO for j in range(r)]
            multiplied = [multiply(position, q, v) for q, v in enumerate(dft(numbers, -1))]
            for j, number in enumerate(dft(multiplied, 1)):
                if last or j < outputs:
                    put_last(position, j, number)
        for s in range(last - 1, -1, -1):
            put_stage, count = (put, outputs) if s == 0 else (self.put, self.length)
            self._inverse_stage(s, self.get, put_stage, count)

    def _forward_stage(self, s: int, get: Load, put: Store, inputs: int) -> None:
        def transform(position: Value, k: Value, count: int) -> None:
            numbers = [get(position, j * m) if j < count else ZERO for j in range(r)]
            for q, number in enumerate(dft(numbers, -1)):
                factor = self._factor(s, k, q)
                put(position, q * m, number if factor is None else product(number, factor))

        r, m = self._radix_and_distance(s)
        self._for_each_transform(s, inputs, transform)

    def _inverse_stage(self, s: int, get: Load, put: Store, outputs: int) -> None:
        def transform(position: Value, k: Value, count: int) -> None:
            if count == 0:
                return
            numbers = []
            for q in range(r):
                number, factor = get(position, q * m), self._factor(s, k, q)
                numbers.append(number if factor is None else product_conjugate(number, factor))
            for j, number in enumerate(dft(numbers, 1)[:count]):
                put(position, j * m, number)

        r, m = self._radix_and_distance(s)
        self._for_each_transform(s, outputs, transform)

    def _radix_and_distance(self, s: int) -> tuple[int, int]:
        """Return a stage's radix, and the distance between its numbers."""
        return self.stages[s], prod(self.stages[s + 1 :])

    def _for_each_transform(
        self, s: int, count: int, transform: Callable[[Value, Value, int], None]
    ) -> None:
        """Generate the short transforms of a stage, if `count` positions of the line are used.

        `transform` gets the position and the twiddle index of each transform, and how many of its
        numbers are used.
        """
        r, m = self._radix_and_distance(s)
        full, remainder = divmod(count, m)
        ranges = (
            [(0, m, r)]
            if count == self.length
            else [(0, remainder, full + 1), (remainder, m, full)]
        )
        with self.code.loop(0, self.length, r * m) as block:
            for start, stop, numbers in ranges:
                if start < stop:
                    with self.code.loop(start, stop) as k:
                        transform(block + k, k, numbers)

    def _factor(self, s: int, k: Value, q: int) -> Complex | None:
        r, m = self._radix_and_distance(s)
        if m == 1 or q == 0:
            return None
        pointer = self.factors.at(_factor_offsets(self.stages)[s] + 2 * (q - 1)).at(
            k * (2 * (r - 1))
        )
        return (
            self.code.splat(pointer.load(), self.lanes),
            self.code.splat(pointer.at(1).load(), self.lanes),
        )


def load(pointer: Pointer, lanes: int) -> Complex:
    """Load a complex vector: the real parts lie before the imaginary parts."""
    return pointer.load(lanes), pointer.at(lanes).load(lanes)


def store(pointer: Pointer, number: Complex, dtype: str, lanes: int) -> None:
    """Store a complex vector."""
    for i, part in enumerate(number):
        pointer.at(i * lanes).store(pointer.code.zero(dtype, lanes) if part is None else part)
