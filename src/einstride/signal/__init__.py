"""Convolve, filter and resample signals by the functions of `scipy.signal`, with equal results.

    from einstride import signal

takes the place of ``from scipy import signal`` for its convolutions and filters of finite length,
on NumPy, CuPy, PyTorch, JAX and any array-API library: each result is an array of the library of
the input. What may enter: SciPy's names, defaults and errors; the work is done by
`einstride.filters`. Start with `convolution`.
"""

from einstride.signal.convolution import (
    choose_conv_method,
    convolve,
    correlate,
    correlation_lags,
    fftconvolve,
    oaconvolve,
)
from einstride.signal.lines import lfilter
from einstride.signal.planes import convolve2d, correlate2d, sepfir2d
from einstride.signal.resampling import decimate, resample_poly, upfirdn

__all__ = [
    "choose_conv_method",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "correlation_lags",
    "decimate",
    "fftconvolve",
    "lfilter",
    "oaconvolve",
    "resample_poly",
    "sepfir2d",
    "upfirdn",
]
