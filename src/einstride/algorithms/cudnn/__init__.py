"""Convolution of CuPy arrays by cuDNN, an optional extra, restricted to engines that keep promises.

cuDNN reads arrays in place: channels last and channels first need no copy of x, y or their
gradients. Arrays that cuDNN cannot read are copied first, and the copies count as workspace:

- the filter, into (D, *K, C // G) order, unless x is channels first and f (D, C // G, *K);
- x with a padding mode other than zeros, or with more zeros on one side: it is padded first;
- an array in another memory order (transposed, broadcast, with gaps that no engine takes).

The input gradient under such a padding is computed for the padded x and cropped. cuDNN's own
heuristics choose among the engines that `graphs` admits.

Start with `graphs`, which describes, plans and runs a convolution.

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit roundoff
of float32 or float64, plus one rounding of a narrower result; with `accuracy="tf32"` the factors of
float32 are rounded to 10 bits before. cuDNN itself states no bound, so `accuracy="elementwise"` is
refused.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from einstride.algorithms.cudnn import device_memory, library
from einstride.algorithms.cudnn.device_memory import Tensor
from einstride.algorithms.cudnn.graphs import TYPES, Convolution, planned, run
from einstride.arrays.ops import ALL, add, flip, pad
from einstride.geometry.arithmetic import HALVES, ITEMSIZE
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.errors import bad_value

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.geometry.padding import Pads

MAX_RANK = 3
"""Spatial axes that cuDNN knows, at most."""


class SymmetricPadding(NamedTuple):
    """A padding split into the part that cuDNN does and the rest, which is added to x first.

    cuDNN pads with as many zeros on one side of an axis as on the other. `size` is the size of x
    with the rest.
    """

    padding: tuple[int, ...]
    rest: Pads
    size: tuple[int, ...]

    @property
    def has_rest(self) -> bool:
        """True if x must be padded or cropped; its size may stay (one side cropped, one padded)."""
        return any(low or high for low, high in self.rest)


def symmetric_padding(job: Job) -> SymmetricPadding:
    """Split the padding of a job."""
    g = job.geometry
    padding = tuple(max(min(p), 0) if g.padding_mode == "zeros" else 0 for p in g.padding)
    rest = tuple((low - p, high - p) for (low, high), p in zip(g.padding, padding, strict=True))
    size = tuple(s + low + high for s, (low, high) in zip(g.size, rest, strict=True))
    return SymmetricPadding(padding, rest, size)


def forward(
    x: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    g = job.geometry
    x = pad(x, symmetric_padding(job).rest, g.padding_mode, b)
    y = b.empty(g.y_shape, job.arithmetic.result, x) if out is None else out
    return _launch(job, b, x, _filter(f, prepared, x, y, job, b), y, bias)


def input_grad(
    gy: Array,
    f: Array,
    job: Job,
    b: Backend,
    bias: Array | None = None,
    out: Array | None = None,
    prepared: Any = None,
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g, e = job.geometry, symmetric_padding(job)
    gx = b.empty(g.x_shape, job.arithmetic.result, gy) if out is None else out
    if not e.has_rest:
        return _launch(job, b, gy, _filter(f, prepared, gy, gx, job, b), gx, bias)
    wide = b.empty((g.batch, *e.size, g.channels), job.arithmetic.result, gy)
    _launch(job, b, gy, _filter(f, prepared, gy, wide, job, b), wide, bias)
    inside, kept = [ALL], [ALL]
    for (low, high), s, w in zip(e.rest, g.size, e.size, strict=True):
        inside.append(slice(max(-low, 0), s + min(high, 0)))
        kept.append(slice(max(low, 0), w - max(high, 0)))
    if min(min(p) for p in e.rest) < 0:  # what is cropped away has no gradient
        gx[...] = 0 if bias is None else bias
    gx[tuple(inside)] = wide[tuple(kept)]
    return gx


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D)."""
    g = job.geometry
    x = pad(x, symmetric_padding(job).rest, g.padding_mode, b)
    gf = b.empty(g.f_shape, job.arithmetic.result, x) if out is None else out
    first = device_memory.channels_first(x) and device_memory.channels_first(gy)
    if device_memory.filter_is_contiguous(gf, first) and not g.flip:
        return _launch(job, b, x, gy, gf, None)
    destination = device_memory.new_filter(g.f_shape, job.arithmetic.result, first, b, x)
    found = _launch(job, b, x, gy, destination, None)
    gf[...] = flip(found, g.rank, b) if g.flip else found
    return gf


def _filter(f: Array, prepared: Any, data: Array, out: Array, job: Job, b: Backend) -> Array:
    """Return the filter in the memory order that cuDNN reads with the other two arrays."""
    first = device_memory.channels_first(data) and device_memory.channels_first(out)
    if prepared is not None and device_memory.filter_is_contiguous(prepared, first):
        return prepared
    return device_memory.arranged(f, job.geometry.flip, first, b)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Return the filter in the memory order that cuDNN reads with channels last: `prepared`."""
    return device_memory.arranged(f, job.geometry.flip, False, b)


# ---- launches ------------------------------------------------------------------------------------


def _launch(
    job: Job, b: Backend, first: Array, second: Array, out: Array, bias: Array | None
) -> Array:
    """Fill `out` from the arrays in place, or from copies with channels last; return it."""
    fused = bias is not None and job.arithmetic.result in HALVES
    arrays = [first, second, out]
    found = None
    if all(map(device_memory.readable, arrays)):
        found = planned(_convolution(job, arrays, fused))
    if found is None or isinstance(found, str):
        arrays = [_channels_last(a, i, job, b) for i, a in enumerate(arrays)]
        found = planned(_convolution(job, arrays, fused))
        if isinstance(found, str):
            raise bad_value(
                "cudnn", "its engines must still be able to do what was planned", found,
                "ask for another algorithm by name, or free memory of the device",
            )  # fmt: skip
    added = None
    if fused:
        added = b.empty(bias.shape, "float32", bias)  # type: ignore[union-attr]
        added[...] = bias
    run(found, arrays[0], arrays[1], added, arrays[2])
    if arrays[2] is not out:
        out[...] = arrays[2]
    if bias is not None and not fused:
        add(out, b.astype(bias, job.arithmetic.result), b)
    return out


def _channels_last(a: Array, index: int, job: Job, b: Backend) -> Array:
    """Return an array if it is channels last, else a channels-last copy (of a result: empty)."""
    filters = index == (2 if job.direction == "filter_grad" else 1)
    if filters:
        if device_memory.filter_is_contiguous(a, first=False):
            return a
        made = device_memory.new_filter(job.geometry.f_shape, b.dtype_name(a), False, b, a)
    else:
        if device_memory.is_contiguous(a, tuple(range(a.ndim))) and a.data.ptr % 16 == 0:
            return a
        made = b.empty(a.shape, b.dtype_name(a), a)
    if index != 2:
        made[...] = a
    return made


def _convolution(job: Job, arrays: list[Array], fused: bool) -> Convolution:
    """Describe the convolution of three arrays in canonical order, for a plan."""
    tensors = []
    for index, a in enumerate(arrays):
        filters = index == (2 if job.direction == "filter_grad" else 1)
        strides = [step // a.dtype.itemsize for step in a.strides]
        alignment = min(a.data.ptr & -a.data.ptr, 16)
        name = str(a.dtype.name)
        tensors.append(device_memory.tensor(a.shape, strides, filters, name, alignment))
    return _settings(job, tensors, fused)


def _settings(job: Job, tensors: list[Tensor], fused: bool) -> Convolution:
    g = job.geometry
    extra_axis = (1,) if g.rank == 1 else ()
    first, second, out = tensors
    return Convolution(
        direction=job.direction,
        first=first,
        second=second,
        out=out,
        padding=(*(0 for _ in extra_axis), *symmetric_padding(job).padding),
        stride=(*extra_axis, *g.stride),
        dilation=(*extra_axis, *g.dilation),
        biased=fused,
        tf32=job.accuracy == "tf32",
        ceiling=_engine_limit(job),
    )


# ---- planning ------------------------------------------------------------------------------------


def _copies(job: Job) -> int:
    """Count the bytes of all copies that memory orders and borders may need, at most.

    The filter may be copied twice: for channels first, then for channels last.
    """
    g, e = job.geometry, symmetric_padding(job)
    item, result = ITEMSIZE[job.operands[0]], ITEMSIZE[job.arithmetic.result]
    x, y = g.batch * prod(e.size) * g.channels, prod(g.y_shape)
    kinds = {
        "forward": (x * item, y * result, 2 * prod(g.f_shape) * item),
        "input_grad": (x * result, y * item, 2 * prod(g.f_shape) * item),
        "filter_grad": (x * item, y * item, 2 * prod(g.f_shape) * result),
    }
    return sum(kinds[job.direction]) + 2 * prod(job.shape[-1:]) * 8


def _engine_limit(job: Job) -> int:
    """Return the limit of the engine's workspace: the job's, less the copies."""
    return max(job.limit - _copies(job), 0) if job.hard else job.limit


def _probes(job: Job) -> list[Convolution]:
    """List what must have a plan: packed arrays, channels last; of halves also with a bias."""
    g, e = job.geometry, symmetric_padding(job)
    x = (g.batch, *e.size, g.channels)
    shapes = {
        "forward": (x, g.f_shape, g.y_shape),
        "input_grad": (g.y_shape, g.f_shape, x),
        "filter_grad": (x, g.y_shape, g.f_shape),
    }[job.direction]
    names = (*job.operands, job.arithmetic.result)
    tensors = []
    for index, (shape, name) in enumerate(zip(shapes, names, strict=True)):
        filters = index == (2 if job.direction == "filter_grad" else 1)
        n = len(shape)
        order = (n - 1, *range(n - 1)) if filters else tuple(range(n))
        strides, step = [0] * n, 1
        for axis in reversed(order):
            strides[axis], step = step, step * shape[axis]
        tensors.append(device_memory.tensor(shape, strides, filters, name))
    may_be_biased = names[2] in HALVES and job.direction != "filter_grad"
    return [_settings(job, tensors, fused) for fused in (False, True)[: 1 + may_be_biased]]


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    if traits.kernels != "cuda":
        return "cuDNN reads arrays of CuPy only"
    reason = library.missing() or _refused(job)
    if reason is not None:
        return reason
    return next((p for p in map(planned, _probes(job)) if isinstance(p, str)), None)


def _refused(job: Job) -> str | None:
    """Why not, for reasons of our own."""
    g, name = job.geometry, job.operands[0]
    if g.rank > MAX_RANK:
        return f"cuDNN has at most {MAX_RANK} spatial axes, not {g.rank}"
    if name not in TYPES or set(job.operands) != {name} or job.arithmetic.exact:
        return "cuDNN multiplies float16, bfloat16, float32 or float64, both operands alike"
    if job.arithmetic.compute != name and not (name in HALVES and job.sums == "float32"):
        return f"cuDNN forms sums of {name} in its own way, not in {job.arithmetic.compute}"
    if job.arithmetic.result not in (name, job.sums):
        return f"cuDNN does not make {job.arithmetic.result} of {name}"
    if job.batch_invariant:
        return "cuDNN chooses its engine by the batch"
    if job.per_example:
        return "cuDNN sums a filter gradient over the batch"
    if job.accuracy == "elementwise":
        return "cuDNN states no bound of its error"
    if 0 in symmetric_padding(job).size:
        return "nothing of the input is left between its borders"
    return None


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict each array read or written once, the copies, and products at the matrix rate."""
    g, e = job.geometry, symmetric_padding(job)
    plans = [p for p in map(planned, _probes(job)) if not isinstance(p, str)]
    engine = max((p.workspace for p in plans), default=0)
    item = job.operand_itemsize
    moved = (prod(g.x_shape) + 3 * prod(g.f_shape) + prod(g.y_shape)) * item
    if e.has_rest:
        moved += 2 * g.batch * prod(e.size) * g.channels * item
    n = g.multiply_adds
    seconds = rates["call"] + n * rates["matmul"] + moved * rates["copy"]
    return Cost(n, engine + _copies(job), moved, seconds)


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe what cuDNN is asked for; of the engine it chose, only the workspace is known."""
    plans = [p for p in map(planned, _probes(job)) if not isinstance(p, str)]
    return {
        "compiled": True,
        "kernel": "an engine of cuDNN, by its own heuristics",
        "zeros on both sides": " x ".join(map(str, symmetric_padding(job).padding)),
        "other border": "copied around x first" if symmetric_padding(job).has_rest else "none",
        "engine workspace": max((p.workspace for p in plans), default=0),
    }
