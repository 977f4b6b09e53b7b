"""Direct convolution of too few channels to fill a vector: first layers, patches.

What may enter: kernels whose vectors or sums span taps or positions together with channels, and
their callers.
Start with `line_calls` (forward), `blocks` (input gradient) and `run_outer` (filter gradient).
"""
