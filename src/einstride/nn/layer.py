"""What a layer is: its parameters, a forward and a backward function, and its place in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import FLOATS, Host, Shape, device, wide
from einstride.nn.random import generator
from einstride.support.errors import bad_value, shown

Gradients = dict[str, Array]
Initialiser = Callable[[np.random.Generator, Shape, int, int], Host]


@dataclass(frozen=True)
class Maker:
    """Makes parameters: the same numbers for every library, drawn on the host.

    Parameters
    ----------
    b : Backend
        The arrays' library.
    dtype : str
        Of the parameters.
    rng : numpy.random.Generator
        Where numbers come from.
    place : str
        Of the layer that is being built.
    """

    b: Backend
    dtype: str
    rng: np.random.Generator
    place: str = ""

    def inside(self, place: str) -> Maker:
        """The same for a layer at another place.

        Parameters
        ----------
        place : str
            As errors name it.

        Returns
        -------
        Maker
            The new one.
        """
        return replace(self, place=place)

    def draw(self, initialiser: Initialiser, shape: Shape, fan_in: int, fan_out: int) -> Array:
        """A parameter from an initialiser.

        Parameters
        ----------
        initialiser : callable
            As `he`.
        shape : tuple of int
            Of the parameter.
        fan_in, fan_out : int
            Products in each sum, forward and backward.

        Returns
        -------
        array
            In the model's dtype.
        """
        numbers = initialiser(self.rng, shape, fan_in, fan_out)
        return self.fill(numbers, self.dtype)

    def fill(self, numbers: Host, dtype: str | None = None) -> Array:
        """A parameter with these numbers.

        Parameters
        ----------
        numbers : numpy.ndarray
            Its values.
        dtype : str, optional
            That of sums (float32 for the halves) if left out.

        Returns
        -------
        array
            Of the model's library.
        """
        name = wide(self.dtype) if dtype is None else dtype
        like = device(np.asarray(numbers, np.float64), self.b)
        return self.b.astype(like, name)


@dataclass(frozen=True)
class Run:
    """What one pass through a model needs to know.

    Parameters
    ----------
    b : Backend
        The arrays' library.
    training : bool
        Batch statistics and dropout.
    keep : bool
        A backward pass will follow; without it nothing is kept.
    rng : numpy.random.Generator
        For dropout.
    per_example : bool
        Gradients for each example instead of their sum.
    places : bool
        ``b.empty`` gives memory that was used before: results are written there.
    """

    b: Backend
    training: bool = False
    keep: bool = False
    rng: np.random.Generator = field(default_factory=generator)
    per_example: bool = False
    places: bool = False


class Layer:
    """The base of all layers. Subclasses fill in `_build`, `_forward` and `_backward`.

    A layer holds its parameters and its running statistics, nothing else: what backward needs is
    given out by forward and handed back by the caller. Whether an argument may be overwritten is
    said by `own`.

    Attributes
    ----------
    parameters : dict of arrays
        What is learned.
    state : dict of arrays
        What is kept beside: running statistics.
    place : str
        Where the layer stands in its model, for errors.
    """

    fresh = True
    """The output is a new array, which the next layer may overwrite."""
    fresh_gradient = True
    """So is the gradient of the input."""
    keeps_output = False
    """The backward pass reads the output, so nobody may overwrite it."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.state: dict[str, Array] = {}
        self.place = ""

    def build(self, shape: Shape, maker: Maker) -> Shape:
        """Make the parameters for inputs of a shape, without the batch axis.

        Parameters
        ----------
        shape : tuple of int
            The shape of one example.
        maker : Maker
            Library, dtype and random numbers.

        Returns
        -------
        tuple of int
            The shape of one output.
        """
        if self.place:
            raise bad_value(
                maker.place or type(self).__name__, "a layer stands in one place",
                f"{self.place} once more", "make a second layer",
            )  # fmt: skip
        self.place = maker.place or type(self).__name__
        with _named(self.place):
            return self._build(shape, maker)

    def forward(self, x: Array, run: Run, own: bool = False) -> tuple[Array, Any]:
        """The output, and what backward needs (None unless ``run.keep``).

        Parameters
        ----------
        x : array, shape (B, *shape)
            The input.
        run : Run
            Library, training or not.
        own : bool
            x may be overwritten.

        Returns
        -------
        tuple
            The output, and what to hand to `backward`.
        """
        with _named(self.place or type(self).__name__):
            return self._forward(x, run, own)

    def forward_relu(self, x: Array, run: Run, own: bool = False) -> tuple[Array, Any] | None:
        """`forward` and the ReLU that follows in one sweep; None if the layer has no such thing.

        Parameters
        ----------
        x, run, own : object
            As in `forward`.

        Returns
        -------
        tuple or None
            As `forward`; `backward` takes the gradient of the ReLU's output then.
        """
        with _named(self.place or type(self).__name__):
            return self._forward_relu(x, run, own)

    def backward(
        self, gy: Array, kept: Any, run: Run, own: bool = False, inner: bool = True
    ) -> tuple[Array | None, Gradients]:
        """The gradient of the input and those of the parameters.

        Parameters
        ----------
        gy : array
            The gradient of the output.
        kept : object
            What forward gave out.
        run : Run
            As in `forward`.
        own : bool
            gy may be overwritten.
        inner : bool
            False: nobody asks for the gradient of the input.

        Returns
        -------
        tuple
            The gradient of the input (or None), and a dict of those of the parameters.
        """
        with _named(self.place or type(self).__name__):
            return self._backward(gy, kept, run, own, inner)

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """All layers that hold parameters of their own, with their paths.

        Parameters
        ----------
        path : str
            What goes before.

        Yields
        ------
        tuple
            A path, "3.body.0.", and a layer.
        """
        yield path, self

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        return shape

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        raise TypeError(f"{type(self).__name__} defines no _forward")

    def _forward_relu(self, x: Array, run: Run, own: bool) -> tuple[Array, Any] | None:
        return None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        raise TypeError(f"{type(self).__name__} defines no _backward")


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Puts a layer's place before the sentence of an error, once: the innermost layer's."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError) or isinstance(error, PlacedError):
            raise
        kind = PlacedValueError if isinstance(error, ValueError) else PlacedTypeError
        raise kind(f"{place}: {error}") from error


class PlacedError(Exception):
    """An error that says where in the model it arose."""


class PlacedValueError(PlacedError, ValueError):
    """A ValueError of a layer."""


class PlacedTypeError(PlacedError, TypeError):
    """A TypeError of a layer."""


def check_dtype(where: str, dtype: str) -> str:
    """One of the float dtypes, by name."""
    if dtype not in FLOATS:
        raise bad_value(where, f"dtype must be one of {', '.join(FLOATS)}", shown(dtype), "choose")
    return dtype
