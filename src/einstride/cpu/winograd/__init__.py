"""Winograd's algorithm in compiled kernels: transforms, and products of transformed tiles.

What may enter: kernels of minimal filtering, the choice of their tiles, and their callers.
Start with `forward`; `plan` chooses how tiles are grouped, `choice` which F(m, r) is fastest.
"""
