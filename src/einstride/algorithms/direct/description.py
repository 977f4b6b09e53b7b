"""Describe a direct convolution on the CPU in words: kernel, register tile, chunks, threads.

The facts are read from the `Call` that the engine would run: the kernel's specification and the
kernel arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
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


@dataclass(frozen=True)
class Kind:
    """A family of kernels: how its operands are loaded, and the sides of its register tile.

    Attributes
    ----------
    operands : str
        How the operands are loaded, in words.
    tile : dict
        For each side of the register tile, the attribute of the specification with its length.
    """

    operands: str
    tile: dict[str, str]


def largest_phase(g: Geometry, gx: Array) -> tuple[Geometry, Array, int] | None:
    """Return the stride phase with the most products, its view of gx, and the number of phases.

    None if no tap of the filter contributes to any element of gx.
    """
    phases = [p for p in input_gradient_phases.phases(g) if p.geometry is not None]
    phase = max(phases, key=lambda p: p.geometry.multiply_adds if p.geometry else 0, default=None)
    if phase is None or phase.geometry is None:
        return None
    return phase.geometry, gx[(slice(None), *phase.positions(g.stride), ...)], len(phases)


VECTORS = {"lanes": "lanes", "vectors": "vectors"}

KINDS = {
    "dense": Kind(
        "x broadcast, f in packed panels of output channels",
        VECTORS | {"output positions": "positions"},
    ),
    "outer": Kind(
        "x broadcast, vectors of gy, both read in place", VECTORS | {"input channels": "channels"}
    ),
    "blocked": Kind(
        "x broadcast, vectors of gy, both packed by regions of positions",
        VECTORS | {"input channels": "channels"},
    ),
    "runs": Kind(
        "contiguous (tap, channel) pairs of x broadcast, vectors of gy",
        VECTORS | {"(tap, channel) pairs": "rows"},
    ),
    "run_lanes": Kind(
        "vectors of contiguous (tap, channel) pairs of x, gy broadcast",
        VECTORS | {"output channels": "rows", "taps": "taps"},
    ),
    "grouped": Kind(
        "x shuffled to the lanes of its groups, f in packed panels",
        {"lanes": "layout.lanes", "vectors": "layout.vectors", "output positions": "positions"},
    ),
    "grouped_gradient": Kind(
        "x shuffled to the lanes of its groups, vectors of gy, both packed by regions",
        {
            "lanes": "layout.lanes", "vectors": "layout.vectors", "input channels": "layout.block",
            "taps": "taps",
        },
    ),
    "channelwise_channels": Kind(
        "vectors of output channels", VECTORS | {"output positions": "tile"}
    ),
    "channelwise_positions": Kind(
        "vectors of positions of the last axis", VECTORS | {"output channels": "results"}
    ),
    "channelwise_channels_gradient": Kind(
        "vectors of output channels", VECTORS | {"input channels": "inputs", "taps": "tile"}
    ),
    "channelwise_positions_gradient": Kind(
        "vectors of positions of the last axis", {"lanes": "lanes", "taps": "tile"}
    ),
    "depthwise": Kind(
        "vectors of channels", {"lanes": "lanes", "rows of positions": "rows", "columns": "tile"}
    ),
    "depthwise_gradient": Kind(
        "vectors of channels",
        {"lanes": "lanes", "output positions": "tile", "rows of taps": "tap_rows"},
    ),
}  # fmt: skip
"""The kinds of kernels, by the kernel's name."""

FORWARD_LINES = Kind(
    "contiguous (tap, channel) pairs of x broadcast, f in packed panels of output channels",
    VECTORS | {"output positions": "positions"},
)
INPUT_BLOCKS = Kind(
    "gy broadcast, vectors of (position in a block, input channel)",
    VECTORS | {"blocks of positions": "positions"},
)


def facts(engine: str, work: Work) -> Facts:
    """Return the engine, the kernel, its register tile, chunks and threads."""
    call = work.call
    name, spec = call.kernel.name, call.kernel.parameters[0]
    kind = _kind(name, spec)
    products = ", dot products of four 8-bit integers" if getattr(spec, "vnni", False) else ""
    found: dict[str, Fact] = {
        "engine": engine,
        "compiled": True,
        "kernel": f"{name}: {kind.operands}{products}",
        "register tile": {side: int(attrgetter(at)(spec)) for side, at in kind.tile.items()},
        "chunks": call.argument("chunks"),
        "threads": min(call.threads, max(call.argument("chunks"), 1)),
        "target": str(call.kernel.target),
    }
    for label, count in (("passes", work.passes), ("parts of the filter", work.parts),
                        ("partial sums", work.sums)):  # fmt: skip
        if count > 1:
            found[label] = count
    return found


def _kind(name: str, spec: Any) -> Kind:
    if name != "blocks":
        return KINDS[name]
    return FORWARD_LINES if spec.forward else INPUT_BLOCKS
