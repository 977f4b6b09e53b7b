"""Write kernels in a small language over LLVM IR, compile them, and keep them on disk.

What may enter: what kernels of any kind can use; nothing that knows a convolution.
Start with `function_builder`, in which kernels are written; `jit` compiles them for the CPU at
hand. Kernels need the extra ``fast`` (llvmlite); `jit.available` says whether it is installed.
"""
