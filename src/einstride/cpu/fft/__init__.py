"""Convolution of each channel by products of spectra, in kernels whose lanes are channels.

What may enter: compiled Fourier transforms, what cuts planes into tiles for them, and callers.
Start with `kernels`; `codelets` are transforms of one length, `plan` says how planes are cut.
"""
