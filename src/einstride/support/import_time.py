"""Record the time at which this process began to import the package."""

from time import time_ns

IMPORTED = time_ns()
"""Nanoseconds since 1970 by the system's clock. A source file that was changed later differs from
the one that was imported."""
