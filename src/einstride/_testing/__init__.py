"""Let tests change and watch the package's private functions and constants, under stable names.

What may enter: functions by which tests reach private code. Neither other rooms nor ``import
einstride`` import this one. Start with `use`, one ``with`` for every switch:

    with use(engine="dense", threads=1, constants={"filter piece": 1 << 12}):
        ...

`use` empties the caches at both ends of the block, and restores every switch, also after an error.
The tables in `points` say where each function and constant is: when one moves or is renamed, only
the tables must follow.
"""

from einstride._testing.points import CONSTANTS, FUNCTIONS
from einstride._testing.switches import caches, clear_caches, entries, use
from einstride._testing.targets import vector_widths
from einstride._testing.watch import (
    Call,
    chunks_backwards,
    failing,
    replacing,
    watching,
    watching_kernels,
)
from einstride.codegen.jit import Target

__all__ = [
    "CONSTANTS",
    "FUNCTIONS",
    "Call",
    "Target",
    "caches",
    "chunks_backwards",
    "clear_caches",
    "entries",
    "failing",
    "replacing",
    "use",
    "vector_widths",
    "watching",
    "watching_kernels",
]
