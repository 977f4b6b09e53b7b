"""Direct sums in registers, by kernels of our own: engines for the kinds of convolution."""
