"""Implement shell commands: explain or show a plan, list the installation, compile kernels.

What may enter: a module for each command of ``python -m einstride`` except the demo.
Start with `explain`.
"""
