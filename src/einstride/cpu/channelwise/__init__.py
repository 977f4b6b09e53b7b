"""Direct convolution for few channels in a group, vectors along channels or along positions.

Start with `form`, the description of a call, then `channels` and `positions`, the two kernels.
"""
