"""From NumPy arrays to a running kernel: argument blocks, offset tables, memory, threads.

What may enter: what several families of kernels need of arrays and threads.
Start with `operands`: it says which arrays a kernel can address, and copies the others.
"""
