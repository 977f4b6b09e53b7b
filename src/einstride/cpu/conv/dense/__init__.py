"""Convolve arrays of many channels directly, by sums of outer products in registers.

What may enter: schedules whose vectors span output channels of one group.
Start with `forward`; the filter gradient is `filter_gradient`, or `packed_filter_gradient` where no
tap leaves x. `pack` packs filters, and `vnni` multiplies 8-bit integers by VNNI dot products.
"""
