"""The kernels of `kernels` with their tables, ready for the addresses of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from einstride.codegen import jit
from einstride.codegen.jit import Machine
from einstride.codegen.vector_formats import Format
from einstride.cpu.fft import kernels
from einstride.cpu.fft.kernel import arguments, lines
from einstride.cpu.fft.lines import order, radices, twiddles
from einstride.cpu.fft.plan import Plan, plan, positions, results, taps
from einstride.cpu.fft.views import Plane, Side
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.offset_tables import OUTSIDE, lowest_offset, to_offsets
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept

Steps = tuple[int, ...]

OPERANDS = {
    "spectrum": "f", "finish": "f", "convolve": "xy", "gather": "xy", "whole": "fxy",
    "reduce": "xyf",
}  # fmt: skip
"""The arrays of each kernel."""


FILTERED = 8
"""Vector instructions per frequency of a filter: to bring it to its slot of the spectrum. Fitted by
hand to timed layers, like those of `plan`."""


@dataclass(frozen=True)
class Form:
    """A convolution channel by channel, by all that kernels must know but addresses.

    Attributes
    ----------
    geometry : Geometry
        Of stride one; as many groups as channels.
    compute : str
        The dtype of the sums.
    gradient : bool
        Is it the filter's gradient?
    machine : Machine
        Whose vectors.
    """

    geometry: Geometry
    compute: str
    gradient: bool
    machine: Machine

    @cached_property
    def lanes(self) -> int:
        """Channels in a vector."""
        return self.machine.lanes(ITEMSIZE[self.compute])

    @cached_property
    def blocks(self) -> int:
        """Vectors of channels."""
        return -(-self.geometry.filters // self.lanes)

    @cached_property
    def spread(self) -> bool:
        """Are the lanes tiles of the only channel?"""
        g = self.geometry
        return g.channels == g.filters == 1 and g.padding_mode == "zeros" and not self.gradient

    @cached_property
    def plan(self) -> Plan | None:
        """How its planes are cut."""
        return plan(
            self.geometry, self.gradient, self.machine.vector_bytes, self.spread * self.lanes
        )

    @cached_property
    def cut(self) -> Plan:
        """The same, known to be there."""
        found = self.plan
        if found is None:
            raise ValueError("no period is long enough")
        return found

    @cached_property
    def plane(self) -> Plane:
        """The transform."""
        cut = self.cut
        stages = (radices(cut.down.period)[1], radices(cut.across.period)[1])
        masked = self.geometry.filters < self.lanes and not self.spread
        return Plane(self.compute, self.lanes, masked, *stages, cut.pitch, cut.flat)

    @cached_property
    def spectrum(self) -> int:
        """Numbers of a spectrum of a vector of channels."""
        return self.cut.spectrum * self.lanes

    def share(self, kernel: str) -> int:
        """Numbers of a worker's scratch."""
        cut = self.cut
        taps = self.geometry.kernel[0] if not cut.flat else 1
        most, both = max(cut.down.present, cut.down.outputs), cut.down.present + cut.down.outputs
        rows = {
            "spectrum": taps, "finish": taps, "convolve": most, "gather": both,
            "whole": max(most, taps), "reduce": max(both, taps),
        }[kernel]  # fmt: skip
        kept = self.spectrum if kernel in ("whole", "reduce") else 0
        # The last row of an odd number is alone: nothing is read beyond it.
        found = lines(self.plane) + rows * cut.pitch * 2 * self.lanes + kept
        return -(-found // 64) * 64

    @cached_property
    def tables(self) -> int:
        """Bytes of the tables of all its kernels, at most."""
        cut = self.cut
        axes = cut.down.tiles * (cut.down.present + cut.down.outputs) * 2
        axes += cut.across.tiles * (cut.across.present + cut.across.outputs)
        return 8 * (3 * axes + 16 * (cut.down.period + cut.across.period))


def _offsets(found: Any, step: int, size: int) -> tuple[Any, int]:
    """Elements as offsets, and what to add to the address of an array that runs backwards."""
    back = lowest_offset(size, step)
    return to_offsets(found, step, back), back


def _sides(form: Form, name: str, stored: str, steps: Steps, kernel: str) -> tuple[Side, Any, Any]:
    """An array as a kernel sees it, its words, and its tables."""
    g, cut = form.geometry, form.cut
    if form.spread and name != "f":
        return _spread(form, name, stored, steps)
    rows_axis, last = (None if cut.flat else 0), g.rank - 1
    size = {"x": g.size, "y": g.out, "f": g.kernel}[name]

    def at(axis: int, which: Any) -> Any:
        if name == "f":
            return taps(g, axis, which, form.gradient)[None]
        return (positions if name == "x" else results)(g, axis, which)

    columns, back = _offsets(at(last, cut.across), steps[last + 1], size[last])
    if rows_axis is None and name != "f":
        count = cut.down.present
        number = np.arange(cut.down.tiles * count).reshape(-1, count)
        rows = np.where(number < cut.across.tiles, 0, OUTSIDE)
        kinds = np.minimum(number, cut.across.tiles - 1) * columns.shape[1]
        pitch = 0
    else:
        listed: Any = np.zeros((1, 1), np.int64)
        if rows_axis is not None:
            listed = np.arange(size[0])[None] if name == "f" else at(0, cut.down)
        rows, more = _offsets(listed, steps[1] if rows_axis is not None else 0, size[0])
        back += more if rows_axis is not None else 0
        kinds, pitch = np.zeros_like(rows), columns.shape[1]
    whole = bool((rows >= 0).all() and (columns >= 0).all())
    repeat = g.filters // g.channels if name == "x" else 1
    real = Format(stored, form.compute)
    unit = repeat == 1 and steps[-1] == 1 and not form.spread
    channel = 0 if form.spread else steps[-1]  # all lanes have the same filter
    side = Side(name, real, unit, rows.shape[1], columns.shape[1], whole)
    tables = [np.ascontiguousarray(t, dtype=np.int64) for t in (rows, kinds, columns)]
    item = ITEMSIZE[stored]
    values = [back * item, steps[0], channel, repeat, *map(address, tables), pitch]
    return side, dict(zip(side.words, values, strict=True)), tables


def _spread(form: Form, name: str, stored: str, steps: Steps) -> tuple[Side, Any, Any]:
    """A single channel, its tiles in the lanes."""
    g, cut = form.geometry, form.cut
    axes = [cut.across] if cut.flat else [cut.down, cut.across]
    size = g.size if name == "x" else g.out
    values = [0, steps[0]]
    for axis, a in enumerate(axes):
        first = a.shift - g.padding[axis][0] if name == "x" else 0
        values += [steps[axis + 1], first, size[axis]]
    if cut.flat:
        values[2:2] = [0, 0, 1]
    rows = cut.down.present if name == "x" else cut.down.outputs
    columns = cut.across.present if name == "x" else cut.across.outputs
    side = Side(name, Format(stored, form.compute), False, rows, columns, spread=True)
    return side, dict(zip(side.words, values, strict=True)), []


@kept
def call(
    form: Form, kernel: str, stored: tuple[str, ...], steps: tuple[Steps, ...], blocks: int,
    units: int, threads: int,
) -> Call:  # fmt: skip
    """One kernel for some blocks of channels; of gradients in units of examples.

    Wants the addresses of its arrays by name, of `scratch` and `spectra`, and the first block.
    """
    g, cut, plane = form.geometry, form.cut, form.plane
    names = OPERANDS[kernel]
    sides: list[Side] = []
    values: dict[str, int] = {}
    keep: list[Any] = []
    for name, dtype, each in zip(names, stored, steps, strict=True):
        side, words, tables = _sides(form, name, dtype, each, kernel)
        sides.append(side)
        values |= words
        keep += tables
    by_height, by_width = (
        twiddles(stages or (1,), form.compute) for stages in (plane.height, plane.width)
    )
    where = order(plane.width or (1,))
    k = np.arange(cut.half)
    pairs = np.ascontiguousarray(np.stack([where[k], where[-k % cut.across.period]], -1))
    slots = np.zeros(1, np.int64) if cut.flat else taps(g, 0, cut.down, form.gradient)
    keep += [by_height, by_width, pairs, slots]
    chunks = blocks * (g.batch * cut.planes if kernel == "convolve" else units)
    if form.spread and kernel == "convolve":
        chunks = -(-g.batch * cut.planes // form.lanes)
    values |= {
        "chunks": chunks, "blocks": blocks, "channels": form.lanes if form.spread else g.filters,
        "batch": g.batch, "examples": g.batch if form.spread else -(-g.batch // units),
        "down": cut.down.tiles, "across": 1 if cut.flat else cut.across.tiles,
        "down_tile": 0 if cut.flat else cut.down.outputs, "across_tile": cut.across.outputs,
        "share": form.share(kernel), "by_height": address(by_height), "by_width": address(by_width),
        "pairs": address(pairs), "slots": address(slots),
    }  # fmt: skip
    write = getattr(kernels, kernel)
    made = jit.KernelSpec(f"fourier_{kernel}", write, (plane, *sides), form.machine)
    return Call(made, arguments(*sides), values, min(threads, chunks), keep)


def worth(form: Form) -> float:
    """Vector instructions of the whole call, about, without those for the filter."""
    return form.cut.effort * form.geometry.batch * form.blocks


def filter_effort(form: Form) -> float:
    """The same for the filter's spectra, or for its gradient from them."""
    cut = form.cut
    rows = form.geometry.kernel[0] if not cut.flat else 1
    columns = cut.half * (cut.down.effort + FILTERED * cut.down.period)
    lines_ = cut.across.effort * rows / 2 + columns
    return lines_ * form.blocks
