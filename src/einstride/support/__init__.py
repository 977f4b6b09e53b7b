"""Provide what every room uses: errors, caches with a limit, threads that signals cannot interrupt.

What may enter: code that is not about convolution and imports nothing else of einstride.
Start with `errors`, which writes the text of every refusal of a caller's value.
"""
