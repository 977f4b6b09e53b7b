"""The one shape every error has: *function: the rule; the values got; the remedy*."""

from __future__ import annotations


def bad_value(where: str, rule: str, got: object, remedy: str) -> ValueError:
    """A ValueError naming the function that was called, the rule, the values and what to do."""
    return ValueError(f"{where}: {rule}; got {got}; {remedy}")


def bad_type(where: str, rule: str, got: object, remedy: str) -> TypeError:
    """The same for a wrong type."""
    return TypeError(f"{where}: {rule}; got {got}; {remedy}")
