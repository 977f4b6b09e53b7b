"""Compiled kernels for CPUs and their callers, one folder for each family.

What may enter: kernels written with `einstride.codegen`, and what hands NumPy arrays to them.
Start with `dense.forward`, the kernel of most layers, and `dense.forward_call`, which calls it.
"""
