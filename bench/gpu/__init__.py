"""The benchmark on a GPU: ours and each peer in a process of its own; `ci/gpu` runs them all."""
