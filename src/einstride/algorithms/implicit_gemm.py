"""Convolution as a matrix product that reads the windows in place (implicit GEMM), in CUDA.

The rows R (p, K * C) of windows exist only as tiles in shared memory: there is no im2col buffer, no
padded copy, no copy into another layout, and one launch per pass. F (K * C, D) is the filter.

- forward          y = R F
- input gradient   by stride phases (see `input_gradient_phases`): each a forward pass over gy
- filter gradient  F' = R^T gy; if there are few tiles with long sums, the sums are split into
  partial sums (split-K), added in a fixed order: no atomic additions, the same bits every time

float32 and float64 are multiplied by the ordinary units, float16 and bfloat16 by tensor cores with
sums in float32, float32 by tensor cores only where ``accuracy="tf32"`` allows its rounding.

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit roundoff
of the sums' dtype, plus one rounding where the result's dtype is narrower (Jeannerod and Rump
2013): `accuracy="elementwise"` holds. TF32 first rounds x and f to 11 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einstride.arrays.ops import flip
from einstride.cuda import gemm_tiles as tiles
from einstride.cuda import implicit_gemm as kernels
from einstride.cuda.implicit_gemm import Layout, Strides
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import HALVES, ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.errors import bad_value

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

TENSOR_CORES_SINCE = 80
"""The least compute capability, times ten, whose tensor cores the kernels can use (Ampere)."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None,
    relu: bool = False,
) -> Array:  # fmt: skip
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given.

    With `relu`, negative results become zero before they are written.
    """
    g = job.geometry
    y = b.empty(g.y_shape, job.arithmetic.result, x) if out is None else out
    f = flip(f, g.rank, b) if g.flip else f
    _correlate(x, f, y, g, job, b, bias, relu, False)
    return y


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g = job.geometry
    gx = b.empty(g.x_shape, job.arithmetic.result, gy) if out is None else out
    f = flip(f, g.rank, b) if g.flip else f
    for phase in input_gradient_phases.phases(g):
        destination = gx[(slice(None), *phase.positions(g.stride), ...)]
        if phase.geometry is None:
            destination[...] = 0 if bias is None else bias
        else:
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
            _correlate(gy, sub, destination, phase.geometry, job, b, bias, False, True)
    return gx


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), or (B, *K, C // G, D) per example."""
    g = job.geometry
    gf = b.empty(job.shape, job.arithmetic.result, x) if out is None else out
    each = 1 if job.per_example else 0
    to = flip(gf, g.rank, b, each) if g.flip else gf
    batch, *o, column = _elements(gy)
    *first, channel, last = _elements(to)
    columns = g.filters // g.groups
    of_gy = Strides(batch, tuple(o), column, columns * column)
    of_gf = Strides(channel, tuple(first[each:]), last, columns * last)
    layout = _layout(x, gy, to, g, of_gy, of_gf, first[0] if each else 0)
    kernels.multiply(x, gy, to, _product(g, True, job, _tensor_cores(x, job)), layout)
    return gf


def _correlate(
    x: Array, f: Array, y: Array, g: Geometry, job: Job, b: Backend, bias: Array | None,
    relu: bool, exchanged: bool,
) -> None:  # fmt: skip
    """Compute y = conv(x, f) of one geometry; `exchanged`: f has its channel axes exchanged."""
    *taps, channel, column = _elements(f)
    batch, *o, last = _elements(y)
    columns, terms = g.filters // g.groups, g.channels // g.groups
    if exchanged:
        of_f = Strides(column, tuple(taps), channel, terms * column)
    else:
        of_f = Strides(channel, tuple(taps), column, columns * column)
    layout = _layout(x, f, y, g, of_f, Strides(batch, tuple(o), last, columns * last), 0)
    if bias is not None and b.dtype_name(bias) not in kernels.BIASES:
        bias = b.astype(bias, job.sums)
    product = _product(g, False, job, _tensor_cores(x, job))
    kernels.multiply(x, f, y, product, layout, bias, relu)


def _product(g: Geometry, transposed: bool, job: Job, mma: bool) -> tiles.Product:
    limit = 0 if job.direction != "filter_grad" else job.limit
    return tiles.choose_product(g, transposed, job.operands[0], mma, limit, job.per_example)


def _layout(
    x: Array, f: Array, y: Array, g: Geometry, of_f: Strides, of_y: Strides, part: int
) -> Layout:
    batch, *axes, channel = _elements(x)
    of_x = Strides(channel, tuple(axes), 0, g.channels // g.groups * channel)
    aligned = (not x.data.ptr % 16, not f.data.ptr % 16, not y.data.ptr % (4 * y.itemsize))
    return Layout(batch, of_x, of_f, of_y, part, aligned)


def _elements(array: Array) -> list[int]:
    """Return an array's strides in elements, zero along an axis of one element."""
    unit = array.itemsize
    if any(n % unit for n in (array.data.ptr, *array.strides)):
        raise bad_value(
            "implicit_gemm", "elements must lie at multiples of their size: no GPU reads others",
            f"strides {array.strides} of {unit} bytes each", "copy the array byte by byte",
        )  # fmt: skip
    return [s // unit if n > 1 else 0 for s, n in zip(array.strides, array.shape, strict=True)]


def _tensor_cores(x: Array, job: Job) -> bool:
    return units(job, int(x.device.compute_capability)) is None


def units(job: Job, capability: int) -> str | None:
    """Return None if tensor cores multiply, else why the ordinary units do."""
    dtype = job.operands[0]
    if dtype not in tiles.MMA_TILES:
        return f"no tensor cores for {dtype}"
    if dtype not in HALVES and job.accuracy != "tf32":
        return 'float32 is rounded to TF32 only with accuracy="tf32"'
    if capability < TENSOR_CORES_SINCE:
        return f"tensor cores are used from compute capability 8.0 on, this is {capability / 10}"
    return None


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    first, second = job.operands
    compute, result = job.arithmetic.compute, job.arithmetic.result
    if traits.kernels != "cuda":
        return f"no kernels of its own for {traits.library}"
    if first != second:
        return f"its kernels multiply arrays of one dtype, not {first} by {second}"
    if first not in tiles.TILES:
        return f"its kernels know {', '.join(tiles.TILES)}, not {first}"
    sums = ("float32", first) if first in HALVES else (first,)
    if compute not in sums or result not in sums:
        return f"its sums of {first} are made in {sums[0]}, not {compute}"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(job.geometry)):
        return reason
    if any(p.blocks > tiles.MOST_BLOCKS for p in _products(job, False)):
        return "its tiles would be more than 2**31"
    return None


def _products(job: Job, mma: bool) -> list[tiles.Product]:
    """List the matrix products that the job launches."""
    if job.direction != "input_grad":
        return [_product(job.geometry, job.direction == "filter_grad", job, mma)]
    phases = [p.geometry for p in input_gradient_phases.phases(job.geometry)]
    return [_product(g, False, job, mma) for g in phases if g is not None]


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the tile of a block of threads, its arithmetic units, and how sums are split."""
    capability = b.traits.capability() if b.traits.capability else 0
    ordinary = units(job, capability)
    products = _products(job, ordinary is None)
    if not products:
        return {"compiled": True, "kernel": "none: no tap meets an element"}
    p = max(products, key=lambda product: product.multiply_adds)
    found: Facts = {
        "compiled": True,
        "kernel": "matrix product of gathered tiles, in CUDA",
        "units": "tensor cores" if ordinary is None else f"ordinary: {ordinary}",
        "tile": {"rows": p.tile.rows, "columns": p.tile.columns, "terms": p.tile.terms},
        "tile of a warp" if p.tile.mma else "tile of a thread": {
            "rows": p.tile.thread_rows, "columns": p.tile.thread_columns,
        },
        "blocks of threads": p.blocks,
        "partial sums": 1 if job.per_example else p.parts,
        "target": f"compute capability {capability / 10}",
    }  # fmt: skip
    return found | ({"passes": len(products)} if len(products) > 1 else {})


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict whole tiles, each of which reads its rows and columns, and the partial sums."""
    capability = traits.capability() if traits.capability else 0
    mma = units(job, capability) is None
    item, result = job.operand_itemsize, ITEMSIZE[job.arithmetic.result]
    products = _products(job, mma)
    workspace = moved = 0
    seconds = rates["call"] + rates["launch"] * max(len(products), 1)
    for p in products:
        parts = 0
        if p.parts > 1 and not job.per_example:
            parts = p.parts * p.elements * tiles.sum_bytes(job.operands[0])
        workspace = max(workspace, parts)
        moved_bytes = p.moved(item, result) + 2 * parts
        seconds += rates["launch"] * (parts > 0)
        moved += moved_bytes
        arithmetic = p.multiply_adds * rates["matmul"] / p.tile.share
        lanes = 16 // item
        if p.geometry.channels // p.geometry.groups % lanes:
            arithmetic *= (1 + lanes) / 2  # element by element: a guess until it is measured
        seconds += max(arithmetic, moved_bytes * rates["copy"])
    return Cost(job.geometry.multiply_adds, workspace, moved, seconds)
