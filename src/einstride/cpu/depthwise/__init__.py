"""Direct convolution with one channel in each group, vectors along the channels.

What may enter: kernels that multiply a vector of channels by a vector of taps, and their callers.
Start with `forward`; `tile` writes the sums that stay in registers, `spec` says what a kernel is
compiled for.
"""
