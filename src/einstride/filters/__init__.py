"""Filter plain arrays along some of their axes: images and signals without batch and channels.

What `einstride.signal` and `einstride.ndimage` share: their arguments as arrays of one library, and
filters over chosen axes by the convolutions of `einstride.dispatch`. What may enter: code that
both rooms need; names and defaults of other libraries stay in those rooms. Start with `along_axes`.
"""
