"""Convolution as integers: shapes, padding, strides, blocks, the phases of an input gradient.

What may enter: pure computations on integers, fractions and names; no array is touched here.
Start with `convolution`: a `Geometry` is one convolution, its bounds proved once.
"""
