"""Direct convolution for too few channels to fill a vector: first layers, patches.

What may enter: schedules whose vectors or sums span taps or positions together with channels.
Start with `lines` (forward), `blocks` (input gradient) and `spans` (filter gradient).

Tilings are chosen by predicted time, in units of one multiply-add of vectors; everything else that
a kernel does is counted in the same unit. The factors were fitted by hand to timed layers on an x86
core with 64-byte vectors. They decide the tiling and the choice of engines, and so the order of
sums in gradients.
"""
