"""Direct convolution with one channel in each group, vectors along the channels.

What may enter: kernels that multiply a vector of channels by a vector of taps. Start with
`forward`; `tile` writes its register tile, `rows` what it shares with `filter_gradient`, and
`sources` lists the elements that taps meet.
"""
