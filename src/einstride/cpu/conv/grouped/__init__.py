"""Convolve many small groups directly, with several groups in the lanes of a vector.

What may enter: kernels whose vectors span the output channels of neighbouring groups, and their
callers.
Start with `shape`, which assigns groups to lanes, then `forward`.
"""
