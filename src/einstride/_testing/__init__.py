"""Tests change and watch the inside of the package through this room, by ideas, not private names.

What may enter: what a test needs of the inside. No other room imports this one, and neither does
``import einstride``. Start with `use`, one ``with`` for every switch:

    with use(engine="dense", threads=1, constants={"filter piece": 1 << 12}):
        ...

`use` empties the caches at either end, and puts every switch back however the block ends. The
tables in `points` say where each function and constant is: after a move or a new name in the
package they are all that must follow.
"""

from einstride._testing.points import CONSTANTS, FUNCTIONS
from einstride._testing.switches import caches, clear_caches, entries, use
from einstride._testing.targets import vector_widths
from einstride._testing.watch import Call, failing, replacing, watching, watching_kernels
from einstride.codegen.jit import Machine

__all__ = [
    "CONSTANTS",
    "FUNCTIONS",
    "Call",
    "Machine",
    "caches",
    "clear_caches",
    "entries",
    "failing",
    "replacing",
    "use",
    "vector_widths",
    "watching",
    "watching_kernels",
]
