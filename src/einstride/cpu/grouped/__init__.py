"""Direct convolution for many small groups: the groups fill the lanes of a vector.

Start with `shape`, which chooses lanes and tile, then `forward`.
"""
