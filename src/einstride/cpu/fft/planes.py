"""Transform the rows of a plane to spectra in a buffer, and back.

Two rows of real numbers are transformed as the real and imaginary parts of one complex line. From
its spectrum Z, with W(k) = Z(-k), the spectra of the two rows are

    2 X(k) = Z(k) + conj W(k)        2 X'(k) = -i (Z(k) - conj W(k))

of which only the first width // 2 + 1 frequencies are kept, since a real row's spectrum is
symmetric. They fill one row of the buffer, which stays in a core's cache; `kernels` transforms its
columns. The factor 2 is divided out of the filter's spectrum.
"""

from __future__ import annotations

from collections.abc import Callable

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.fft.codelets import Complex, Real, add, sub
from einstride.cpu.fft.lines import Line, load, store
from einstride.cpu.fft.tiles import TileView
from einstride.cpu.fft.views import View


def in_pairs(code: Code, rows: int, step: Callable[[Value, int], None]) -> None:
    """Call `step` for each pair of rows, and for the last row alone if their number is odd."""
    if rows > 1:
        with code.loop(0, rows - 1, 2) as slot:
            step(slot, 2)
    if rows % 2:
        step(code.number(rows - 1), 1)


def rows_in(
    code: Code, line: Line, pairs: Pointer, view: View | TileView, buffer: Pointer, pitch: int
) -> None:
    """Transform the rows of an array to spectra in the buffer."""
    size, half = 2 * line.lanes, line.length // 2 + 1

    def step(slot: Value, count: int) -> None:
        found = [view.row(slot + i) for i in range(count)]

        def get(at: Value, plus: int) -> Complex:
            return found[0].get(at, plus), found[1].get(at, plus) if count > 1 else None

        line.forward(get, line.put, view.operand.columns)
        target = buffer.at(slot * (pitch * size))
        with code.loop(0, half) as k:
            z = line.get(pairs.at(k * 2).load(), 0)
            w = line.get(pairs.at(k * 2 + 1).load(), 0)
            pointer = target.at(k * size)
            store(pointer, (add(z[0], w[0]), sub(z[1], w[1])), line.dtype, line.lanes)
            if count > 1:
                other = add(z[1], w[1]), sub(w[0], z[0])
                store(pointer.at(pitch * size), other, line.dtype, line.lanes)

    in_pairs(code, view.operand.rows, step)


def rows_out(
    code: Code,
    line: Line,
    pairs: Pointer,
    view: View | TileView,
    buffer: Pointer,
    pitch: int,
    bias: Real,
) -> None:
    """Transform spectra in the buffer, in the form that `rows_in` writes, to rows of an array."""
    size, half = 2 * line.lanes, line.length // 2 + 1

    def step(slot: Value, count: int) -> None:
        found = [view.row(slot + i) for i in range(count)]
        source = buffer.at(slot * (pitch * size))
        with code.loop(0, half) as k:
            pointer = source.at(k * size)
            a, b = load(pointer, line.lanes)
            c, d = load(pointer.at(pitch * size), line.lanes) if count > 1 else (None, None)
            line.put(pairs.at(k * 2 + 1).load(), 0, (add(a, d), sub(c, b)))
            line.put(pairs.at(k * 2).load(), 0, (sub(a, d), add(b, c)))

        def put(at: Value, plus: int, number: Complex) -> None:
            for row, part in zip(found, number, strict=False):
                value = add(part, bias)
                if value is not None:
                    row.put(at, plus, value)

        line.inverse(line.get, put, view.operand.columns)

    in_pairs(code, view.operand.rows, step)
