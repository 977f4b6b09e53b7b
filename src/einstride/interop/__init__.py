"""Compute the operators of other projects, such as ONNX, by einstride's functions.

What may enter: a module for each project, which translates attributes and calls `einstride.api`.
Start with `onnx_ops`: ONNX Conv, ConvTranspose and ConvInteger.
"""
