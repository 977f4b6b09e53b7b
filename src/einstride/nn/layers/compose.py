"""Layers that contain layers: a sequence, and the sum of two branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from einstride.arrays.backends import Array
from einstride.nn.arrays import Shape
from einstride.nn.cpu import calls
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.nn.layers.activations import ReLU
from einstride.nn.passes import add, elementwise, relu, relu_gradient
from einstride.support.errors import bad_type, bad_value

FUSED = object()
"""Marks a ReLU that was computed in the forward pass of the layer before it."""


class Sequential(Layer):
    """Applies layers one after the other.

    Parameters
    ----------
    *layers : Layer
        The layers, in the order of the forward pass.

    Attributes
    ----------
    layers : tuple of Layer
        The layers, in the order of the forward pass.

    Examples
    --------
    >>> from einstride import nn
    >>> net = nn.Sequential(nn.Conv(8, 3), nn.ReLU(), nn.Flatten(), nn.Dense(10))
    >>> nn.Model(net, (8, 8, 1)).output_shape
    (10,)
    """

    fresh = False  # without layers the output is the input
    fresh_gradient = False

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        for layer in layers:
            check_layer("Sequential", layer)
        self.layers = layers
        self._learned: list[bool] = []  # layer i: True if a layer before it has parameters

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield the innermost layers, with their paths.

        Parameters
        ----------
        path : str
            Prefix of the paths.

        Yields
        ------
        tuple
            A path, "3.", and a layer.
        """
        for i, layer in enumerate(self.layers):
            yield from layer.leaves(f"{path}{i}.")

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        before = f"{maker.place}, " if maker.place else ""
        for i, layer in enumerate(self.layers):
            shape = layer.build(shape, maker.inside(f"{before}layer {i} ({type(layer).__name__})"))
        learns = [any(leaf.parameters for _, leaf in layer.leaves()) for layer in self.layers]
        self._learned = [any(learns[:i]) for i in range(len(learns))]
        self.fresh = any(layer.fresh for layer in self.layers)
        self.fresh_gradient = any(layer.fresh_gradient for layer in self.layers)
        self.keeps_output = bool(self.layers) and self.layers[-1].keeps_output
        return shape

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        all_kept: list[Any] = []
        for i, layer in enumerate(self.layers):
            if len(all_kept) > i:
                continue  # a ReLU that was fused with the layer before
            fused = layer.forward_relu(x, run, own) if self._before_relu(i) else None
            if fused is not None:
                x, kept = fused
                all_kept += [kept, FUSED]
                layer = self.layers[i + 1]
            else:
                x, kept = layer.forward(x, run, own)
                all_kept.append(kept)
            own = (layer.fresh or own) and not (run.keep and layer.keeps_output)
        return x, all_kept if run.keep else None

    def _before_relu(self, i: int) -> bool:
        return type(self.layers[i + 1]) is ReLU if i + 1 < len(self.layers) else False

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        gradients: Gradients = {}
        g: Array | None = gy
        for i in reversed(range(len(self.layers))):
            layer = self.layers[i]
            if kept[i] is FUSED:
                continue
            g, found = layer.backward(g, kept[i], run, own, inner or self._learned[i])
            kept[i] = None  # frees memory during the pass
            own = layer.fresh_gradient or own
            gradients |= {f"{i}.{name}": value for name, value in found.items()}
            if g is None:
                break
        return g, gradients


class Residual(Layer):
    """Adds two branches: ``body(x) + shortcut(x)``.

    Parameters
    ----------
    body : Layer
        Usually a `Sequential`.
    shortcut : Layer, optional
        The identity if left out; else a layer with the body's output shape, e.g. a 1x1 `Conv`.

    Examples
    --------
    >>> from einstride import nn
    >>> block = nn.Residual(nn.Sequential(nn.Conv(8, 3, padding="same"), nn.ReLU()))
    >>> nn.Model(nn.Sequential(block), (8, 8, 8)).output_shape
    (8, 8, 8)
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        self.body = check_layer("Residual", body)
        self.shortcut = None if shortcut is None else check_layer("Residual", shortcut)

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield the innermost layers, with their paths.

        Parameters
        ----------
        path : str
            Prefix of the paths.

        Yields
        ------
        tuple
            A path, "3.body.0.", and a layer.
        """
        yield from self.body.leaves(f"{path}body.")
        if self.shortcut is not None:
            yield from self.shortcut.leaves(f"{path}shortcut.")

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        found = self.body.build(shape, maker.inside(f"{maker.place}, body"))
        other = shape
        if self.shortcut is not None:
            other = self.shortcut.build(shape, maker.inside(f"{maker.place}, shortcut"))
        if found != other:
            raise bad_value(
                "Residual", "both branches must have the same shape",
                f"body {found}, {'shortcut' if self.shortcut else 'input'} {other}",
                "give it a shortcut, e.g. a 1x1 Conv with the body's channels and stride",
            )  # fmt: skip
        return found

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        y, other, reusable, kept = self._branches(x, run)
        return add(y, other, reusable, run.b), kept

    def _forward_relu(self, x: Array, run: Run, own: bool) -> tuple[Array, Any] | None:
        if not calls.ready(run.b, x):
            return None
        y, other, reusable, kept = self._branches(x, run)
        if not calls.ready(run.b, y, other):
            y = elementwise(
                lambda out, p: relu(p, out, run.b), run.b, run.b.dtype_name(y), None,
                add(y, other, reusable, run.b),
            )  # fmt: skip
        else:
            y = calls.apply("add_relu", y if reusable else None, run.b, y, other)
        return y, (*kept, y) if run.keep else None

    def _branches(self, x: Array, run: Run) -> tuple[Array, Array, bool, Any]:
        """Compute both branches; also return if the first may be overwritten, and what to keep."""
        y, kept = self.body.forward(x, run)
        other, kept_other = x, None
        if self.shortcut is not None:
            other, kept_other = self.shortcut.forward(x, run)
        reusable = self.body.fresh and not (run.keep and self.body.keeps_output)
        return y, other, reusable, (kept, kept_other) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if len(kept) == 3:  # a ReLU was fused
            gy, own = relu_gradient(gy, kept[2], own, run.b), True
        g, found = self.body.backward(gy, kept[0], run, False, inner)
        gradients = {f"body.{name}": value for name, value in found.items()}
        other: Array | None = gy
        own_gy = own and self.body.fresh_gradient  # else the body may return gy itself
        if self.shortcut is not None:
            other, found = self.shortcut.backward(gy, kept[1], run, own_gy, inner)
            gradients |= {f"shortcut.{name}": value for name, value in found.items()}
        if not inner or g is None or other is None:
            return None, gradients
        return add(g, other, self.body.fresh_gradient, run.b), gradients


def check_layer(where: str, layer: object) -> Layer:
    """Return `layer`; raise TypeError if it is no layer."""
    if not isinstance(layer, Layer):
        raise bad_type(
            where, "the parts of a network must be layers", type(layer).__qualname__,
            "make one, e.g. nn.ReLU() with its parentheses",
        )  # fmt: skip
    return layer
