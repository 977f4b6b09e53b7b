"""Direct convolution of many channels in and out: sums of outer products in registers.

What may enter: kernels whose vectors span output channels of one group, and their callers.
Start with `forward`; a filter gradient is `filter_gradient`, or `packed_filter_gradient` where no
tap leaves x. Modules with ``_call`` fill the argument blocks. `vnni` multiplies 8-bit integers in
fours.
"""
