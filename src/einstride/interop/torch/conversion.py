"""Convert a model of PyTorch: its convolutions decide at each call who computes them."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch

from einstride.interop.torch import modules
from einstride.interop.torch.routing import Hyperparameters, Routes, route


class _Routed:
    """Call einstride's or PyTorch's `_conv_forward`, or `forward` of a transposed convolution."""

    def _goes_to_einstride(self, x: Any) -> bool:
        m: Any = self
        rank, kind = m.weight.ndim - 2, "_transpose" if m.transposed else ""
        taken = route(m._layer, f"conv{kind}{rank}d", x, m.weight, Hyperparameters.of_module(m))
        if not torch.compiler.is_compiling():
            m._routes.add(taken)
        return taken.einstride


def _convolution(ours: Any, theirs: Any) -> Any:
    def _conv_forward(self: Any, input: Any, weight: Any, bias: Any) -> Any:
        base = ours if self._goes_to_einstride(input) else theirs
        return base._conv_forward(self, input, weight, bias)

    members = {"_conv_forward": _conv_forward, "__module__": __name__}
    return type(theirs.__name__, (_Routed, theirs), members)


def _transposed(ours: Any, theirs: Any) -> Any:
    def forward(self: Any, input: Any, output_size: Any = None) -> Any:
        base = ours if self._goes_to_einstride(input) else theirs
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


def convert(model: Any) -> Any:
    """Return a model that shares a model's parameters and routes its convolutions.

    Parameters
    ----------
    model : torch.nn.Module
        A model, which stays as it is. Its modules of exactly the types `torch.nn.Conv1d` to
        `torch.nn.ConvTranspose3d` are converted; subclasses of these are left.

    Returns
    -------
    torch.nn.Module
        A copy of the modules, with the parameters and buffers of `model` themselves. Training one
        of the two trains both.

    Examples
    --------
    >>> import torch, einstride.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU())
    >>> fast = einstride.torch.convert(model)
    >>> with torch.no_grad():
    ...     y = fast(torch.ones(8, 64, 56, 56))
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
