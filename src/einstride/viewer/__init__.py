"""Make the page that shows one convolution: windows, bytes in memory, sums, gradients and the plan.

What may enter: code that turns a `Geometry`, arrays and plans into one HTML file or one SVG, and
the files of that page, which a person can read (`assets`): a template, a style and scripts, without
a framework and without the network. Python computes every number; the scripts only place it.
Start with `show`, the function that users call; `axes` says which position holds which element.
"""
