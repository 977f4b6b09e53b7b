"""Convolution by frequencies: block by block, with real arithmetic over planes.

A spectrum is an array (Q, 2, ...) of real numbers: Q frequencies of all axes together, then the
real and the imaginary plane. So one real matrix product transforms an axis, another one multiplies
channels, and no library needs complex numbers for real convolutions.
"""

from __future__ import annotations
