"""Direct convolution for many channels in and out: sums of outer products in registers.

Start with `forward`; a filter gradient is `filter_gradient`, or `packed_filter_gradient` where no
tap leaves x. Modules with ``_call`` fill the argument blocks. `vnni` multiplies 8-bit integers in
fours.
"""
