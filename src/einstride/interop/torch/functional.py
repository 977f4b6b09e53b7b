"""Define PyTorch's six functions of convolution: their names, arguments and layouts.

Axes are PyTorch's: input (B, C, *S) or (C, *S), weight (D, C // groups, *K), for transposed
convolutions (C, D // groups, *K). An input in the memory format channels_last, or channels_last_3d,
gives a result in that format; both are read where they are.
"""

from __future__ import annotations

from typing import Any

import torch

from einstride.dispatch import call_cache
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.geometry.types import Ints
from einstride.support.errors import bad_type, bad_value

Tensor = Any
"""A `torch.Tensor`."""

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_LAST = {4: "NHWC,OIHW->NHWC", 5: "NDHWC,OIDHW->NDHWC"}


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve over one axis, as `torch.nn.functional.conv1d`."""
    return conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve over two axes, as `torch.nn.functional.conv2d`."""
    return conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve over three axes, as `torch.nn.functional.conv3d`."""
    return conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Apply a transposed convolution over one axis, as `torch.nn.functional.conv_transpose1d`."""
    name = "conv_transpose1d"
    return transposed(
        name, 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Apply a transposed convolution over two axes, as `torch.nn.functional.conv_transpose2d`."""
    name = "conv_transpose2d"
    return transposed(
        name, 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Apply a transposed convolution over three axes, as `torch.nn.functional.conv_transpose3d`."""
    name = "conv_transpose3d"
    return transposed(
        name, 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv(
    where: str,
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str = "zeros",
    kept: Prepared | None = None,
) -> Tensor:
    """Compute a convolution with PyTorch's arguments; `where` names the function in errors.

    `kept` holds the transforms of the weight that a module keeps.
    """
    batched = _check(where, rank, input, weight, bias)
    padding = _padding(where, padding, rank)
    if padding == "same" and any(s != 1 for s in _entries(stride, rank)):
        raise bad_value(
            where, 'padding="same" needs stride 1, as in PyTorch', f"stride {stride}",
            "use einstride.conv, which has it",
        )  # fmt: skip
    x = input if batched else input[None]
    layout, last = _layout(x)
    given = Keywords(
        _ints(where, "stride", stride, rank), padding, _ints(where, "dilation", dilation, rank),
        groups=groups, padding_mode=padding_mode, layout=layout,
    )  # fmt: skip
    y = call_cache.call(where, "forward", _moved(x, last), weight, bias, None, given, kept=kept)
    return _result(y, last, batched)


def transposed(
    where: str,
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    """Compute a transposed convolution with PyTorch's arguments; `where` is for errors."""
    batched = _check(where, rank, input, weight, bias)
    x = input if batched else input[None]
    layout, last = _layout(x)
    k = Keywords(
        _ints(where, "stride", stride, rank), _padding(where, padding, rank),
        _ints(where, "dilation", dilation, rank), groups=groups, layout=layout,
    )  # fmt: skip
    given = (*k, _ints(where, "output_padding", output_padding, rank), None)
    # PyTorch does not conjugate the filter, as the adjoint does.
    f = weight.conj() if weight.is_complex() else weight
    y = call_cache.call(
        where, "input_grad", _moved(x, last), f, bias, None, given, parse.transposed, None
    )
    return _result(y, last, batched)


def _check(where: str, rank: int, input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Raise unless the tensors are such that PyTorch takes them; return True for a batch."""
    given = {"input": input, "weight": weight, "bias": bias}
    for name, tensor in given.items():
        if tensor is not None and not isinstance(tensor, torch.Tensor):
            raise bad_type(
                where, f"{name} must be a tensor of PyTorch",
                f"{type(tensor).__module__}.{type(tensor).__qualname__}",
                f"pass torch.from_numpy({name}), or call einstride.conv on arrays",
            )  # fmt: skip
    shapes = f"input {tuple(input.shape)}, weight {tuple(weight.shape)}"
    if weight.ndim != rank + 2 or input.ndim not in (rank + 1, rank + 2):
        raise bad_value(
            where, f"weight needs {rank + 2} axes, and input as many, or one less without a batch",
            shapes, "reshape them",
        )  # fmt: skip
    dtypes = {t.dtype for t in given.values() if t is not None}
    if len(dtypes) > 1 and not torch.is_autocast_enabled(input.device.type):
        raise bad_type(
            where, "input, weight and bias must have one dtype, as in PyTorch",
            ", ".join(map(str, sorted(dtypes, key=str))), "convert them, or use einstride.conv",
        )  # fmt: skip
    return bool(input.ndim == rank + 2)


def _entries(value: Any, rank: int) -> tuple[Any, ...]:
    """Return one entry per axis of an int, or of one int in a sequence."""
    entries = tuple(value) if isinstance(value, tuple | list) else (value,)
    return entries * rank if len(entries) == 1 else entries


def _ints(where: str, name: str, value: Any, rank: int) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return parse.ints(where, name, _entries(value, rank))


def _padding(where: str, padding: Any, rank: int) -> Any:
    """Return a padding that is a name, an int or ints; refuse other names and crops."""
    if isinstance(padding, str):
        return parse.choice(where, "padding", padding, ("valid", "same"))
    found = _ints(where, "padding", padding, rank)
    if min(found if isinstance(found, tuple) else (found,)) < 0:
        raise bad_value(
            where, "padding must not be negative, as in PyTorch", padding,
            "use einstride.conv, which crops",
        )  # fmt: skip
    return found


def is_channels_last(x: Tensor) -> bool:
    """True if a batch is in a memory format with the channels last, and in no other."""
    form = _FORMATS.get(x.ndim)
    return form is not None and not x.is_contiguous() and x.is_contiguous(memory_format=form)


def _layout(x: Tensor) -> tuple[str, bool]:
    """Return einstride's layout for the memory format of a batch, and True for channels last."""
    last = is_channels_last(x)
    return (_LAST[x.ndim] if last else "channels_first"), last


def _moved(x: Tensor, last: bool) -> Tensor:
    return x.movedim(1, -1) if last else x


def _result(y: Tensor, last: bool, batched: bool) -> Tensor:
    y = y.movedim(-1, 1) if last else y
    return y if batched else y[0]
