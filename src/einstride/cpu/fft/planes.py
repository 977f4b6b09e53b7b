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


def for_each_pair(code: Code, rows: int, visit: Callable[[Value, int], None]) -> None:
    """Call `visit` for each pair of rows, and for the last row alone if their number is odd."""
    if rows > 1:
        with code.loop(0, rows - 1, 2) as slot:
            visit(slot, 2)
    if rows % 2:
        visit(code.number(rows - 1), 1)


def rows_to_spectra(
    code: Code, line: Line, pairs: Pointer, view: View | TileView, buffer: Pointer, pitch: int
) -> None:
    """Transform the rows of an array to spectra in the buffer."""
    size, half = 2 * line.lanes, line.length // 2 + 1

    def transform_rows(slot: Value, count: int) -> None:
        rows = [view.row(slot + i) for i in range(count)]

        def get(position: Value, shift: int) -> Complex:
            return rows[0].get(position, shift), rows[1].get(position, shift) if count > 1 else None

        line.forward(get, line.put, view.operand.columns)
        buffer_rows = buffer.at(slot * (pitch * size))
        with code.loop(0, half) as k:
            z = line.get(pairs.at(k * 2).load(), 0)
            w = line.get(pairs.at(k * 2 + 1).load(), 0)
            pointer = buffer_rows.at(k * size)
            store(pointer, (add(z[0], w[0]), sub(z[1], w[1])), line.dtype, line.lanes)
            if count > 1:
                second_spectrum = add(z[1], w[1]), sub(w[0], z[0])
                store(pointer.at(pitch * size), second_spectrum, line.dtype, line.lanes)

    for_each_pair(code, view.operand.rows, transform_rows)


def spectra_to_rows(
    code: Code,
    line: Line,
    pairs: Pointer,
    view: View | TileView,
    buffer: Pointer,
    pitch: int,
    bias: Real,
) -> None:
    """Transform spectra in the buffer, as `rows_to_spectra` writes them, to rows of an array."""
    size, half = 2 * line.lanes, line.length // 2 + 1

    def transform_rows(slot: Value, count: int) -> None:
        rows = [view.row(slot + i) for i in range(count)]
        buffer_rows = buffer.at(slot * (pitch * size))
        with code.loop(0, half) as k:
            pointer = buffer_rows.at(k * size)
            a, b = load(pointer, line.lanes)
            c, d = load(pointer.at(pitch * size), line.lanes) if count > 1 else (None, None)
            line.put(pairs.at(k * 2 + 1).load(), 0, (add(a, d), sub(c, b)))
            line.put(pairs.at(k * 2).load(), 0, (sub(a, d), add(b, c)))

        def put(position: Value, shift: int, number: Complex) -> None:
            for row, part in zip(rows, number, strict=False):
                value = add(part, bias)
                if value is not None:
                    row.put(position, shift, value)

        line.inverse(line.get, put, view.operand.columns)

    for_each_pair(code, view.operand.rows, transform_rows)
