"""Fourier transforms in compiled kernels, whose lanes are channels.

Start with `kernels`; `codelets` are transforms of one length, `plan` says how an axis is split.
"""
