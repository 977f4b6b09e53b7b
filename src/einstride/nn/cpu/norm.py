"""Batch normalisation: each pass is one kernel that first computes sums, then the result.

Forward, a chunk is read twice while it is in the cache: first for its mean, then for the sums of
the deviations from this mean and of their squares. The sums of all chunks are combined in float64
in a fixed order (Chan et al., 1979), so that the variance is accurate for any mean, and independent
of the number of threads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.codegen import jit
from einstride.codegen.float_ops import (
    as_float64,
    constant_like,
    float64_constant,
    greater_or_nan,
    square_root,
    to_float,
)
from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.cpu.runtime import barrier
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.nn.cpu.elementwise import relu_value, thread_count
from einstride.nn.cpu.row_sweep import ARGUMENTS, Rows, strips, sweep
from einstride.support.byte_cache import kept

FORWARD = (*barrier.COUNTERS, *ARGUMENTS, "width", "times", "channels", "n", "epsilon", "x", "y",
           "gamma", "beta", "parts", "statistics", "columns")  # fmt: skip
BACKWARD = (*barrier.COUNTERS, *ARGUMENTS, "width", "times", "channels", "n", "wanted", "x", "gy",
            "gx", "gamma", "parts", "statistics", "columns", "sums", "slopes")  # fmt: skip


@dataclass(frozen=True)
class ForwardState:
    """What the forward pass keeps for the backward pass, besides x.

    Attributes
    ----------
    rows : Rows
        How x is divided into rows and chunks.
    statistics : array, shape (3, C)
        Mean, variance and 1 / sqrt(variance + epsilon), as float64.
    columns : array, shape (3, width)
        Coefficients for each lane of a row: y = (x - columns[0]) * columns[1] + columns[2].
    relu : bool
        True if a ReLU is fused.
    """

    rows: Rows
    statistics: Any
    columns: Any
    relu: bool


def forward(
    x: Any, gamma: Any, beta: Any, epsilon: float, relu: bool, y: Any, b: Any
) -> ForwardState:
    """Normalise x (..., C) by its own statistics, and write it to y; all dense, of one dtype."""
    rows, call = _forward_call(dtype_name(x), x.shape[-1], x.size, relu, epsilon, b.threads())
    state = ForwardState(
        rows, np.empty((3, rows.channels)), np.empty((3, rows.width), x.dtype), relu
    )
    parts = np.empty((rows.chunks, 3, rows.width), x.dtype)
    call(
        b.launch, x=address(x), y=address(y), gamma=address(gamma), beta=address(beta),
        parts=address(parts), statistics=address(state.statistics), columns=address(state.columns),
    )  # fmt: skip
    return state


def backward(gy: Any, x: Any, gamma: Any, state: ForwardState, gx: Any, b: Any) -> tuple[Any, Any]:
    """Return the gradients of beta and gamma in float64; write that of x to gx unless it is None.

    gx may be gy itself.
    """
    call = _backward_call(dtype_name(x), x.shape[-1], x.size, state.relu, b.threads())
    rows = state.rows
    sums = np.empty((2, rows.channels))
    slopes, parts = (np.empty((n, 3, rows.width), x.dtype) for n in (1, rows.chunks))
    call(
        b.launch, x=address(x), gy=address(gy), gx=0 if gx is None else address(gx),
        gamma=address(gamma), parts=address(parts), statistics=address(state.statistics),
        columns=address(state.columns), sums=address(sums), slopes=address(slopes),
        wanted=0 if gx is None else rows.chunks,
    )  # fmt: skip
    return sums[0], sums[1]


@kept
def _forward_call(
    element: str, channels: int, count: int, relu: bool, epsilon: float, threads: int
) -> tuple[Rows, Call]:
    target = jit.host_target()
    rows = Rows.of(element, channels, count, target)
    kernel = jit.KernelSpec("norm_forward", forward_text, (*rows.spec, relu), target)
    (epsilon_bits,) = struct.unpack("<q", struct.pack("<d", epsilon))
    values = rows.arguments | {"n": count // channels, "epsilon": epsilon_bits}
    return rows, Call(kernel, FORWARD, values, thread_count(rows, threads), ())


@kept
def _backward_call(element: str, channels: int, count: int, relu: bool, threads: int) -> Call:
    target = jit.host_target()
    rows = Rows.of(element, channels, count, target)
    kernel = jit.KernelSpec("norm_backward", backward_text, (*rows.spec, relu), target)
    values = rows.arguments | {"n": count // channels}
    return Call(kernel, BACKWARD, values, thread_count(rows, threads), ())


def forward_text(element: str, lanes: int, vectors: int, relu: bool) -> str:
    """Write the text of the forward kernel."""
    code = Code("norm_forward", FORWARD)
    x, y = code.array("x", element), code.array("y", element)
    with barrier.first_sweep(code, code["chunks"]) as chunk:
        part = code.array("parts", element).at(chunk * 3 * code["width"])
        with strips(code, lanes, vectors) as strip_offset:
            _sum_moments(code, element, lanes, vectors, chunk, strip_offset, x, part)
        with barrier.between_sweeps(code, code["chunks"]):
            _finish_statistics(code, element)
    with (
        barrier.second_sweep(code, code["chunks"]) as chunk,
        strips(code, lanes, vectors) as strip_offset,
    ):
        coefficients = load_coefficients(code, "columns", element, lanes, vectors, strip_offset)

        def visit(
            offset: Value, v: int, mask: Mask | None, coefficients: Any = coefficients
        ) -> None:
            m, f, c = coefficients[v]
            value = (x.at(offset).load(lanes, mask) - m).multiply_add(f, c)
            y.at(offset).store(relu_value(value) if relu else value, mask)

        sweep(code, chunk, strip_offset, lanes, vectors, visit)
    return code.text()


def load_coefficients(
    code: Code, name: str, element: str, lanes: int, vectors: int, strip_offset: Value
) -> list[list[Value]]:
    """Emit loads of the three coefficients of each lane of a strip."""
    table = code.array(name, element)
    return [
        [table.at(code["width"] * i + strip_offset + v * lanes).load(lanes) for i in range(3)]
        for v in range(vectors)
    ]


def _sum_moments(
    code: Code, element: str, lanes: int, vectors: int, chunk: Value, strip_offset: Value,
    x: Pointer, part: Pointer,
) -> None:  # fmt: skip
    """Emit sums of a chunk for each lane: the mean, and deviations from it and their squares."""

    def make_accumulators() -> list[Variable]:
        return [code.variable(code.zero(element, lanes)) for _ in range(vectors)]

    sums, counts = make_accumulators(), make_accumulators()
    one = constant_like(sums[0].get(), 1.0)

    def add(offset: Value, v: int, mask: Mask | None) -> None:
        sums[v].set(sums[v].get() + x.at(offset).load(lanes, mask))
        if mask is not None:
            counts[v].set(mask.select(one, constant_like(one, 0.0)))

    sweep(code, chunk, strip_offset, lanes, vectors, add)
    stop = (chunk * code["rows"] + code["rows"]).minimum(code["full"])
    rows = code.splat(to_float(stop - chunk * code["rows"], element), lanes)
    chunk_means = []
    for v in range(vectors):
        n = rows + counts[v].get()
        chunk_means.append(sums[v].get() // greater_or_nan(one, n).select(one, n))
    deviation, squares = make_accumulators(), make_accumulators()

    def add_deviation(offset: Value, v: int, mask: Mask | None) -> None:
        d = x.at(offset).load(lanes, mask) - chunk_means[v]
        if mask is not None:
            d = mask.select(d, constant_like(d, 0.0))
        deviation[v].set(deviation[v].get() + d)
        squares[v].set(d.multiply_add(d, squares[v].get()))

    sweep(code, chunk, strip_offset, lanes, vectors, add_deviation)
    for v in range(vectors):
        pointer = part.at(strip_offset + v * lanes)
        for i, value in enumerate((chunk_means[v], deviation[v].get(), squares[v].get())):
            pointer.at(code["width"] * i).store(value)


def _for_each_part(code: Code, element: str, c: Value, visit: Any) -> None:
    """Emit a loop over the partial sums of channel c, in a fixed order.

    ``visit(n, first, second, third)`` gets the number of summed positions and three partial sums,
    all as float64.
    """
    width = code["width"]
    with code.loop(0, code["chunks"]) as k, code.loop(0, code["times"]) as t:
        lane = t * code["channels"] + c
        start = k * code["rows"]
        rows = (start + code["rows"]).minimum(code["full"]) - start
        last = (k + 1).equals(code["chunks"]) & (lane < code["tail"])
        n = to_float(last.select(rows + 1, rows), "float64")
        pointer = code.array("parts", element).at(k * 3 * width + lane)
        visit(n, *(pointer.at(width * i).load_as(element, "float64") for i in range(3)))


def _finish_statistics(code: Code, element: str) -> None:
    """Emit statistics and coefficients of every channel, from the partial sums of all chunks."""
    channels, n = code["channels"], to_float(code["n"], "float64")
    table = code.array("statistics", "float64")
    with code.loop(0, channels) as c:
        sums, squares = (code.variable(float64_constant(code, 0.0)) for _ in range(2))

        def add_to_mean(count: Value, m: Value, deviation: Value, square: Value) -> None:
            sums.set(sums.get() + (count * m + deviation))

        _for_each_part(code, element, c, add_to_mean)
        mean = sums.get() // n

        def add_to_variance(count: Value, m: Value, deviation: Value, square: Value) -> None:
            d = m - mean  # sum of ((x - m) + d)**2
            squares.set(squares.get() + (square + d * (deviation + deviation + count * d)))

        _for_each_part(code, element, c, add_to_variance)
        variance = squares.get() // n
        scale = float64_constant(code, 1.0) // square_root(variance + as_float64(code["epsilon"]))
        for i, value in enumerate((mean, variance, scale)):
            table.at(channels * i + c).store(value)
        gamma, beta = (code.array(k, element).at(c).load_as(element, "float64")
                       for k in ("gamma", "beta"))  # fmt: skip
        factor, rounded = gamma * scale, code.convert(mean, "float64", element)
        remainder = mean - code.convert(rounded, element, "float64")
        _store_coefficients(code, "columns", element, c, [
            rounded, code.convert(factor, "float64", element),
            code.convert(beta - remainder * factor, "float64", element),
        ])  # fmt: skip


def _store_coefficients(code: Code, name: str, element: str, c: Value, values: list[Value]) -> None:
    """Emit stores of the coefficients of channel c to all lanes of a row that hold it."""
    table = code.array(name, element)
    with code.loop(0, code["times"]) as t:
        for i, value in enumerate(values):
            table.at(code["width"] * i + t * code["channels"] + c).store(value)


def backward_text(element: str, lanes: int, vectors: int, relu: bool) -> str:
    """Write the text of the backward kernel.

    For a fused ReLU it computes the output of the forward pass again from x, with the same bits.
    """
    code = Code("norm_backward", BACKWARD)
    x, gy, gx = (code.array(k, element) for k in ("x", "gy", "gx"))

    def load_pair(
        offset: Value, mask: Mask | None, coefficients: list[Value]
    ) -> tuple[Value, Value]:
        m, f, c = coefficients
        g, deviation = gy.at(offset).load(lanes, mask), x.at(offset).load(lanes, mask) - m
        if relu:
            zero = constant_like(g, 0.0)
            g = greater_or_nan(deviation.multiply_add(f, c), zero).select(g, zero)
        return g, deviation

    with barrier.first_sweep(code, code["chunks"]) as chunk:
        part = code.array("parts", element).at(chunk * 3 * code["width"])
        with strips(code, lanes, vectors) as strip_offset:
            coefficients = load_coefficients(code, "columns", element, lanes, vectors, strip_offset)
            zero = code.zero(element, lanes)
            sums, products = ([code.variable(zero) for _ in range(vectors)] for _ in range(2))

            def add(
                offset: Value, v: int, mask: Mask | None, coefficients: Any = coefficients,
                sums: Any = sums, products: Any = products,
            ) -> None:  # fmt: skip
                g, deviation = load_pair(offset, mask, coefficients[v])
                sums[v].set(sums[v].get() + g)
                products[v].set(g.multiply_add(deviation, products[v].get()))

            sweep(code, chunk, strip_offset, lanes, vectors, add)
            for v in range(vectors):
                pointer = part.at(strip_offset + v * lanes)
                for i, value in enumerate((sums[v].get(), products[v].get(), zero)):
                    pointer.at(code["width"] * i).store(value)
        with barrier.between_sweeps(code, code["chunks"]):
            _finish_gradients(code, element)
    with (
        barrier.second_sweep(code, code["wanted"]) as chunk,
        strips(code, lanes, vectors) as strip_offset,
    ):
        coefficients = load_coefficients(code, "columns", element, lanes, vectors, strip_offset)
        slopes = load_coefficients(code, "slopes", element, lanes, vectors, strip_offset)

        def combine(
            offset: Value,
            v: int,
            mask: Mask | None,
            coefficients: Any = coefficients,
            slopes: Any = slopes,
        ) -> None:
            factor, slope, constant = slopes[v]
            g, deviation = load_pair(offset, mask, coefficients[v])
            gx.at(offset).store(
                g.multiply_add(factor, deviation.multiply_add(slope, constant)), mask
            )

        sweep(code, chunk, strip_offset, lanes, vectors, combine)
    return code.text()


def _finish_gradients(code: Code, element: str) -> None:
    """Emit sums of every channel and the coefficients of g, of x - m and 1 in gx."""
    channels, n = code["channels"], to_float(code["n"], "float64")
    table, gradients = code.array("statistics", "float64"), code.array("sums", "float64")
    with code.loop(0, channels) as c:
        sums, products = (code.variable(float64_constant(code, 0.0)) for _ in range(2))

        def add(count: Value, g: Value, product: Value, unused: Value) -> None:
            sums.set(sums.get() + g)
            products.set(products.get() + product)

        _for_each_part(code, element, c, add)
        mean, scale = table.at(c).load(), table.at(channels * 2 + c).load()
        rounded = code.convert(code.convert(mean, "float64", element), element, "float64")
        remainder = mean - rounded
        ggamma = (products.get() - remainder * sums.get()) * scale
        gradients.at(c).store(sums.get())
        gradients.at(channels + c).store(ggamma)
        factor = code.array("gamma", element).at(c).load_as(element, "float64") * scale
        slope = float64_constant(code, 0.0) - factor * scale * ggamma // n
        constant = float64_constant(code, 0.0) - factor * sums.get() // n - remainder * slope
        _store_coefficients(code, "slopes", element, c, [
            code.convert(v, "float64", element) for v in (factor, slope, constant)
        ])  # fmt: skip
