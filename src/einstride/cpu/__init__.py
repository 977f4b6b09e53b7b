"""Compiled kernels for CPUs, and the functions that call them with NumPy arrays.

What may enter: kernels of convolutions written with `einstride.codegen`, a folder for each family,
and their callers, in modules whose names end in ``call`` or ``calls``. Which family computes a
convolution is decided above, in `einstride.algorithms`.
Start with `dense.forward`, the kernel of most layers, and `dense.forward_call`, which calls it.
"""
