"""Compiled CPU kernels of other layers than convolution: pooling, normalisation, elementwise.

What may enter: kernels written with `einstride.codegen` for layers, and the functions that call
them. Start with `calls`, whose `ready` says which arrays the kernels accept.
"""
