"""What trains a network: losses, optimisers, batches, metrics, files, and the loop over epochs.

What may enter: parts of training that work for every network; layers are elsewhere.
Start with `losses` and `optimisers`; `fitting` is the loop.
"""
