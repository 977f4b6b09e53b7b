"""Convolve arrays of many channels directly, by sums of outer products in registers.

What may enter: kernels whose vectors span output channels of one group, and their callers.
Start with `forward`; the filter gradient is `filter_gradient`, or `packed_filter_gradient` where no
tap leaves x. Modules with ``_call`` fill the argument blocks. `vnni` multiplies 8-bit integers by
VNNI dot products.
"""
