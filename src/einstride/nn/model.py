"""`Model`: a network that is built for one input shape, and can be trained and evaluated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Self

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.nn import files
from einstride.nn.arena import Arena
from einstride.nn.arrays import check_count, check_shape
from einstride.nn.built import BaseModel
from einstride.nn.layer import check_dtype
from einstride.nn.training import fitting
from einstride.nn.training.history import History
from einstride.nn.training.losses import Loss
from einstride.nn.training.metrics import Metric
from einstride.nn.training.optimiser import Optimiser
from einstride.support.errors import bad_type


class Model(BaseModel):
    """A network that is built for one input shape: all shapes are checked before it sees an array.

    A copy (``copy.deepcopy``, ``pickle``) has its own arrays and no data of a batch. Optimisers are
    copied separately: they find parameters by name.

    Parameters
    ----------
    net : Layer
        Usually a `Sequential`.
    input_shape : tuple of int
        The shape of one example, without the batch axis.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of parameters and activations. Sums over float16 and bfloat16 are formed in float32;
        normalisation and optimisers keep their own arrays in float32.
    library : str
        "numpy", "cupy", "array_api_strict", ...
    seed : int
        Seed of all random numbers, which are the same for every library.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        Of one example.
    dtype, library : str
        As above.
    history : History or None
        Losses and metrics of the last `fit`.

    Raises
    ------
    ValueError, TypeError
        If layers do not fit together; the text names the layer by index and type.

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
        """Return the state of a copy, without backend and arena: they are made anew from names."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_b", "arena")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, with the backend found by its name and a new arena."""
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
        """Write parameters and state to a file, atomically.

        Parameters
        ----------
        path : path
            Ending in .npz, or in .safetensors where that library is installed.
        optimiser : Optimiser, optional
            Its running arrays are saved too.
        """
        files.save(self, path, optimiser)

    def load(self, path: str | os.PathLike[str], optimiser: Optimiser | None = None) -> None:
        """Read parameters and state from a file and convert them to the model's dtype.

        Parameters
        ----------
        path : path
            A file that `save` wrote.
        optimiser : Optimiser, optional
            An optimiser of the saved type; it continues from the saved running arrays.

        Raises
        ------
        ValueError
            If the file is damaged or of another model; the model is left unchanged.
        """
        files.load(self, path, optimiser)

    def fit(
        self,
        x: Array | None = None,
        t: Array | None = None,
        loss: Loss | None = None,
        optimiser: Optimiser | None = None,
        *,
        data: tuple[Array, Array] | Iterable[tuple[Array, Array]] | None = None,
        epochs: int = 10,
        batch_size: int = 64,
        shuffle: bool = True,
        validation: tuple[Array, Array] | None = None,
        metrics: Sequence[Metric] = (),
        schedule: Callable[[float], float] | None = None,
        patience: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
        cluster: Any = None,
        shards: int = 8,
    ) -> History:
        r"""Train the model on examples x with targets t.

        With Dask arrays, shards or a cluster each step is data-parallel: tasks of Dask compute the
        gradients of the shards of a batch, this process adds them and updates the parameters,

        .. math:: g = \sum_i \frac{n_i}{n} g_i

        in an order that follows from the number of shards alone. The parameters are those of the
        same batches in one process up to rounding, and have the same bits in every run. Dropout
        sets the same elements to zero; batch normalisation needs ``shards=1``.

        Parameters
        ----------
        x : array, shape (N, *input_shape)
            Inputs. NumPy arrays are moved to the model's library, batch by batch. Of a Dask array
            each step reads the chunks that hold examples of its batch.
        t : array, shape (N, ...)
            Targets.
        loss : Loss
            The loss that is minimised.
        optimiser : Optimiser
            The optimiser that updates the parameters.
        data : (x, t), or iterable of pairs (x, t), optional
            In place of `x` and `t`: both of them, or an iterable of shards, of which `shards`
            consecutive ones form a batch. `batch_size` and `shuffle` are not used for shards, which
            come in the order of the iterable, begun anew for each epoch.
        epochs : int
            Passes over all examples.
        batch_size : int
            Examples in one step; the last batch may be smaller.
        shuffle : bool
            True: in a new random order each epoch.
        validation : tuple (x, t), optional
            Examples that are not trained on: their loss and metrics are measured each epoch.
        metrics : sequence of callables
            Functions such as `accuracy`, evaluated on the validation examples.
        schedule : callable, optional
            Maps the fraction of steps done, in [0, 1), to a factor of the learning rate.
        patience : int, optional
            Stop after this number of epochs without a smaller loss (the validation loss, if there
            is one), and keep the best parameters.
        checkpoint : path, optional
            File that is written after every epoch with the smallest loss so far.
        progress : bool
            True: report progress on standard error.
        cluster : client or str, optional
            The client of a Dask cluster, or the name of a scheduler of Dask ("threads", ...), which
            computes the shards of each batch. By default Dask's own choice for Dask arrays and
            shards, and no shards for other arrays. If a worker is lost, another one computes its
            shards.
        shards : int
            Shards of a batch: tasks that may run at once. Another number changes the order of sums,
            and so the last bits of the parameters; the number of workers does not.

        Returns
        -------
        History
            Losses and metrics of every epoch, and why training ended.

        Raises
        ------
        ValueError, TypeError
            If the data do not fit the model, before any step; values of targets in Dask arrays, and
            shards of an iterable, are checked in their step.
        KeyboardInterrupt
            On Ctrl-C; the text says which epoch the model holds. The parameters are those after
            the last complete epoch.

        Warns
        -----
        RuntimeWarning
            If the loss or a parameter is no longer finite: training stops, and the parameters of
            the last finite epoch are restored.
        """
        if loss is None or optimiser is None:
            missing = "loss" if loss is None else "optimiser"
            raise bad_type("fit", f"{missing} must be given", None, "e.g. nn.L2() and nn.Adam()")
        if (data is None) == (x is None) or (x is None) != (t is None):
            raise bad_type(
                "fit", "either x and t or data must be given",
                ", ".join(k for k, v in (("x", x), ("t", t), ("data", data)) if v is not None)
                or "none of them", "fit(x, t, ...), or fit(data=..., ...)",
            )  # fmt: skip
        save = None if checkpoint is None else partial(self.save, checkpoint)
        options = fitting.Options(
            epochs, batch_size, shuffle, validation, tuple(metrics), schedule, patience,
            save, progress, shards, cluster,
        )  # fmt: skip
        return fitting.fit(self, (x, t) if data is None else data, loss, optimiser, options)

    def evaluate(
        self,
        x: Array,
        t: Array,
        loss: Loss,
        *,
        metrics: Sequence[Metric] = (),
        batch_size: int = 256,
    ) -> dict[str, float]:
        """Return the mean loss and metrics over a data set.

        Parameters
        ----------
        x, t : array
            Inputs and targets; chunks of examples of Dask arrays are computed by Dask's scheduler.
        loss : Loss
            Its mean is returned under the key "loss".
        metrics : sequence of callables
            Their means are returned under their ``__name__``.
        batch_size : int
            Examples at once.

        Returns
        -------
        dict
            Means over all examples.
        """
        return fitting.evaluate(self, x, t, loss, metrics, batch_size)

    def predict(self, x: Array, *, batch_size: int = 256) -> Array:
        """Return the outputs for many examples, computed in batches.

        Parameters
        ----------
        x : array, shape (N, *input_shape)
            Inputs; of a Dask array, each chunk of examples is a task.
        batch_size : int
            Examples at once.

        Returns
        -------
        array, shape (N, *output_shape)
            Outputs of the last layer; a Dask array, computed later by a copy of the model as it is
            now, if x is one.
        """
        size = check_count("predict", "batch_size", batch_size)
        exchange = backends.of("predict", ("x",), x).exchange
        if exchange is not None and exchange.map_batches is not None:
            check_shape("predict", "x", x, self.input_shape)
            outputs = partial(deepcopy(self).predict, batch_size=size)
            return exchange.map_batches(outputs, (x,), self.output_shape, self.dtype)
        starts = range(0, max(x.shape[0], 1), size)
        parts = [self(self.bring(x[lo : lo + size, ...])) for lo in starts]
        return self._b.xp.concat(parts, axis=0)
