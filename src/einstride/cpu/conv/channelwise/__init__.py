"""Direct convolution with few channels per group, with vectors along channels or positions.

What may enter: kernels for groups with too few channels for `dense`, and their callers.
Start with `signature`, what a kernel call depends on, then `channels` and `positions`, the kernels.
"""
