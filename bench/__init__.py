"""Benchmarks einstride: ``python -m bench`` from the root of the repository."""
