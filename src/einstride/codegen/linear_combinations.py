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
    matrix, vectors = [list(row) for row in rows], list(values)
    for i, j in combinations(range(len(vectors)), 2):
        gain = sum(_count_saved_terms(row[i], row[j]) for row in matrix) - 2
        if gain > 0:
            a, b = vectors[i], vectors[j]
            vectors[i], vectors[j] = a + b, a - b
            for row in matrix:
                row[i], row[j] = (row[i] + row[j]) / 2, (row[i] - row[j]) / 2
    products: dict[int, Value] = {}
    for i, j in combinations(range(len(matrix)), 2):
        half_sum = tuple((p + q) / 2 for p, q in zip(matrix[i], matrix[j], strict=True))
        half_difference = tuple((p - q) / 2 for p, q in zip(matrix[i], matrix[j], strict=True))
        saves_terms = _count_terms(half_sum) + _count_terms(half_difference) + 2 < _count_terms(
            matrix[i]
        ) + _count_terms(matrix[j])
        if (
            saves_terms
            and _count_terms(half_sum)
            and _count_terms(half_difference)
            and i not in products
            and j not in products
        ):
            even, odd = (
                _sum_terms(code, part, vectors, dtype, lanes)
                for part in (half_sum, half_difference)
            )
            products[i], products[j] = even + odd, even - odd
    for i, row in enumerate(matrix):
        if i not in products:
            products[i] = _sum_terms(code, row, vectors, dtype, lanes)
    return [products[i] for i in range(len(matrix))]


def multiply_both_sides(
    code: Code, first: Rows, second: Rows, load: Load, store: Store, dtype: str
) -> None:
    """Compute first @ grid @ second^T for a grid of vectors; each is loaded just before its use."""
    columns = [
        multiply(code, first, [load(i, j) for i in range(len(first[0]))], dtype)
        for j in range(len(second[0]))
    ]
    for i in range(len(first)):
        products = multiply(code, second, [column[i] for column in columns], dtype)
        for j, value in enumerate(products):
            store(i, j, value)


def operations(rows: Rows) -> int:
    """Return the approximate number of instructions of one product with the matrix."""
    return sum(_count_terms(row) for row in rows)


def _count_terms(row: Sequence[Fraction]) -> int:
    return sum(1 for v in row if v)


def _count_saved_terms(p: Fraction, q: Fraction) -> int:
    """Count the terms that a row saves if two columns become their sum and difference."""
    return _count_terms((p, q)) - _count_terms((p + q, p - q))


def _sum_terms(
    code: Code, row: Sequence[Fraction], vectors: Sequence[Value], dtype: str, lanes: int
) -> Value:
    """Compute sum_k row[k] * given[k], beginning with a term of factor 1 if there is one."""
    terms = sorted(
        ((factor, v) for factor, v in zip(row, vectors, strict=True) if factor), key=_needs_product
    )
    if not terms:
        return code.zero(dtype, lanes)
    (factor, total), other_terms = terms[0], terms[1:]
    if factor != 1:
        total = total * constant(code, float(factor), dtype, lanes)
    for factor, value in other_terms:
        if factor == 1:
            total = total + value
        elif factor == -1:
            total = total - value
        else:
            total = value.multiply_add(constant(code, float(factor), dtype, lanes), total)
    return total


def _needs_product(term: tuple[Fraction, Value]) -> bool:
    return term[0] != 1
