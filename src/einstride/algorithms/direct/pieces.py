"""Split a filter of many megabytes by output channels, to pack the panels of one slice at a time.

A slice computes some channels of the result: some groups, or some output channels of the pass. The
split saves workspace and changes no sum.
"""

from __future__ import annotations

from einstride.algorithms.direct.shapes import positions_as_channels, taps_as_channels
from einstride.codegen import jit
from einstride.geometry import input_gradient_phases
from einstride.geometry.channel_slices import ChannelSlices
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

SLICE_BYTES = 8 << 20
"""Bytes of a filter's panels, at most, before it is split; slices have about this size."""


@cached(1024)
def filter_slices(job: Job) -> ChannelSlices:
    """Split a job whose filter is not prepared into slices; none if its panels are small."""
    from einstride.cpu.dense import vnni

    g, backwards = job.geometry, job.direction == "input_grad"
    size, width = _panels(job)
    if size <= SLICE_BYTES or vnni.fits(g, job) or (backwards and positions_as_channels(job) != g):
        return ChannelSlices(job)
    count = -(-size // SLICE_BYTES)
    if g.groups > 1:
        return ChannelSlices(job, g.groups, -(-g.groups // min(count, g.groups)), True)
    channels = g.channels if backwards else g.filters
    panels = -(-channels // width)
    if panels == 1:
        return ChannelSlices(job)
    return ChannelSlices(job, channels, -(-panels // min(count, panels)) * width)


def largest_slice(job: Job) -> Job:
    """Return the slice with the most panels, or the job if it is not split."""
    found = None if job.prepared else filter_slices(job)
    return found[0].job if found else job


def phases(job: Job) -> list[Geometry]:
    """List the forward convolutions that compute a forward pass or an input gradient."""
    if job.direction == "forward":
        return [taps_as_channels(job)]
    return [
        p.geometry
        for p in input_gradient_phases.phases(positions_as_channels(job))
        if p.geometry is not None
    ]


def _panels(job: Job) -> tuple[int, int]:
    """Return the bytes of the largest phase's panels, and the output channels of a panel."""
    from einstride.cpu.dense.pack_call import panel_bytes, panel_layout

    target, compute = jit.host_target(), job.arithmetic.compute
    found = phases(job)
    if not found:
        return 0, 1
    s = panel_layout(compute, found[0].filters // found[0].groups, target)
    return max(panel_bytes(h, compute, target) for h in found), s.width // s.parts
