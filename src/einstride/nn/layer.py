"""The base class of all layers: parameters, a forward and a backward function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import FLOATS, HostArray, Shape, from_host, sum_dtype
from einstride.nn.random import generator
from einstride.support.errors import bad_value, shown

Gradients = dict[str, Array]
Initialiser = Callable[[np.random.Generator, Shape, int, int], HostArray]


@dataclass(frozen=True)
class Maker:
    """Makes the parameters of layers from random numbers that are the same for every library.

    Parameters
    ----------
    b : Backend
        The library of the parameters.
    dtype : str
        The dtype of the parameters.
    rng : numpy.random.Generator
        Source of the random numbers, on the host.
    place : str
        Name of the layer that is being built, for error texts.
    """

    b: Backend
    dtype: str
    rng: np.random.Generator
    place: str = ""

    def inside(self, place: str) -> Maker:
        """Return a copy of this maker for another layer.

        Parameters
        ----------
        place : str
            Name of that layer in error texts.

        Returns
        -------
        Maker
            The copy.
        """
        return replace(self, place=place)

    def draw(self, initialiser: Initialiser, shape: Shape, fan_in: int, fan_out: int) -> Array:
        """Make a parameter from an initialiser.

        Parameters
        ----------
        initialiser : callable
            A function such as `he`.
        shape : tuple of int
            Shape of the parameter.
        fan_in, fan_out : int
            Number of products in each sum, forward and backward.

        Returns
        -------
        array
            The parameter, in the model's dtype.
        """
        numbers = initialiser(self.rng, shape, fan_in, fan_out)
        return self.fill(numbers, self.dtype)

    def fill(self, numbers: HostArray, dtype: str | None = None) -> Array:
        """Make a parameter with given values.

        Parameters
        ----------
        numbers : numpy.ndarray
            The values.
        dtype : str, optional
            If left out, the dtype of sums: float32 for float16 and bfloat16.

        Returns
        -------
        array
            The parameter, in the model's library.
        """
        name = sum_dtype(self.dtype) if dtype is None else dtype
        given = from_host(np.asarray(numbers, np.float64), self.b)
        return self.b.astype(given, name)


@dataclass(frozen=True)
class Run:
    """Settings of one pass through a model, forward and back.

    Parameters
    ----------
    b : Backend
        The library of the arrays.
    training : bool
        True: batch statistics and dropout are used.
    keep : bool
        True: a backward pass will follow, so layers keep what it needs.
    rng : numpy.random.Generator
        Source of random numbers for dropout.
    per_example : bool
        True: one gradient for each example instead of their sum.
    places : bool
        True: ``b.empty`` reuses memory of earlier steps, so layers write results to arrays that
        they get from it.
    rows : (int, int) or None
        The number of the first example in its batch and the length of the batch, if the pass is of
        a part of a batch.
    """

    b: Backend
    training: bool = False
    keep: bool = False
    rng: np.random.Generator = field(default_factory=generator)
    per_example: bool = False
    places: bool = False
    rows: tuple[int, int] | None = None


class Layer:
    """Base class of all layers. Subclasses define `_build`, `_forward` and `_backward`.

    A layer holds its parameters and its running statistics, but no data of a pass: `forward`
    returns what `backward` needs, and the caller passes it on. `own` says whether a layer may
    overwrite its argument.

    Attributes
    ----------
    parameters : dict of arrays
        The arrays that an optimiser updates.
    state : dict of arrays
        Running statistics.
    place : str
        Name of the layer in its model, for error texts.
    """

    fresh = True
    """True if the output is a new array, which the next layer may overwrite."""
    fresh_gradient = True
    """True if the gradient of the input is a new array, which the layer before may overwrite."""
    keeps_output = False
    """True if the backward pass reads the output, which then must not be overwritten."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.state: dict[str, Array] = {}
        self.place = ""

    def build(self, shape: Shape, maker: Maker) -> Shape:
        """Make the parameters for one input shape, and return the output shape.

        Parameters
        ----------
        shape : tuple of int
            The shape of one example, without the batch axis.
        maker : Maker
            Makes the parameters.

        Returns
        -------
        tuple of int
            The shape of one output, without the batch axis.
        """
        if self.place:
            raise bad_value(
                maker.place or type(self).__name__, "a layer can be used in one place only",
                f"{self.place} a second time", "make a second layer",
            )  # fmt: skip
        self.place = maker.place or type(self).__name__
        with _errors_name(self.place):
            return self._build(shape, maker)

    def forward(self, x: Array, run: Run, own: bool = False) -> tuple[Array, Any]:
        """Compute the output, and what `backward` needs (None unless ``run.keep``).

        Parameters
        ----------
        x : array, shape (B, *shape)
            The input.
        run : Run
            Settings of the pass.
        own : bool
            True: x may be overwritten.

        Returns
        -------
        tuple
            The output, and the argument `kept` of `backward`.
        """
        with _errors_name(self.place or type(self).__name__):
            return self._forward(x, run, own)

    def forward_relu(self, x: Array, run: Run, own: bool = False) -> tuple[Array, Any] | None:
        """Compute `forward` and a ReLU after it in one pass over memory, if the layer can.

        Parameters
        ----------
        x, run, own : object
            As in `forward`.

        Returns
        -------
        tuple or None
            As `forward`, with `backward` taking the gradient of the ReLU's output. None if the
            layer has no fused kernel for it.
        """
        with _errors_name(self.place or type(self).__name__):
            return self._forward_relu(x, run, own)

    def backward(
        self, gy: Array, kept: Any, run: Run, own: bool = False, inner: bool = True
    ) -> tuple[Array | None, Gradients]:
        """Compute the gradients of the input and of the parameters.

        Parameters
        ----------
        gy : array
            The gradient of the output.
        kept : object
            The second result of `forward`.
        run : Run
            Settings of the pass.
        own : bool
            True: gy may be overwritten.
        inner : bool
            False: the gradient of the input is not needed.

        Returns
        -------
        tuple
            The gradient of the input (or None), and a dict of the gradients of the parameters.
        """
        with _errors_name(self.place or type(self).__name__):
            return self._backward(gy, kept, run, own, inner)

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield all layers that contain no other layers, with their paths.

        Parameters
        ----------
        path : str
            Prefix of the paths.

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
def _errors_name(place: str) -> Iterator[None]:
    """Prefix errors with the name of a layer, unless an inner layer has put its own name there."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError) or isinstance(error, LayerError):
            raise
        kind = LayerValueError if isinstance(error, ValueError) else LayerTypeError
        raise kind(f"{place}: {error}") from error


class LayerError(Exception):
    """Base class of errors whose text begins with the name of a layer."""


class LayerValueError(LayerError, ValueError):
    """A ValueError whose text begins with the name of a layer."""


class LayerTypeError(LayerError, TypeError):
    """A TypeError whose text begins with the name of a layer."""


def check_dtype(where: str, dtype: str) -> str:
    """Return `dtype`; raise ValueError if it is not the name of a float dtype."""
    if dtype not in FLOATS:
        raise bad_value(where, f"dtype must be one of {', '.join(FLOATS)}", shown(dtype), "choose")
    return dtype
