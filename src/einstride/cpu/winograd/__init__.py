"""Compute convolutions by Winograd's algorithm in compiled kernels.

What may enter: kernels that transform tiles and multiply them, the choice of F(m, r), and callers.
Start with `forward`; `plan` chooses blocks of tiles and channels, `choice` the fastest F(m, r).
"""
