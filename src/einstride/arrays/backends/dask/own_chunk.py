"""Find the part of a block that depends on one chunk alone, and the slabs around it.

A block of a convolution's result depends on elements of several chunks. Most of it depends on one:

    elements read     | other chunk |      one chunk, [c0, c1)       | other chunk |
    the block         [  slab  [     part of one chunk, [a, b)    )  slab  )

The part can be computed from the chunk where it lies in memory; only what the slabs read is copied.

All functions take the block's `Part` of a spatial axis, whose elements are numbered from 0, and the
stride and the extent of the windows there; blocks of several axes are products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from einstride.geometry.chunks import Part, Range


def outputs_of(part: Part, stride: int, extent: int, chunk: Range, count: int) -> Range:
    """Return the outputs, of `count`, whose windows see no elements but those of the chunk."""
    (start, stop), low = chunk, part.padding[0]
    first = -(-(start + low) // stride) if start else 0
    last = (stop + low - extent) // stride + 1 if stop < _length(part) else count
    return _inside(first, last, count)


def inputs_of(part: Part, stride: int, extent: int, chunk: Range, count: int) -> Range:
    """Return the elements of an input gradient, of `count`, that depend on outputs of the chunk
    alone."""
    (start, stop), low = chunk, part.padding[0]
    first = (start - 1) * stride + extent - low if start else 0
    last = stop * stride - low if stop < _length(part) else count
    return _inside(first, last, count)


def read_by_outputs(part: Part, stride: int, extent: int, block: Range) -> Part:
    """Return what a smaller block of outputs reads of the part; nothing in a border of zeros."""
    size, low = _length(part), part.padding[0]
    start, stop = block[0] * stride - low, (block[1] - 1) * stride - low + extent
    first, last = max(start, 0), min(stop, size)
    return Part(((first, max(last, first)),), (first - start, stop - last), (), last - first)


def read_by_inputs(part: Part, stride: int, extent: int, block: Range) -> Part:
    """Return the outputs that a smaller block of an input gradient depends on."""
    (start, stop), low = block, part.padding[0]
    first = max(-((extent - 1 - start - low) // stride), 0)
    last = min((stop - 1 + low) // stride + 1, _length(part))
    before = start + low - first * stride
    after = (last - first - 1) * stride + extent - (stop - start) - before
    return Part(((first, max(last, first)),), (before, after), (), stop - start)


def slabs(inner: Sequence[Range], counts: Sequence[int]) -> Iterator[tuple[Range, ...]]:
    """Yield the boxes around an inner box, of which an axis after the other takes its ends."""
    whole = [(0, n) for n in counts]
    for axis, (first, last) in enumerate(inner):
        for start, stop in ((0, first), (last, counts[axis])):
            if start < stop:
                yield (*inner[:axis], (start, stop), *whole[axis + 1 :])


def _length(part: Part) -> int:
    return sum(stop - start for start, stop in part.ranges)


def _inside(first: int, last: int, count: int) -> Range:
    first = min(max(first, 0), count)
    return first, min(max(last, first), count)
