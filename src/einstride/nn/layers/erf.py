"""The standard normal distribution function, which the array API standard does not have."""

from __future__ import annotations

import math

from einstride.arrays.backends import Array, Backend

# Chebyshev coefficients of log(erfc(z) / t) + z * z in t = 2 / (2 + z), z >= 0
# (Press et al., Numerical Recipes, 3rd edition, section 6.2.2); relative error below 1.2e-16.
_COEFFICIENTS = (
    -1.3026537197817094, 6.4196979235649026e-1, 1.9476473204185836e-2, -9.561514786808631e-3,
    -9.46595344482036e-4, 3.66839497852761e-4, 4.2523324806907e-5, -2.0278578112534e-5,
    -1.624290004647e-6, 1.303655835580e-6, 1.5626441722e-8, -8.5238095915e-8, 6.529054439e-9,
    5.059343495e-9, -9.91364156e-10, -2.27365122e-10, 9.6467911e-11, 2.394038e-12, -6.886027e-12,
    8.94487e-13, 3.13092e-13, -1.12708e-13, 3.81e-16, 7.106e-15, -1.523e-15, -9.4e-17, 1.21e-16,
    -2.8e-17,
)  # fmt: skip


def normal_cdf(x: Array, b: Backend) -> Array:
    """Compute Phi(x) = erfc(-x / sqrt(2)) / 2 of every element."""
    xp = b.xp
    z = xp.abs(x) * math.sqrt(0.5)
    t = 2 / (2 + z)
    y = 4 * t - 2
    d, previous = xp.zeros_like(x), xp.zeros_like(x)
    for c in reversed(_COEFFICIENTS[1:]):  # Clenshaw's recurrence
        d, previous = y * d - previous + c, d
    tail = 0.5 * t * xp.exp(-z * z + 0.5 * (_COEFFICIENTS[0] + y * d) - previous)
    return xp.where(x < 0, tail, 1 - tail)
