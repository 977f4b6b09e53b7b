"""Benchmarks on a GPU: einstride and each peer run in processes of their own, started by
`ci/gpu`."""
