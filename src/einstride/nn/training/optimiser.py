"""The base class of optimisers, which update parameters in place, one block of memory at a time.

`step(parameters, gradients)` takes two dicts with the same names and returns the new parameters.
With libraries whose arrays are mutable it overwrites the given parameters. For parameters in half
precision an optimiser keeps a float32 master copy and updates that, because float16 and bfloat16
would round away small updates.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import call_into, sum_dtype, to_sum_dtype
from einstride.nn.passes import RangeFunction, as_contiguous, sweep
from einstride.support.errors import bad_value


class Optimiser:
    """Base class of all optimisers. Subclasses name their running arrays and define `_update`.

    Parameters
    ----------
    rate : float
        The learning rate; it may be changed between steps.

    Attributes
    ----------
    steps : int
        Number of steps so far.
    running : dict of dicts of arrays
        The running arrays (momentum, means of squares) of each parameter.
    """

    names: tuple[str, ...] = ()

    def __init__(self, rate: float) -> None:
        self.rate = check_positive(type(self).__name__, "rate", rate)
        self.steps = 0
        self.running: dict[str, dict[str, Array]] = {}

    def reset(self) -> None:
        """Delete all running arrays, so that the next step is step 1."""
        self.steps, self.running = 0, {}

    def step(self, parameters: dict[str, Array], gradients: dict[str, Array]) -> dict[str, Array]:
        """Do one step, and return the new parameters.

        Parameters
        ----------
        parameters : dict of arrays
            The current parameters, which may be overwritten.
        gradients : dict of arrays
            Their gradients, with the same names and shapes.

        Returns
        -------
        dict of arrays
            The new parameters.
        """
        where = type(self).__name__
        for name, g in gradients.items():
            if name not in parameters or tuple(parameters[name].shape) != tuple(g.shape):
                raise bad_value(
                    where, "every gradient must have the shape of its parameter",
                    f"{name}: gradient {tuple(g.shape)}", "sum gradients per example first",
                )  # fmt: skip
        self.steps += 1
        updated = {
            name: self._update_parameter(name, parameters[name], g) for name, g in gradients.items()
        }
        return parameters | updated

    def _update_parameter(self, name: str, p: Array, g: Array) -> Array:
        b = backends.of(type(self).__name__, ("parameter", "gradient"), p, g)
        kind = b.dtype_name(p)
        half = sum_dtype(kind) != kind
        if name not in self.running:
            like = to_sum_dtype(p, b)
            self.running[name] = {n: b.xp.zeros_like(like) for n in self.names}
        kept = self.running[name]
        start = _master_copy(kept.get("master"), p, kind, b) if half else p
        arrays = (start, *(kept[n] for n in self.names))
        found = self._update_blocks(arrays, b.astype(g, sum_dtype(kind)), b)
        self.running[name] |= dict(zip(self.names, found[1:], strict=True))
        if not half:
            return found[0]
        kept["master"] = found[0]
        return b.astype(found[0], kind)

    def _update_blocks(self, arrays: tuple[Array, ...], g: Array, b: Backend) -> tuple[Array, ...]:
        """Call `_update` on blocks of the flattened arrays."""
        shape = tuple(g.shape)
        flat = tuple(b.xp.reshape(as_contiguous(a, b), (-1,)) for a in arrays)
        gradient = b.xp.reshape(as_contiguous(g, b), (-1,))
        arithmetic = Arithmetic(b)

        def make() -> RangeFunction:
            def compute(lo: int, hi: int) -> Any:
                return self._update(arithmetic, gradient[lo:hi], *(f[lo:hi] for f in flat))

            return compute

        found = sweep(make, prod(shape), 8, b)
        if not b.traits.mutable:
            flat = found[0]
        return tuple(b.xp.reshape(a, shape) for a in flat)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        """Return the new p and running arrays, written over the old ones if arrays are mutable."""
        raise TypeError("an optimiser defines _update")


def _master_copy(master: Array | None, p: Array, kind: str, b: Backend) -> Array:
    """Return the float32 copy of a parameter p in half precision: `master`, where it rounds to p.

    Elsewhere p was changed since the last step (assigned, loaded or copied), and its value counts.
    """
    given = b.xp.asarray(to_sum_dtype(p, b), copy=True)
    if master is None:
        return given
    return b.xp.where(to_sum_dtype(b.astype(master, kind), b) == given, master, given)


class Arithmetic:
    """Arithmetic that overwrites its first operand if the library's arrays are mutable."""

    def __init__(self, b: Backend) -> None:
        self._xp, self._mutable = b.xp, b.traits.mutable

    def add(self, a: Array, c: Array | float) -> Array:
        """Return a + c."""
        return call_into(self._xp.add, a, c, out=a) if self._mutable else a + c

    def multiply(self, a: Array, c: Array | float) -> Array:
        """Return a * c."""
        return call_into(self._xp.multiply, a, c, out=a) if self._mutable else a * c

    def sqrt(self, a: Array) -> Array:
        """Return the square root of a in a new array."""
        return self._xp.sqrt(a)

    def divide(self, a: Array, c: Array) -> Array:
        """Return a / c."""
        return call_into(self._xp.divide, a, c, out=a) if self._mutable else a / c


def check_positive(where: str, name: str, value: float, zero: bool = False) -> float:
    """Return `value` as a float; raise ValueError unless it is finite and positive, or zero."""
    if not (value > 0 or (zero and value == 0)) or value == float("inf"):
        rule = f"{name} must be {'zero or more' if zero else 'positive'}"
        raise bad_value(where, rule, value, "e.g. 0.001")
    return float(value)


def check_fraction(where: str, name: str, value: float) -> float:
    """Return `value` as a float; raise ValueError unless it lies in [0, 1)."""
    if not 0 <= value < 1:
        raise bad_value(where, f"{name} must lie in [0, 1)", value, "e.g. 0.9")
    return float(value)
