"""Give PyTorch's convolutions, functions and modules, by einstride's kernels.

`einstride.torch` is this package under a shorter name. What may enter: what has a counterpart of
the same name and the same arguments in `torch.nn`, and what routes PyTorch's own to it. Start with
`functional`: `conv2d`; `modules` has `Conv2d`, `routing` and `conversion` decide for a model.
"""

from einstride.interop.torch.conversion import convert, routes
from einstride.interop.torch.functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from einstride.interop.torch.modules import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from einstride.interop.torch.routing import accelerate

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "accelerate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convert",
    "routes",
]
