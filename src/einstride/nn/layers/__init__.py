"""The layers of a network, each with its forward pass and its gradients.

What may enter: subclasses of `einstride.nn.layer.Layer`, and array functions shared by
several layers.
Start with `dense`, the shortest layer with parameters.
"""
