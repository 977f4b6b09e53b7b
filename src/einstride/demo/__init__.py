"""Check convolutions against loops, then train two networks on handwritten digits, and draw.

What may enter: what ``python -m einstride demo`` shows; nothing that the library itself needs.
Start with `network`: a convolutional network, written with `einstride.nn`. `training` makes it
learn, `loops` and `checks` show that its convolutions are right, `report` and `picture` show what
came of it, and `story` tells everything in order.
"""
