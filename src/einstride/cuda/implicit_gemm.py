"""Launches implicit_gemm.cu: its instances, its arguments, all kept for the next call.

What a launch needs besides pointers is made of shapes and steps once and kept. A call then only
launches: nothing waits and nothing goes to the host, so it may be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from einstride.cuda import kernel
from einstride.cuda.gemm_tiles import Product
from einstride.cuda.im2col import MODES, divisor
from einstride.support.caches import cached

NAMES = {"float16": "Float16", "bfloat16": "Bfloat16", "float32": "float", "float64": "double"}
SUMS = {"float16": "float", "bfloat16": "float", "float32": "float", "float64": "double"}
BIASES = {"float32": 1, "float64": 2, "float16": 3, "bfloat16": 4}
MOST_ROWS = 8
LARGEST_INT = 2**31 - 2**12
THREADS_OF_SUMS = 256


@dataclass(frozen=True)
class Steps:
    """How an array goes with the digits of an index: all in elements.

    Attributes
    ----------
    plain : int
        With the batch, or with the channel of a group.
    axes : tuple of int
        With the spatial axes, or the taps.
    column : int
        With the columns of the product; of x, nothing.
    group : int
        With the group.
    """

    plain: int
    axes: tuple[int, ...]
    column: int
    group: int


@dataclass(frozen=True)
class Layout:
    """Where three arrays lie: what instances and arguments depend on, besides the product.

    Attributes
    ----------
    x_batch : int
        The step of x's batch; `x` holds the one of its channels.
    x, f, y : Steps
        Of the operand that is gathered, of the other one, of the result.
    part : int
        Of the result, from one part to the next; 0 for parts that are summed.
    aligned : tuple of bool
        Do x, f and y begin where runs of 16 bytes (of y: of four numbers) may?
    """

    x_batch: int
    x: Steps
    f: Steps
    y: Steps
    part: int
    aligned: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Launch:
    """A kernel's name, its grid and its last argument."""

    source: str
    instance: str
    grid: int
    threads: int
    job: Any


def multiply(
    x: Any, f: Any, y: Any, product: Product, layout: Layout,
    bias: Any = None, relu: bool = False,
) -> None:  # fmt: skip
    """Fill y, on the current device and stream. A bias is of one of `BIASES`, one number a column.

    Parts that are summed lie in an array of CuPy's pool in between, on the current stream.
    """
    import cupy

    kind = str(x.dtype.name)
    summed = product.parts > 1 and not layout.part
    kind_of_bias = 0 if bias is None else BIASES[str(bias.dtype.name)]
    step = 0 if bias is None else bias.strides[0] // bias.dtype.itemsize
    target = y
    if summed:
        target = cupy.empty(product.parts * product.elements, SUMS_OF[SUMS[kind]])
    into = str(target.dtype.name)
    _run(_product(product, layout, kind, into, kind_of_bias, step, relu), x, f, bias, target)
    if summed:
        _run(_sum(product, layout, kind, str(y.dtype.name)), target, y)


SUMS_OF = {"float": "float32", "double": "float64"}


def _run(launch: Launch, *arrays: Any) -> None:
    function = kernel(launch.source, launch.instance)
    function(
        (launch.grid,), (launch.threads,), (*(0 if a is None else a for a in arrays), launch.job)
    )


@cached(4096)
def _product(
    p: Product, at: Layout, kind: str, into: str, bias: int, bias_step: int, relu: bool
) -> Launch:
    g, (m, n, _) = p.geometry, p.sides
    inner = channels_inner(p, at)
    f_runs = _runs(p, at.f, inner, p.transposed)
    y_steps, part = at.y, at.part
    if p.parts > 1 and not part:
        part = p.elements
        y_steps = Steps(0, (0,) * g.rank, 1, m * n)
    index = index_type(p, at, y_steps, part)
    job = _job(p, at, y_steps, part, p.split, inner, bias, bias_step, relu, index)
    words = 16 // (2 if "float16" in kind else int(kind[5:]) // 8)
    types = [NAMES[kind], NAMES[into], index]
    if not p.tile.mma:
        types.insert(1, SUMS[kind])
    name = "implicit_gemm_mma" if p.tile.mma else "implicit_gemm"
    ways = [_way_of_x(p, at, inner, words, index), _way_of_f(p, at, f_runs, words)]
    parameters = [*types, str(g.rank), str(p.transposed).lower(), p.tile.parameters, *ways]
    return Launch(name, f"{name}<{', '.join(parameters)}>", p.blocks, p.tile.threads, job)


@cached(1024)
def _sum(p: Product, at: Layout, kind: str, into: str) -> Launch:
    index = index_type(p, at, at.y, p.elements)
    job = _job(p, at, at.y, 0, p.parts, channels_inner(p, at), 0, 0, False, index)
    instance = f"add_parts<{SUMS[kind]}, {NAMES[into]}, {index}, {p.geometry.rank}>"
    grid = -(-p.elements // THREADS_OF_SUMS)
    return Launch("implicit_gemm", instance, grid, THREADS_OF_SUMS, job)


def _job(
    p: Product, at: Layout, y: Steps, part: int, split: int, inner: bool, bias: int,
    bias_step: int, relu: bool, index: str,
) -> Any:  # fmt: skip
    """`struct Job` of implicit_gemm.cuh, field by field."""
    g, (m, n, k) = p.geometry, p.sides
    channels = g.channels // g.groups
    linear = _linear(p, at.f, inner, p.transposed)
    y_linear = p.parts > 1 and not at.part and part > 0
    steps = (y.plain, *y.axes, y.group, part)
    wide = y.column == 1 and not n % 4 and (y_linear or at.aligned[2])
    wide = wide and not any(s % 4 for s in ((n,) if y_linear else steps))
    fields = [m, n, k, split, *p.tiles, g.groups]
    fields += [MODES.index(g.padding_mode), inner, relu, bias, bias_step]
    fields += [at.x_batch, at.x.plain, at.x.group]
    fields += [at.f.plain, at.f.column, at.f.group, linear is not None, linear or 0]
    fields += [y.plain, y.column, y.group, y_linear, n, part, wide]
    fields += divisor(channels if inner else prod(g.kernel), index)
    for a in range(g.rank):
        # A step that is never taken may be larger than any integer of the device.
        stride = g.stride[a] if g.out[a] > 1 else 1
        dilation = g.dilation[a] if g.kernel[a] > 1 else 1
        fields += [g.size[a], -g.padding[a][0], stride, dilation]
        fields += [at.x.axes[a], at.f.axes[a], y.axes[a]]
        fields += divisor(g.out[a], index) + divisor(g.kernel[a], index)
    import numpy as np  # with its arrays, not before

    packed = np.array([int(field) for field in fields], np.int64)
    return packed.view(f"V{packed.nbytes}")


def channels_inner(p: Product, at: Layout) -> bool:
    """Does an element count channels first? As x lies, or if that says nothing, as the filter."""
    if at.x.plain == 1 or p.geometry.rank == 0:
        return True
    filter_steps = at.y if p.transposed else at.f
    taps = [abs(s) for s, t in zip(filter_steps.axes, p.geometry.kernel, strict=True) if t > 1]
    return not taps or abs(filter_steps.plain) <= min(taps)


def _digits(p: Product, steps: Steps, inner: bool, positions: bool) -> list[tuple[int, int]]:
    """(count, step) of each digit of a term, the fastest first, without those of one value."""
    g = p.geometry
    counts = g.out if positions else g.kernel
    axes = list(zip(reversed(counts), reversed(steps.axes), strict=True))
    plain = (g.batch if positions else g.channels // g.groups, steps.plain)
    order = [plain, *axes] if inner and not positions else [*axes, plain]
    return [(count, step) for count, step in order if count > 1]


def _linear(p: Product, steps: Steps, inner: bool, positions: bool) -> int | None:
    """The step from each term to the next if it is always the same."""
    digits = _digits(p, steps, inner, positions)
    if not digits:
        return 0
    reach = step = digits[0][1]
    for count, own in digits:
        if own != reach:
            return None
        reach *= count
    return step


def _runs(p: Product, steps: Steps, inner: bool, positions: bool) -> int:
    """How many terms lie side by side, always."""
    length = 1
    for count, step in _digits(p, steps, inner, positions):
        if step != length:
            break
        length *= count
    return length


def _way_of_x(p: Product, at: Layout, inner: bool, words: int, index: str) -> str:
    """How tiles of x are read: (numbers at once, along the terms?).

    One by one they are read along x's own fastest axis, unless a thread would have to remember too
    many rows for that: those would not fit its registers.
    """
    g = p.geometry
    others = (at.x_batch, *at.x.axes, at.x.group, g.channels // g.groups)
    if inner and at.x.plain == 1 and at.aligned[0] and not any(s % words for s in others):
        return f"{words}, {str(not p.transposed).lower()}"
    steps = [abs(s) for s, n in zip(at.x.axes, g.out, strict=True) if n > 1]
    along_channels = not steps or abs(at.x.plain) <= steps[-1]
    rows = p.tile.rows * p.tile.terms // p.tile.threads
    along_terms = along_channels != p.transposed and rows <= MOST_ROWS and index == "int"
    return f"1, {str(along_terms).lower()}"


def _way_of_f(p: Product, at: Layout, run: int, words: int) -> str:
    n, steps = p.sides[1], at.f
    others = [steps.plain, *steps.axes, steps.group]
    if steps.column == 1 and at.aligned[1] and not any(s % words for s in (n, *others)):
        return f"{words}, false"
    gaps = [s for s in (*others, steps.column) if s != 1]
    if run > 1 and at.aligned[1] and not any(s % words for s in (run, p.split, *gaps)):
        return f"{words}, true"
    return f"1, {str(run > 1 or abs(steps.column) > 1).lower()}"


def index_type(p: Product, at: Layout, y: Steps, part: int) -> str:
    """The integer type in which every number of the launch fits."""
    g, (m, n, _) = p.geometry, p.sides
    reach = [
        m + p.tile.rows, n + p.tile.columns, (p.parts + 1) * p.split + p.tile.terms, p.blocks,
        p.elements,
    ]  # fmt: skip
    for size, (low, _), s, d, o, t in zip(
        g.size, g.padding, g.stride, g.dilation, g.out, g.kernel, strict=True
    ):
        reach += [abs(low) + (o * s if o > 1 else 1) + (t * d if t > 1 else 1) + 2 * size]
    x = [g.batch * at.x_batch, g.channels * at.x.plain, g.groups * at.x.group]
    x += [size * step for size, step in zip(g.size, at.x.axes, strict=True)]
    channels = g.channels // g.groups
    window = ([channels, *g.kernel], [g.batch, *g.out])
    arrays = [x]
    for steps, digits in ((at.f, window[p.transposed]), (y, window[not p.transposed])):
        counted = zip(digits, (steps.plain, *steps.axes), strict=True)
        ends = [count * step for count, step in counted]
        arrays.append([*ends, n * steps.column, g.groups * steps.group])
    arrays[2] += [p.parts * part, m * n]
    reach += [sum(map(abs, ends)) for ends in arrays]
    return "int" if max(reach) < LARGEST_INT else "long long"
