"""``python -m einstride demo``: convolution checked, then put to work on handwritten digits.

Read `network` first: a convolutional network, written with `einstride.nn`. `training` makes it
learn, `loops` and `checks` show that its convolutions are right, `report` and
`picture` show what came of it, and `story` tells everything in order.
"""
