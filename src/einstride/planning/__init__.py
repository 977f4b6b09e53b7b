"""Choose the algorithm of a job by predicted time under the caller's limits, and say why.

What may enter: choices that look at shapes, dtypes, limits and traits; no array is touched here.
Start with `select`.
"""
