"""Which algorithm computes a job, and why: predicted times under the caller's limits.

What may enter: choices that look at shapes, dtypes and limits; no array is touched here.
Start with `select`.
"""
