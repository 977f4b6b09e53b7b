"""Transform the rows of a plane to spectra in a buffer, and back.

Two rows of real numbers are transformed as the real and imaginary parts of one complex line. From
its spectrum Z, with W(k) = Z(-k), the spectra of the two rows are

    2 X(k) = Z(k) + conj W(k)        2 X'(k) = -i (Z(k) - conj W(k))

of which only the first width // 2 + 1 frequencies are kept, since a real row's spectrum is
symmetric. They fill one row of the buffer, which stays in a core's cache; `kernels` transforms its
columns. The factor 2 is divided out of the filter's spectrum.

If the number of rows is odd, the last is paired with a row of zeros. The buffer has memory for its
spectrum, which is not read.
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.fft.codelets import Real, add, sub
from einstride.cpu.fft.lines import Line, load, store
from einstride.cpu.fft.tiles import TileView
from einstride.cpu.fft.views import View


def rows_to_spectra(
    line: Line, scratch: Pointer, pairs: Pointer, view: View | TileView, buffer: Pointer,
    pitch: Value,
) -> None:  # fmt: skip
    """Transform the rows of an array to spectra in the buffer."""
    code, size = line.code, 2 * line.lanes
    rows, columns = (code[f"{view.operand.name}_{n}_count"] for n in ("row", "column"))
    with code.loop(0, rows, 2) as slot:
        row_pair = [view.row(slot + i) for i in range(2)]
        with code.loop(0, columns) as position:
            numbers = row_pair[0].get(position), row_pair[1].get(position)
            store(line.at(scratch, position), numbers, line.dtype, line.lanes)
        line.fill_zeros(scratch, columns)
        line.forward(scratch)
        first = buffer.at(slot * pitch * size)
        with code.loop(0, line.length // 2 + 1) as k:
            z, w = frequency_pair(code, line, scratch, pairs, k)
            z_number, w_number = load(z, line.lanes), load(w, line.lanes)
            spectrum = add(z_number[0], w_number[0]), sub(z_number[1], w_number[1])
            second = add(z_number[1], w_number[1]), sub(w_number[0], z_number[0])
            pointer = first.at(k * size)
            store(pointer, spectrum, line.dtype, line.lanes)
            store(pointer.at(pitch * size), second, line.dtype, line.lanes)


def spectra_to_rows(
    line: Line, scratch: Pointer, pairs: Pointer, view: View | TileView, buffer: Pointer,
    pitch: Value, zeros: Pointer, bias: Real,
) -> None:  # fmt: skip
    """Transform spectra in the buffer, as `rows_to_spectra` writes them, to rows of an array."""
    code, size = line.code, 2 * line.lanes
    rows, columns = (code[f"{view.operand.name}_{n}_count"] for n in ("row", "column"))
    with code.loop(0, rows, 2) as slot:
        row_pair = [view.row(slot + i) for i in range(2)]
        first = buffer.at(slot * pitch * size)
        paired = slot + 1 < rows
        with code.loop(0, line.length // 2 + 1) as k:
            pointer = first.at(k * size)
            a, b = load(pointer, line.lanes)
            second = paired.select_pointer(pointer.at(pitch * size), zeros)
            c, d = load(second, line.lanes)
            z, w = frequency_pair(code, line, scratch, pairs, k)
            store(w, (add(a, d), sub(c, b)), line.dtype, line.lanes)
            store(z, (sub(a, d), add(b, c)), line.dtype, line.lanes)
        line.inverse(scratch)
        with code.loop(0, columns) as position:
            numbers = load(line.at(scratch, position), line.lanes)
            for row, part in zip(row_pair, numbers, strict=True):
                value = add(part, bias)
                if value is not None:
                    row.put(position, value)


def frequency_pair(
    code: Code, line: Line, scratch: Pointer, pairs: Pointer, k: Value
) -> tuple[Pointer, Pointer]:
    """Return the addresses of frequencies k and -k of a line."""
    at = pairs.at(k * 2)
    return line.at(scratch, at.load()), line.at(scratch, at.at(1).load())
