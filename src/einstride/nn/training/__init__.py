"""Train networks: losses, optimisers, batches, metrics, checkpoints and the training loop.

What may enter: parts of training that work for every network; layers are in `nn.layers`.
Start with `losses` and `optimisers`; `fitting` is the loop.
"""
