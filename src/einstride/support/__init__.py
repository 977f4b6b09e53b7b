"""Helpers of every room: errors, optional imports, caches with a bound, locks of threads.

What may enter: code that knows nothing of convolution and imports nothing of einstride.
Start with `errors`: every refusal of a caller's value is made there.
"""
