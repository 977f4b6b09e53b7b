"""Make a fork wait until no other thread imports a module of this package.

CPython locks each module while it is imported. A forked child inherits the lock, but not the thread
that would release it, so that the child's own import of the module would wait for ever. Modules are
imported when a call first needs them, in whatever thread.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from typing import Any

PACKAGES = ("einstride", "llvmlite")
"""Packages with modules that are imported when they are first needed."""

TIMEOUT = 10.0
"""Seconds that a fork waits at most. Importing all modules takes less than a second; a longer wait
would delay the fork where the importing thread does not run."""

_LOCKS: dict[str, Any] = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {})
"""{name of a module that some thread is importing: weak reference to its lock}; private to CPython,
and empty where it is called otherwise."""


def _imported_elsewhere() -> bool:
    """True if another thread has the lock of a module of `PACKAGES`."""
    own = threading.get_ident()
    for name, reference in list(_LOCKS.items()):
        lock = reference() if name.partition(".")[0] in PACKAGES else None
        if getattr(lock, "owner", None) not in (None, own):
            return True
    return False


def _before_fork() -> None:
    until = time.monotonic() + TIMEOUT
    while _imported_elsewhere() and time.monotonic() < until:
        time.sleep(1e-3)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
