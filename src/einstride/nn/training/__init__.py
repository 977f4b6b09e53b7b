"""Losses, optimisers, batches, metrics, checkpoints, and the loop that uses them.

Start with `fitting`.
"""
