"""Launch implicit_gemm.cu and implicit_gemm_mma.cu, with cached instances and arguments.

All arguments of a launch except pointers follow from shapes and strides, and are computed once. A
call then only launches kernels: it waits for nothing and copies nothing to the host, so it may be
captured in a CUDA graph.
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
"""Most rows of x whose positions a thread keeps in registers; more would be spilled."""
LARGEST_INT = 2**31 - 2**12
"""Largest index of a launch for 32-bit integers; the rest is a margin for tiles."""
THREADS_OF_SUMS = 256
"""Threads of a block of the kernel that adds partial sums."""


@dataclass(frozen=True)
class Strides:
    """The strides of an array, in elements, for each digit of an index of the product.

    Attributes
    ----------
    plain : int
        Stride of the batch, or of the channels of a group.
    axes : tuple of int
        Strides of the spatial axes, or of the taps.
    column : int
        Stride of the columns of the product; 0 for x.
    group : int
        Stride of the groups.
    """

    plain: int
    axes: tuple[int, ...]
    column: int
    group: int


@dataclass(frozen=True)
class Layout:
    """Strides and alignment of the three arrays of a product.

    Attributes
    ----------
    x_batch : int
        The stride of x's batch; `x` has the stride of its channels.
    x, f, y : Strides
        Of the gathered operand, the other operand and the result.
    part : int
        Stride of the parts of the result; 0 for partial sums, which are added up.
    aligned : tuple of bool
        True for each of x and f that begins at a multiple of 16 bytes, for y at a multiple of four
        elements.
    """

    x_batch: int
    x: Strides
    f: Strides
    y: Strides
    part: int
    aligned: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Launch:
    """A kernel's source and instance, its grid, and its argument struct."""

    source: str
    instance: str
    grid: int
    threads: int
    job: Any


def multiply(
    x: Any, f: Any, y: Any, product: Product, layout: Layout,
    bias: Any = None, relu: bool = False,
) -> None:  # fmt: skip
    """Compute the product y, on the current device and stream.

    A bias has one element per column, and a dtype of `BIASES`. Partial sums are kept in an array
    from CuPy's memory pool.
    """
    import cupy

    dtype = str(x.dtype.name)
    summed = product.parts > 1 and not layout.part
    bias_type = 0 if bias is None else BIASES[str(bias.dtype.name)]
    bias_stride = 0 if bias is None else bias.strides[0] // bias.dtype.itemsize
    destination = y
    if summed:
        destination = cupy.empty(product.parts * product.elements, SUM_DTYPES[SUMS[dtype]])
    into = str(destination.dtype.name)
    _run(
        _product(product, layout, dtype, into, bias_type, bias_stride, relu),
        x,
        f,
        bias,
        destination,
    )
    if summed:
        _run(_sum(product, layout, dtype, str(y.dtype.name)), destination, y)


SUM_DTYPES = {"float": "float32", "double": "float64"}


def _run(launch: Launch, *arrays: Any) -> None:
    function = kernel(launch.source, launch.instance)
    function(
        (launch.grid,), (launch.threads,), (*(0 if a is None else a for a in arrays), launch.job)
    )


@cached(4096)
def _product(
    p: Product, at: Layout, dtype: str, into: str, bias: int, bias_stride: int, relu: bool
) -> Launch:
    g, (m, n, _) = p.geometry, p.sides
    inner = channels_inner(p, at)
    f_run = _run_length(p, at.f, inner, p.transposed)
    y_strides, part = at.y, at.part
    if p.parts > 1 and not part:
        part = p.elements
        y_strides = Strides(0, (0,) * g.rank, 1, m * n)
    index = index_type(p, at, y_strides, part)
    job = _job(p, at, y_strides, part, p.split, inner, bias, bias_stride, relu, index)
    per_load = 16 // (2 if "float16" in dtype else int(dtype[5:]) // 8)
    types = [NAMES[dtype], NAMES[into], index]
    if not p.tile.mma:
        types.insert(1, SUMS[dtype])
    name = "implicit_gemm_mma" if p.tile.mma else "implicit_gemm"
    loads = [_x_load(p, at, inner, per_load, index), _f_load(p, at, f_run, per_load)]
    parameters = [*types, str(g.rank), str(p.transposed).lower(), p.tile.parameters, *loads]
    return Launch(name, f"{name}<{', '.join(parameters)}>", p.blocks, p.tile.threads, job)


@cached(1024)
def _sum(p: Product, at: Layout, dtype: str, into: str) -> Launch:
    index = index_type(p, at, at.y, p.elements)
    job = _job(p, at, at.y, 0, p.parts, channels_inner(p, at), 0, 0, False, index)
    instance = f"add_parts<{SUMS[dtype]}, {NAMES[into]}, {index}, {p.geometry.rank}>"
    grid = -(-p.elements // THREADS_OF_SUMS)
    return Launch("implicit_gemm", instance, grid, THREADS_OF_SUMS, job)


def _job(
    p: Product, at: Layout, y: Strides, part: int, split: int, inner: bool, bias: int,
    bias_stride: int, relu: bool, index: str,
) -> Any:  # fmt: skip
    """Return the fields of `struct Job` in implicit_gemm.cuh."""
    g, (m, n, k) = p.geometry, p.sides
    channels = g.channels // g.groups
    linear = _linear_stride(p, at.f, inner, p.transposed)
    y_linear = p.parts > 1 and not at.part and part > 0
    strides = (y.plain, *y.axes, y.group, part)
    vector_store = y.column == 1 and not n % 4 and (y_linear or at.aligned[2])
    vector_store = vector_store and not any(s % 4 for s in ((n,) if y_linear else strides))
    fields = [m, n, k, split, *p.tiles, g.groups]
    fields += [MODES.index(g.padding_mode), inner, relu, bias, bias_stride]
    fields += [at.x_batch, at.x.plain, at.x.group]
    fields += [at.f.plain, at.f.column, at.f.group, linear is not None, linear or 0]
    fields += [y.plain, y.column, y.group, y_linear, n, part, vector_store]
    fields += divisor(channels if inner else prod(g.kernel), index)
    for a in range(g.rank):
        # The stride of an axis of length 1 has no effect, but might exceed the index type.
        stride = g.stride[a] if g.out[a] > 1 else 1
        dilation = g.dilation[a] if g.kernel[a] > 1 else 1
        fields += [g.size[a], -g.padding[a][0], stride, dilation]
        fields += [at.x.axes[a], at.f.axes[a], y.axes[a]]
        fields += divisor(g.out[a], index) + divisor(g.kernel[a], index)
    import numpy as np  # CuPy has imported it; this module must not

    packed = np.array([int(field) for field in fields], np.int64)
    return packed.view(f"V{packed.nbytes}")


def channels_inner(p: Product, at: Layout) -> bool:
    """True if channels run innermost in windows: as in x, or if x does not tell, as in f."""
    if at.x.plain == 1 or p.geometry.rank == 0:
        return True
    filter_strides = at.y if p.transposed else at.f
    taps = [abs(s) for s, t in zip(filter_strides.axes, p.geometry.kernel, strict=True) if t > 1]
    return not taps or abs(filter_strides.plain) <= min(taps)


def _digits(p: Product, strides: Strides, inner: bool, positions: bool) -> list[tuple[int, int]]:
    """Return (count, stride) of each digit of a term, the fastest first, without counts of 1."""
    g = p.geometry
    counts = g.out if positions else g.kernel
    axes = list(zip(reversed(counts), reversed(strides.axes), strict=True))
    plain = (g.batch if positions else g.channels // g.groups, strides.plain)
    order = [plain, *axes] if inner and not positions else [*axes, plain]
    return [(count, step) for count, step in order if count > 1]


def _linear_stride(p: Product, strides: Strides, inner: bool, positions: bool) -> int | None:
    """Return the stride between neighbouring terms if it is constant, else None."""
    digits = _digits(p, strides, inner, positions)
    if not digits:
        return 0
    expected = step = digits[0][1]
    for count, own in digits:
        if own != expected:
            return None
        expected *= count
    return step


def _run_length(p: Product, strides: Strides, inner: bool, positions: bool) -> int:
    """Return the length of the runs of terms that are contiguous in memory."""
    length = 1
    for count, step in _digits(p, strides, inner, positions):
        if step != length:
            break
        length *= count
    return length


def _x_load(p: Product, at: Layout, inner: bool, per_load: int, index: str) -> str:
    """Return the template parameters for reads of x: elements per load, and if along the terms.

    Single elements are read along x's fastest axis, unless a thread would need the positions of
    more rows than fit in its registers.
    """
    g = p.geometry
    others = (at.x_batch, *at.x.axes, at.x.group, g.channels // g.groups)
    if inner and at.x.plain == 1 and at.aligned[0] and not any(s % per_load for s in others):
        return f"{per_load}, {str(not p.transposed).lower()}"
    strides = [abs(s) for s, n in zip(at.x.axes, g.out, strict=True) if n > 1]
    along_channels = not strides or abs(at.x.plain) <= strides[-1]
    rows = p.tile.rows * p.tile.terms // p.tile.threads
    along_terms = along_channels != p.transposed and rows <= MOST_ROWS and index == "int"
    return f"1, {str(along_terms).lower()}"


def _f_load(p: Product, at: Layout, run: int, per_load: int) -> str:
    n, strides = p.sides[1], at.f
    others = [strides.plain, *strides.axes, strides.group]
    if strides.column == 1 and at.aligned[1] and not any(s % per_load for s in (n, *others)):
        return f"{per_load}, false"
    gaps = [s for s in (*others, strides.column) if s != 1]
    if run > 1 and at.aligned[1] and not any(s % per_load for s in (run, p.split, *gaps)):
        return f"{per_load}, true"
    return f"1, {str(run > 1 or abs(strides.column) > 1).lower()}"


def index_type(p: Product, at: Layout, y: Strides, part: int) -> str:
    """Return the C integer type that holds all indices and offsets of the launch."""
    g, (m, n, _) = p.geometry, p.sides
    extents = [
        m + p.tile.rows, n + p.tile.columns, (p.parts + 1) * p.split + p.tile.terms, p.blocks,
        p.elements,
    ]  # fmt: skip
    for size, (low, _), s, d, o, t in zip(
        g.size, g.padding, g.stride, g.dilation, g.out, g.kernel, strict=True
    ):
        extents += [abs(low) + (o * s if o > 1 else 1) + (t * d if t > 1 else 1) + 2 * size]
    x = [g.batch * at.x_batch, g.channels * at.x.plain, g.groups * at.x.group]
    x += [size * step for size, step in zip(g.size, at.x.axes, strict=True)]
    channels = g.channels // g.groups
    window = ([channels, *g.kernel], [g.batch, *g.out])
    arrays = [x]
    for strides, digits in ((at.f, window[p.transposed]), (y, window[not p.transposed])):
        digit_strides = zip(digits, (strides.plain, *strides.axes), strict=True)
        ends = [count * step for count, step in digit_strides]
        arrays.append([*ends, n * strides.column, g.groups * strides.group])
    arrays[2] += [p.parts * part, m * n]
    extents += [sum(map(abs, ends)) for ends in arrays]
    return "int" if max(extents) < LARGEST_INT else "long long"
