"""Give PyTorch's convolutions, functions and modules, by einstride's kernels.

`einstride.torch` is this package under a shorter name. What may enter: what has a counterpart of
the same name and the same arguments in `torch.nn`. Start with `functional`: `conv2d`; `modules` has
`Conv2d`.
"""

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

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]
