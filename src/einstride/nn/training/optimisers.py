"""The optimisers: each is its running arrays and one update."""

from __future__ import annotations

from math import sqrt

from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.nn.training.optimiser import Arithmetic, Optimiser, positive, share


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
        self.decay = positive("SGD", "decay", decay, True)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        if self.decay:
            g = g + self.decay * p
        return (do.add(p, g * -self.rate),)


class Momentum(Optimiser):
    """Steps down a running sum of gradients: ``v = momentum * v + g; p -= rate * v``.

    Parameters
    ----------
    rate : float
        The learning rate.
    momentum : float
        What is kept of the running sum.
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
        self.momentum = share("Momentum", "momentum", momentum)
        self.nesterov = parse.flag("Momentum", "nesterov", nesterov)
        self.decay = positive("Momentum", "decay", decay, True)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        if self.decay:
            g = g + self.decay * p
        v = do.add(do.times(running[0], self.momentum), g)
        step = g + self.momentum * v if self.nesterov else v
        return do.add(p, step * -self.rate), v


class AdaGrad(Optimiser):
    """Each element's step is divided by the root of its sum of squares (Duchi et al., 2011).

    Parameters
    ----------
    rate : float
        The learning rate.
    epsilon : float
        Added to the root.

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
        self.epsilon = positive("AdaGrad", "epsilon", epsilon)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        s = do.add(running[0], g * g)
        return do.add(p, do.over(g * -self.rate, do.add(do.root(s), self.epsilon))), s


class RMSProp(Optimiser):
    """Each element's step is divided by the root of its running mean square (Hinton, 2012).

    Parameters
    ----------
    rate : float
        The learning rate.
    memory : float
        What is kept of the running mean.
    epsilon : float
        Added to the root.

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
        self.memory = share("RMSProp", "memory", memory)
        self.epsilon = positive("RMSProp", "epsilon", epsilon)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        s = do.add(do.times(running[0], self.memory), g * g * (1 - self.memory))
        return do.add(p, do.over(g * -self.rate, do.add(do.root(s), self.epsilon))), s


class Adam(Optimiser):
    """Steps along the running mean, divided by the root of the running mean square.

    Both began at zero, which is made up for (Kingma and Ba, 2015, algorithm 1).

    Parameters
    ----------
    rate : float
        The learning rate.
    mean, square : float
        What is kept of the two running means.
    epsilon : float
        Added to the root.
    decay : float
        Weight decay, added to the gradient; see `AdamW` for the other kind.

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
        self.mean, self.square = share(kind, "mean", mean), share(kind, "square", square)
        self.epsilon = positive(kind, "epsilon", epsilon)
        self.decay = positive(kind, "decay", decay, True)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        if self.decay:
            g = g + self.decay * p
        m = do.add(do.times(running[0], self.mean), g * (1 - self.mean))
        s = do.add(do.times(running[1], self.square), g * g * (1 - self.square))
        mean_scale = 1 - self.mean**self.steps
        root_scale = sqrt(1 - self.square**self.steps)
        root = do.add(do.times(do.root(s), 1 / root_scale), self.epsilon)
        return do.add(p, do.over(m * (-self.rate / mean_scale), root)), m, s


class AdamW(Adam):
    """`Adam` with weight decay beside the gradient (Loshchilov and Hutter, 2019).

    Parameters
    ----------
    rate : float
        The learning rate.
    mean, square : float
        What is kept of the two running means.
    epsilon : float
        Added to the root.
    decay : float
        Before each step ``p *= 1 - rate * decay``.

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
        self.beside = positive("AdamW", "decay", decay, True)

    def _update(self, do: Arithmetic, g: Array, p: Array, *running: Array) -> tuple[Array, ...]:
        p = do.times(p, 1 - self.rate * self.beside)
        return super()._update(do, g, p, *running)
