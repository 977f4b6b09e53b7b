"""Compute the memory that compiled FFTs take, and how much work fits the limit.

What decides the order of sums follows from shapes alone, so that results have the same bits
whatever the limit and the number of threads.
"""

from __future__ import annotations

from math import prod

from einstride.cpu.fft.calls import FFTConvolution
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.problem import Job
from einstride.support.caches import cached

TARGET_PARTIAL_SUMS = 16
"""Partial sums times blocks of channels of a filter gradient, about; decides the order of sums."""

TILED_PARTIAL_SUMS = 4
"""Partial sums of a filter gradient whose lanes hold tiles, at most. Each has as many lanes: more
sums take more memory, and more time to add up, than threads gain."""

USES = 2
"""Planes that a spectrum is used for, at most, if it is computed again rather than kept."""


def partial_sums(conv: FFTConvolution, job: Job) -> int:
    """Count the partial sums of a filter gradient: ranges of examples, or single examples."""
    g = conv.geometry
    if job.per_example:
        return g.batch
    if conv.tiled_lanes:
        max_sums = min(TILED_PARTIAL_SUMS, conv.planes)
    else:
        max_sums = min(max(TARGET_PARTIAL_SUMS // conv.blocks, 1), conv.planes)
    return -(-conv.planes // -(-conv.planes // max_sums))


def fused(conv: FFTConvolution, job: Job) -> bool:
    """True if one kernel transforms the filter and does the rest, with spectra in the scratch.

    Forward, if threads share enough blocks of channels and each spectrum has few uses. A filter
    gradient, if each partial sum is a result.
    """
    if conv.gradient:
        return job.per_example or partial_sums(conv, job) == 1
    uses = conv.geometry.batch * conv.tiling.planes
    return conv.blocks >= TARGET_PARTIAL_SUMS and uses <= USES and not conv.tiled_lanes


@cached(256)
def scratch_elements(conv: FFTConvolution, job: Job) -> int:
    """Count the elements of a worker's scratch, for the largest of the kernels that a job uses."""
    if fused(conv, job):
        kernels = ["reduce"] if conv.gradient else ["whole", "convolve"]
    else:
        kernels = ["gather", "finish"] if conv.gradient else ["convolve", "spectrum"]
    return max(conv.scratch_elements(k) for k in kernels)


def workspace_bytes(conv: FFTConvolution, job: Job, blocks: int, workers: int) -> int:
    """Count the bytes of scratch and spectra for a number of blocks at once and of workers."""
    spectra = 0 if fused(conv, job) else blocks * conv.spectrum
    spectra *= partial_sums(conv, job) if conv.gradient else 1
    return (scratch_elements(conv, job) * workers + spectra) * ITEMSIZE[conv.compute] + 128


@cached(256)
def blocks_at_once(conv: FFTConvolution, job: Job) -> tuple[int, int]:
    """Choose the most blocks of channels at once within the limit, and the threads."""
    for workers in range(job.threads, 0, -1):
        for blocks in range(conv.blocks, 0, -1):
            if workspace_bytes(conv, job, blocks, workers) <= limit(conv, job):
                return blocks, workers
    return 1, 1


def limit(conv: FFTConvolution, job: Job) -> int:
    """Return the bytes that scratch and spectra may take."""
    return job.limit - conv.tables - copies(job) if job.hard else max(job.limit, 64 << 20)


def copies(job: Job) -> int:
    """Count the bytes of copies of unaddressable arrays; a copy of the filter always counts."""
    return prod(job.geometry.f_shape) * job.operand_itemsize + job.copied
