"""How much memory compiled FFTs take, and what a ceiling leaves of it. Decided by shapes alone."""

from __future__ import annotations

from math import prod

from einstride.cpu.fft.calls import Form
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.problem import Job
from einstride.support.caches import cached

UNITS = 16
"""Chunks that a filter gradient is cut into, about; from shapes alone."""

USES = 2
"""Planes for which a spectrum is not worth keeping."""


def units(form: Form, job: Job) -> int:
    """Ranges of examples that a filter gradient sums apart."""
    g = form.geometry
    if job.per_example:
        return g.batch
    wanted = min(max(UNITS // form.blocks, 1), g.batch)
    return -(-g.batch // -(-g.batch // wanted))


def fused(form: Form, job: Job) -> bool:
    """Is there one kernel for the filter and the rest, with spectra in the scratch?

    So many vectors of channels that no thread waits long, and few uses of each spectrum; or
    results of each example apart.
    """
    if form.gradient:
        return job.per_example or units(form, job) == 1
    uses = form.geometry.batch * form.cut.planes
    return form.blocks >= UNITS and uses <= USES and not form.spread


@cached(256)
def share(form: Form, job: Job) -> int:
    """Numbers of a worker's scratch, whichever kernels are used."""
    if fused(form, job):
        kernels = ["reduce"] if form.gradient else ["whole", "convolve"]
    else:
        kernels = ["gather", "finish"] if form.gradient else ["convolve", "spectrum"]
    return max(form.share(k) for k in kernels)


def need(form: Form, job: Job, blocks: int, workers: int) -> int:
    """Bytes of scratch and spectra."""
    kept = 0 if fused(form, job) else blocks * form.spectrum
    kept *= units(form, job) if form.gradient else 1
    return (share(form, job) * workers + kept) * ITEMSIZE[form.compute] + 128


@cached(256)
def room(form: Form, job: Job) -> tuple[int, int]:
    """How many blocks of channels are done at once, and by how many threads."""
    for workers in range(job.threads, 0, -1):
        for blocks in range(form.blocks, 0, -1):
            if need(form, job, blocks, workers) <= ceiling(form, job):
                return blocks, workers
    return 1, 1


def ceiling(form: Form, job: Job) -> int:
    """Bytes for scratch and spectra."""
    return job.limit - form.tables - copies(job) if job.hard else max(job.limit, 64 << 20)


def copies(job: Job) -> int:
    """Bytes of operands and results that kernels cannot address; a filter's are always counted."""
    return prod(job.geometry.f_shape) * job.operand_itemsize + job.copied
