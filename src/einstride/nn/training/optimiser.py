"""What an optimiser is: from gradients to better parameters, block by block.

`step(parameters, gradients)` takes two dicts with the same names and gives the new parameters. On
libraries whose arrays can be written it writes them in place, a block at a time; a model's
parameters are its own. Parameters in half precision have a float32 copy here, which is what
moves: a step smaller than their resolution would be lost else.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import into, wide, widened
from einstride.nn.passes import One, dense, sweep
from einstride.support.errors import bad_value


class Optimiser:
    """The base of all optimisers. Subclasses name their running arrays and fill in `_update`.

    Parameters
    ----------
    rate : float
        The learning rate, which may be changed between steps.

    Attributes
    ----------
    steps : int
        Steps so far.
    running : dict of dicts of arrays
        The running arrays of each parameter.
    """

    names: tuple[str, ...] = ()

    def __init__(self, rate: float) -> None:
        self.rate = positive(type(self).__name__, "rate", rate)
        self.steps = 0
        self.running: dict[str, dict[str, Array]] = {}

    def reset(self) -> None:
        """Forget all running arrays: the next step is the first."""
        self.steps, self.running = 0, {}

    def step(self, parameters: dict[str, Array], gradients: dict[str, Array]) -> dict[str, Array]:
        """The parameters after one step.

        Parameters
        ----------
        parameters : dict of arrays
            They may be overwritten.
        gradients : dict of arrays
            With the same names and shapes.

        Returns
        -------
        dict of arrays
            The new ones.
        """
        where = type(self).__name__
        for name, g in gradients.items():
            if name not in parameters or tuple(parameters[name].shape) != tuple(g.shape):
                raise bad_value(
                    where, "every gradient must have the shape of its parameter",
                    f"{name}: gradient {tuple(g.shape)}", "sum gradients per example first",
                )  # fmt: skip
        self.steps += 1
        moved = {name: self._move(name, parameters[name], g) for name, g in gradients.items()}
        return parameters | moved

    def _move(self, name: str, p: Array, g: Array) -> Array:
        b = backends.of(type(self).__name__, ("parameter", "gradient"), p, g)
        kind = b.dtype_name(p)
        half = wide(kind) != kind
        if name not in self.running:
            like = widened(p, b)
            self.running[name] = {n: b.xp.zeros_like(like) for n in self.names}
        kept = self.running[name]
        start = _followed(kept.get("master"), p, kind, b) if half else p
        arrays = (start, *(kept[n] for n in self.names))
        found = self._swept(arrays, b.astype(g, wide(kind)), b)
        self.running[name] |= dict(zip(self.names, found[1:], strict=True))
        if not half:
            return found[0]
        kept["master"] = found[0]
        return b.astype(found[0], kind)

    def _swept(self, arrays: tuple[Array, ...], g: Array, b: Backend) -> tuple[Array, ...]:
        """`_update` over blocks of the arrays, laid flat."""
        shape = tuple(g.shape)
        flat = tuple(b.xp.reshape(dense(a, b), (-1,)) for a in arrays)
        gradient = b.xp.reshape(dense(g, b), (-1,))
        do = Arithmetic(b)

        def make() -> One:
            def one(lo: int, hi: int) -> Any:
                return self._update(do, gradient[lo:hi], *(f[lo:hi] for f in flat))

            return one

        found = sweep(make, prod(shape), 8, b)
        if not b.traits.mutable:
            flat = found[0]
        return tuple(b.xp.reshape(a, shape) for a in flat)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        """The new p and running arrays; where arrays can be written, in their places."""
        raise TypeError("an optimiser defines _update")


def _followed(master: Array | None, p: Array, kind: str, b: Backend) -> Array:
    """The float32 copy of a half parameter: its numbers where they round to p's, else p's own.

    p is compared, not remembered: it may have been written, loaded or copied since the last step.
    """
    given = b.xp.asarray(widened(p, b), copy=True)
    if master is None:
        return given
    return b.xp.where(widened(b.astype(master, kind), b) == given, master, given)


class Arithmetic:
    """Sums and products that land in their first operand where it can be written."""

    def __init__(self, b: Backend) -> None:
        self._xp, self._mutable = b.xp, b.traits.mutable

    def add(self, a: Array, c: Array | float) -> Array:
        """a + c."""
        return into(self._xp.add, a, c, out=a) if self._mutable else a + c

    def times(self, a: Array, c: Array | float) -> Array:
        """a * c."""
        return into(self._xp.multiply, a, c, out=a) if self._mutable else a * c

    def root(self, a: Array) -> Array:
        """The square root, in a new array."""
        return self._xp.sqrt(a)

    def over(self, a: Array, c: Array) -> Array:
        """a / c."""
        return into(self._xp.divide, a, c, out=a) if self._mutable else a / c


def positive(where: str, name: str, value: float, zero: bool = False) -> float:
    """A positive number, or zero where that is allowed."""
    if not (value > 0 or (zero and value == 0)) or value == float("inf"):
        rule = f"{name} must be {'zero or more' if zero else 'positive'}"
        raise bad_value(where, rule, value, "e.g. 0.001")
    return float(value)


def share(where: str, name: str, value: float) -> float:
    """A number in [0, 1)."""
    if not 0 <= value < 1:
        raise bad_value(where, f"{name} must lie in [0, 1)", value, "e.g. 0.9")
    return float(value)
