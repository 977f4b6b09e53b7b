"""Commands of ``python -m einstride``: explain a plan, show what is installed, compile beforehand.

Start with `explain`.
"""
