"""Direct convolution of many small groups: several groups fill the lanes of a vector.

What may enter: kernels whose vectors span the output channels of neighbouring groups, and their
callers.
Start with `shape`, which chooses lanes and tile, then `forward`.
"""
