"""Complex numbers as two real planes: the arithmetic of spectra, in given memory or in new arrays.

Libraries differ in whether an array can be written. Where it can, a worker's `Scratch` gives the
memory of every result; where it cannot, `Scratch.take` gives None and the same sum or product makes
a new array. Both ways stand here, next to each other; the passes that use these functions do not
know which one is taken.

Planes are an axis of length two, real part first: (u, *positions, m) of signals, with u = 1 of real
ones, and (Q, 2, m) of spectra with Q frequencies.
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


def filled(terms: Sequence[Term], axes: tuple[int, ...], place: Array | None, b: Backend) -> Array:
    """An array with new axes of length two, whose parts are the terms in row-major order."""
    if place is not None:
        for at, (function, left, right) in zip(
            combinations(range(2), repeat=len(axes)), terms, strict=True
        ):
            index: list[Any] = [ALL] * place.ndim
            for axis, i in zip(axes, at, strict=True):
                index[axis] = i
            function(left, right, out=place[tuple(index)])
        return place
    parts = [function(left, right) for function, left, right in terms]
    for axis in reversed(axes):  # neighbours differ in the last axis: axes ascend
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [b.xp.stack(pair, axis=axis - axes.index(axis)) for pair in pairs]
    return parts[0]


def planes_of_array(
    a: Array, count: int, dtype: str, place: Array | None, b: Backend, conjugated: bool = False
) -> Array:
    """An array as planes (u, ...) of a real dtype; `count` is u."""
    xp = b.xp
    real = not is_complex(b.dtype_name(a))
    if place is None:
        if count == 1:
            return b.astype(a, dtype)[None, ...]
        if real:
            a = b.astype(a, dtype)
            return xp.stack([a, xp.zeros_like(a)], axis=0)
        imag = -xp.imag(a) if conjugated else xp.imag(a)
        return b.astype(xp.stack([xp.real(a), imag], axis=0), dtype)
    place[0, ...] = a if real else a.real
    if count == 2:
        place[1, ...] = 0 if real else a.imag
    if conjugated and not real:
        xp.multiply(place[1, ...], -1, out=place[1, ...])
    return place


def joined(p: Array, result: str, b: Backend) -> Array:
    """Planes (u, ...) as a new array of the result's dtype."""
    if p.shape[0] == 1:
        return b.astype(p[0, ...], result)
    return b.astype(p[0, ...], result) + b.astype(p[1, ...], result) * 1j


def put(p: Array, place: Array, conjugated: bool = False) -> None:
    """Write planes (u, ...) into an array of the result's dtype."""
    if p.shape[0] == 1:
        place[...] = p[0, ...]
        return
    place.real[...] = p[0, ...]
    place.imag[...] = -p[1, ...] if conjugated else p[1, ...]


def meet(z: Array, scratch: Scratch, name: str, b: Backend) -> Array:
    """(Q, 2, F, 2, m), units i and j, -> (Q, F, 2, 2, m): each frequency and its mirror image."""
    xp = b.xp
    q, _, half, _, m = z.shape
    c0, s0, c1, s1 = z[:, 0, :, 0, :], z[:, 0, :, 1, :], z[:, 1, :, 0, :], z[:, 1, :, 1, :]
    terms = (xp.subtract, c0, s1), (xp.add, s0, c1), (xp.add, c0, s1), (xp.subtract, c1, s0)
    return filled(terms, (2, 3), scratch.take(name, (q, half, 2, 2, m), b), b)


def part(w: Array, scratch: Scratch, name: str, b: Backend) -> Array:
    """The inverse of `meet`, but for a factor of 2: (Q, F, 2, 2, m) -> (Q, 2, F, 2, m)."""
    xp = b.xp
    q, half, _, _, m = w.shape
    pr, pi, mr, mi = w[:, :, 0, 0, :], w[:, :, 0, 1, :], w[:, :, 1, 0, :], w[:, :, 1, 1, :]
    terms = (xp.add, pr, mr), (xp.subtract, pi, mi), (xp.add, pi, mi), (xp.subtract, mr, pr)
    return filled(terms, (1, 3), scratch.take(name, (q, 2, half, 2, m), b), b)


def total_of(
    terms: tuple[Array, Array, Array, Array], total: Array | None, place: Array | None, b: Backend
) -> Array:
    """a - b and c + d of four terms as planes (Q, 2, ...) of numbers, plus a total in `place`."""
    first, second, third, fourth = terms
    if total is None or place is None:
        pairs = (b.xp.subtract, first, second), (b.xp.add, third, fourth)
        found = filled(pairs, (1,), place, b)
        return found if total is None else total + found
    place[:, 0, ...] += first
    place[:, 0, ...] -= second
    place[:, 1, ...] += third
    place[:, 1, ...] += fourth
    return place


def multiplied(
    xs: Array, fs: Array, n: int, groups: int, total: Array | None, scratch: Scratch, b: Backend
) -> Array:
    """(Q, 2, n, G, d // G): the products of X (Q, 2, n * c) and F (Q, 2, c // G, d), plus a total.

    A total lies in the memory that the result is to have.
    """
    xp = b.xp
    q, inner, r = xs.shape[0], fs.shape[2], fs.shape[3] // groups
    y = scratch.take("sum", (q, 2, n, groups, r), b)
    if inner == 1:
        xs, fs = xp.reshape(xs, (q, 2, n, groups, 1)), xp.reshape(fs, (q, 2, 1, groups, r))
        return _by_element(xs, fs, total, y, scratch, b)
    # One real product of both planes of X with each plane of F.
    xs = xp.reshape(xs, (q, 2 * n, groups, inner))
    if groups > 1:
        xs = xp.permute_dims(xs, (0, 2, 1, 3))[:, None, ...]  # (Q, 1, G, 2 n, c)
        fs = xp.permute_dims(xp.reshape(fs, (q, 2, inner, groups, r)), (0, 1, 3, 2, 4))
    else:
        xs = xp.permute_dims(xs, (0, 2, 1, 3))  # (Q, 1, 2 n, c)
    place = scratch.take("product", (q, 2, *((groups,) * (groups > 1)), 2 * n, r), b)
    p = xp.reshape(b.matmul(xs, fs, place), (q, 2, groups, 2, n, r))
    p = xp.permute_dims(p, (0, 1, 3, 4, 2, 5))  # (Q, plane of F, plane of X, n, G, r)
    return total_of((p[:, 0, 0, ...], p[:, 1, 1, ...], p[:, 1, 0, ...], p[:, 0, 1, ...]),
                    total, y, b)  # fmt: skip


def _by_element(
    xs: Array, fs: Array, total: Array | None, y: Array | None, scratch: Scratch, b: Backend
) -> Array:
    """The products of two planes, broadcast against each other, plus a total in `y`."""
    xp = b.xp
    real, imag = fs[:, :1, ...], fs[:, 1:, ...]
    if y is None:
        p, t = xs * real, xs * imag
        return total_of((p[:, 0, ...], t[:, 1, ...], p[:, 1, ...], t[:, 0, ...]), total, None, b)
    t = scratch.take("product", y.shape, b)
    if total is None:
        xp.multiply(xs, real, out=y)
    else:
        y += xp.multiply(xs, real, out=t)
    xp.multiply(xs, imag, out=t)
    y[:, 0, ...] -= t[:, 1, ...]
    y[:, 1, ...] += t[:, 0, ...]
    return y


def summed(xs: Array, ys: Array, total: Array | None, scratch: Scratch, b: Backend) -> Array:
    """(Q, 2, G, r): products of X (Q, 2, n, G, 1) and Y (Q, 2, n, G, r) summed over n."""
    xp = b.xp
    t = scratch.take("factor", ys.shape, b)
    place = scratch.take("sum", (ys.shape[0], 2, *ys.shape[3:]), b)

    def sums(left: Array, right: Array, axis: int, memory: Array | None) -> Array:
        found = left * right if memory is None else xp.multiply(left, right, out=memory)
        return xp.sum(found, axis=axis)

    same = sums(xs, ys, 2, t)
    crossed = [
        sums(xs[:, i, ...], ys[:, 1 - i, ...], 1, None if t is None else t[:, i, ...])
        for i in range(2)
    ]
    return total_of((same[:, 0, ...], same[:, 1, ...], *crossed), total, place, b)


def contracted(
    xs: Array, ys: Array, groups: int, total: Array | None, scratch: Scratch, b: Backend
) -> Array:
    """(Q, G, c, 2, r): X (Q, 2 n, G * c) times Y (Q, 2, n, G, r), contracted over planes and n.

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
        turned = xp.permute_dims(w, (2, 4, 0, 3, 1, 5))  # (row, column, Q, n, G, r)
        turned[0, 0, ...] = real
        turned[0, 1, ...] = imag
        xp.multiply(imag, -1, out=turned[1, 0, ...])  # see `complex_as_real.filters`
        turned[1, 1, ...] = real
    c = xs.shape[2] // groups
    xs = xp.permute_dims(xp.reshape(xs, (q, 2 * n, groups, c)), (0, 2, 3, 1))
    place = scratch.take("sum" if total is None else "product", (q, groups, c, 2 * r), b)
    found = b.matmul(xs, xp.reshape(w, (q, groups, 2 * n, 2 * r)), place)
    found = xp.reshape(found, (q, groups, c, 2, r))
    return found if total is None else add(total, found, b)


def copied(a: Array, scratch: Scratch, name: str, b: Backend) -> Array:
    """An array with its elements side by side, where memory for it is given."""
    place = scratch.take(name, a.shape, b)
    if place is None:
        return a
    place[...] = a
    return place
