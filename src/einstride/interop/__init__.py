"""Operators of other projects by einstride's functions.

Start with `onnx_ops`: ONNX Conv, ConvTranspose and their attributes.
"""
