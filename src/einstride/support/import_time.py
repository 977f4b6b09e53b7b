"""When this process began to import the package: the age of the code that it holds."""

from time import time_ns

IMPORTED = time_ns()
"""Nanoseconds since 1970, of the system's clock. A source file that changed later is not the one
that was imported."""
