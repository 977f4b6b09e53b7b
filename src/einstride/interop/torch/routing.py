"""Route a model's convolutions on the CPU to einstride where a plan predicts that it is faster.

Both times are predicted from measured rates, by `predicted_times`. A convolution goes to einstride
if its time is at most `MARGIN` of PyTorch's.
"""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from einstride.interop.torch import functional
from einstride.interop.torch.functional import Tensor
from einstride.interop.torch.predicted_times import Call, predict

MARGIN = 0.9
"""Most predicted time of einstride relative to PyTorch's, where a convolution goes to einstride.
Predictions are off by about a tenth; with a higher value, layers that are equally fast change."""

ROUTES = 4096
"""Routes that a `Routes` keeps, the newest: more than a model has layers times input sizes."""


class Route(NamedTuple):
    """Say where one convolution goes.

    Attributes
    ----------
    layer : str
        The name of the module, or of the function.
    input, weight : tuple of int
        The shapes of the operands.
    einstride : bool
        True if einstride computes the convolution, False if PyTorch does.
    reason : str
        Why.
    """

    layer: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    einstride: bool
    reason: str


class Routes:
    """Keep the routes of convolutions, each once; ``print`` shows them as a table."""

    def __init__(self) -> None:
        self._kept: dict[Route, None] = {}

    def add(self, route: Route) -> None:
        """Keep a route."""
        if route not in self._kept and len(self._kept) >= ROUTES:
            del self._kept[next(iter(self._kept))]
        self._kept[route] = None

    def __iter__(self) -> Any:
        return iter(tuple(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def __str__(self) -> str:
        rows = [("layer", "input", "weight", "computed by", "because")]
        for r in self:
            library = "einstride" if r.einstride else "PyTorch"
            rows.append((r.layer, _text(r.input), _text(r.weight), library, r.reason))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


class accelerate(TorchFunctionMode):  # type: ignore[misc]  # noqa: N801  # used as a function
    """Route the convolutions of a ``with`` block, by any module or function of PyTorch.

    Attributes
    ----------
    routes : Routes
        The routes taken so far.

    Examples
    --------
    >>> import torch, einstride.torch
    >>> model = torch.nn.Conv1d(64, 64, 31, groups=64)
    >>> with torch.no_grad(), einstride.torch.accelerate() as a:
    ...     y = model(torch.ones(8, 64, 1000))
    >>> [(r.layer, r.einstride) for r in a.routes]
    [('conv1d', True)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.routes = Routes()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a convolution where its route says, and any other function as it is."""
        kwargs = kwargs or {}
        ours = _FUNCTIONS.get(func)
        operands = list(args[:2]) + [kwargs[n] for n in ("input", "weight") if n in kwargs]
        if ours is None or len(operands) != 2:
            return func(*args, **kwargs)
        x, f = operands
        h = Hyperparameters.of(ours.__name__, args[2:], kwargs)
        taken = route(ours.__name__, ours.__name__, x, f, h)
        if not torch.compiler.is_compiling():
            self.routes.add(taken)
        return (ours if taken.einstride else func)(*args, **kwargs)


class Hyperparameters(NamedTuple):
    """Hold the arguments of a convolution that follow its operands."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    output_padding: Any = 0
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hyperparameters:
        """Read them from the arguments after the weight."""
        order = ["bias", "stride", "padding", "dilation", "groups"]
        if "transpose" in name:
            order = ["bias", "stride", "padding", "output_padding", "groups", "dilation"]
        given = {**dict(zip(order, args, strict=False)), **kwargs}
        return cls(**{key: given[key] for key in cls._fields if key in given})

    @classmethod
    def of_module(cls, module: Any) -> Hyperparameters:
        """Read them from a module's attributes."""
        return cls(*(getattr(module, key) for key in cls._fields))


def route(
    layer: str, name: str, x: Tensor, f: Tensor, h: Hyperparameters, prepared: bool = False
) -> Route:
    """Decide where the convolution `name` of x with the weight f goes.

    `prepared` is True if einstride would keep the transformed weight for later calls.
    """
    # Under torch.compile sizes may be symbols; as an index each is the number of this compilation.
    shapes = tuple([index(n) for n in x.shape]), tuple([index(n) for n in f.shape])
    if x.device.type != "cpu" or f.device.type != "cpu":
        return Route(layer, *shapes, False, f"on {x.device.type}")
    if x.layout is not torch.strided or x.is_quantized:
        return Route(layer, *shapes, False, "no dense tensor of plain numbers")
    if torch.is_autocast_enabled("cpu"):
        return Route(layer, *shapes, False, "under autocast")
    trained = is_trained(x, f)
    plain = tuple(tuple(v) if isinstance(v, tuple | list) else v for v in h)
    last = functional.is_channels_last(x)
    how = (last, trained, prepared and not trained)
    return Route(layer, *shapes, *_decide(name, *shapes, str(x.dtype), plain, how))


def is_trained(x: Tensor, f: Tensor) -> bool:
    """True if PyTorch records a convolution of x with f for a backward pass."""
    return torch.is_grad_enabled() and bool(x.requires_grad or f.requires_grad)


def _decide(
    name: str,
    x: tuple[int, ...],
    f: tuple[int, ...],
    dtype: str,
    h: tuple[Any, ...],
    how: tuple[bool, bool, bool],
) -> tuple[bool, str]:
    """Return whether einstride is predicted to be faster, and why."""
    given, name_of_dtype = Hyperparameters(*h), dtype.removeprefix("torch.")
    call = Call(
        x, f, name_of_dtype, given.stride, given.padding, given.dilation, given.groups,
        given.output_padding, given.padding_mode, "transpose" in name, *how,
        torch.get_num_threads(),
    )  # fmt: skip
    try:
        times = predict(call)
    except (ValueError, TypeError) as error:  # PyTorch tells its users what is wrong
        return False, f"einstride cannot plan it: {error}"
    if times is None:
        return False, f"PyTorch's time for {name_of_dtype} is not known"
    ours, theirs, names = times
    text = f"{names}: predicted {ours * 1e3:.3f} ms, PyTorch {theirs * 1e3:.3f} ms"
    return ours <= MARGIN * theirs, text


# PyTorch's compiler calls the function instead of tracing it: `assume_constant_result`.
_decide._dynamo_marked_constant = True  # type: ignore[attr-defined]


_FUNCTIONS = {
    getattr(torch, name): getattr(functional, name)
    for name in (
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    )
}  # fmt: skip
