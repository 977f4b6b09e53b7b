"""Kernels of contiguous channels on arrays in any memory order, by blocks in staging buffers.

    x, channels_first        staging buffers of a thread, channels_last        y, channels_first
    C x H x W     --copy-->  rows x W x c   --kernel-->  rows x W x d  --copy-->     D x H x W

A block is a band of rows of one example, for some channels; it stays in a core's own cache, and no
array is copied as a whole. What may enter: what divides a convolution into blocks and runs any
kernel on them. Start with `block_plan`, then `kernel`.
"""
