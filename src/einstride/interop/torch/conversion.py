"""Convert a model of PyTorch: its convolutions decide at each call who computes them."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch

from einstride.arrays.backends.torch import is_plain
from einstride.interop.torch import modules
from einstride.interop.torch.kept_weight import KeptWeight
from einstride.interop.torch.routing import (
    ROUTES,
    Hyperparameters,
    Route,
    Routes,
    is_trained,
    route,
)

_is_any_autocast_enabled = torch._C._is_any_autocast_enabled


class _Routed:
    """Decide at each call who computes it, and keep the transforms of the weight.

    Deciding takes longer than a small convolution, so the routes of earlier calls are kept.
    """

    def _goes_to_einstride(self, x: Any, weight: Any) -> bool:
        m: Any = self
        if torch.compiler.is_compiling():
            return self._route(x, weight).einstride
        if x.layout is not torch.strided:
            taken = self._route(x, weight)
            m._routes.add(taken)
            return taken.einstride
        key = (
            x.shape, x.stride(), x.dtype, x.device, is_trained(x, weight),
            _is_any_autocast_enabled(), torch.get_num_threads(), m.training,
        )  # fmt: skip
        try:
            taken = m._known.get(key)
        except TypeError:  # sizes that are symbols cannot be keys
            return self._route(x, weight).einstride
        if taken is None:
            if len(m._known) >= ROUTES:
                m._known.clear()
            taken = m._known[key] = self._route(x, weight)
            m._routes.add(taken)
        goes: bool = taken.einstride
        return goes

    def _route(self, x: Any, weight: Any) -> Route:
        m: Any = self
        kind = "_transpose" if m.transposed else ""
        name, keeps = f"conv{kind}{weight.ndim - 2}d", m._weight_kept is not None
        keeps = keeps and not (m.training or m.transposed)
        return route(m._layer, name, x, weight, Hyperparameters.of_module(m), keeps)

    def _prepared(self, x: Any, weight: Any, bias: Any) -> Any:
        """Return what is kept of a fixed weight: nothing in training, or under transformations."""
        m: Any = self
        if m._weight_kept is None or m.training or not is_plain(x, weight, bias):
            return None
        return m._weight_kept.of(weight)


def _convolution(ours: Any, theirs: Any) -> Any:
    def _conv_forward(self: Any, input: Any, weight: Any, bias: Any) -> Any:
        if self._goes_to_einstride(input, weight):
            kept = self._prepared(input, weight, bias)
            return ours._conv_forward(self, input, weight, bias, kept)
        return theirs._conv_forward(self, input, weight, bias)

    members = {"_conv_forward": _conv_forward, "__module__": __name__}
    return type(theirs.__name__, (_Routed, theirs), members)


def _transposed(ours: Any, theirs: Any) -> Any:
    def forward(self: Any, input: Any, output_size: Any = None) -> Any:
        base = ours if self._goes_to_einstride(input, self.weight) else theirs
        return base.forward(self, input, output_size)

    members = {"forward": forward, "__module__": __name__}
    return type(theirs.__name__, (_Routed, theirs), members)


Conv1d = _convolution(modules.Conv1d, torch.nn.Conv1d)
Conv2d = _convolution(modules.Conv2d, torch.nn.Conv2d)
Conv3d = _convolution(modules.Conv3d, torch.nn.Conv3d)
ConvTranspose1d = _transposed(modules.ConvTranspose1d, torch.nn.ConvTranspose1d)
ConvTranspose2d = _transposed(modules.ConvTranspose2d, torch.nn.ConvTranspose2d)
ConvTranspose3d = _transposed(modules.ConvTranspose3d, torch.nn.ConvTranspose3d)

_CLASSES = {
    cls.__mro__[2]: cls
    for cls in (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
}


def convert(model: Any, *, fixed_weights: bool = False) -> Any:
    """Return a model that shares a model's parameters and routes its convolutions.

    Parameters
    ----------
    model : torch.nn.Module
        A model, which stays as it is. Its modules of exactly the types `torch.nn.Conv1d` to
        `torch.nn.ConvTranspose3d` are converted; subclasses of these are left.
    fixed_weights : bool
        True: in ``eval()`` mode, called without gradients, a layer transforms its weight once and
        keeps the result. It is made anew when the weight is other memory or PyTorch counts a write
        to it. You promise not to write to weights in ways that PyTorch does not count: through
        ``.data``, or through a NumPy array on their memory.

    Returns
    -------
    torch.nn.Module
        A copy of the modules, with the parameters and buffers of `model` themselves. Training one
        of the two trains both.

    Examples
    --------
    >>> import torch, einstride.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(64, 64, 31, groups=64), torch.nn.ReLU())
    >>> fast = einstride.torch.convert(model)
    >>> with torch.no_grad():
    ...     y = fast(torch.ones(8, 64, 1000))
    >>> [(r.layer, r.einstride) for r in einstride.torch.routes(fast)]
    [('0', True)]
    """
    tensors = chain(model.parameters(), model.buffers())
    converted = copy.deepcopy(model, {id(t): t for t in tensors})
    for name, module in converted.named_modules():
        cls = _CLASSES.get(type(module))
        if cls is not None:
            module.__class__ = cls
            module._layer, module._routes = name or "model", Routes()
            module._known = {}
            module._weight_kept = KeptWeight() if fixed_weights else None
    return converted


def routes(model: Any) -> Routes:
    """Return the routes that the convolutions of a converted model took so far.

    Parameters
    ----------
    model : torch.nn.Module
        A model that `convert` returned.

    Returns
    -------
    Routes
        One for each layer and size of input; ``print`` shows them as a table.
    """
    found = Routes()
    for module in model.modules():
        if isinstance(module, _Routed):
            for taken in module._routes:  # type: ignore[attr-defined]
                found.add(taken)
    return found
