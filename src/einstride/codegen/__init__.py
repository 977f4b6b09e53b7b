"""Write kernels in a small language over LLVM IR, compile them, and cache them on disk.

What may enter: code that kernels of any kind can use; nothing that depends on convolutions.
Start with `function_builder`, in which kernels are written; `jit` compiles them for the host CPU.
Kernels need the extra ``fast`` (llvmlite); `jit.available` is true if it is installed.
"""
