"""The training loop: epochs, validation, early stopping, and recovery from errors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.nn.arrays import check_count, check_float, check_shape
from einstride.nn.training.batches import Batches, is_lazy
from einstride.nn.training.history import History
from einstride.nn.training.losses import Loss
from einstride.nn.training.metrics import Metric
from einstride.nn.training.optimiser import Optimiser
from einstride.nn.training.progress import Progress
from einstride.nn.training.shards import GroupedShards, ShardStep, SplitBatches
from einstride.support.errors import bad_value

if TYPE_CHECKING:
    from einstride.nn.built import BaseModel

CHECK_INTERVAL = 16
"""Steps between tests that a loss on a device is finite. Each test waits for the device; a longer
interval finds a diverged loss later, at the latest at the end of the epoch."""


@dataclass(frozen=True)
class Options:
    """The keywords of `Model.fit`, with `save` writing the checkpoint."""

    epochs: int
    batch_size: int
    shuffle: bool
    validation: tuple[Array, Array] | None
    metrics: tuple[Metric, ...]
    schedule: Callable[[float], float] | None
    patience: int | None
    save: Callable[[], object] | None
    progress: bool
    shards: int
    cluster: Any


class _NotFiniteError(Exception):
    """The loss is NaN or infinite."""


def fit(model: BaseModel, data: Any, loss: Loss, optimiser: Optimiser, o: Options) -> History:
    """Train a model on a pair of arrays, or on an iterable of shards: see `Model.fit`."""
    check_count("fit", "epochs", o.epochs)
    batches, step = _prepare(model, data, loss, optimiser, o)
    if o.validation is not None:
        _check_data(model, *o.validation, loss)
    if o.patience is not None:
        check_count("fit", "patience", o.patience)
    history = model.history = History()
    steps = _length(batches)
    if steps is None and o.schedule is not None:
        raise bad_value("fit", "a schedule needs the number of steps", "data without a length",
                        "give data with a length, e.g. a list")  # fmt: skip
    progress = Progress(None if steps is None else o.epochs * steps, o.progress)
    rate = optimiser.rate
    good = best = _Snapshot(model, 0)
    least = math.inf
    try:
        for epoch in range(1, o.epochs + 1):
            with np.errstate(over="ignore", invalid="ignore"):  # `_epoch` reports it
                value = _epoch(model, batches, step, optimiser, o, rate, epoch, progress)
            figures = {"loss": value}
            if o.validation is not None:
                found = evaluate(model, *o.validation, loss, o.metrics, o.batch_size, o.cluster)
                figures |= {f"val_{k}": v for k, v in found.items()}
            good = _Snapshot(model, epoch)
            history.epochs.append(figures)
            history.held = epoch
            progress.say(_epoch_line(epoch, o.epochs, figures))
            watched = figures.get("val_loss", value)
            if watched < least:
                least, best = watched, good
                if o.save is not None:
                    o.save()
            elif o.patience is not None and epoch - best.epoch >= o.patience:
                history.stopped = (
                    f"no smaller loss for {o.patience} epochs; the model holds epoch {best.epoch}"
                )
                break
        else:
            history.stopped = f"all {o.epochs} epochs are done"
        if o.patience is not None and best.epoch:
            good = best
            history.held = best.restore(model)
    except _NotFiniteError as error:
        history.held = good.restore(model)
        optimiser.reset()
        history.stopped = (
            f"{error} in epoch {good.epoch + 1}; the model holds {_describe(good)}; "
            "try a smaller learning rate, and look for NaN in the data"
        )
        progress.say(history.stopped)
        warnings.warn(f"fit: {history.stopped}", RuntimeWarning, stacklevel=3)
    except KeyboardInterrupt:
        history.held = good.restore(model)
        optimiser.reset()
        history.stopped = (
            f"interrupted in epoch {good.epoch + 1}; the model holds {_describe(good)}"
        )
        raise KeyboardInterrupt(f"fit: {history.stopped}") from None
    finally:
        optimiser.rate = rate
        model.arena.clear()
        progress.close()
    return history


def _prepare(
    model: BaseModel, data: Any, loss: Loss, optimiser: Optimiser, o: Options
) -> tuple[Any, Callable[[Any], tuple[Array, int]]]:
    """Return the batches of an epoch, and the function that does the step of one."""
    shards = check_count("fit", "shards", o.shards)

    def check(x: Array, t: Array) -> None:
        _check_chunks(x, t)
        _check_data(model, x, t, loss)

    if not (isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "shape")):
        grouped = GroupedShards(data, shards, o.epochs, check)
        return grouped, ShardStep(model, loss, optimiser, o.cluster, shards > 1)
    x, t = data
    lazy = _check_chunks(x, t)
    batches = Batches(x, t, o.batch_size, shuffle=o.shuffle, seed=model.seed)
    check(x, t)
    if lazy or o.cluster is not None:
        step = ShardStep(model, loss, optimiser, o.cluster, shards > 1)
        return SplitBatches(batches, shards), step

    def whole(batch: tuple[Array, Array]) -> tuple[Array, int]:
        x, t = batch
        return model.step(model.bring(x), model.bring(t), loss, optimiser), x.shape[0]

    return batches, whole


def _length(batches: Any) -> int | None:
    """Return the number of batches, or None if the caller's data have no length."""
    try:
        return len(batches)
    except TypeError:
        return None


def _epoch(
    model: BaseModel,
    batches: Any,
    step: Callable[[Any], tuple[Array, int]],
    optimiser: Optimiser,
    o: Options,
    rate: float,
    epoch: int,
    progress: Progress,
) -> float:
    """Train on every batch once; return the mean loss, raise `_NotFiniteError` if it diverges."""
    total: Any = 0.0
    examples, every = 0, CHECK_INTERVAL if model._b.traits.has_streams else 1
    for number, batch in enumerate(batches):
        if o.schedule is not None:
            done = ((epoch - 1) * len(batches) + number) / (o.epochs * len(batches))
            optimiser.rate = rate * o.schedule(done)
        value, n = step(batch)
        examples += n
        total = total + value * n  # stays on its device
        if number % every == 0 and not math.isfinite(float(total)):
            raise _NotFiniteError(f"the loss is {float(value)}")
        progress.step()
    mean: float = float(total) / examples
    if not math.isfinite(mean):
        raise _NotFiniteError(f"the loss is {mean}")
    for name, p in model.parameters.items():
        xp = backends.of("fit", ("p",), p).xp
        if not bool(xp.all(xp.isfinite(p))):
            raise _NotFiniteError(f"parameter {name} is no longer finite")
    return mean


def evaluate(
    model: BaseModel, x: Array, t: Array, loss: Loss, metrics: Sequence[Metric], batch_size: int,
    cluster: Any = None,
) -> dict[str, float]:  # fmt: skip
    """Compute the mean loss and metrics: see `Model.evaluate`."""
    b = backends.of("evaluate", ("x",), x)
    if b.exchange is not None and b.exchange.map_batches is not None and b.exchange.values:
        check_shape("evaluate", "x", x, model.input_shape)
        of_chunk = _ChunkSums(deepcopy(model), loss, tuple(metrics), batch_size)
        rows = b.exchange.map_batches(of_chunk, (x, t), (1 + len(metrics),), "float64", 1)
        sums = b.exchange.values(rows, cluster).sum(axis=0)
        names = ["loss", *map(_metric_name, metrics)]
        return {name: float(v) / x.shape[0] for name, v in zip(names, sums, strict=True)}
    return {k: v / x.shape[0] for k, v in _sums(model, x, t, loss, metrics, batch_size).items()}


def _sums(
    model: BaseModel, x: Array, t: Array, loss: Loss, metrics: Sequence[Metric], batch_size: int
) -> dict[str, float]:
    """Return the sums of losses and metrics over the examples."""
    sums: dict[str, float] = {}
    for part, target in Batches(x, t, batch_size, shuffle=False):
        y, target = model(model.bring(part)), model.bring(target)
        found = {"loss": loss(y, target)}
        found |= {_metric_name(m): float(m(y, target)) for m in metrics}
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value * part.shape[0]
    return sums


def _metric_name(metric: Metric) -> str:
    return getattr(metric, "__name__", repr(metric))


@dataclass(frozen=True)
class _ChunkSums:
    """Compute the sums of losses and metrics over a chunk of examples, as a row of numbers."""

    model: BaseModel
    loss: Loss
    metrics: tuple[Metric, ...]
    batch_size: int

    def __call__(self, x: Array, t: Array) -> Any:
        found = _sums(self.model, x, t, self.loss, self.metrics, self.batch_size)
        return np.array([list(found.values())])


class _Snapshot:
    """A copy of a model's parameters and state after an epoch."""

    def __init__(self, model: BaseModel, epoch: int) -> None:
        self.epoch = epoch
        self._arrays = {
            name: backends.of("fit", ("p",), a).xp.asarray(a, copy=True)
            for name, a in (model.parameters | model.state).items()
        }

    def restore(self, model: BaseModel) -> int:
        """Copy the arrays back into the model, and return the epoch that they are from."""
        model.assign(self._arrays)
        return self.epoch


def _check_chunks(x: Array, t: Array) -> bool:
    """Return True if x or t is computed later; raise ValueError if its chunks have no sizes."""
    found = False
    for name, a in (("x", x), ("t", t)):
        b = backends.of("fit", (name,), a)
        if is_lazy(b) and b.exchange is not None:
            b.exchange.check("fit", (name,), (a,))
            found = True
    return found


def _check_data(model: BaseModel, x: Array, t: Array, loss: Loss) -> None:
    """Check the shape and dtype of x and all targets, before the first training step."""
    b = backends.of("fit", ("x",), x)
    check_float("fit", "x", x, b)
    n = check_shape("fit", "x", x, model.input_shape)
    if t.shape[0] != n:
        raise bad_value("fit", "x and t must have as many examples", f"{n} and {t.shape[0]}",
                        "one target for each input")  # fmt: skip
    targets = backends.of("fit", ("t",), t)
    if is_lazy(targets):  # the tasks look at the values
        n, t = 1, np.zeros((1, *t.shape[1:]), targets.dtype_name(t))
        targets = backends.of("fit", ("t",), t)
    y = targets.zeros((n, *model.output_shape), "float32", t)
    loss.check(y, t)


def _epoch_line(epoch: int, epochs: int, figures: dict[str, float]) -> str:
    text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    return f"epoch {epoch}/{epochs}: {text}"


def _describe(good: _Snapshot) -> str:
    if not good.epoch:
        return "the parameters from before the first epoch"
    return f"the parameters after epoch {good.epoch}"
