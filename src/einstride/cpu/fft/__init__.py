"""Depthwise convolution by FFT, in kernels whose vectors hold channels.

What may enter: compiled Fourier transforms, the tiling of planes for them, and their callers.
Start with `kernels`; `codelets` generates transforms of one length, `plan` chooses the tiling.
"""
