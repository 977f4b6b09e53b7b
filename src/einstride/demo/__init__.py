"""Check convolutions against loops, train a network on handwritten digits and draw the result.

What may enter: what ``python -m einstride demo`` shows; nothing that the library itself needs.
Start with `network`: a convolutional network, written with `einstride.nn`. `training` trains it,
`loops` and `checks` compare its convolutions with nested loops, `report` and `picture` print and
draw the results, and `story` runs all of these in order.
"""
