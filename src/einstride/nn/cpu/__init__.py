"""Compiled kernels of layers that are no convolution: pooling, normalisation, element by element.

Start with `calls`, which says what is compiled for which layer.
"""
