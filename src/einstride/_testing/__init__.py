"""Switches that tests turn, by the name of the idea: no test knows a private name of the package.

What may enter: what a test wants to change or to watch inside; nothing else imports this room, and
``import einstride`` does not. Start with `use`, which is one ``with`` for every switch:

    with use(engine="dense", threads=1, constants={"filter piece": 1 << 12}):
        ...

Inside and after it nothing that was kept before is read, and after it, however it ends, everything
is as before. `points` names the functions and constants; after a move or a new name in the package
its tables are all that must follow.
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
