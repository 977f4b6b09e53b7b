"""Split a filter gradient with few channels per group into partial sums, and choose its kernel.

A partial sum is a filter gradient over a range of rows, or over a strip of each row; partial sums
are added in order afterwards. Their number depends on shapes alone, never on threads, so that the
bits of the result do not either.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from einstride.codegen import jit
from einstride.cpu.channelwise import channels_gradient as channels
from einstride.cpu.channelwise import positions_gradient as positions
from einstride.cpu.channelwise.forward_call import border_arguments
from einstride.cpu.channelwise.signature import (
    MIN_THREADED,
    Signature,
    interior,
    tables,
    vector_interior,
)
from einstride.cpu.runtime.argument_block import Call
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

TARGET_CHUNKS = 16
"""Partial sums times panels of channels, about: the chunks that threads share."""

MAX_PARTIAL_SUM_BYTES = 2 << 20
"""Bytes of all partial sums of a result, about: large filters get fewer of them."""

MAX_PANELS = 8
"""Panels of channels that threads may compute separately, at most."""

MIN_STRIP = 256
"""Positions in a strip of a row, at least."""


@dataclass(frozen=True)
class PartialSums:
    """How the sum over positions of a filter gradient is split into partial sums.

    Attributes
    ----------
    results : int
        Filter gradients: one, or one per example.
    row_ranges : int
        Ranges that the rows of positions of one result are divided into.
    rows : int
        Rows in a range.
    strips : int
        Strips that each row is divided into.
    """

    results: int
    row_ranges: int
    rows: int
    strips: int

    @property
    def per_result(self) -> int:
        """Partial sums of one result."""
        return self.row_ranges * self.strips


@cached(1024)
def partial_sums(g: Geometry, per_example: bool, compute: str) -> PartialSums:
    """Describe how a filter gradient is split; decided by shapes and dtype alone."""
    results = g.batch if per_example else 1
    rows = prod(g.out[:-1]) * (g.batch // results)
    size = prod(g.f_shape) * ITEMSIZE[compute]
    panels = min(MAX_PANELS, max(g.filters * ITEMSIZE[compute] // 256, 1)) if g.groups > 1 else 1
    max_sums = max(min(-(-TARGET_CHUNKS // panels), MAX_PARTIAL_SUM_BYTES // max(size, 1)), 1)
    max_sums = 1 if g.multiply_adds // results < MIN_THREADED else max_sums
    range_rows = -(-rows // min(max_sums, rows))
    row_ranges = -(-rows // range_rows)
    strips = max(min(max_sums // row_ranges, g.out[-1] // MIN_STRIP), 1)
    return PartialSums(results, row_ranges, range_rows, -(-g.out[-1] // -(-g.out[-1] // strips)))


def call(sig: Signature, partials: PartialSums) -> Call:
    """Make the call that adds conj(x) gy to partial sums, given the addresses x, y (gy's) and f.

    At f lie the partial sums, filled with zeros, one after the other.
    """
    g = sig.geometry
    chunks = partials.results * partials.per_result
    values = {
        "strips": partials.strips, "row_ranges": partials.row_ranges, "rows": partials.rows,
        "result_rows": prod(g.out[:-1]) * (g.batch // partials.results),
        "f_partial": prod(g.f_shape) * sig.parts,
    }  # fmt: skip
    choose = _vectors_of_positions if sig.along_positions else _vectors_of_channels
    module, spec, own_values, offset_tables = choose(sig, partials)
    values |= sig.arguments(offset_tables) | own_values
    values["chunks"] = chunks * own_values.get("panels", 1)
    kernel = jit.KernelSpec(module.NAME, module.kernel, (spec,), sig.target)
    names = module.arguments(g.rank)
    arguments = {name: values[name] for name in names if name in values}
    return Call(kernel, names, arguments, min(sig.useful_threads, values["chunks"]), offset_tables)


def _vectors_of_channels(
    sig: Signature, partials: PartialSums
) -> tuple[Any, Any, dict[str, int], list[Any]]:
    """Return the kernel module, spec, arguments and tables with vectors of output channels."""
    g = sig.geometry
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    inside, outside = interior(g)
    offset_tables, shift = tables(sig, (inside, outside), False)
    filters = g.filters if sig.spans_groups else outputs
    count = -(-filters * sig.parts // sig.lanes)
    c = inputs
    if not sig.spans_groups:
        c = max(i for i in range(1, min(inputs, 8) + 1) if inputs % i == 0)
    taps = max(sig.accumulators // c, 1)
    tile = -(-g.kernel[-1] // -(-g.kernel[-1] // taps))
    vectors = max(min(sig.accumulators // (tile * c), count, 4), 1)
    spec = channels.Spec(
        sig.x, sig.y, sig.lanes, g.rank, g.kernel[-1], tile, vectors, sig.spans_groups, c,
        outputs if sig.spans_groups else 0, *sig.contiguous_channels,
    )  # fmt: skip
    all_lanes = g.filters * sig.parts if sig.spans_groups else g.groups
    multiple = vectors * sig.lanes if sig.spans_groups else 1
    panel = (
        all_lanes
        if sig.useful_threads == 1
        else -(-all_lanes // (multiple * MAX_PANELS)) * multiple
    )
    values = {
        "x": shift, "inside": inside, "outside": outside, "panel": panel,
        "panels": -(-all_lanes // panel), "strip": -(-g.out[-1] // partials.strips),
    }  # fmt: skip
    return channels, spec, values, offset_tables


def _vectors_of_positions(
    sig: Signature, partials: PartialSums
) -> tuple[Any, Any, dict[str, int], list[Any]]:
    """Return the kernel module, spec, arguments and tables with vectors of positions."""
    g, vector_positions = sig.geometry, sig.lanes // sig.parts
    inside, outside = vector_interior(sig)
    accumulators = (16 if sig.target.registers == 32 else 8) // sig.parts
    tile = -(-g.kernel[-1] // -(-g.kernel[-1] // accumulators))
    contiguous = g.stride[-1] * sig.x_strides[-2] == sig.parts
    masked = contiguous and g.padding_mode == "zeros"
    spec = positions.Spec(
        sig.x, sig.y, sig.lanes, g.rank, g.kernel[-1], tile, contiguous,
        sig.y_strides[-2] == sig.parts, masked,
    )  # fmt: skip
    offset_tables, shift = tables(sig, (0, g.out[-1]) if masked else (inside, outside), True)
    strip = (outside - inside) // partials.strips // vector_positions * vector_positions
    values = {"x": shift, "inside": inside, "outside": outside, "strip": strip}
    return positions, spec, values | border_arguments(sig, inside, outside), offset_tables
