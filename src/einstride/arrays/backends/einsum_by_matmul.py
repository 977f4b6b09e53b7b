"""Compute a two-operand einsum by permute, reshape and one matrix product."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends.adapter import Array


def contract(equation: str, a: Array, b: Array, xp: Any, matmul: Any) -> Array:
    """Compute ``einsum(equation, a, b)`` for equations that repeat no label within an operand.

    Each label is of one of four kinds: in both operands and the result (a batch of products), in
    both operands only (summed), in a and the result, in b and the result.
    """
    left, rest = equation.split(",")
    right, result = rest.split("->")
    size = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    batch = [c for c in left if c in right and c in result]
    summed = [c for c in left if c in right and c not in result]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]

    def group(array: Array, labels: str, *kinds: list[str]) -> Array:
        order = tuple(labels.index(c) for kind in kinds for c in kind)
        shape = tuple(prod(size[c] for c in kind) for kind in kinds)
        return xp.reshape(xp.permute_dims(array, order), shape)

    if prod(size[c] for c in batch) == 1:  # a 2-D product, which is fastest in every library
        product = matmul(
            group(a, left, batch + rows, summed), group(b, right, batch + summed, columns)
        )
    else:
        product = matmul(
            group(a, left, batch, rows, summed), group(b, right, batch, summed, columns)
        )
    labels = batch + rows + columns
    product = xp.reshape(product, tuple(size[c] for c in labels))
    return xp.permute_dims(product, tuple(labels.index(c) for c in result))
