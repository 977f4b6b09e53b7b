"""Launch rows.cu, which copies windows into the rows of a matrix (im2col)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from einstride.cuda import kernel

MODES = ("zeros", "reflect", "replicate", "circular")
MAX_RANK = 12
THREADS = 256

# Bytes of an element: a copy without a cast uses any C type of that size.
WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "uint2", 16: "uint4"}
SOURCES = {
    "bool": "unsigned char",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float16": "Float16",
    "bfloat16": "Bfloat16",
    "float32": "float",
    "float64": "double",
    "complex64": "Complex<float>",
    "complex128": "Complex<double>",
}
_REAL = [name for name in SOURCES if not name.startswith("complex")]
# For each dtype of the rows, the dtypes that the kernel can cast from. Casts to float16 and
# bfloat16, which only integers need, are left to the array library.
CASTS = {
    "float32": _REAL,
    "float64": _REAL,
    "int64": [name for name in _REAL if "int" in name or name == "bool"],
    "uint64": [name for name in _REAL if "int" in name or name == "bool"],
    "complex64": list(SOURCES),
    "complex128": list(SOURCES),
}


def instances() -> Iterator[str]:
    """Yield every instance of the kernel that `copy_rows` may use."""
    for index in ("int", "long long"):
        for word in WORDS.values():
            yield f"copy_rows<{word}, {word}, {index}>"
        for name, sources in CASTS.items():
            for source in sources:
                if source != name:
                    yield f"copy_rows<{SOURCES[source]}, {SOURCES[name]}, {index}>"


def divisor(by: int, index: str = "int") -> list[int]:
    """Return (by, m, s) with n // by == n * m >> s for every n >= 0 of the index type.

    For n < 2**b, with s = b + ceil(log2 by) and m = ceil(2**s / by) < 2**(b + 1), the error
    n * (m * by - 2**s) / (by * 2**s) is below n / 2**s <= 1 / by, too small to reach the next
    integer. For 64 bits s - b is returned for s, and m as a signed integer with the same bits.
    """
    by = max(by, 1)
    bits = 31 if index == "int" else 63
    shift = bits + (by - 1).bit_length()
    multiplier = -(-(1 << shift) // by)
    if index == "int":
        return [by, multiplier, shift]
    return [by, multiplier - (1 << 64 if multiplier >> 63 else 0), shift - bits]


def copy_rows(
    x: Any,
    rows: Any,
    starts: Sequence[int],
    out: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    mode: str,
    groups: int,
    channels_inner: bool,
    positions_inner: bool,
) -> bool:
    """Copy windows of x (n, *S, C) into the matrix `rows`, on the current stream.

    The matrix is (groups, n * prod(out), prod(kernel_size) * C // groups), its last two axes
    exchanged if `positions_inner`; a row is (*k, c), or (c, *k) unless `channels_inner`. Output o
    on an axis reads x at starts + o * stride + k * dilation; what lies outside x is a border of
    that padding mode. `rows` is flat, has exactly that many elements, and its own dtype.

    Returns False and does nothing for cases that the kernel does not support: a cast to float16 or
    bfloat16, a byte stride that is no multiple of the element's size, a misaligned view, more than
    12 spatial axes.
    """
    rank = len(starts)
    # The stride of an axis of length 1 has no effect, but might exceed the index type.
    stride = [s if n > 1 else 1 for s, n in zip(stride, out, strict=True)]
    dilation = [d if n > 1 else 1 for d, n in zip(dilation, kernel_size, strict=True)]
    given, wanted = str(x.dtype.name), str(rows.dtype.name)
    same = given == wanted
    item = x.dtype.itemsize
    if rank > MAX_RANK or (not same and given not in CASTS.get(wanted, ())):
        return False
    if any(s % item for s in x.strides) or x.data.ptr % item:
        return False
    if rows.size == 0:
        return True
    channels = x.shape[-1] // groups
    strides = list(x.strides)
    if same:
        word = item
        if channels_inner and not positions_inner and (strides[-1] == item or x.shape[-1] == 1):
            word = _widest_word(channels * item, [x.data.ptr, rows.data.ptr, *strides[:-1]])
        channels = channels * item // word
        strides[-1] = word if word != item else strides[-1]
        item = word
        types = f"{WORDS[word]}, {WORDS[word]}"
    else:
        types = f"{SOURCES[given]}, {SOURCES[wanted]}"
    in_words = [s // item for s in strides]
    total = rows.nbytes // item if same else rows.size
    index = _index_type(total, x.shape, in_words, starts, out, kernel_size, stride, dilation)

    positions, row = x.shape[0] * prod(out), prod(kernel_size) * channels
    inner, outer = (positions, row) if positions_inner else (row, positions)
    fields = [total, rank, MODES.index(mode), int(positions_inner), int(channels_inner)]
    fields += [channels, in_words[-1], in_words[0]]
    fields += divisor(inner, index) + divisor(outer, index)
    fields += divisor(channels if channels_inner else prod(kernel_size), index)
    for a in range(rank):
        fields += [x.shape[a + 1], starts[a], stride[a], dilation[a], in_words[a + 1]]
        fields += divisor(out[a], index) + divisor(kernel_size[a], index)
    fields += [0] * (11 * (MAX_RANK - rank))
    import numpy as np  # CuPy has imported it; this module must not

    struct = np.array(fields, np.int64)
    function = kernel("rows", f"copy_rows<{types}, {index}>")
    function((-(-total // THREADS),), (THREADS,), (x, rows, struct.view(f"V{struct.nbytes}")))
    return True


def _widest_word(row: int, others: Sequence[int]) -> int:
    """Return the widest word in bytes that divides runs of channels and all alignments."""
    return next(w for w in (16, 8, 4, 2, 1) if not any(n % w for n in (row, *others)))


def _index_type(
    total: int,
    shape: Sequence[int],
    strides: Sequence[int],
    starts: Sequence[int],
    out: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> str:
    """Return the C integer type that holds all positions and offsets of the copy."""
    extents = [total, sum((n - 1) * abs(t) for n, t in zip(shape, strides, strict=True))]
    for i, o, k, s, d, n in zip(
        starts, out, kernel_size, stride, dilation, shape[1:], strict=False
    ):
        extents += [abs(i) + (o - 1) * s + (k - 1) * d + 2 * n, s, d]
    extents += [n * abs(t) for n, t in zip(shape, strides, strict=True)]
    return "int" if max(extents) < 2**31 - THREADS else "long long"
