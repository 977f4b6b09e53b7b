"""`BaseModel`: the parameters of a network for one input shape, its passes and training step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arena import Arena
from einstride.nn.arrays import Shape, check_count, check_float, check_shape, from_host, to_host
from einstride.nn.layer import Gradients, Layer, Maker, Run, check_dtype
from einstride.nn.layers.compose import check_layer
from einstride.nn.random import stream
from einstride.nn.training.history import History
from einstride.nn.training.losses import Loss
from einstride.nn.training.optimiser import Optimiser
from einstride.support.errors import bad_value


@dataclass(frozen=True)
class Tape:
    """What a forward pass keeps for the backward pass, which consumes it."""

    kept: Any
    run: Run


class BaseModel:
    """Base class of `Model`: parameters, forward and backward passes, and one training step."""

    def __init__(
        self,
        net: Layer,
        input_shape: Shape,
        *,
        dtype: str = "float32",
        library: str = "numpy",
        seed: int = 0,
    ) -> None:
        self.net = check_layer("Model", net)
        sizes = parse.ints("Model", "input_shape", input_shape)
        self.input_shape = (sizes,) if isinstance(sizes, int) else sizes
        if any(n < 1 for n in self.input_shape):
            raise bad_value(
                "Model", "input_shape must be positive", self.input_shape,
                "leave the batch axis out: it may have any length",
            )  # fmt: skip
        self.dtype = check_dtype("Model", dtype)
        self.library, self.arena = library, Arena()
        self.seed, self.passes = check_count("Model", "seed", seed, 0), 0
        self.history: History | None = None
        self._b = backends.by_name("Model", library)
        maker = Maker(self._b, dtype, stream(self.seed))
        self.output_shape = net.build(self.input_shape, maker)

    @property
    def parameters(self) -> dict[str, Array]:
        """All parameters by path: ``"3.body.0.f"`` is the filter of layer 0 of layer 3's body."""
        return {f"{path}{k}": a for path, leaf in self.net.leaves() for k, a in
                leaf.parameters.items()}  # fmt: skip

    @property
    def state(self) -> dict[str, Array]:
        """All running statistics by path."""
        return {f"{path}{k}": a for path, leaf in self.net.leaves() for k, a in leaf.state.items()}

    def assign(self, arrays: dict[str, Array]) -> None:
        """Replace parameters or state by copies of given arrays.

        Parameters
        ----------
        arrays : dict of arrays
            Keyed by path; of the model's library and shapes, and of any float dtype.
        """
        current = self.parameters | self.state
        for name, a in arrays.items():
            if name not in current or tuple(current[name].shape) != tuple(a.shape):
                found = tuple(current[name].shape) if name in current else "no such array"
                raise bad_value(
                    "assign", "every array must have the name and the shape of one of the model's",
                    f"{name} {tuple(a.shape)}; the model has {found}", "see model.parameters",
                )  # fmt: skip
            backends.of("assign", ("model", name), current[name], a)
            check_float("assign", name, a, self._b)
        dtypes = {name: self._b.dtype_name(a) for name, a in current.items()}
        self.put({
            name: self._b.xp.asarray(self._b.astype(a, dtypes[name]), copy=True)
            for name, a in arrays.items()
        })  # fmt: skip

    def put(self, arrays: dict[str, Array]) -> None:
        """Replace parameters or state by given arrays, without checks and copies.

        Parameters
        ----------
        arrays : dict of arrays
            Keyed by path; the model uses these arrays themselves from now on.
        """
        for path, leaf in self.net.leaves():
            for group in (leaf.parameters, leaf.state):
                group.update({k: arrays[path + k] for k in group if path + k in arrays})

    def __call__(self, x: Array) -> Array:
        """Compute the output for one batch; nothing is kept for a backward pass.

        Parameters
        ----------
        x : array, shape (B, *input_shape)
            Floats, which are converted to the model's dtype; of the model's library.

        Returns
        -------
        array, shape (B, *output_shape)
            Output of the last layer.
        """
        return self.net.forward(self._input(x), Run(self._b))[0]

    def forward(
        self, x: Array, *, training: bool = True, rows: tuple[int, int] | None = None
    ) -> tuple[Array, Tape]:
        """Compute the output for one batch, and what `backward` needs.

        Parameters
        ----------
        x : array, shape (B, *input_shape)
            The input.
        training : bool
            True: use batch statistics and dropout. False: compute as in inference.
        rows : (int, int), optional
            The number of the first example in its batch, and the length of the batch, if x is a
            part of one: dropout then sets those elements to zero that it sets in the whole batch.

        Returns
        -------
        tuple
            The output, and a tape for `backward`.
        """
        return self._forward(x, training, self._b, rows)

    def _forward(
        self, x: Array, training: bool, b: Backend, rows: tuple[int, int] | None = None
    ) -> tuple[Array, Tape]:
        self.passes += 1
        rng = stream(self.seed, 1, self.passes)
        run = Run(b, training, True, rng, places=b is not self._b, rows=rows)
        y, kept = self.net.forward(self._input(x), run)
        return y, Tape(kept, run)

    def backward(
        self, gy: Array, tape: Tape, *, per_example: bool = False, inner: bool = False
    ) -> tuple[Array | None, Gradients]:
        """Compute the gradients of the parameters, and of the input on request.

        Parameters
        ----------
        gy : array, shape (B, *output_shape)
            The gradient of the output.
        tape : Tape
            From `forward`; it can be used once.
        per_example : bool
            True: return one gradient for each example, (B, *shape), instead of their sum.
        inner : bool
            True: compute the gradient of the input too.

        Returns
        -------
        tuple
            The gradient of the input (or None), and a dict of the gradients of the parameters.
        """
        run = replace(tape.run, per_example=per_example)
        return self.net.backward(gy, tape.kept, run, False, inner)

    def gradients(
        self, x: Array, t: Array, loss: Loss, *, per_example: bool = False
    ) -> tuple[float, Gradients]:
        """Compute the loss of one batch and its gradients, in training mode.

        Parameters
        ----------
        x, t : array
            Inputs and targets of one batch.
        loss : Loss
            The loss to differentiate.
        per_example : bool
            True: return the gradient of each example's own loss, (B, *shape); the mean of these
            is the gradient of the batch's loss.

        Returns
        -------
        tuple
            The loss, and a dict of gradients by path.
        """
        y, tape = self.forward(x)
        value, gy = loss.value_and_gradient(y, t)
        if per_example:
            gy = gy * y.shape[0]
        return float(value), self.backward(gy, tape, per_example=per_example)[1]

    def step(self, x: Array, t: Array, loss: Loss, optimiser: Optimiser) -> Array:
        """Do one training step; the values of t are not checked.

        Parameters
        ----------
        x, t : array
            Inputs and targets of one batch.
        loss : Loss
            The loss that is minimised.
        optimiser : Optimiser
            The optimiser that updates the parameters.

        Returns
        -------
        array
            The loss before the step, an array without axes on the model's device.
        """
        self.arena.begin()
        y, tape = self._forward(x, True, self.arena.backend(self._b))
        value, gy = loss.unchecked(y, t, self._b)
        run = replace(tape.run, per_example=False)
        gradients = self.net.backward(gy, tape.kept, run, True, False)[1]
        self.put(optimiser.step(self.parameters, gradients))
        return value

    def bring(self, x: Array) -> Array:
        """Copy a NumPy array to the model's library; return other arrays as they are.

        Parameters
        ----------
        x : array
            An array of any library.

        Returns
        -------
        array
            The copy, or x itself.
        """
        if self._b.traits.on_host:
            return x
        given = backends.of("Model", ("x",), x)
        return from_host(to_host(x), self._b) if given.traits.on_host else x

    def _input(self, x: Array) -> Array:
        found = backends.of("Model", ("x",), x)
        if found is not self._b:
            raise bad_value(
                "Model", f"x must be an array of {self._b.traits.library}, as the model is",
                f"one of {found.traits.library}", "move one of them: model.to(...)",
            )  # fmt: skip
        check_float("Model", "x", x, self._b)
        check_shape("Model", "x", x, self.input_shape)
        return self._b.astype(x, self.dtype)
