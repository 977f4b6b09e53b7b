"""N-dimensional convolution for plain arrays: NumPy, CuPy and any array-API library.

Importing the package loads no array library: the adapter is found from the type of the arrays.

>>> import numpy as np
>>> import einstride as es
>>> x, f = np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 4))
>>> es.conv(x, f, padding="same").shape
(1, 8, 8, 4)
"""

import importlib

from einstride.support import import_time  # noqa: F401  (first: it records the time)

# isort: split

from einstride.api.clear_caches import clear_caches
from einstride.api.conv import conv, windows
from einstride.api.conv4d import conv4d_filter_gradient, conv4d_forward, conv4d_input_gradient
from einstride.api.conv_layer import Conv
from einstride.api.conv_transpose import conv_transpose
from einstride.api.gradients import conv_bias_grad, conv_filter_grad, conv_input_grad, conv_jvp
from einstride.api.output_sizes import output_size, same_padding
from einstride.api.plan import plan
from einstride.api.saved_plan import Plan
from einstride.api.stream import Stream
from einstride.api.tune import tune, use_tuned
from einstride.support import forks  # noqa: F401  (it registers a function with the system)
from einstride.viewer.show import show

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import `onnx_ops`, `signal` and `ndimage` at their first use."""
    if name in ("signal", "ndimage"):
        return importlib.import_module(f"einstride.{name}")
    if name == "onnx_ops":
        return importlib.import_module("einstride.interop.onnx_ops")
    raise AttributeError(f"module 'einstride' has no attribute {name!r}")


__all__ = [
    "Conv",
    "Plan",
    "Stream",
    "clear_caches",
    "conv",
    "conv4d_filter_gradient",
    "conv4d_forward",
    "conv4d_input_gradient",
    "conv_bias_grad",
    "conv_filter_grad",
    "conv_input_grad",
    "conv_jvp",
    "conv_transpose",
    "output_size",
    "plan",
    "same_padding",
    "show",
    "tune",
    "use_tuned",
    "windows",
]
