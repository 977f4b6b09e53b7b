"""Helpers of every room: errors, caches with a bound, threads that signals cannot end.

What may enter: code that knows nothing of convolution and imports nothing of einstride.
Start with `errors`: every refusal of a caller's value is written there.
"""
