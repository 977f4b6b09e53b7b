"""Direct convolution of few channels in a group, vectors along channels or along positions.

What may enter: kernels for groups with too few channels for `dense`, and their callers.
Start with `form`, the description of a call, then `channels` and `positions`, the two kernels.
"""
