"""Direct convolution with one channel in each group, vectors along the channels.

What may enter: kernels that multiply a vector of channels by a vector of taps, and their callers.
Start with `forward`; `tile` generates its register tile, `spec` says what it is compiled for.
"""
