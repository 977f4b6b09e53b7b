"""The optimisers: each defines its running arrays and one update of a parameter."""

from __future__ import annotations

from math import sqrt

from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.nn.training.optimiser import Arithmetic, Optimiser, check_fraction, check_positive


class SGD(Optimiser):
    """Steps down the gradient: ``p -= rate * (g + decay * p)``.

    Parameters
    ----------
    rate : float
        The learning rate.
    decay : float
        Weight decay.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.SGD(0.5).step({"w": np.ones(1)}, {"w": np.ones(1)})
    {'w': array([0.5])}
    """

    def __init__(self, rate: float = 0.01, *, decay: float = 0.0) -> None:
        super().__init__(rate)
        self.decay = check_positive("SGD", "decay", decay, True)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        if self.decay:
            g = g + self.decay * p
        return (ops.add(p, g * -self.rate),)


class Momentum(Optimiser):
    """Steps down a running sum of gradients: ``v = momentum * v + g; p -= rate * v``.

    Parameters
    ----------
    rate : float
        The learning rate.
    momentum : float
        Factor of the running sum in each step.
    nesterov : bool
        True: step along ``g + momentum * v`` (Nesterov, as PyTorch's).
    decay : float
        Weight decay, added to the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Momentum(0.5).step({"w": np.ones(1)}, {"w": np.ones(1)})
    {'w': array([0.5])}
    """

    names = ("velocity",)

    def __init__(
        self,
        rate: float = 0.01,
        momentum: float = 0.9,
        *,
        nesterov: bool = False,
        decay: float = 0.0,
    ) -> None:
        super().__init__(rate)
        self.momentum = check_fraction("Momentum", "momentum", momentum)
        self.nesterov = parse.flag("Momentum", "nesterov", nesterov)
        self.decay = check_positive("Momentum", "decay", decay, True)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        if self.decay:
            g = g + self.decay * p
        v = ops.add(ops.multiply(running[0], self.momentum), g)
        step = g + self.momentum * v if self.nesterov else v
        return ops.add(p, step * -self.rate), v


class AdaGrad(Optimiser):
    """Divides each element's step by the root of its sum of squared gradients (Duchi et al., 2011).

    Parameters
    ----------
    rate : float
        The learning rate.
    epsilon : float
        Added to the square root.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.AdaGrad(0.5).step({"w": np.ones(1)}, {"w": np.ones(1)})["w"].round(6)
    array([0.5])
    """

    names = ("squares",)

    def __init__(self, rate: float = 0.01, *, epsilon: float = 1e-10) -> None:
        super().__init__(rate)
        self.epsilon = check_positive("AdaGrad", "epsilon", epsilon)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        s = ops.add(running[0], g * g)
        return ops.add(p, ops.divide(g * -self.rate, ops.add(ops.sqrt(s), self.epsilon))), s


class RMSProp(Optimiser):
    """Divides each element's step by the root of its running mean squared gradient (Hinton, 2012).

    Parameters
    ----------
    rate : float
        The learning rate.
    memory : float
        Weight of the old running mean in each step.
    epsilon : float
        Added to the square root.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.RMSProp(0.1).step({"w": np.ones(1)}, {"w": np.ones(1)})["w"].round(6)
    array([0.])
    """

    names = ("squares",)

    def __init__(self, rate: float = 0.01, memory: float = 0.99, *, epsilon: float = 1e-8) -> None:
        super().__init__(rate)
        self.memory = check_fraction("RMSProp", "memory", memory)
        self.epsilon = check_positive("RMSProp", "epsilon", epsilon)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        s = ops.add(ops.multiply(running[0], self.memory), g * g * (1 - self.memory))
        return ops.add(p, ops.divide(g * -self.rate, ops.add(ops.sqrt(s), self.epsilon))), s


class Adam(Optimiser):
    """Steps along the running mean of gradients, divided by the root of their running mean square.

    Both means start at zero; the bias of this is corrected (Kingma and Ba, 2015, algorithm 1).

    Parameters
    ----------
    rate : float
        The learning rate.
    mean, square : float
        Weights of the old running mean and mean square in each step.
    epsilon : float
        Added to the square root.
    decay : float
        Weight decay, added to the gradient; see `AdamW` for decoupled weight decay.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Adam(0.5).step({"w": np.ones(1)}, {"w": np.ones(1)})["w"].round(6)
    array([0.5])
    """

    names = ("means", "squares")

    def __init__(
        self,
        rate: float = 0.001,
        mean: float = 0.9,
        square: float = 0.999,
        *,
        epsilon: float = 1e-8,
        decay: float = 0.0,
    ) -> None:
        super().__init__(rate)
        kind = type(self).__name__
        self.mean, self.square = (
            check_fraction(kind, "mean", mean),
            check_fraction(kind, "square", square),
        )
        self.epsilon = check_positive(kind, "epsilon", epsilon)
        self.decay = check_positive(kind, "decay", decay, True)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        if self.decay:
            g = g + self.decay * p
        m = ops.add(ops.multiply(running[0], self.mean), g * (1 - self.mean))
        s = ops.add(ops.multiply(running[1], self.square), g * g * (1 - self.square))
        mean_scale = 1 - self.mean**self.steps
        root_scale = sqrt(1 - self.square**self.steps)
        root = ops.add(ops.multiply(ops.sqrt(s), 1 / root_scale), self.epsilon)
        return ops.add(p, ops.divide(m * (-self.rate / mean_scale), root)), m, s


class AdamW(Adam):
    """`Adam` with decoupled weight decay (Loshchilov and Hutter, 2019).

    Parameters
    ----------
    rate : float
        The learning rate.
    mean, square : float
        Weights of the old running mean and mean square in each step.
    epsilon : float
        Added to the square root.
    decay : float
        Weight decay: before each step ``p *= 1 - rate * decay``.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.AdamW(0.5, decay=0.1).step({"w": np.ones(1)}, {"w": np.ones(1)})["w"].round(6)
    array([0.45])
    """

    def __init__(
        self,
        rate: float = 0.001,
        mean: float = 0.9,
        square: float = 0.999,
        *,
        epsilon: float = 1e-8,
        decay: float = 0.01,
    ) -> None:
        super().__init__(rate, mean, square, epsilon=epsilon)
        self.decoupled_decay = check_positive("AdamW", "decay", decay, True)

    def _update(self, ops: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        p = ops.multiply(p, 1 - self.rate * self.decoupled_decay)
        return super()._update(ops, g, p, *running)
