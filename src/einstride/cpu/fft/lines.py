"""Generate Fourier transforms in place along a line of vectors, of any length with small factors.

Forward transforms decimate in frequency, from natural to digit-reversed order; inverse transforms
decimate in time, from digit-reversed to natural order. Both factors of a product of spectra are
digit-reversed alike, so nothing is ever reordered.

The code does not depend on the length: a table lists the stages of a transform, and each stage
calls the routine of its radix, a private function of the kernel.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Subroutine, Value
from einstride.cpu.fft.codelets import Complex, dft, product, product_conjugate
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

Radices = tuple[int, ...]
Kind = Literal["forward", "forward_last", "inverse", "inverse_last", "middle"]
"""Kind of a stage's routine.

- ``"forward"``, ``"inverse"``: a short transform of numbers at a distance, with twiddle factors.
- ``"forward_last"``, ``"inverse_last"``: the stage whose numbers are neighbours, which needs none.
- ``"middle"``: the last forward stage, a product with a spectrum, and the stage that inverts it.
"""

EFFORT = {2: 8, 3: 20, 4: 28, 5: 52, 8: 80}
"""By radix: vector instructions of a short transform with its twiddle factors, about.

Each radix has five routines, which a kernel compiles whatever its length is."""

STAGE_FIELDS = 3
"""Integers of a stage in the table `stage_table`: radix, distance, offset of twiddle factors."""


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


@kept
def stage_table(stages: Radices) -> Any:
    """List each stage's radix, distance between numbers, and offset of its twiddle factors."""
    rows, size, offset = [], prod(stages), 0
    for r in stages:
        size //= r
        rows.append((r, size, offset))
        offset += 2 * size * (r - 1) if size > 1 else 0
    return np.array(rows, np.int64).reshape(-1, STAGE_FIELDS)


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


class Routines:
    """Write the routines of the stages of a kernel's transforms, each once.

    Parameters
    ----------
    code : Code
        The kernel.
    dtype : str
        The real dtype of the numbers.
    lanes : int
        Lanes of a vector.
    """

    def __init__(self, code: Code, dtype: str, lanes: int) -> None:
        self.code, self.dtype, self.lanes, self.size = code, dtype, lanes, 2 * lanes
        self._written: dict[Kind, dict[int, Subroutine]] = {}

    def call(self, kind: Kind, radix: Value, *arguments: Value | Pointer) -> None:
        """Call the routine of a kind whose radix is known when the kernel runs."""
        if kind not in self._written:
            if kind == "middle":  # a line of one number is only multiplied
                written = {r: self._write_middle(r, len(arguments)) for r in (1, *EFFORT)}
            else:
                written = {r: self._write_stage(kind, r, len(arguments)) for r in EFFORT}
            self._written[kind] = written
        self.code.call_case(radix, self._written[kind], arguments)

    def _write_stage(self, kind: Kind, r: int, count: int) -> Subroutine:
        """Write a stage: (line, length), then (distance, factors) if it has twiddle factors."""
        sign = -1 if kind.startswith("forward") else 1

        def factor(factors: Pointer, q: int) -> Complex:
            at = factors.at(2 * (q - 1))
            return self._splat(at), self._splat(at.at(1))

        def body(line_address: Value, length: Value, *rest: Value) -> None:
            code = self.code
            line = code.pointer(line_address, self.dtype)
            distance = rest[0] if rest else code.number(1)
            step = distance * self.size
            with code.loop(0, length, distance * r) as block, code.loop(0, distance) as k:
                at = [line.at((block + k) * self.size)]
                for _ in range(r - 1):
                    at.append(at[-1].at(step))
                numbers = [load(p, self.lanes) for p in at]
                factors: list[Complex | None] = [None] * r
                if rest:
                    first = code.pointer(rest[1], self.dtype).at(k * (2 * (r - 1)))
                    factors = [None, *(factor(first, q) for q in range(1, r))]
                if sign == 1:
                    numbers = [
                        n if w is None else product_conjugate(n, w)
                        for n, w in zip(numbers, factors, strict=True)
                    ]
                numbers = dft(numbers, sign)
                if sign == -1:
                    numbers = [
                        n if w is None else product(n, w)
                        for n, w in zip(numbers, factors, strict=True)
                    ]
                for p, number in zip(at, numbers, strict=True):
                    store(p, number, self.dtype, self.lanes)

        return self.code.subroutine(f"{kind}_{r}", count, body)

    def _write_middle(self, r: int, count: int) -> Subroutine:
        """Write a round trip: (line, length, spectrum)."""

        def body(line_address: Value, length: Value, spectrum_address: Value) -> None:
            code = self.code
            line = code.pointer(line_address, self.dtype)
            spectrum = code.pointer(spectrum_address, self.dtype)
            with code.loop(0, length, r) as position:
                first, factor = line.at(position * self.size), spectrum.at(position * self.size)
                numbers = [load(first.at(j * self.size), self.lanes) for j in range(r)]
                products = [
                    product(number, load(factor.at(q * self.size), self.lanes))
                    for q, number in enumerate(dft(numbers, -1))
                ]
                for j, number in enumerate(dft(products, 1)):
                    store(first.at(j * self.size), number, self.dtype, self.lanes)

        return self.code.subroutine(f"middle_{r}", count, body)

    def _splat(self, pointer: Pointer) -> Value:
        return self.code.splat(pointer.load(), self.lanes)


MODES = ("forward", "inverse", "round_trip")
"""What the kernel of `transform` computes, by the number that is passed for the worker."""


def transform(dtype: str, lanes: int) -> str:
    """Write the kernel that all others call to transform a line, of any length, in place.

    It takes the table of stages and the number of a mode, then the addresses and numbers of
    `Line.ARGUMENTS`, the line, and the spectrum by which `round_trip` multiplies.
    """
    code = Code("fourier_line", (), 5)
    count, length, factors, line, spectrum = code.addresses
    routines, last = Routines(code, dtype, lanes), count - 1
    last_radix = code.argument(0).at(last * STAGE_FIELDS).load()

    def call_stage(kind: Kind, s: Value) -> None:
        radix, distance, offset = (
            code.argument(i).at(s * STAGE_FIELDS).load() for i in range(STAGE_FIELDS)
        )
        stage_factors = code.pointer(factors, dtype).at(offset)
        routines.call(kind, radix, line, length, distance, stage_factors)

    inverse, round_trip = (code.worker.equals(MODES.index(m)) for m in MODES[1:])
    with code.when(inverse ^ 1), code.loop(0, last) as s:
        call_stage("forward", s)
    with code.when((inverse | round_trip) ^ 1):
        routines.call("forward_last", last_radix, line, length)
    with code.when(inverse):
        routines.call("inverse_last", last_radix, line, length)
    with code.when(round_trip):
        routines.call("middle", last_radix, line, length, spectrum)
    with code.when(inverse | round_trip), code.loop(0, last) as s:
        call_stage("inverse", last - 1 - s)
    return code.text()


class Line:
    """Generator of the transforms along one axis of a kernel's planes.

    Parameters
    ----------
    code : Code
        The kernel.
    dtype : str
        The real dtype of the numbers.
    lanes : int
        Lanes of a vector.
    axis : str
        The prefix of the axis' kernel arguments.
    """

    ARGUMENTS = ("_stages", "_stage_count", "_length", "_factors")

    def __init__(self, code: Code, dtype: str, lanes: int, axis: str) -> None:
        self.code, self.dtype, self.lanes = code, dtype, lanes
        self.length = code[f"{axis}_length"]
        self._arguments = [code[axis + part] for part in self.ARGUMENTS]

    def at(self, line: Pointer, position: Value) -> Pointer:
        """Return the address of the number at a position of a line."""
        return line.at(position * (2 * self.lanes))

    def fill_zeros(self, line: Pointer, start: Value) -> None:
        """Store zeros at the positions from `start` on."""
        zero = self.code.zero(self.dtype, self.lanes)
        with self.code.loop(start, self.length) as position:
            store(self.at(line, position), (zero, zero), self.dtype, self.lanes)

    def forward(self, line: Pointer) -> None:
        """Write a forward transform of a line, in place."""
        self._call("forward", line, line)

    def inverse(self, line: Pointer) -> None:
        """Write an inverse transform of a line, in place."""
        self._call("inverse", line, line)

    def round_trip(self, line: Pointer, spectrum: Pointer) -> None:
        """Write a forward transform, a product at each frequency and the inverse transform."""
        self._call("round_trip", line, spectrum)

    def _call(self, mode: str, line: Pointer, spectrum: Pointer) -> None:
        code = self.code
        stages, *others = self._arguments
        words = [stages, code.number(MODES.index(mode)), *others, line.address, spectrum.address]
        code.call_words(code["transform"], words)


def load(pointer: Pointer, lanes: int) -> Complex:
    """Load a complex vector: the real parts lie before the imaginary parts."""
    return pointer.load(lanes), pointer.at(lanes).load(lanes)


def store(pointer: Pointer, number: Complex, dtype: str, lanes: int) -> None:
    """Store a complex vector."""
    for i, part in enumerate(number):
        pointer.at(i * lanes).store(pointer.code.zero(dtype, lanes) if part is None else part)
