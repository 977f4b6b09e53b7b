"""Multiply vectors in registers by a small constant matrix, with as few instructions as possible.

Winograd's transform matrices have rows for points p and -p. Such rows u and v share two sums: with
s = (u + v) / 2 and d = (u - v) / 2, u = s + d and v = s - d. Two columns that agree in most rows
but for a sign are replaced by their sum and difference, computed once for all rows. The remaining
terms that are not zero become a chain of fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

from einstride.codegen.function_builder import Code, Value
from einstride.codegen.vector_ops import constant

Row = tuple[Fraction, ...]
Rows = tuple[Row, ...]
Load = Callable[[int, int], Value]
Store = Callable[[int, int, Value], None]


def multiply(code: Code, rows: Rows, values: Sequence[Value], dtype: str) -> list[Value]:
    """Multiply a matrix by a column of vectors."""
    lanes = values[0].ir.type.count
    work, given = [list(row) for row in rows], list(values)
    for i, j in combinations(range(len(given)), 2):
        gain = sum(_terms_saved(row[i], row[j]) for row in work) - 2
        if gain > 0:
            a, b = given[i], given[j]
            given[i], given[j] = a + b, a - b
            for row in work:
                row[i], row[j] = (row[i] + row[j]) / 2, (row[i] - row[j]) / 2
    found: dict[int, Value] = {}
    for i, j in combinations(range(len(work)), 2):
        s = tuple((p + q) / 2 for p, q in zip(work[i], work[j], strict=True))
        d = tuple((p - q) / 2 for p, q in zip(work[i], work[j], strict=True))
        fewer = _terms(s) + _terms(d) + 2 < _terms(work[i]) + _terms(work[j])
        if fewer and _terms(s) and _terms(d) and i not in found and j not in found:
            even, odd = (_sum(code, part, given, dtype, lanes) for part in (s, d))
            found[i], found[j] = even + odd, even - odd
    for i, row in enumerate(work):
        if i not in found:
            found[i] = _sum(code, row, given, dtype, lanes)
    return [found[i] for i in range(len(work))]


def multiply_both_sides(
    code: Code, first: Rows, second: Rows, load: Load, store: Store, dtype: str
) -> None:
    """Compute first @ grid @ second^T for a grid of vectors; each is loaded just before its use."""
    columns = [
        multiply(code, first, [load(i, j) for i in range(len(first[0]))], dtype)
        for j in range(len(second[0]))
    ]
    for i in range(len(first)):
        found = multiply(code, second, [column[i] for column in columns], dtype)
        for j, value in enumerate(found):
            store(i, j, value)


def operations(rows: Rows) -> int:
    """The approximate number of instructions of one product with the matrix."""
    return sum(_terms(row) for row in rows)


def _terms(row: Sequence[Fraction]) -> int:
    return sum(1 for v in row if v)


def _terms_saved(p: Fraction, q: Fraction) -> int:
    """The number of terms that a row saves if two columns become their sum and difference."""
    return _terms((p, q)) - _terms((p + q, p - q))


def _sum(
    code: Code, row: Sequence[Fraction], given: Sequence[Value], dtype: str, lanes: int
) -> Value:
    """Compute sum_k row[k] * given[k], beginning with a term of factor 1 if there is one."""
    terms = sorted(((c, v) for c, v in zip(row, given, strict=True) if c), key=_has_factor)
    if not terms:
        return code.zero(dtype, lanes)
    (c, total), rest = terms[0], terms[1:]
    if c != 1:
        total = total * constant(code, float(c), dtype, lanes)
    for c, value in rest:
        if c == 1:
            total = total + value
        elif c == -1:
            total = total - value
        else:
            total = value.times_plus(constant(code, float(c), dtype, lanes), total)
    return total


def _has_factor(term: tuple[Fraction, Value]) -> bool:
    return term[0] != 1
