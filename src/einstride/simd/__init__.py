"""Kernels for this machine's vector units, written here and compiled by LLVM when first needed.

A page writes one kernel with the few words of `code`; `compiler` makes machine code of it for the
CPU at hand and keeps it on disk. Needs the extra ``fast`` (llvmlite); without it nothing here runs.
"""
