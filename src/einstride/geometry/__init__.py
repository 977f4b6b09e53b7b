"""Describe convolutions by integers: shapes, padding, strides, blocks, phases of a gradient.

What may enter: computations on integers, fractions and names; no array and no array library.
Start with `convolution`: a `Geometry` is one convolution, its bounds proved once. `problem` adds
dtypes and the caller's limits to it: a `Job`, which algorithms are asked to do.
"""
