"""Define PyTorch's six modules of convolution, computed by einstride.

Each is a subclass of PyTorch's module of its name: parameters, initial values, `state_dict`,
`padding_mode` and text are PyTorch's, and `isinstance` tells that it is one.
"""

from __future__ import annotations

from typing import Any

import torch

from einstride.dispatch.filter_cache import Prepared
from einstride.interop.torch import functional


class _Conv:
    """Compute `_conv_forward`, which PyTorch's modules call with their weight and bias."""

    def _conv_forward(
        self, input: Any, weight: Any, bias: Any, kept: Prepared | None = None
    ) -> Any:
        m: Any = self
        rank = weight.ndim - 2
        return functional.conv(
            type(self).__name__, rank, input, weight, bias, m.stride, m.padding, m.dilation,
            m.groups, m.padding_mode, kept,
        )  # fmt: skip


class Conv1d(_Conv, torch.nn.Conv1d):  # type: ignore[misc]  # PyTorch's types are not read
    """Convolve over one axis, as `torch.nn.Conv1d`."""


class Conv2d(_Conv, torch.nn.Conv2d):  # type: ignore[misc]
    """Convolve over two axes, as `torch.nn.Conv2d`."""


class Conv3d(_Conv, torch.nn.Conv3d):  # type: ignore[misc]
    """Convolve over three axes, as `torch.nn.Conv3d`."""


class _ConvTranspose:
    """Compute `forward` of PyTorch's transposed modules."""

    def forward(self, input: Any, output_size: Any = None) -> Any:
        """Apply the transposed convolution; `output_size` chooses among the possible sizes."""
        m: Any = self
        rank = m.weight.ndim - 2
        more = m._output_padding(
            input, output_size, m.stride, m.padding, m.kernel_size, rank, m.dilation
        )
        return functional.transposed(
            type(self).__name__, rank, input, m.weight, m.bias, m.stride, m.padding, more,
            m.groups, m.dilation,
        )  # fmt: skip


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d):  # type: ignore[misc]
    """Apply a transposed convolution over one axis, as `torch.nn.ConvTranspose1d`."""


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d):  # type: ignore[misc]
    """Apply a transposed convolution over two axes, as `torch.nn.ConvTranspose2d`."""


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d):  # type: ignore[misc]
    """Apply a transposed convolution over three axes, as `torch.nn.ConvTranspose3d`."""
