"""Write the kernel that runs other kernels on blocks in staging buffers, and make its call.

The kernel takes a block, copies its part of x to the thread's staging buffer, runs the kernel calls
of the block's kind, one after another on this thread, and copies the staged result to y. An array
whose channels are contiguous is not copied: the kernels read or write it in place.

    blocks     one row for each block of an example: kind, offset in x, offset in y, first unit
    kinds      for each kind: the positions on the axes of x and y, then its kernel calls
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.jit import Target
from einstride.cpu.conv.loop_nest import split
from einstride.cpu.conv.staged.block_plan import Block, BlockPlan
from einstride.cpu.conv.staged.copies import Copy, Side, write_copy
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, allocate
from einstride.cpu.runtime.argument_block import Call, Layout, bind
from einstride.cpu.runtime.call_program import MAX_ARGUMENTS
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry

ADDRESSES = (("x",), ("y",), ("f",), ("bias",), ("flag",), ("packed",))
"""The addresses that a kernel call may need, by the names that kernels have for them."""

GRADIENT_ADDRESSES = (("x",), ("f", "gf"), ("y", "gy"), ("bias",), ("flag",), ("packed",))
"""The same addresses in a filter gradient, whose result is gf."""

BLOCK_WORDS = 5
"""Integers that describe a block: its kind, its offsets in bytes in x and y, its first unit, its
offset in f."""

CALL_WORDS = 11
"""Integers that describe a kernel call: see `_describe_call`."""


@dataclass(frozen=True)
class Staged:
    """What the kernel ``staged`` is compiled for: how x, y and f are copied.

    None for x and y if their channels are contiguous, for f if it is packed before. In a filter
    gradient f is gy and y is gf, to which the kernels add: it is filled with zeros first.
    """

    x: Copy | None
    y: Copy | None
    f: Copy | None
    gradient: bool = False


@dataclass(frozen=True)
class Step:
    """A kernel call of a kind of blocks.

    Attributes
    ----------
    call : Call
        The call for the staged arrays, on one thread.
    filter : int
        The number of the packed filter that it reads, if filters are packed before.
    filter_unit : int
        The bytes of the packed filter of one unit of channels.
    y_offset : int
        The bytes from the block's first element of y to the first one that the call writes.
    packed_bytes : int
        The bytes of memory that the call packs its operands in.
    """

    call: Call
    filter: int = 0
    filter_unit: int = 0
    y_offset: int = 0
    packed_bytes: int = 0


def kernel(staged: Staged, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``staged``."""
    code = Code("staged", names)
    buffer = code["staging"] + code.worker * code["staging_bytes"]
    arguments = code.scratch("int64", MAX_ARGUMENTS + 1)  # the last one is never read
    last_unit = code.variable(code.number(-1))  # of the filter in the staging buffer
    with code.chunks(code["chunks"]) as chunk:
        n, number = split(chunk, code["batch"])
        block = code.array("blocks", "int64").at(number * BLOCK_WORDS)
        kind = code.array("kinds", "int64").at(block.load())
        unit = block.at(3).load()
        x = code["x"] + n * code["x_batch"] + block.at(1).load()
        y = code["y"] + n * code["y_batch"] + block.at(2).load()
        x_address, y_address = x, y
        if staged.x is not None:
            x_address = buffer
            side, kind = _describe_side(code, staged.x, "x", kind, x, buffer)
            write_copy(code, staged.x, side, into_staging=True)
        if staged.y is not None:
            y_address = buffer + code["staged_y"]
            y_side, kind = _describe_side(code, staged.y, "y", kind, y, y_address)
            if staged.gradient:
                _clear(code, staged.y, y_side)
        f_address = buffer + code["staged_f"]
        if staged.f is not None:
            f = code["f0"] + n * code["f_batch"] + block.at(4).load()
            side, kind = _describe_side(code, staged.f, "f", kind, f, f_address)
            if staged.gradient:
                write_copy(code, staged.f, side, into_staging=True)
            else:  # blocks of the same channels follow each other
                with code.when(unit.equals(last_unit.get()) ^ 1):
                    write_copy(code, staged.f, side, into_staging=True)
                last_unit.set(unit)
        bias = (
            code["bias"].equals(0).select(code.number(0), code["bias"] + unit * code["bias_unit"])
        )
        with code.loop(0, kind.load()) as i:
            call = kind.at(i * CALL_WORDS + 1)
            function, template, size, slot = (call.at(j).load() for j in range(4))
            with code.loop(0, size) as j:
                arguments.at(j).store(code.pointer(template, "int64").at(j).load())
            if staged.f is None:
                f_address = code.argument(0).at(slot).load() + unit * call.at(4).load()
            # a template holds the number of bytes that its address is added to
            packed = buffer + code["staged_packed"]
            addresses = x_address, y_address, f_address, bias, code["flag"], packed
            for index, value in enumerate(addresses, start=5):
                argument = arguments.at(call.at(index).load())
                argument.store(argument.load() + value)
            code.call(function, arguments)
        if staged.y is not None:
            write_copy(code, staged.y, y_side, into_staging=False)
    return code.text()


def _clear(code: Code, copy: Copy, side: Side) -> None:
    """Fill the staging buffer of a side with zeros."""
    count = side.channels
    for size in side.counts:
        count = count * size
    with code.loop(0, count, copy.lanes) as i:
        side.staging.at(i).store(code.zero(copy.element, copy.lanes))


def _describe_side(
    code: Code, copy: Copy, name: str, kind: Pointer, array: Value, buffer: Value
) -> tuple[Side, Pointer]:
    """Read the sizes of a copy from the kind of a block; return the rest of the kind, too."""
    counts = [kind.at(a).load() for a in range(copy.axes)]
    strides = [
        code.number(1) if a == copy.contiguous else code[f"{name}_stride{a}"]
        for a in range(copy.axes)
    ]
    side = Side(
        code.pointer(array, copy.element), code.pointer(buffer, copy.element), counts, strides,
        kind.at(copy.axes).load(), code[f"{name}_channel"],
    )  # fmt: skip
    return side, kind.at(copy.axes + 1)


class StagedCall:
    """A convolution by blocks in staging buffers: addresses of arrays are added when it runs.

    Parameters
    ----------
    call : Call
        The call of the kernel ``staged``.
    plan : BlockPlan
        The blocks.
    steps : list
        The kernel calls of all kinds, the index of each in the table `kinds`, its argument block.
    kinds : array
        The table of kinds.
    staging_bytes : int
        The bytes of all staging buffers.
    """

    def __init__(
        self, call: Call, plan: BlockPlan, steps: list[tuple[Step, int, Any]], kinds: Any,
        staging_bytes: int,
    ) -> None:  # fmt: skip
        self.call, self.plan, self.staging_bytes = call, plan, staging_bytes
        self._steps, self._kinds = steps, kinds
        self._compiled = False

    @property
    def nbytes(self) -> int:
        """Bytes of the argument blocks and of all tables."""
        return self.call.nbytes + sum(step.call.nbytes for step, *_ in self._steps)

    @property
    def checks_nan(self) -> bool:
        """True if a kernel call sets a flag where a sum is NaN."""
        return "flag" in self.largest.names

    @property
    def largest(self) -> Call:
        """The kernel call that does most of the work of the largest kind."""
        return self._steps[0][0].call

    def __call__(self, launch: Any, filters: Sequence[Any], **arrays: Any) -> None:
        """Run the kernel calls of all blocks, for the arrays x and y, and bias and flag if given.

        `filters` are the packed filters, by the numbers that the steps have for them.
        """
        if not self._compiled:  # two threads that do this at once write equal values
            for step, index, _ in self._steps:
                function: Any = step.call.function
                self._kinds[index] = ctypes.cast(function, ctypes.c_void_p).value
            self._compiled = True
        memory = allocate(launch, (self.staging_bytes,), "uint8")
        packed = {f"f{i}": f for i, f in enumerate(filters)}
        self.call(launch, staging=memory, **packed, **arrays)


StepsOf = Callable[[Geometry, Layout, Layout], list[Step]]
"""Makes the kernel calls of a kind, for the memory layouts of the two arrays of positions."""


def staged_call(
    plan: BlockPlan, g: Geometry, backwards: bool, x: Layout, y: Layout, f: Layout | None,
    bias_unit: int, steps_of: StepsOf, threads: int, target: Target,
) -> StagedCall:  # fmt: skip
    """Make the call that computes y from x by blocks; with `backwards`, gx (y) from gy (x).

    Parameters
    ----------
    plan : BlockPlan
        The blocks.
    g : Geometry
        The geometry of the forward convolution.
    backwards : bool
        True for an input gradient.
    x, y : Layout
        The array that the pass reads, and the one that it writes.
    f : Layout or None
        The filter (*K, 1, D) of depthwise layers, which blocks copy, too; None for packed filters.
    bias_unit : int
        The bytes of the bias of one unit of channels.
    steps_of : callable
        Makes the kernel calls of a kind.
    threads : int
        The threads that take blocks.
    target : Target
        The target that the kernel is compiled for.
    """
    sides = _Side(x, g, "gy" if backwards else "x"), _Side(y, g, "gx" if backwards else "y")
    taps = None if f is None else _Side(Layout(f.dtype, (0, *f.strides)), g, "f")
    f_copy = None if taps is None else taps.copy(target, True)
    copies = Staged(sides[0].copy(target), sides[1].copy(target), f_copy)

    def kernel_calls(kind: Geometry) -> list[Step]:
        layouts = [
            side.staged(kind) if copy else side.layout
            for side, copy in zip(sides, (copies.x, copies.y), strict=True)
        ]
        return steps_of(kind, *layouts)

    return _make_call(plan, g, (*sides, taps), copies, kernel_calls, bias_unit, threads, target)


def staged_gradient(
    plan: BlockPlan, g: Geometry, x: Layout, gy: Layout, gf: Layout, steps_of: StepsOf,
    threads: int, target: Target,
) -> StagedCall:  # fmt: skip
    """Make the call that computes the filter gradients of all bands of all examples.

    gf is (B, bands, *K, C // G, D); x, gy and gf are always copied. The calls add to gf.
    """
    example, band, *rest = gf.strides
    sums = _Side(Layout(gf.dtype, (example, *rest)), g, "gf", band)
    sides = _Side(x, g, "x"), sums, _Side(gy, g, "y")
    x_copy, gf_copy, gy_copy = (side.copy(target, True) for side in sides)
    copies = Staged(x_copy, gf_copy, gy_copy, gradient=True)

    def kernel_calls(kind: Geometry) -> list[Step]:
        return steps_of(kind, sides[0].staged(kind), sides[2].staged(kind))

    return _make_call(plan, g, sides, copies, kernel_calls, 0, threads, target)


def _make_call(
    plan: BlockPlan, g: Geometry, sides: tuple[_Side, _Side, _Side | None], copies: Staged,
    calls_of: Callable[[Geometry], list[Step]], bias_unit: int, threads: int, target: Target,
) -> StagedCall:  # fmt: skip
    words: list[int] = []
    kinds: dict[Geometry, int] = {}
    steps: list[tuple[Step, int, Any]] = []
    sizes = [0, 0, 0, 0]
    copied = [(i, s) for i, (s, copy) in enumerate(zip(sides, (copies.x, copies.y, copies.f),
              strict=True)) if s and copy]  # fmt: skip
    names = GRADIENT_ADDRESSES if copies.gradient else ADDRESSES
    for kind in sorted(plan.kinds, key=lambda h: -h.multiply_adds):
        kinds[kind] = len(words)
        for i, side in copied:
            words += side.sizes(kind)
            sizes[i] = max(sizes[i], prod(side.shape_of(kind)) * side.item)
        calls = calls_of(kind)
        words.append(len(calls))
        for step in calls:
            template = step.call.block()
            if step.y_offset:
                template[step.call.index("y")] += step.y_offset
            sizes[3] = max(sizes[3], step.packed_bytes)
            steps.append((step, len(words), template))
            words += _describe_call(step, template, names)
    # A square reads and writes vectors behind the last channel.
    sizes = [-(-n // CACHE_LINE) * CACHE_LINE + 2 * CACHE_LINE if n else 0 for n in sizes]
    table = np.array(words, np.int64)
    x, y, f = sides
    blocks = [
        [
            kinds[b.kind], x.offset(b, plan.unit), y.offset(b, plan.unit), b.unit,
            f.offset(b, plan.unit) if f else 0,
        ]
        for b in plan.blocks
    ]  # fmt: skip
    arguments: dict[str, Any] = {
        "chunks": g.batch * len(blocks), "batch": g.batch,
        "blocks": np.array(blocks, np.int64), "kinds": table, "staging": 0,
        "staging_bytes": sum(sizes), "staged_y": sizes[0], "staged_f": sizes[0] + sizes[1],
        "staged_packed": sum(sizes[:3]),
        "bias": 0, "bias_unit": bias_unit, "flag": 0, "x": 0, "y": 0,
        **x.arguments("x"), **y.arguments("y"), **(f.arguments("f") if f else {}),
    }  # fmt: skip
    filters = 1 + max((step.filter for step, *_ in steps), default=0)
    arguments |= {f"f{i}": 0 for i in range(filters)}
    threads = max(min(threads, arguments["chunks"]), 1)
    call = bind("staged", kernel, copies, arguments, threads, target)
    for step, index, _ in steps:
        table[index + 3] = call.index(f"f{step.filter}")
    return StagedCall(call, plan, steps, table, threads * sum(sizes))


def _describe_call(step: Step, template: Any, addresses: Sequence[tuple[str, ...]]) -> list[int]:
    """List the integers of a kernel call.

    Its machine code and the argument of the packed filter's address, both filled in later; its
    argument block and the block's length; the filter's bytes in a unit; the index of each address.
    """
    names = step.call.names
    known = [[step.call.index(n) for n in each if n in names] for each in addresses]
    indices = [found[0] if found else MAX_ARGUMENTS for found in known]
    return [0, ctypes.addressof(template), len(names), 0, step.filter_unit, *indices]


class _Side:
    """An array: its strides, and what a block of it holds. A filter has taps for positions.

    Filter gradients of bands lie `band` bytes apart.
    """

    def __init__(self, layout: Layout, g: Geometry, name: str, band: int = 0) -> None:
        self._band = band
        self.layout, self.item = layout, ITEMSIZE[layout.dtype]
        self._is_input = name in ("x", "gx")  # of the forward convolution
        self._is_filter = name in ("f", "gf")
        _, *size, _ = self.shape_of(g)
        self._batch, *self._strides, self._channel = layout.strides
        self._axes: list[list[int]] = []  # those that are contiguous to each other are one
        for a, stride in enumerate(self._strides):
            if a and self._strides[a - 1] == stride * size[a]:
                self._axes[-1].append(a)
            else:
                self._axes.append([a])

    def shape_of(self, g: Geometry) -> tuple[int, ...]:
        """Return the shape that the array has in a geometry."""
        if self._is_filter:
            return (1, *g.f_shape)
        return g.x_shape if self._is_input else g.y_shape

    def copy(self, target: Target, always: bool = False) -> Copy | None:
        """Return how the array is copied; None if its channels are contiguous, unless `always`."""
        if self._channel == self.item and not always:
            return None
        strides = [self._strides[axes[-1]] for axes in self._axes]
        contiguous = [i for i, stride in enumerate(strides) if stride == self.item]
        lanes = min(target.vector_bytes // self.item, 16 if target.registers == 32 else 8)
        axis = contiguous[-1] if contiguous else None
        rows = self._channel == self.item
        return Copy(_ELEMENTS[self.item], lanes, len(strides), None if rows else axis, rows)

    def sizes(self, kind: Geometry) -> list[int]:
        """List the positions of a block on each axis of the copy, and its channels."""
        _, *size, channels = self.shape_of(kind)
        return [*(prod(size[a] for a in axes) for axes in self._axes), channels]

    def staged(self, kind: Geometry) -> Layout:
        """Return the layout of a block in a staging buffer: row-major."""
        shape = self.shape_of(kind)
        strides = tuple(prod(shape[a + 1 :]) * self.item for a in range(len(shape)))
        return Layout(self.layout.dtype, strides)

    def offset(self, block: Block, unit: int) -> int:
        """Return the bytes from an example's first element to that of a block."""
        if self._is_filter:
            return block.band * self._band + block.unit * self.offset_of_unit(block.kind, unit)
        row = block.x_row if self._is_input else block.y_row
        return row * self._strides[0] + block.unit * self.offset_of_unit(block.kind, unit)

    def offset_of_unit(self, g: Geometry, unit: int) -> int:
        """Return the bytes between the first elements of neighbouring units of channels."""
        return unit * (self.shape_of(g)[-1] // g.groups) * self._channel

    def arguments(self, name: str) -> dict[str, int]:
        """List the kernel arguments with the strides: in bytes for the batch, else in elements."""
        strides = element_strides(
            [*(self._strides[axes[-1]] for axes in self._axes), self._channel], self.item
        )
        axes = {f"{name}_stride{i}": stride for i, stride in enumerate(strides[:-1])}
        return {f"{name}_batch": self._batch, f"{name}_channel": strides[-1], **axes}


_ELEMENTS = {1: "int8", 2: "int16", 4: "float32", 8: "float64"}
"""Dtypes as which elements of this number of bytes are copied."""
