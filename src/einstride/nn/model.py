"""A model: a network built for one input shape, that can be trained, tested and asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.nn import files
from einstride.nn.arena import Arena
from einstride.nn.arrays import count
from einstride.nn.built import Built
from einstride.nn.layer import check_dtype
from einstride.nn.training import fitting
from einstride.nn.training.history import History
from einstride.nn.training.losses import Loss
from einstride.nn.training.metrics import Metric
from einstride.nn.training.optimiser import Optimiser


class Model(Built):
    """A network that is built: every shape is checked here, before any array is seen.

    A copy (``copy.deepcopy``, ``pickle``) has arrays of its own, and holds no batch. Optimisers are
    copied apart: they find parameters by name, and look at the values they are given.

    Parameters
    ----------
    net : Layer
        Usually a `Sequential`.
    input_shape : tuple of int
        The shape of one example, without the batch axis.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of parameters and of what goes through the layers. Sums over halves are formed in float32;
        normalisation and optimisers keep their own arrays in float32.
    library : str
        "numpy", "cupy", "array_api_strict", ...
    seed : int
        Of all random numbers, which are the same for every library.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        Of one example.
    dtype, library : str
        As above.
    history : History or None
        Of the last `fit`.

    Raises
    ------
    ValueError, TypeError
        If layers do not fit together, with the place and the kind of the layer.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> net = nn.Sequential(nn.Conv(4, 3), nn.ReLU(), nn.GlobalAvgPool(), nn.Dense(2))
    >>> model = nn.Model(net, input_shape=(8, 8, 1))
    >>> x, t = np.ones((6, 8, 8, 1), "float32"), np.array([0, 1, 0, 1, 0, 1])
    >>> history = model.fit(x, t, nn.CrossEntropy(), nn.Adam(), epochs=2, progress=False)
    >>> model(x).shape, len(history.epochs)
    ((6, 2), 2)
    """

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: the library's own functions are found again by its name."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_b", "arena")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, with memory of its own for training steps."""
        self.__dict__.update(state)
        self._b, self.arena = backends.by_name("Model", self.library), Arena()

    def to(self, library: str | None = None, *, dtype: str | None = None) -> Self:
        """Move parameters and state to another library or dtype, in place.

        Parameters
        ----------
        library : str, optional
            "numpy", "cupy", ...
        dtype : str, optional
            As in the constructor.

        Returns
        -------
        Model
            The model itself.
        """
        b = backends.by_name("to", self.library if library is None else library)
        kind = self.dtype if dtype is None else check_dtype("to", dtype)
        files.move(self, b, kind)
        self._b, self.dtype = b, kind
        self.library = self.library if library is None else library
        return self

    def save(self, path: str | os.PathLike[str], optimiser: Optimiser | None = None) -> None:
        """Write parameters and state to a file, whole or not at all.

        Parameters
        ----------
        path : path
            Ending in .npz, or in .safetensors where that library is installed.
        optimiser : Optimiser, optional
            Its running arrays are saved too.
        """
        files.save(self, path, optimiser)

    def load(self, path: str | os.PathLike[str], optimiser: Optimiser | None = None) -> None:
        """Read parameters and state from a file; they are brought to the model's dtype.

        Parameters
        ----------
        path : path
            What `save` wrote.
        optimiser : Optimiser, optional
            Of the kind that was saved; it goes on where it was.

        Raises
        ------
        ValueError
            If the file is damaged or of another model: nothing is changed then.
        """
        files.load(self, path, optimiser)

    def fit(
        self,
        x: Array,
        t: Array,
        loss: Loss,
        optimiser: Optimiser,
        *,
        epochs: int = 10,
        batch_size: int = 64,
        shuffle: bool = True,
        validation: tuple[Array, Array] | None = None,
        metrics: Sequence[Metric] = (),
        schedule: Callable[[float], float] | None = None,
        patience: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> History:
        """Train.

        Parameters
        ----------
        x : array, shape (N, *input_shape)
            Inputs. NumPy arrays are moved to the model's library, batch by batch.
        t : array, shape (N, ...)
            Targets.
        loss : Loss
            What is to be small.
        optimiser : Optimiser
            What moves the parameters.
        epochs : int
            Passes over all examples.
        batch_size : int
            Examples in one step; the last batch may be smaller.
        shuffle : bool
            True: in random order.
        validation : tuple (x, t), optional
            Examples that are not trained on: their loss and metrics are measured each epoch.
        metrics : sequence of callables
            As `accuracy`: measured on the validation examples.
        schedule : callable, optional
            Of the share of steps done, in [0, 1): the factor of the learning rate.
        patience : int, optional
            Stop after so many epochs without a smaller loss (that of the validation examples, if
            there are any), and keep the best parameters.
        checkpoint : path, optional
            Saved after every epoch with the smallest loss so far.
        progress : bool
            On standard error.

        Returns
        -------
        History
            The figures of every epoch, and why training ended.

        Raises
        ------
        ValueError, TypeError
            If the data do not fit the model, before any step.
        KeyboardInterrupt
            On Ctrl-C, saying which epoch the model holds: the parameters are those after the last
            whole epoch.

        Warns
        -----
        RuntimeWarning
            If the loss or a parameter is no longer finite: training stops, and the parameters are
            those after the last good epoch.
        """
        save = None if checkpoint is None else partial(self.save, checkpoint)
        options = fitting.Options(
            epochs, batch_size, shuffle, validation, tuple(metrics), schedule, patience,
            save, progress,
        )  # fmt: skip
        return fitting.fit(self, x, t, loss, optimiser, options)

    def evaluate(
        self,
        x: Array,
        t: Array,
        loss: Loss,
        *,
        metrics: Sequence[Metric] = (),
        batch_size: int = 256,
    ) -> dict[str, float]:
        """The loss and the metrics over a data set.

        Parameters
        ----------
        x, t : array
            Inputs and targets.
        loss : Loss
            Under "loss" in the result.
        metrics : sequence of callables
            Under their names.
        batch_size : int
            Examples at once.

        Returns
        -------
        dict
            Means over all examples.
        """
        return fitting.evaluate(self, x, t, loss, metrics, batch_size)

    def predict(self, x: Array, *, batch_size: int = 256) -> Array:
        """The outputs for many examples, a batch at a time.

        Parameters
        ----------
        x : array, shape (N, *input_shape)
            Inputs.
        batch_size : int
            Examples at once.

        Returns
        -------
        array, shape (N, *output_shape)
            Scores.
        """
        size = count("predict", "batch_size", batch_size)
        starts = range(0, max(x.shape[0], 1), size)
        parts = [self(self.bring(x[lo : lo + size, ...])) for lo in starts]
        return self._b.xp.concat(parts, axis=0)
