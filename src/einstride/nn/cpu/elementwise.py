"""Functions of the elements of whole arrays, and of what every channel brings to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einstride.codegen import jit
from einstride.codegen.float_ops import constant_like, greater_or_nan
from einstride.codegen.function_builder import Code, Mask, Value
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.nn.cpu.row_sweep import WORDS, Rows, strips, sweep
from einstride.support.byte_cache import kept

SMALL = 1 << 20
"""Bytes below which waking a second thread costs more than it brings."""


def positive(x: Value) -> Value:
    """max(x, 0); NaN stays NaN."""
    zero = constant_like(x, 0.0)
    return greater_or_nan(x, zero).pick(x, zero)


def passed(y: Value, g: Value) -> Value:
    """The gradient g where the output y of a ReLU is positive, else zero."""
    zero = constant_like(g, 0.0)
    return greater_or_nan(y, zero).pick(g, zero)


FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "relu": (1, 0, lambda x: positive(x)),
    "relu_gradient": (2, 0, lambda g, y: passed(y, g)),
    "add": (2, 0, lambda p, q: p + q),
    "add_relu": (2, 0, lambda p, q: positive(p + q)),
    "affine": (1, 3, lambda x, m, f, c: (x - m).times_plus(f, c)),
    "affine_relu": (1, 3, lambda x, m, f, c: positive((x - m).times_plus(f, c))),
}
"""By name: how many arrays, how many vectors of channels, and the function."""


def text(element: str, lanes: int, vectors: int, function: str) -> str:
    """A kernel's text: y = function of every element."""
    arrays, columns, value = FUNCTIONS[function]
    code = Code(function, arguments(function))
    with code.chunks(code["chunks"]) as chunk, strips(code, lanes, vectors) as at:
        held = [
            [code.array(f"column{i}", element).at(at + v * lanes).load(lanes)
             for i in range(columns)]
            for v in range(vectors)
        ]  # fmt: skip

        def visit(offset: Value, v: int, mask: Mask | None, held: Any = held) -> None:
            given = [
                code.array(f"array{i}", element).at(offset).load(lanes, mask) for i in range(arrays)
            ]
            found = value(*given, *held[v])
            code.array("y", element).at(offset).store(found, mask)

        sweep(code, chunk, at, lanes, vectors, visit)
    return code.text()


def arguments(function: str) -> list[str]:
    """The words of its argument block."""
    arrays, columns, _ = FUNCTIONS[function]
    return ["next", *WORDS, *(f"array{i}" for i in range(arrays)),
            *(f"column{i}" for i in range(columns)), "y"]  # fmt: skip


def apply(
    function: str, arrays: tuple[Any, ...], y: Any, b: Any, columns: tuple[Any, ...] = ()
) -> None:
    """y = function(*arrays), all dense and of one dtype; y may be one of them.

    `columns` hold one number for each lane of a row: see `Rows`.
    """
    channels = y.shape[-1] if columns else 1
    call = _call(function, dtype_name(y), channels, y.size, b.threads())
    named = {f"array{i}": address(a) for i, a in enumerate(arrays)}
    named |= {f"column{i}": address(a) for i, a in enumerate(columns)}
    call(b.launch, y=address(y), **named)


@kept
def _call(function: str, element: str, channels: int, count: int, threads: int) -> Call:
    on = jit.machine()
    rows = Rows.of(element, channels, count, on)
    kernel = jit.KernelSpec(function, text, (*rows.spec, function), on)
    names = arguments(function)
    values = {name: n for name, n in rows.words.items() if name in names}
    return Call(kernel, names, values, workers(rows, threads), ())


def workers(rows: Rows, threads: int) -> int:
    """How many threads are worth waking."""
    size = (rows.full * rows.width + rows.tail) * (8 if rows.element == "float64" else 4)
    return 1 if size <= SMALL else min(threads, rows.chunks)
