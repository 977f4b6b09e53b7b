"""Direct convolution with one channel in each group, vectors along the channels.

Start with `forward`; `tile` is the part that stays in registers.
"""
