"""Choose the algorithm of a job, and say why: predicted times under the caller's limits.

What may enter: choices that look at shapes, dtypes, limits and traits; no array is touched here.
Start with `select`.
"""
