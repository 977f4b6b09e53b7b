"""Kernels of elementwise functions of arrays, and of vectors with one value per channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einstride.codegen import jit
from einstride.codegen.float_ops import constant_like, greater_or_nan
from einstride.codegen.function_builder import Code, Mask, Value
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.nn.cpu.row_sweep import ARGUMENTS, Rows, strips, sweep
from einstride.support.byte_cache import kept

SINGLE_THREAD_BYTES = 1 << 20
"""Size of an array in bytes up to which one thread is used: waking a second one would take longer
than it saves."""


def relu_value(x: Value) -> Value:
    """Emit max(x, 0); NaN stays NaN."""
    zero = constant_like(x, 0.0)
    return greater_or_nan(x, zero).select(x, zero)


def relu_gradient_value(y: Value, g: Value) -> Value:
    """Emit g where the output y of a ReLU is positive, else zero."""
    zero = constant_like(g, 0.0)
    return greater_or_nan(y, zero).select(g, zero)


FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "relu": (1, 0, relu_value),
    "relu_gradient": (2, 0, lambda g, y: relu_gradient_value(y, g)),
    "add": (2, 0, lambda p, q: p + q),
    "add_relu": (2, 0, lambda p, q: relu_value(p + q)),
    "affine": (1, 3, lambda x, m, f, c: (x - m).multiply_add(f, c)),
    "affine_relu": (1, 3, lambda x, m, f, c: relu_value((x - m).multiply_add(f, c))),
}
"""By name: number of array arguments, number of per-channel vectors, and the function."""


def text(element: str, lanes: int, vectors: int, function: str) -> str:
    """Write the text of a kernel that stores a function of every element to y."""
    arrays, columns, value = FUNCTIONS[function]
    code = Code(function, arguments(function))
    with code.chunks(code["chunks"]) as chunk, strips(code, lanes, vectors) as strip_offset:
        column_vectors = [
            [code.array(f"column{i}", element).at(strip_offset + v * lanes).load(lanes)
             for i in range(columns)]
            for v in range(vectors)
        ]  # fmt: skip

        def visit(
            offset: Value, v: int, mask: Mask | None, column_vectors: Any = column_vectors
        ) -> None:
            values = [
                code.array(f"array{i}", element).at(offset).load(lanes, mask) for i in range(arrays)
            ]
            result = value(*values, *column_vectors[v])
            code.array("y", element).at(offset).store(result, mask)

        sweep(code, chunk, strip_offset, lanes, vectors, visit)
    return code.text()


def arguments(function: str) -> list[str]:
    """Return the names of the kernel arguments, in the order of the argument block."""
    arrays, columns, _ = FUNCTIONS[function]
    return ["next", *ARGUMENTS, *(f"array{i}" for i in range(arrays)),
            *(f"column{i}" for i in range(columns)), "y"]  # fmt: skip


def apply(
    function: str, arrays: tuple[Any, ...], y: Any, b: Any, columns: tuple[Any, ...] = ()
) -> None:
    """Compute y = function(*arrays), all dense and of one dtype; y may be one of the arrays.

    `columns` are vectors with one element for each lane of a row: see `Rows`.
    """
    channels = y.shape[-1] if columns else 1
    call = _elementwise_call(function, dtype_name(y), channels, y.size, b.threads())
    addresses = {f"array{i}": address(a) for i, a in enumerate(arrays)}
    addresses |= {f"column{i}": address(a) for i, a in enumerate(columns)}
    call(b.launch, y=address(y), **addresses)


@kept
def _elementwise_call(function: str, element: str, channels: int, count: int, threads: int) -> Call:
    target = jit.host_target()
    rows = Rows.of(element, channels, count, target)
    kernel = jit.KernelSpec(function, text, (*rows.spec, function), target)
    names = arguments(function)
    values = {name: n for name, n in rows.arguments.items() if name in names}
    return Call(kernel, names, values, thread_count(rows, threads), ())


def thread_count(rows: Rows, threads: int) -> int:
    """Return how many threads to use."""
    size = (rows.full * rows.width + rows.tail) * (8 if rows.element == "float64" else 4)
    return 1 if size <= SINGLE_THREAD_BYTES else min(threads, rows.chunks)
