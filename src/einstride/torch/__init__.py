"""PyTorch's convolutions by einstride: `einstride.interop.torch` under a shorter name.

>>> import torch
>>> from einstride.torch import Conv2d
>>> Conv2d(3, 8, 3, padding=1)(torch.ones(1, 3, 5, 5)).shape
torch.Size([1, 8, 5, 5])
"""

from einstride.interop.torch import *  # noqa: F403
from einstride.interop.torch import __all__ as __all__
