"""Compiled kernels of layers that are no convolution: pooling, normalisation, element by element.

What may enter: kernels written with `einstride.codegen` for one layer or optimiser, and callers.
Start with `calls`, which says which arrays the kernels take.
"""
