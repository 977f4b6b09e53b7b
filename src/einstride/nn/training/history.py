"""`History`: losses and metrics of each epoch, the result of `Model.fit`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """Losses and metrics of each epoch of a training run, and why it ended.

    Parameters
    ----------
    epochs : list of dict
        ``"loss"`` (the mean over the steps), ``"val_loss"``, and ``"val_NAME"`` for every metric.
    held : int
        The epoch whose parameters the model holds; 0: the parameters before training.
    stopped : str
        Why training ended, as a sentence.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    held: int = 0
    stopped: str = ""
