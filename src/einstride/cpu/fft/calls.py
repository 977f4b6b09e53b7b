"""Fill the argument blocks and tables of the FFT kernels, ready for the addresses of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from einstride.codegen import jit
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.fft import kernels
from einstride.cpu.fft.kernel import arguments
from einstride.cpu.fft.lines import order, radices, stage_table, transform, twiddles
from einstride.cpu.fft.plan import Tiling, best_tiling, taps
from einstride.cpu.fft.positions import describe
from einstride.cpu.fft.views import Operand, Plane
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.offset_tables import OUTSIDE, lowest_offset, to_offsets
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import segments
from einstride.support.byte_cache import kept

Strides = tuple[int, ...]

OPERANDS = {
    "spectrum": "f", "finish": "f", "convolve": "xy", "gather": "xy", "whole": "fxy",
    "reduce": "xyf",
}  # fmt: skip
"""By kernel: the operands, in the order of its parameters."""


FILTERED = 8
"""Vector instructions per frequency of a filter, to move it to its row of the spectrum. Fitted by
hand to timed layers, like those in `plan`."""


@dataclass(frozen=True)
class FFTConvolution:
    """A depthwise convolution by FFT, with the sizes that follow from it.

    Attributes
    ----------
    geometry : Geometry
        Has strides of one and as many groups as channels.
    compute : str
        The dtype of transforms and sums.
    gradient : bool
        True for the filter gradient.
    target : Target
        The target that kernels are compiled for.
    """

    geometry: Geometry
    compute: str
    gradient: bool
    target: Target

    @cached_property
    def lanes(self) -> int:
        """Lanes of a vector."""
        return self.target.lanes(ITEMSIZE[self.compute])

    @cached_property
    def blocks(self) -> int:
        """Blocks of channels, one vector each."""
        return -(-self.geometry.filters // self.lanes)

    @cached_property
    def tiled_lanes(self) -> bool:
        """True if lanes hold tiles, since there is one channel only."""
        g = self.geometry
        return g.channels == g.filters == 1

    @cached_property
    def optional_tiling(self) -> Tiling | None:
        """How its planes are divided into tiles; None if no period is long enough."""
        return best_tiling(
            self.geometry, self.gradient, self.target.vector_bytes, self.tiled_lanes * self.lanes
        )

    @cached_property
    def tiling(self) -> Tiling:
        """How its planes are divided into tiles.

        Raises
        ------
        ValueError
            If no period is long enough.
        """
        tiling = self.optional_tiling
        if tiling is None:
            raise ValueError("no period is long enough")
        return tiling

    @cached_property
    def plane(self) -> Plane:
        """The transform of its planes."""
        lanes_summed = self.tiled_lanes and self.gradient
        masked = self.geometry.filters < self.lanes and (lanes_summed or not self.tiled_lanes)
        return Plane(self.compute, self.lanes, masked, self.tiling.flat, lanes_summed)

    @cached_property
    def planes(self) -> int:
        """Planes that are summed over: examples, or vectors of tiles if lanes hold tiles."""
        batch = self.geometry.batch
        return -(-batch * self.tiling.planes // self.lanes) if self.tiled_lanes else batch

    @cached_property
    def spectrum(self) -> int:
        """Elements in the spectrum of a block of channels."""
        return self.tiling.spectrum * self.lanes

    def counts(self, name: str) -> tuple[int, int]:
        """Return the rows and columns of a plane of an operand that may hold elements."""
        down, across = self.tiling.down, self.tiling.across
        if name == "f":
            return self.geometry.kernel[0] if not self.tiling.flat else 1, across.period
        return (down.inputs, across.inputs) if name == "x" else (down.outputs, across.outputs)

    def table_entries(self, name: str) -> tuple[int, int]:
        """Return the entries of an operand's tables of rows and of columns in the scratch."""
        if name == "f":
            return 0, 0
        rows, columns = self.counts(name)
        lanes = self.lanes if self.tiled_lanes else 1
        if self.tiling.flat:
            return lanes, (2 * columns + 1) * lanes
        return (rows + 1) * lanes, (columns + 1) * lanes

    def places(self, kernel: str) -> dict[str, int]:
        """Return where the parts of a worker's scratch begin, in elements, and how many it has.

        Tables of operands are counted in 64-bit integers, from the first table on.
        """
        tiling, size = self.tiling, 2 * self.lanes
        found: dict[str, int] = {}
        entries = 0
        for name in OPERANDS[kernel]:
            if name != "f":
                rows, columns = self.table_entries(name)
                found |= {f"{name}_rows": entries, f"{name}_columns": entries + rows}
                entries += rows + columns
        length = max(tiling.down.period, tiling.across.period) * size
        # A row of zeros is paired with the last row if their number is odd.
        rows_of = {n: -(-self.counts(n)[0] // 2) * 2 * tiling.pitch * size for n in "xyf"}
        before_gy = rows_of["x"] if kernel in ("gather", "reduce") else 0
        names = OPERANDS[kernel]
        buffer = max(rows_of[n] + (before_gy if n == "y" else 0) for n in names)
        sizes = {
            "line": 2 * size + -(-8 * entries // 64) * 64 // ITEMSIZE[self.compute],
            "second": length, "buffer": length, "gy_buffer": before_gy,
            "buffer_end": buffer - before_gy,
            "worker_scratch": self.spectrum if kernel in ("whole", "reduce") else 0,
        }  # fmt: skip
        place = 0
        for name, step in sizes.items():
            place += step
            found[name] = place
        found["worker_scratch"] = -(-place // 64) * 64
        return found

    def scratch_elements(self, kernel: str) -> int:
        """Count the elements of a worker's scratch for a kernel."""
        return self.places(kernel)["worker_scratch"]

    @cached_property
    def tables(self) -> int:
        """Bytes of the tables of all its kernels, at most."""
        periods = self.tiling.down.period + self.tiling.across.period
        return 3 * (8 * 8 * periods + (1 << 12))


def _describe_operand(
    conv: FFTConvolution, name: str, stored: str, strides: Strides
) -> tuple[Operand, dict[str, int], dict[str, Any]]:
    """Describe how a kernel accesses an array, with its arguments and tables."""
    g, tiling = conv.geometry, conv.tiling
    axes = [tiling.across] if tiling.flat else [tiling.down, tiling.across]
    size = {"x": g.size, "y": g.out, "f": g.kernel}[name]
    counts = conv.counts(name)
    tables: dict[str, Any] = {}
    if name == "f":
        columns = taps(g, g.rank - 1, tiling.across, conv.gradient)
        rows = np.zeros(1, np.int64) if tiling.flat else np.arange(size[0])
        for part, elements, axis in (("rows", rows, 0), ("columns", columns, g.rank - 1)):
            stride = 0 if part == "rows" and tiling.flat else strides[axis + 1]
            table = to_offsets(elements, stride, lowest_offset(size[axis], stride))
            tables[f"f_{part}"] = np.append(table, OUTSIDE)  # the row that is paired with the last
    else:
        for axis, (part, a, entries) in enumerate(
            zip(("down", "across")[-g.rank :], axes, counts[-g.rank :], strict=True)
        ):
            overlap = g.extent[axis] - 1 if name == "x" else 0
            length, low = g.out[axis] + overlap, g.padding[axis][0] if name == "x" else 0
            held = segments(-low, length - low, size[axis], g.padding_mode)
            shift = a.shift if name == "x" else 0
            tables[f"{name}_{part}"] = describe(
                a, held, overlap, shift, entries, size[axis], strides[axis + 1]
            )
    repeat = g.filters // g.channels if name == "x" else 1
    same_filter = conv.tiled_lanes and not conv.gradient  # in all lanes
    contiguous = repeat == 1 and strides[-1] == 1 and not same_filter
    channel = 0 if same_filter else strides[-1]
    operand = Operand(
        name, Format(stored, conv.compute), contiguous, conv.tiled_lanes and name != "f"
    )
    lowest = sum(lowest_offset(n, s) for n, s in zip(size, strides[1:], strict=False))
    if operand.tiled_lanes:
        lowest_example = lowest_offset(g.batch, strides[0])
        arguments_of_lanes = {f"{name}_first_example": -lowest_example}
        lowest += lowest_example
    else:
        arguments_of_lanes = {}
    values = {
        name: lowest * ITEMSIZE[stored], f"{name}_batch": strides[0], f"{name}_channel": channel,
        f"{name}_repeat": repeat, f"{name}_row_count": counts[0], f"{name}_column_count": counts[1],
    }  # fmt: skip
    return operand, values | arguments_of_lanes, tables


def _describe_axis(name: str, period: int, dtype: str) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the arguments and tables of the transforms along an axis."""
    stages = radices(period)[1] or (1,)
    tables = {f"{name}_stages": stage_table(stages), f"{name}_factors": twiddles(stages, dtype)}
    return {f"{name}_length": period, f"{name}_stage_count": len(stages)}, tables


@kept
def call(
    conv: FFTConvolution, kernel: str, stored: tuple[str, ...], strides: tuple[Strides, ...],
    blocks: int, partial_sums: int, threads: int,
) -> Call:  # fmt: skip
    """Make the call of a kernel for some blocks of channels; for filter gradients, in partial sums.

    It takes the addresses of its operands by name, `scratch`, `spectra`, and the number of the
    first block.
    """
    g, tiling, plane = conv.geometry, conv.tiling, conv.plane
    operands: list[Operand] = []
    values: dict[str, int] = dict(conv.places(kernel))
    tables: dict[str, Any] = {}
    for name, dtype, operand_strides in zip(OPERANDS[kernel], stored, strides, strict=True):
        operand, arguments_of, tables_of = _describe_operand(conv, name, dtype, operand_strides)
        operands.append(operand)
        values |= arguments_of
        tables |= tables_of
    for name, axis in (("height", tiling.down), ("width", tiling.across)):
        period = 1 if name == "height" and tiling.flat else axis.period
        arguments_of, tables_of = _describe_axis(name, period, conv.compute)
        values |= arguments_of
        tables |= tables_of
    positions_of = order(radices(tiling.across.period)[1] or (1,))
    k = np.arange(tiling.half)
    pairs = np.stack([positions_of[k], positions_of[-k % tiling.across.period]], -1)
    slots = np.zeros(1, np.int64) if tiling.flat else taps(g, 0, tiling.down, conv.gradient)
    length = (1 if tiling.flat else tiling.down.period) * tiling.across.period
    scale = np.array([0.25 / length], conv.compute)
    tables |= {"pairs": np.ascontiguousarray(pairs), "slots": slots, "scale": scale}
    chunks = blocks * (g.batch * tiling.planes if kernel == "convolve" else partial_sums)
    if conv.tiled_lanes and kernel == "convolve":
        chunks = conv.planes
    values |= {
        "chunks": chunks, "blocks": blocks,
        "channels": conv.lanes if conv.tiled_lanes and not conv.gradient else g.filters,
        "batch": g.batch, "examples": g.batch,
        "count": conv.planes, "share": -(-conv.planes // partial_sums),
        "down": tiling.down.tiles, "across": 1 if tiling.flat else tiling.across.tiles,
        "tile_rows": tiling.down.outputs, "pitch": tiling.pitch,
    }  # fmt: skip
    values |= {name: address(table) for name, table in tables.items()}
    generate = getattr(kernels, kernel)
    kernel_spec = jit.KernelSpec(f"fourier_{kernel}", generate, (plane, *operands), conv.target)
    line = jit.KernelSpec("fourier_line", transform, (conv.compute, conv.lanes), conv.target)
    names, held = arguments(*operands), list(tables.values())
    return Call(kernel_spec, names, values, min(threads, chunks), held, {"transform": line})


def effort(conv: FFTConvolution) -> float:
    """Predict the vector instructions of a call, without those of `filter_effort`."""
    return conv.tiling.effort * conv.geometry.batch * conv.blocks


def filter_effort(conv: FFTConvolution) -> float:
    """Predict the vector instructions to transform the filter, or the sums to its gradient."""
    tiling = conv.tiling
    rows = conv.geometry.kernel[0] if not tiling.flat else 1
    columns = tiling.half * (tiling.down.effort + FILTERED * tiling.down.period)
    transform_effort = tiling.across.effort * rows / 2 + columns
    return transform_effort * conv.blocks
