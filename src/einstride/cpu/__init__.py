"""Compiled kernels for CPUs, and the functions that call them with NumPy arrays.

What may enter: convolution kernels written with `einstride.codegen`, one folder for each family,
and the functions that call these kernels, in modules whose names end in ``call`` or ``calls``.
`einstride.algorithms` chooses the family for a convolution.
Start with `conv.dense.forward`, the kernel of most layers.
"""
