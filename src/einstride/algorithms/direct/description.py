"""Describe a direct convolution on the CPU in words: kernel, register tile, chunks, threads.

The facts are read from the `Call` that the engine would run: the kernel's specification and the
kernel arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from einstride.geometry import input_gradient_phases
from einstride.geometry.convolution import Geometry

if TYPE_CHECKING:
    from einstride.arrays.backends import Array
    from einstride.cpu.runtime.argument_block import Call
    from einstride.geometry.problem import Fact, Facts


@dataclass(frozen=True)
class Work:
    """The kernel that does most of a job's products.

    Attributes
    ----------
    call : Call
        The kernel with its argument block; of several passes, the pass with the most products.
    passes : int
        How often the kernel runs: once for each stride phase of an input gradient.
    parts : int
        The number of parts of the filter, computed in turn.
    sums : int
        The number of partial sums, which are added in order afterwards.
    """

    call: Call
    passes: int = 1
    parts: int = 1
    sums: int = 1


def largest_phase(g: Geometry, gx: Array) -> tuple[Geometry, Array, int] | None:
    """Return the stride phase with the most products, its view of gx, and the number of phases.

    None if no tap of the filter contributes to any element of gx.
    """
    phases = [p for p in input_gradient_phases.phases(g) if p.geometry is not None]
    phase = max(phases, key=lambda p: p.geometry.multiply_adds if p.geometry else 0, default=None)
    if phase is None or phase.geometry is None:
        return None
    return phase.geometry, gx[(slice(None), *phase.positions(g.stride), ...)], len(phases)


def facts(engine: str, work: Work, staged: Call | None = None) -> Facts:
    """Return the engine, the kernel, its register tile, chunks and threads.

    `staged`: the call that runs the kernel on blocks, which are then the chunks.
    """
    call, chunks = work.call, staged or work.call
    name = call.kernel.name
    schedule: Any = call.kernel.parameters[0]
    words: dict[str, str] = schedule.describe()
    found: dict[str, Fact] = {
        "engine": engine,
        "compiled": True,
        "kernel": f"{name}: {words.pop('operands')}",
        "register tile": schedule.sides,
        **words,
        "chunks": chunks.argument("chunks"),
        "threads": min(chunks.threads, max(chunks.argument("chunks"), 1)),
        "target": str(call.kernel.target),
    }
    if staged:
        found["copies"] = "blocks of x and y in staging buffers, where channels are not contiguous"
    for label, count in (("passes", work.passes), ("parts of the filter", work.parts),
                        ("partial sums", work.sums)):  # fmt: skip
        if count > 1:
            found[label] = count
    return found
