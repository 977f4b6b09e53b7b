"""Compute steps of training by shards: the examples of a batch that one task takes.

    parameters --+-----------+-----------+
                 |           |           |
    batch     shard 0     shard 1     shard 2
                 |           |           |
              gradient    gradient    gradient --- added in one order ---> optimiser

The gradient of a shard is a function of the parameters and of the shard alone, which any process
may compute, and compute again. The optimiser and the parameters stay in the process of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING, Any

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.nn.layer import Gradients
from einstride.nn.training.batches import Batches
from einstride.nn.training.losses import Loss
from einstride.nn.training.optimiser import Optimiser
from einstride.support.errors import bad_type, bad_value, shown

if TYPE_CHECKING:
    from einstride.nn.built import BaseModel

Shard = tuple[Array, Array]
"""Inputs and targets of some examples of a batch."""


class SplitBatches:
    """Split each batch of arrays into shards of nearly equal lengths."""

    def __init__(self, batches: Batches, count: int) -> None:
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Shard]]:
        for x, t in self._batches:
            n = x.shape[0]
            count = min(self._count, n)
            ends = [i * n // count for i in range(count + 1)]
            yield [(x[lo:hi, ...], t[lo:hi, ...]) for lo, hi in pairwise(ends)]


class GroupedShards:
    """Form each batch from a number of consecutive shards that the caller gives."""

    def __init__(
        self, data: Iterable[Shard], count: int, epochs: int, check: Callable[..., None]
    ) -> None:
        try:
            once = iter(data) is data
        except TypeError:
            raise bad_type(
                "fit", "data must be a pair (x, t) of arrays, or an iterable of such pairs",
                shown(data), "e.g. data=(x, t)",
            ) from None  # fmt: skip
        if once and epochs > 1:
            raise bad_value(
                "fit", "data must be readable once for each epoch",
                f"an iterator and epochs={epochs}",
                "give a list, or an object whose __iter__ begins anew",
            )  # fmt: skip
        self._data, self._count, self._check = data, count, check

    def __len__(self) -> int:
        data: Any = self._data
        return -(-len(data) // self._count)

    def __iter__(self) -> Iterator[list[Shard]]:
        given, shards = 0, iter(self._data)
        while group := list(islice(shards, self._count)):
            for shard in group:
                if not isinstance(shard, tuple | list) or len(shard) != 2:
                    raise bad_type(
                        "fit", "every shard must be a pair (x, t) of arrays",
                        f"shard {given}: {shown(shard)}", "yield x, t",
                    )  # fmt: skip
                self._check(*shard)
                given += 1
            yield [(x, t) for x, t in group]
        if not given:
            raise bad_value("fit", "there must be a shard in each epoch", "none", "give data")


class ShardStep:
    """Do one training step by shards, which Dask computes, and return the loss before it.

    Parameters
    ----------
    model, loss, optimiser : BaseModel, Loss, Optimiser
        What is trained, the loss that is minimised, and what updates the parameters.
    cluster : object
        The client of a cluster or the name of a scheduler of Dask; None for Dask's own choice.
    several : bool
        True if a batch has more than one shard.
    """

    def __init__(
        self, model: BaseModel, loss: Loss, optimiser: Optimiser, cluster: Any, several: bool
    ) -> None:
        mixing = [leaf.place for _, leaf in model.net.leaves() if leaf.state]
        if several and mixing:
            raise bad_value(
                "fit", "a layer with statistics of the whole batch cannot be trained by shards",
                mixing[0], "leave it out, or pass shards=1: one task for each batch",
            )  # fmt: skip
        self._model, self._loss, self._optimiser = model, loss, optimiser
        self._cluster = cluster
        self._reduce = backends.by_name("fit", "dask").exchange.reduce_batches  # type: ignore[union-attr]

    def __call__(self, shards: Sequence[Shard]) -> tuple[Array, int]:
        """Return the loss of the batch, and its number of examples."""
        model = self._model
        ends = list(accumulate((x.shape[0] for x, _ in shards), initial=0))
        work = _GradientOfShard(model, self._loss, ends[-1])
        parts = [(lo, x, t) for lo, (x, t) in zip(ends, shards, strict=False)]
        found: _Sums = self._reduce(work, _added, parts, self._cluster)  # type: ignore[misc]
        model.passes += 1
        model.put(found.state)
        model.put(self._optimiser.step(model.parameters, found.gradients))
        return found.loss, ends[-1]


@dataclass(frozen=True)
class _Sums:
    """The sums over examples of a batch: each divided by the number of examples of the batch."""

    loss: Array
    gradients: Gradients
    state: dict[str, Array]


@dataclass(frozen=True)
class _GradientOfShard:
    """Compute a shard's part of the loss and of the gradients, by a copy of the model."""

    model: BaseModel
    loss: Loss
    examples: int

    def __call__(self, start: int, x: Array, t: Array) -> _Sums:
        """Return the sums over a shard, whose first example is number `start` of the batch."""
        model = deepcopy(self.model)
        x, t = model.bring(x), model.bring(t)
        y, tape = model.forward(x, rows=(start, self.examples))
        value, gy = self.loss.value_and_gradient(y, t)
        share = x.shape[0] / self.examples
        return _Sums(value * share, model.backward(gy * share, tape)[1], model.state)


def _added(parts: Sequence[_Sums]) -> _Sums:
    """Add sums in the order in which they are given."""
    loss, gradients = parts[0].loss, parts[0].gradients
    for part in parts[1:]:
        loss = loss + part.loss
        gradients = {name: g + part.gradients[name] for name, g in gradients.items()}
    return _Sums(loss, gradients, parts[0].state)
