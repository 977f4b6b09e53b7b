"""Commands for the shell: explain a plan, show what is installed, compile kernels beforehand.

What may enter: a module for each command of ``python -m einstride`` but the demo.
Start with `explain`.
"""
