"""Write the loops of kernels: chunks split into indices, lines of outputs, taps inside of x.

A kernel finds an element of x through one offset table for each spatial axis: entry (o, k) is the
offset of the element that tap k of output o reads. The offset of a window's element is the sum of
one entry for each axis. A negative entry stands for a zero of the border, whose products are left
out. So stride, dilation, padding and every padding mode cost nothing in the inner loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.runtime.offset_tables import offsets
from einstride.geometry.convolution import Geometry


def split(index: Value, *extents: Value) -> tuple[Value, ...]:
    """Split an index of several axes, the first of them fastest; return one index for each axis.

    The last axis has no extent: index = i[0] + extents[0] * (i[1] + extents[1] * (i[2] + ...)).
    """
    indices = []
    for extent in extents:
        indices.append(index % extent)
        index = index // extent
    return (*indices, index)


def block(number: Value, size: Value, end: Value) -> tuple[Value, Value]:
    """Return the first element of a block with this number, and one past its last."""
    first = number * size
    return first, (first + size).minimum(end)


def look_up(code: Code, table: str, index: Value) -> Value:
    """Return the entry of a table of integers."""
    return code.array(table, "int64").at(index).load()


def locate_line(
    code: Code, axes: int, index: Value, y: Pointer
) -> tuple[list[Pointer], Value, Pointer]:
    """Split the index of a line, all spatial axes but the last; the first `axes` of them are split.

    Returns the entries of the line in each axis' offset table, the index of the batch that is left,
    and the address of the line in y.
    """
    tables: list[Pointer] = []
    for a in reversed(range(axes)):
        o, index = split(index, code[f"out{a}"])
        tables.insert(0, code.array(f"table{a}", "int64").at(o * code[f"taps{a}"]))
        y = y.at(o * code[f"y_stride{a}"])
    return tables, index, y


def loop_over_taps_inside(
    code: Code, tables: Sequence[Pointer], x: Pointer, visit: Callable[[Pointer, Value], None]
) -> None:
    """Loop over the taps of a line that read x, on the axes of `tables`.

    Visits the address in x under the tap, and the tap's number.
    """

    def loop(a: int, x: Pointer, tap: Value) -> None:
        if a == len(tables):
            visit(x, tap)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            offset = tables[a].at(k).load()
            with code.when(offset >= 0):
                loop(a + 1, x.at(offset), tap * code[f"taps{a}"] + k)

    loop(0, x, code.number(0))


def any_inside(offsets: Sequence[Value]) -> Value:
    """True if one of these offsets lies in x: a negative offset lies in a border of zeros."""
    common = offsets[0]
    for offset in offsets[1:]:
        common = common & offset  # negative only if all are
    return common >= 0


def lowest_of(offsets: Sequence[Value]) -> Value:
    """Return the lowest of these offsets, which is negative unless all of them lie in x."""
    lowest = offsets[0]
    for offset in offsets[1:]:
        lowest = lowest.minimum(offset)
    return lowest


def axis_arguments(
    g: Geometry, axes: int, x_strides: Sequence[int], y_strides: Sequence[int]
) -> tuple[dict[str, Any], int]:
    """List the kernel arguments of the first `axes` spatial axes: offset tables, sizes, strides.

    The strides, in elements, begin with the batch. Also returns the offset to add to x.
    """
    arguments: dict[str, Any] = {}
    base = 0
    for a in range(axes):
        table, lowest = offsets(g, a, x_strides[a + 1])
        base += lowest
        arguments |= {
            f"table{a}": table, f"taps{a}": g.kernel[a], f"out{a}": g.out[a],
            f"y_stride{a}": y_strides[a + 1],
        }  # fmt: skip
    return arguments, base


def loop_over_blocks(
    code: Code, count: int, size: int, visit: Callable[[Value, int], None]
) -> None:
    """Loop over `count` items, `size` of them at a time; visit a block's first item and its size.

    Both are known while the kernel is written, so that the last block may be smaller.
    """
    remainder = count % size
    with code.loop(0, count - remainder, size) as first:
        visit(first, size)
    if remainder:
        visit(code.number(count - remainder), remainder)
