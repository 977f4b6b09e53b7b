"""What users call, one module for each function or class. No mathematics.

Start with `conv`.
"""
