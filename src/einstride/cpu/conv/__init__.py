"""Direct convolution on the CPU: the seed's einsum over strided operands, under several schedules.

Every kernel of this folder computes the same contraction,

    out[row, column] += sum over k of left[row, k] * right[k, column]

whose operands are views of x, f and gy: a row is an output position, a tap or an input channel, a
column an output channel or a position, and k runs over taps and channels, or over positions in a
filter gradient. A schedule says which of these indices lie in the lanes of a vector, which in the
register tile, in which order the others are looped over, and how the operands reach the registers.

What may enter: the parts that all kernels are written with, and one folder for each family of
schedules. Start with `register_tile`, `loop_nest` and `schedule`, then `dense.forward`; for filter
gradients with `filter_gradient`, then `dense.filter_gradient`.
"""
