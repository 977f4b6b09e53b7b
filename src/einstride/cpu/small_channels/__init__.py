"""Direct convolution of too few channels to fill a vector: first layers, patches.

What may enter: kernels whose vectors or sums span taps or positions together with channels, and
their callers.
Start with `line_calls` (forward), `blocks` (input gradient) and `run_outer` (filter gradient).

How work is cut is chosen by its predicted time, counted in multiply-adds of two vectors; whatever
else a kernel does is counted as so many of these. The factors were fitted by hand to timed layers
on an x86 core with 64-byte vectors. They change the cut and the choice of engines, and so the order
of sums in gradients.
"""
