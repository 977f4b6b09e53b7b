"""Layers of a network, each with its forward pass and its gradient.

Start with `conv`.
"""
