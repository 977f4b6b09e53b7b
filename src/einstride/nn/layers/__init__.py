"""The layers of a network, each with its forward pass and its gradient.

What may enter: subclasses of `einstride.nn.layer.Layer`, and array code that several share.
Start with `dense`, the shortest layer with parameters.
"""
