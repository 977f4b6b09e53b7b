"""Compute with complex numbers as two real planes: the arithmetic of spectra.

For libraries with mutable arrays, a worker's `Scratch` gives the memory of every result; for
others, `Scratch.take` returns None and each function returns a new array. Callers need not tell the
two apart.

Planes are an axis of length two, real part first: signals are (u, *positions, m), with u = 1 if
they are real, and spectra (Q, 2, m) with Q frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as combinations
from typing import TYPE_CHECKING, Any

from einstride.algorithms.fft.scratch import Scratch
from einstride.arrays.ops import ALL, add, is_complex

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

Term = tuple[Any, Any, Any]
"""A function of two arrays, and the two arrays."""


def fill(terms: Sequence[Term], axes: tuple[int, ...], out: Array | None, b: Backend) -> Array:
    """Make an array with new axes of length two, whose slices are the terms in row-major order."""
    if out is not None:
        for at, (function, left, right) in zip(
            combinations(range(2), repeat=len(axes)), terms, strict=True
        ):
            index: list[Any] = [ALL] * out.ndim
            for axis, i in zip(axes, at, strict=True):
                index[axis] = i
            function(left, right, out=out[tuple(index)])
        return out
    parts = [function(left, right) for function, left, right in terms]
    for axis in reversed(axes):  # neighbours differ in the last axis: axes ascend
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [b.xp.stack(pair, axis=axis - axes.index(axis)) for pair in pairs]
    return parts[0]


def planes_of_array(
    a: Array, count: int, dtype: str, out: Array | None, b: Backend, conjugated: bool = False
) -> Array:
    """Return an array as planes (u, ...) of a real dtype; `count` is u."""
    xp = b.xp
    real = not is_complex(b.dtype_name(a))
    if out is None:
        if count == 1:
            return b.astype(a, dtype)[None, ...]
        if real:
            a = b.astype(a, dtype)
            return xp.stack([a, xp.zeros_like(a)], axis=0)
        imag = -xp.imag(a) if conjugated else xp.imag(a)
        return b.astype(xp.stack([xp.real(a), imag], axis=0), dtype)
    out[0, ...] = a if real else a.real
    if count == 2:
        out[1, ...] = 0 if real else a.imag
    if conjugated and not real:
        xp.multiply(out[1, ...], -1, out=out[1, ...])
    return out


def to_array(p: Array, result: str, b: Backend) -> Array:
    """Return planes (u, ...) as a new array of the result's dtype."""
    if p.shape[0] == 1:
        return b.astype(p[0, ...], result)
    return b.astype(p[0, ...], result) + b.astype(p[1, ...], result) * 1j


def write_planes(p: Array, out: Array, conjugated: bool = False) -> None:
    """Write planes (u, ...) into an array of the result's dtype."""
    if p.shape[0] == 1:
        out[...] = p[0, ...]
        return
    out.real[...] = p[0, ...]
    out.imag[...] = -p[1, ...] if conjugated else p[1, ...]


def pair_frequencies(z: Array, scratch: Scratch, name: str, b: Backend) -> Array:
    """Return (Q, 2, F, 2, m), with units i and j, as frequencies w and -w: (Q, F, 2, 2, m)."""
    xp = b.xp
    q, _, half, _, m = z.shape
    c0, s0, c1, s1 = z[:, 0, :, 0, :], z[:, 0, :, 1, :], z[:, 1, :, 0, :], z[:, 1, :, 1, :]
    terms = (xp.subtract, c0, s1), (xp.add, s0, c1), (xp.add, c0, s1), (xp.subtract, c1, s0)
    return fill(terms, (2, 3), scratch.take(name, (q, half, 2, 2, m), b), b)


def unpair_frequencies(w: Array, scratch: Scratch, name: str, b: Backend) -> Array:
    """Invert `pair_frequencies`, but for a factor of 2: (Q, F, 2, 2, m) -> (Q, 2, F, 2, m)."""
    xp = b.xp
    q, half, _, _, m = w.shape
    pr, pi, mr, mi = w[:, :, 0, 0, :], w[:, :, 0, 1, :], w[:, :, 1, 0, :], w[:, :, 1, 1, :]
    terms = (xp.add, pr, mr), (xp.subtract, pi, mi), (xp.add, pi, mi), (xp.subtract, mr, pr)
    return fill(terms, (1, 3), scratch.take(name, (q, 2, half, 2, m), b), b)


def complex_sum(
    terms: tuple[Array, Array, Array, Array], total: Array | None, out: Array | None, b: Backend
) -> Array:
    """Return a - b and c + d of four terms as planes (Q, 2, ...), plus a total in `out`."""
    first, second, third, fourth = terms
    if total is None or out is None:
        pairs = (b.xp.subtract, first, second), (b.xp.add, third, fourth)
        found = fill(pairs, (1,), out, b)
        return found if total is None else total + found
    out[:, 0, ...] += first
    out[:, 0, ...] -= second
    out[:, 1, ...] += third
    out[:, 1, ...] += fourth
    return out


def multiply(
    xs: Array, fs: Array, n: int, groups: int, total: Array | None, scratch: Scratch, b: Backend
) -> Array:
    """Multiply X (Q, 2, n * c) by F (Q, 2, c // G, d), plus a total: (Q, 2, n, G, d // G).

    The total lies in the memory of the result.
    """
    xp = b.xp
    q, inner, r = xs.shape[0], fs.shape[2], fs.shape[3] // groups
    y = scratch.take("sum", (q, 2, n, groups, r), b)
    if inner == 1:
        xs, fs = xp.reshape(xs, (q, 2, n, groups, 1)), xp.reshape(fs, (q, 2, 1, groups, r))
        return _by_element(xs, fs, total, y, scratch, b)
    # One real matrix product of both planes of X with each plane of F.
    xs = xp.reshape(xs, (q, 2 * n, groups, inner))
    if groups > 1:
        xs = xp.permute_dims(xs, (0, 2, 1, 3))[:, None, ...]  # (Q, 1, G, 2 n, c)
        fs = xp.permute_dims(xp.reshape(fs, (q, 2, inner, groups, r)), (0, 1, 3, 2, 4))
    else:
        xs = xp.permute_dims(xs, (0, 2, 1, 3))  # (Q, 1, 2 n, c)
    out = scratch.take("product", (q, 2, *((groups,) * (groups > 1)), 2 * n, r), b)
    p = xp.reshape(b.matmul(xs, fs, out), (q, 2, groups, 2, n, r))
    p = xp.permute_dims(p, (0, 1, 3, 4, 2, 5))  # (Q, plane of F, plane of X, n, G, r)
    return complex_sum((p[:, 0, 0, ...], p[:, 1, 1, ...], p[:, 1, 0, ...], p[:, 0, 1, ...]),
                    total, y, b)  # fmt: skip


def _by_element(
    xs: Array, fs: Array, total: Array | None, y: Array | None, scratch: Scratch, b: Backend
) -> Array:
    """Multiply two complex arrays element by element, with broadcasting, plus a total in `y`."""
    xp = b.xp
    real, imag = fs[:, :1, ...], fs[:, 1:, ...]
    if y is None:
        p, t = xs * real, xs * imag
        return complex_sum((p[:, 0, ...], t[:, 1, ...], p[:, 1, ...], t[:, 0, ...]), total, None, b)
    t = scratch.take("product", y.shape, b)
    if total is None:
        xp.multiply(xs, real, out=y)
    else:
        y += xp.multiply(xs, real, out=t)
    xp.multiply(xs, imag, out=t)
    y[:, 0, ...] -= t[:, 1, ...]
    y[:, 1, ...] += t[:, 0, ...]
    return y


def sum_signals(xs: Array, ys: Array, total: Array | None, scratch: Scratch, b: Backend) -> Array:
    """Sum the products of X (Q, 2, n, G, 1) and Y (Q, 2, n, G, r) over n: (Q, 2, G, r)."""
    xp = b.xp
    t = scratch.take("factor", ys.shape, b)
    out = scratch.take("sum", (ys.shape[0], 2, *ys.shape[3:]), b)

    def sums(left: Array, right: Array, axis: int, memory: Array | None) -> Array:
        found = left * right if memory is None else xp.multiply(left, right, out=memory)
        return xp.sum(found, axis=axis)

    like = sums(xs, ys, 2, t)
    mixed = [
        sums(xs[:, i, ...], ys[:, 1 - i, ...], 1, None if t is None else t[:, i, ...])
        for i in range(2)
    ]
    return complex_sum((like[:, 0, ...], like[:, 1, ...], *mixed), total, out, b)


def contract(
    xs: Array, ys: Array, groups: int, total: Array | None, scratch: Scratch, b: Backend
) -> Array:
    """Contract X (Q, 2 n, G * c) with Y (Q, 2, n, G, r) over planes and n: (Q, G, c, 2, r).

    One real matrix product for each frequency and group: X^T [[Y_r, Y_i], [-Y_i, Y_r]].
    """
    xp = b.xp
    q, _, n, _, r = ys.shape
    real, imag = ys[:, 0, ...], ys[:, 1, ...]
    w = scratch.take("factor", (q, groups, 2, n, 2, r), b)
    if w is None:
        upper, lower = xp.stack([real, imag], axis=3), xp.stack([-imag, real], axis=3)
        w = xp.permute_dims(xp.stack([upper, lower], axis=1), (0, 3, 1, 2, 4, 5))
    else:
        blocks_of_w = xp.permute_dims(w, (2, 4, 0, 3, 1, 5))  # (row, column, Q, n, G, r)
        blocks_of_w[0, 0, ...] = real
        blocks_of_w[0, 1, ...] = imag
        xp.multiply(imag, -1, out=blocks_of_w[1, 0, ...])  # see `complex_as_real.filters`
        blocks_of_w[1, 1, ...] = real
    c = xs.shape[2] // groups
    xs = xp.permute_dims(xp.reshape(xs, (q, 2 * n, groups, c)), (0, 2, 3, 1))
    out = scratch.take("sum" if total is None else "product", (q, groups, c, 2 * r), b)
    found = b.matmul(xs, xp.reshape(w, (q, groups, 2 * n, 2 * r)), out)
    found = xp.reshape(found, (q, groups, c, 2, r))
    return found if total is None else add(total, found, b)


def copy(a: Array, scratch: Scratch, name: str, b: Backend) -> Array:
    """Copy an array to a packed one in scratch memory; return it as it is if there is none."""
    out = scratch.take(name, a.shape, b)
    if out is None:
        return a
    out[...] = a
    return out
