"""A filter of many megabytes in pieces: panels of one of them at a time are all the workspace.

A piece makes some channels of the result: some groups, or some output channels of the pass. Each
sum is what it would be in one piece.
"""

from __future__ import annotations

from einstride.algorithms.direct.shapes import gathered, joined
from einstride.codegen import jit
from einstride.geometry import input_gradient_phases
from einstride.geometry.channel_slices import ChannelSlices
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

PIECE = 8 << 20
"""Bytes of panels from which a filter is cut."""


@cached(1024)
def pieces(job: Job) -> ChannelSlices:
    """The pieces of a job whose filter is not prepared; none if it is small enough as it is."""
    from einstride.cpu.dense import vnni

    g, backwards = job.geometry, job.direction == "input_grad"
    size, width = _panels(job)
    if size <= PIECE or vnni.fits(g, job) or (backwards and gathered(job) != g):
        return ChannelSlices(job)
    count = -(-size // PIECE)
    if g.groups > 1:
        return ChannelSlices(job, g.groups, -(-g.groups // min(count, g.groups)), True)
    channels = g.channels if backwards else g.filters
    panels = -(-channels // width)
    if panels == 1:
        return ChannelSlices(job)
    return ChannelSlices(job, channels, -(-panels // min(count, panels)) * width)


def largest(job: Job) -> Job:
    """The piece with the most panels, or the job."""
    found = None if job.prepared else pieces(job)
    return found[0].job if found else job


def phases(job: Job) -> list[Geometry]:
    """The forward convolutions that a forward pass or an input gradient is made of."""
    if job.direction == "forward":
        return [joined(job)]
    return [
        p.geometry for p in input_gradient_phases.phases(gathered(job)) if p.geometry is not None
    ]


def _panels(job: Job) -> tuple[int, int]:
    """Bytes of the largest phase's panels, and output channels in a panel."""
    from einstride.cpu.dense.pack_call import panel_bytes, shape

    on, compute = jit.machine(), job.arithmetic.compute
    found = phases(job)
    if not found:
        return 0, 1
    s = shape(compute, found[0].filters // found[0].groups, on)
    return max(panel_bytes(h, compute, on) for h in found), s.width // s.parts
