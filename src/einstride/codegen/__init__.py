"""A small language over LLVM IR, its compiler, and the kernels kept on disk.

What may enter: what a kernel of any algorithm can use; nothing that knows a convolution.
Start with `function_builder`, which writes a function; `jit` makes machine code of it for the CPU
at hand. Needs the extra ``fast`` (llvmlite); without it nothing here runs.
"""
