"""N-dimensional convolution for plain arrays: NumPy, CuPy and any array-API library.

Importing it loads no array library; the adapter is found from the type of the arrays passed in.

>>> import numpy as np
>>> import einstride as es
>>> x, f = np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 4))
>>> es.conv(x, f, padding="same").shape
(1, 8, 8, 4)
"""

from einstride import _imported  # noqa: F401  (first: it notes the time)
from einstride.api import conv, windows
from einstride.gradients import conv_bias_grad, conv_filter_grad, conv_input_grad, conv_jvp
from einstride.layer import Conv
from einstride.planning import plan
from einstride.plans import Plan
from einstride.seed import conv4d_filter_gradient, conv4d_forward, conv4d_input_gradient
from einstride.sizes import output_size, same_padding
from einstride.transposed import conv_transpose
from einstride.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "Conv",
    "Plan",
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
    "tune",
    "windows",
]
