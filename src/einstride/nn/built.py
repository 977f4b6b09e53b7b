"""A network built for one input shape: its parameters, its passes, one training step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arena import Arena
from einstride.nn.arrays import Shape, check_float, check_shape, count, device, host
from einstride.nn.layer import Gradients, Layer, Maker, Run, check_dtype
from einstride.nn.layers.compose import check_layer
from einstride.nn.random import stream
from einstride.nn.training.history import History
from einstride.nn.training.losses import Loss
from einstride.nn.training.optimiser import Optimiser
from einstride.support.errors import bad_value


@dataclass(frozen=True)
class Tape:
    """What a forward pass leaves for the backward one; it can be used once."""

    kept: Any
    run: Run


class Built:
    """What `Model` is made of: parameters, one pass forward and back, one training step."""

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
        self.seed, self.passes = count("Model", "seed", seed, 0), 0
        self.history: History | None = None
        self._b = backends.by_name("Model", library)
        maker = Maker(self._b, dtype, stream(self.seed))
        self.output_shape = net.build(self.input_shape, maker)

    @property
    def parameters(self) -> dict[str, Array]:
        """What is learned, by path: ``"3.body.0.f"`` is the filter of layer 0 of a body."""
        return {f"{path}{k}": a for path, leaf in self.net.leaves() for k, a in
                leaf.parameters.items()}  # fmt: skip

    @property
    def state(self) -> dict[str, Array]:
        """Running statistics, by path."""
        return {f"{path}{k}": a for path, leaf in self.net.leaves() for k, a in leaf.state.items()}

    def assign(self, arrays: dict[str, Array]) -> None:
        """Copy arrays into the place of parameters or state.

        Parameters
        ----------
        arrays : dict of arrays
            By path, of the model's library and of the shapes there; any float dtype.
        """
        mine = self.parameters | self.state
        for name, a in arrays.items():
            if name not in mine or tuple(mine[name].shape) != tuple(a.shape):
                found = tuple(mine[name].shape) if name in mine else "no such array"
                raise bad_value(
                    "assign", "every array must have the name and the shape of one of the model's",
                    f"{name} {tuple(a.shape)}; the model has {found}", "see model.parameters",
                )  # fmt: skip
            backends.of("assign", ("model", name), mine[name], a)
            check_float("assign", name, a, self._b)
        kinds = {name: self._b.dtype_name(a) for name, a in mine.items()}
        self.put({
            name: self._b.xp.asarray(self._b.astype(a, kinds[name]), copy=True)
            for name, a in arrays.items()
        })  # fmt: skip

    def put(self, arrays: dict[str, Array]) -> None:
        """The same without a check or a copy: the arrays are the model's from now on.

        Parameters
        ----------
        arrays : dict of arrays
            By path.
        """
        for path, leaf in self.net.leaves():
            for group in (leaf.parameters, leaf.state):
                group.update({k: arrays[path + k] for k in group if path + k in arrays})

    def __call__(self, x: Array) -> Array:
        """The output for a batch, as `predict` without batches: nothing is kept.

        Parameters
        ----------
        x : array, shape (B, *input_shape)
            Floats, which are brought to the model's dtype; of the model's library.

        Returns
        -------
        array, shape (B, *output_shape)
            Scores.
        """
        return self.net.forward(self._input(x), Run(self._b))[0]

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Tape]:
        """The output for a batch, and what `backward` needs.

        Parameters
        ----------
        x : array, shape (B, *input_shape)
            The input.
        training : bool
            Batch statistics and dropout; False: as in inference.

        Returns
        -------
        tuple
            The output, and a tape for `backward`.
        """
        return self._forward(x, training, self._b)

    def _forward(self, x: Array, training: bool, b: Backend) -> tuple[Array, Tape]:
        self.passes += 1
        run = Run(b, training, True, stream(self.seed, 1, self.passes), places=b is not self._b)
        y, kept = self.net.forward(self._input(x), run)
        return y, Tape(kept, run)

    def backward(
        self, gy: Array, tape: Tape, *, per_example: bool = False, inner: bool = False
    ) -> tuple[Array | None, Gradients]:
        """The gradients of the parameters, and of the input if asked for.

        Parameters
        ----------
        gy : array, shape (B, *output_shape)
            The gradient of the output.
        tape : Tape
            From `forward`; it can be used once.
        per_example : bool
            True: a gradient for each example, (B, *shape), not their sum.
        inner : bool
            True: the gradient of the input too.

        Returns
        -------
        tuple
            The gradient of the input (or None), and a dict of those of the parameters.
        """
        run = replace(tape.run, per_example=per_example)
        return self.net.backward(gy, tape.kept, run, False, inner)

    def gradients(
        self, x: Array, t: Array, loss: Loss, *, per_example: bool = False
    ) -> tuple[float, Gradients]:
        """The loss of a batch and its gradients, while training.

        Parameters
        ----------
        x, t : array
            A batch.
        loss : Loss
            What is to be small.
        per_example : bool
            True: the gradient of each example's own loss, (B, *shape); their mean is the
            gradient of the batch's.

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
        """One step of training; the values of t are not looked at.

        Parameters
        ----------
        x, t : array
            A batch.
        loss : Loss
            What is to be small.
        optimiser : Optimiser
            What moves the parameters.

        Returns
        -------
        array
            The loss before the step, without axes, on the device.
        """
        self.arena.begin()
        y, tape = self._forward(x, True, self.arena.of(self._b))
        value, gy = loss.unchecked(y, t, self._b)
        run = replace(tape.run, per_example=False)
        gradients = self.net.backward(gy, tape.kept, run, True, False)[1]
        self.put(optimiser.step(self.parameters, gradients))
        return value

    def bring(self, x: Array) -> Array:
        """A NumPy array in the model's library; other arrays as they are.

        Parameters
        ----------
        x : array
            Any.

        Returns
        -------
        array
            Of the model's library, or x.
        """
        if self._b.traits.on_host:
            return x
        theirs = backends.of("Model", ("x",), x)
        return device(host(x), self._b) if theirs.traits.on_host else x

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
