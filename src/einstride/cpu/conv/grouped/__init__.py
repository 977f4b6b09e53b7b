"""Convolve many small groups directly, with several groups in the lanes of a vector.

What may enter: schedules whose vectors span the output channels of neighbouring groups.
Start with `layout`, which assigns channels to lanes, then `forward`.
"""
