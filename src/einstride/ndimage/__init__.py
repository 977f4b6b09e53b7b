"""Filter images and volumes by the functions of `scipy.ndimage`: same names, arguments and results.

    from einstride import ndimage

takes the place of ``from scipy import ndimage`` for its linear filters, on NumPy, CuPy, PyTorch,
JAX and any array-API library: each result is an array of the library of the input. What may enter:
SciPy's names, defaults and errors; the work is done by `einstride.filters`. Start with
`correlation`.
"""

from einstride.ndimage.correlation import convolve, convolve1d, correlate, correlate1d
from einstride.ndimage.derivatives import (
    gaussian_gradient_magnitude,
    gaussian_laplace,
    generic_gradient_magnitude,
    generic_laplace,
    laplace,
    prewitt,
    sobel,
)
from einstride.ndimage.smoothing import (
    gaussian_filter,
    gaussian_filter1d,
    uniform_filter,
    uniform_filter1d,
)

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "gaussian_gradient_magnitude",
    "gaussian_laplace",
    "generic_gradient_magnitude",
    "generic_laplace",
    "laplace",
    "prewitt",
    "sobel",
    "uniform_filter",
    "uniform_filter1d",
]
