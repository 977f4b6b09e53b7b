"""Split a data set into batches, in random or given order."""

from __future__ import annotations

from collections.abc import Iterator

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arrays import HostArray, check_count, from_host
from einstride.nn.random import stream
from einstride.support.errors import bad_value


class Batches:
    """Pairs (x, t) of consecutive or random examples; the last batch may be smaller.

    Parameters
    ----------
    x, t : array, shape (N, ...)
        Inputs and targets.
    size : int
        Examples in a batch.
    shuffle : bool
        True: a new random order in every epoch.
    seed : int
        Seed of the order, which is the same for every library.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> x = np.arange(5.0)[:, None]
    >>> [len(t) for _, t in nn.Batches(x, x, 2, shuffle=False)]
    [2, 2, 1]
    """

    def __init__(
        self, x: Array, t: Array, size: int, *, shuffle: bool = True, seed: int = 0
    ) -> None:
        self._xb = backends.of("Batches", ("x",), x)
        self._tb = backends.of("Batches", ("t",), t)
        self.x, self.t = x, t
        self.size = check_count("Batches", "size", size)
        self.shuffle = parse.flag("Batches", "shuffle", shuffle)
        self.seed = check_count("Batches", "seed", seed, 0)
        self.epoch = 0
        if x.ndim < 1 or t.ndim < 1 or x.shape[0] != t.shape[0]:
            raise bad_value(
                "Batches", "x and t must have as many examples",
                f"x {tuple(x.shape)}, t {tuple(t.shape)}", "one target for each input",
            )  # fmt: skip
        if x.shape[0] == 0:
            raise bad_value("Batches", "there must be an example", tuple(x.shape), "give data")

    def __len__(self) -> int:
        return -(-int(self.x.shape[0]) // self.size)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        self.epoch += 1
        n = self.x.shape[0]
        if not self.shuffle:
            for lo in range(0, n, self.size):
                yield self.x[lo : lo + self.size, ...], self.t[lo : lo + self.size, ...]
            return
        order = stream(self.seed, self.epoch).permutation(n)
        for lo in range(0, n, self.size):
            chosen = order[lo : lo + self.size]
            yield _take(self.x, chosen, self._xb), _take(self.t, chosen, self._tb)


def is_lazy(b: Backend) -> bool:
    """True if arrays of the library are computed later, in parts, by its scheduler."""
    return b.exchange is not None and b.exchange.reduce_batches is not None


def _take(a: Array, chosen: HostArray, b: Backend) -> Array:
    """Return the examples with these numbers."""
    if is_lazy(b):
        return a[chosen]  # the numbers say which chunks are read
    return b.xp.take(a, from_host(chosen, b), axis=0)
