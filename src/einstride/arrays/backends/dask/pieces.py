"""Compute a block of whole rows in place where it depends on one chunk, and by copies around it.

A block sees its own chunk and thin margins of the neighbours. To copy all of them into one array
takes a quarter of the time of a small filter; margins of whole rows take a few percent. Margins
of columns are left to the copy: their short rows take as long to gather and to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, product
from math import prod

from einstride.arrays.backends.adapter import Array
from einstride.arrays.backends.dask import own_chunk
from einstride.arrays.backends.dask.joining import Cuts, callers_axis, gathered, is_one_array
from einstride.geometry.chunks import Part, Range
from einstride.geometry.keywords import Shape
from einstride.support.caches import cached

MIN_BYTES = 1 << 21
"""Bytes of the chunks' slices from which a copy takes longer than the calls of the pieces."""

MIN_SHARE = 0.75
"""Least share of the block that depends on one chunk alone: what remains is computed by slabs, in
which neighbouring elements are read more than once."""

Work = Callable[[Array, Sequence[Part], Array], None]
"""``work(operand, parts, out)`` computes a part of the block into `out`."""

Piece = tuple[tuple[Range, ...], list[Part]]
"""The place of a piece in the block, and what it reads, on each spatial axis."""


def compute(
    chunks: Sequence[Array], cuts: Cuts, parts: Sequence[Part], steps: Sequence[tuple[int, int]],
    forward: bool, orders: tuple[Shape | None, Shape | None], allocate: Callable[[], Array],
    work: Work,
) -> Array | None:  # fmt: skip
    """Return the block, or None if it is to be computed from one array.

    Parameters
    ----------
    chunks, cuts : sequence of arrays, Cuts
        The chunks of the operand in row-major order, and the slices of them.
    parts, steps : sequences
        The part of each spatial axis, and the stride and extent of windows there.
    forward : bool
        True for a forward pass, False for an input gradient.
    orders : tuple
        The permutations of the operand and of the result into canonical order.
    allocate, work : callables
        Return the memory of the block, and compute a piece of it.
    """
    axes = [callers_axis(orders[0], i + 1) for i in range(len(parts))]
    if any(len(ranges) > 1 for axis, ranges in enumerate(cuts) if axis not in axes[:-1]):
        return None
    size = prod(sum(b - a for a, b in ranges) for ranges in cuts) * chunks[0].dtype.itemsize
    if len(chunks) == 1 or size < MIN_BYTES or is_one_array(chunks, cuts):
        return None
    found = _pieces(tuple([cuts[axis] for axis in axes]), tuple(parts), tuple(steps), forward)
    if found is None:
        return None
    out = allocate()
    for box, piece in found:
        index = [slice(None)] * out.ndim
        for i, block in enumerate(box):
            index[callers_axis(orders[1], i + 1)] = slice(*block)
        taken, slices = _slices(chunks, cuts, dict(zip(axes, piece, strict=True)))
        work(gathered(taken, slices), piece, out[tuple(index)])
    return out


@cached(256)
def _pieces(
    cuts: Cuts, parts: tuple[Part, ...], steps: tuple[tuple[int, int], ...], forward: bool
) -> list[Piece] | None:
    """List the piece that depends on one chunk and the slabs around it; None if it is small."""
    of_one = own_chunk.outputs_of if forward else own_chunk.inputs_of
    read = own_chunk.read_by_outputs if forward else own_chunk.read_by_inputs
    counts, inner = [], []
    for ranges, part, (stride, extent) in zip(cuts, parts, steps, strict=True):
        lengths = [stop - start for start, stop in ranges]
        most = lengths.index(max(lengths))
        start, total = sum(lengths[:most]), sum(lengths)
        count = (total + sum(part.padding) - extent) // stride + 1 if forward else part.size
        counts.append(count)
        inner.append(of_one(part, stride, extent, (start, start + lengths[most]), count))
    if prod(b - a for a, b in inner) <= MIN_SHARE * prod(counts):
        return None
    found = []
    boxes: list[tuple[Range, ...]] = [tuple(inner), *own_chunk.slabs(inner, counts)]
    for box in boxes:
        piece = [read(p, *s, block) for p, s, block in zip(parts, steps, box, strict=True)]
        if any(start == stop for part in piece for start, stop in part.ranges):
            return None  # a slab lies in a border of zeros
        found.append((box, piece))
    return found


def _slices(
    chunks: Sequence[Array], cuts: Cuts, parts: dict[int, Part]
) -> tuple[list[Array], Cuts]:
    """Return the chunks that hold elements of the parts, and the slices of each axis."""
    kept: list[list[int]] = []
    found: list[tuple[Range, ...]] = []
    for axis, ranges in enumerate(cuts):
        numbers, slices = list(range(len(ranges))), tuple(ranges)
        if axis in parts:
            [(first, last)] = parts[axis].ranges
            ends = accumulate(stop - start for start, stop in ranges)
            seen = []
            for n, ((start, stop), end) in enumerate(zip(ranges, ends, strict=True)):
                shift = stop - end  # of an element's number in the chunk
                one = max(first + shift, start), min(last + shift, stop)
                if one[0] < one[1]:
                    seen.append((n, one))
            numbers, slices = [n for n, _ in seen], tuple(one for _, one in seen)
        kept.append(numbers)
        found.append(slices)
    places = product(*(range(len(ranges)) for ranges in cuts))
    wanted = set(product(*kept))
    return [c for c, place in zip(chunks, places, strict=True) if place in wanted], tuple(found)
