"""Defines the settings that the runner passes to every worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Hold the settings of the workers."""

    threads: int = 2
    algorithm: str = "auto"  # einstride's own; peers ignore it
    native_blas: bool = False  # drop the environment's choice of an OpenBLAS kernel
    fresh_memory: bool = False  # give freed memory back to the system, glibc's default
    slice_seconds: float = 0.06  # timed work of one variant in one round
    call_limit: float = 20.0  # seconds that preparing or measuring one variant may take
