"""Winograd's algorithm in compiled kernels: transforms, and products in the transformed domain.

Start with `forward`; `plan` chooses how tiles are grouped, `choice` which scheme is fastest.
"""
