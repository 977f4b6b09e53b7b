"""Direct convolution for so few channels that they do not fill a vector: first layers, patches.

Start with `line_calls` (forward), `blocks` (input gradient) and `run_outer` (filter gradient).
"""
