"""Hand NumPy arrays to kernels: argument blocks, offset tables, aligned memory, threads.

What may enter: what several families of kernels need to be called; no kernel of one family.
Start with `operands`: it says which arrays a kernel can address, and copies the others.
"""
