"""Implement shell commands: explain a plan, list the installation, compile kernels in advance.

What may enter: a module for each command of ``python -m einstride`` except the demo.
Start with `explain`.
"""
