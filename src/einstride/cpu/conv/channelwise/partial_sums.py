"""Split a filter gradient with few channels per group into partial sums.

A partial sum is a filter gradient over a range of rows, or over a strip of each row; partial sums
are added in order afterwards. Their number depends on shapes alone, never on threads, so that the
bits of the result do not either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.conv.channelwise.signature import MIN_THREADED, Signature
from einstride.cpu.conv.filter_gradient import Range
from einstride.cpu.conv.loop_nest import (
    block,
    loop_over_blocks,
    loop_over_taps_inside,
    split,
)
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

    def arguments(self, sig: Signature, lanes: int, panel: int) -> dict[str, int]:
        """List the arguments that divide the work into chunks: panels of partial sums.

        The panels divide `lanes`, lanes or groups, into `panel` each.
        """
        g = sig.geometry
        panels = -(-lanes // panel)
        return {
            "chunks": panels * self.results * self.per_result, "panels": panels, "panel": panel,
            "strips": self.strips, "row_ranges": self.row_ranges, "rows": self.rows,
            "result_rows": prod(g.out[:-1]) * (g.batch // self.results),
            "all_rows": prod(g.out[:-1]), "f_partial": prod(g.f_shape) * sig.parts,
        }  # fmt: skip


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


def locate_partial_sum(code: Code, chunk: Value, dtype: str) -> tuple[Value, Value, Range, Pointer]:
    """Return a chunk's panel and strip, its range of the rows of all examples, its partial sum.

    The partial sums lie at ``f``, filled with zeros, one after the other.
    """
    panel, partial = split(chunk, code["panels"])
    strip, row_range, result = split(partial, code["strips"], code["row_ranges"])
    first, last = block(row_range, code["rows"], code["result_rows"])
    start = result * code["result_rows"]
    f = code.array("f", dtype).at(partial * code["f_partial"])
    return panel, strip, (start + first, start + last), f


def loop_over_tap_tiles(
    code: Code, tables: list[Pointer], x: Pointer, kernel: int, taps: int,
    visit: Callable[[Pointer, Value, Value, int], None],
) -> None:  # fmt: skip
    """Loop over the taps that read x on the outer axes, and `taps` at a time of the last axis.

    Visits the address in x under a tap of the outer axes, and this tap's number; the first tap of
    the last axis, which has `kernel` taps, and the number of taps.
    """

    def visit_outer_tap(x: Pointer, tap: Value) -> None:
        loop_over_blocks(code, kernel, taps, lambda k, count: visit(x, tap, k, count))

    loop_over_taps_inside(code, tables, x, visit_outer_tap)
