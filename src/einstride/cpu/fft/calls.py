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
from einstride.cpu.fft.kernel import arguments, lines
from einstride.cpu.fft.lines import order, radices, twiddles
from einstride.cpu.fft.plan import Tiling, best_tiling, positions, results, taps
from einstride.cpu.fft.views import Operand, Plane
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.offset_tables import OUTSIDE, lowest_offset, to_offsets
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
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
        return g.channels == g.filters == 1 and g.padding_mode == "zeros" and not self.gradient

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
        tiling = self.tiling
        stages = (radices(tiling.down.period)[1], radices(tiling.across.period)[1])
        masked = self.geometry.filters < self.lanes and not self.tiled_lanes
        return Plane(self.compute, self.lanes, masked, *stages, tiling.pitch, tiling.flat)

    @cached_property
    def spectrum(self) -> int:
        """Elements in the spectrum of a block of channels."""
        return self.tiling.spectrum * self.lanes

    def scratch_elements(self, kernel: str) -> int:
        """Count the elements of a worker's scratch for a kernel."""
        tiling = self.tiling
        taps = self.geometry.kernel[0] if not tiling.flat else 1
        inputs, outputs = tiling.down.inputs, tiling.down.outputs
        rows = {
            "spectrum": taps, "finish": taps,
            "convolve": max(inputs, outputs), "whole": max(inputs, outputs, taps),
            "gather": inputs + outputs, "reduce": max(inputs + outputs, taps),
        }[kernel]  # fmt: skip
        spectrum = self.spectrum if kernel in ("whole", "reduce") else 0
        # If the number of rows is odd the last is transformed alone: nothing is read behind it.
        elements = lines(self.plane) + rows * tiling.pitch * 2 * self.lanes + spectrum
        return -(-elements // 64) * 64

    @cached_property
    def tables(self) -> int:
        """Bytes of the offset tables of all its kernels, at most."""
        tiling = self.tiling
        axes = tiling.down.tiles * (tiling.down.inputs + tiling.down.outputs) * 2
        axes += tiling.across.tiles * (tiling.across.inputs + tiling.across.outputs)
        return 8 * (3 * axes + 16 * (tiling.down.period + tiling.across.period))


def _offsets_and_lowest(elements: Any, stride: int, size: int) -> tuple[Any, int]:
    """Return the offsets of elements, and the lowest offset, negative for a negative stride."""
    lowest = lowest_offset(size, stride)
    return to_offsets(elements, stride, lowest), lowest


def _describe_operand(
    conv: FFTConvolution, name: str, stored: str, strides: Strides, kernel: str
) -> tuple[Operand, Any, Any]:
    """Describe how a kernel accesses an array, with its arguments and tables."""
    g, tiling = conv.geometry, conv.tiling
    if conv.tiled_lanes and name != "f":
        return _describe_tiled_operand(conv, name, stored, strides)
    rows_axis, last = (None if tiling.flat else 0), g.rank - 1
    size = {"x": g.size, "y": g.out, "f": g.kernel}[name]

    def elements_at(axis: int, axis_tiling: Any) -> Any:
        if name == "f":
            return taps(g, axis, axis_tiling, conv.gradient)[None]
        return (positions if name == "x" else results)(g, axis, axis_tiling)

    columns, lowest = _offsets_and_lowest(
        elements_at(last, tiling.across), strides[last + 1], size[last]
    )
    if rows_axis is None and name != "f":
        count = tiling.down.inputs
        tile_numbers = np.arange(tiling.down.tiles * count).reshape(-1, count)
        rows = np.where(tile_numbers < tiling.across.tiles, 0, OUTSIDE)
        row_columns = np.minimum(tile_numbers, tiling.across.tiles - 1) * columns.shape[1]
        pitch = 0
    else:
        row_elements: Any = np.zeros((1, 1), np.int64)
        if rows_axis is not None:
            row_elements = np.arange(size[0])[None] if name == "f" else elements_at(0, tiling.down)
        rows, rows_lowest = _offsets_and_lowest(
            row_elements, strides[1] if rows_axis is not None else 0, size[0]
        )
        lowest += rows_lowest if rows_axis is not None else 0
        row_columns, pitch = np.zeros_like(rows), columns.shape[1]
    all_inside = bool((rows >= 0).all() and (columns >= 0).all())
    repeat = g.filters // g.channels if name == "x" else 1
    real = Format(stored, conv.compute)
    contiguous = repeat == 1 and strides[-1] == 1 and not conv.tiled_lanes
    channel = 0 if conv.tiled_lanes else strides[-1]  # all lanes have the same filter
    operand = Operand(name, real, contiguous, rows.shape[1], columns.shape[1], all_inside)
    tables = [np.ascontiguousarray(t, dtype=np.int64) for t in (rows, row_columns, columns)]
    item = ITEMSIZE[stored]
    values = [lowest * item, strides[0], channel, repeat, *map(address, tables), pitch]
    return operand, dict(zip(operand.arguments, values, strict=True)), tables


def _describe_tiled_operand(
    conv: FFTConvolution, name: str, stored: str, strides: Strides
) -> tuple[Operand, Any, Any]:
    """Describe how a kernel accesses the array of a single channel, with tiles in the lanes."""
    g, tiling = conv.geometry, conv.tiling
    axes = [tiling.across] if tiling.flat else [tiling.down, tiling.across]
    size = g.size if name == "x" else g.out
    values = [0, strides[0]]
    for axis, a in enumerate(axes):
        first = a.shift - g.padding[axis][0] if name == "x" else 0
        values += [strides[axis + 1], first, size[axis]]
    if tiling.flat:
        values[2:2] = [0, 0, 1]
    rows = tiling.down.inputs if name == "x" else tiling.down.outputs
    columns = tiling.across.inputs if name == "x" else tiling.across.outputs
    operand = Operand(name, Format(stored, conv.compute), False, rows, columns, tiled_lanes=True)
    return operand, dict(zip(operand.arguments, values, strict=True)), []


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
    names = OPERANDS[kernel]
    operands: list[Operand] = []
    values: dict[str, int] = {}
    all_tables: list[Any] = []
    for name, dtype, operand_strides in zip(names, stored, strides, strict=True):
        operand, arguments_of, tables = _describe_operand(
            conv, name, dtype, operand_strides, kernel
        )
        operands.append(operand)
        values |= arguments_of
        all_tables += tables
    by_height, by_width = (
        twiddles(stages or (1,), conv.compute) for stages in (plane.height, plane.width)
    )
    positions_of = order(plane.width or (1,))
    k = np.arange(tiling.half)
    pairs = np.ascontiguousarray(
        np.stack([positions_of[k], positions_of[-k % tiling.across.period]], -1)
    )
    slots = np.zeros(1, np.int64) if tiling.flat else taps(g, 0, tiling.down, conv.gradient)
    all_tables += [by_height, by_width, pairs, slots]
    chunks = blocks * (g.batch * tiling.planes if kernel == "convolve" else partial_sums)
    if conv.tiled_lanes and kernel == "convolve":
        chunks = -(-g.batch * tiling.planes // conv.lanes)
    values |= {
        "chunks": chunks, "blocks": blocks,
        "channels": conv.lanes if conv.tiled_lanes else g.filters,
        "batch": g.batch, "examples": g.batch if conv.tiled_lanes else -(-g.batch // partial_sums),
        "down": tiling.down.tiles, "across": 1 if tiling.flat else tiling.across.tiles,
        "down_tile": 0 if tiling.flat else tiling.down.outputs,
        "across_tile": tiling.across.outputs,
        "worker_scratch": conv.scratch_elements(kernel),
        "by_height": address(by_height), "by_width": address(by_width),
        "pairs": address(pairs), "slots": address(slots),
    }  # fmt: skip
    generate = getattr(kernels, kernel)
    kernel_spec = jit.KernelSpec(f"fourier_{kernel}", generate, (plane, *operands), conv.target)
    return Call(kernel_spec, arguments(*operands), values, min(threads, chunks), all_tables)


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
