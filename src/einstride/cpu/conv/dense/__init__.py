"""Convolve arrays of many channels directly, by sums of outer products in registers.

What may enter: schedules whose vectors span output channels of one group.
Start with `forward`; the filter gradient is `filter_gradient`, or `packed_filter_gradient` where no
tap leaves x. `pack` packs filters. bfloat16 and 8-bit integers are multiplied by matrix registers
(`matrix_tiles`, AMX), 8-bit integers elsewhere by VNNI dot products (`vnni`).
"""
