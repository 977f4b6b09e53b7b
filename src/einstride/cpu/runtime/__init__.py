"""Call kernels with NumPy arrays: argument blocks, offset tables, aligned memory, threads.

What may enter: code that callers of several kernel families share; no kernel of one family.
Start with `operands`: it decides which arrays a kernel can address, and copies the others.
"""
