"""Direct convolution with few channels per group, with vectors along channels or positions.

What may enter: kernels for groups with too few channels for `dense`. Start with `signature`, what a
kernel call depends on, and `rows` and `panels`, what kernels share; then `channels` and
`positions`, the forward kernels. `partial_sums` splits the filter gradients.
"""
