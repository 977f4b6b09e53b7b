"""The one shape every error has: *function: the rule; the values got; the remedy*."""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 400
"""Characters of the values, and of the rule or the remedy, that a message repeats at most. An error
is read by people: the start and the end of a long name tell which one it is."""


def bad_value(where: str, rule: str, got: object, remedy: str) -> ValueError:
    """A ValueError naming the function that was called, the rule, the values and what to do."""
    return ValueError(_text(where, rule, got, remedy))


def bad_type(where: str, rule: str, got: object, remedy: str) -> TypeError:
    """The same for a wrong type."""
    return TypeError(_text(where, rule, got, remedy))


def no_memory(where: str, rule: str, got: object, remedy: str) -> MemoryError:
    """The same for what does not fit into memory."""
    return MemoryError(_text(where, rule, got, remedy))


def shown(value: object) -> str:
    """A value as a message repeats it: ``repr(value)``, shortened, also where that fails."""
    return _shortened(_written(value, repr))


def _text(where: str, rule: str, got: object, remedy: str) -> str:
    parts = (_shortened(rule), f"got {_shortened(_written(got, str))}", _shortened(remedy))
    return f"{where}: {'; '.join(parts)}"


def _written(value: object, write: type[str] | Callable[[object], str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1024:
        return f"an integer of {value.bit_length()} bits"
    try:
        return write(value)
    except Exception as error:  # of the caller's class, or Python's limit of digits
        return f"a {type(value).__name__} that cannot be written ({type(error).__name__})"


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2 - 20
    return f"{text[:half]} ... ({len(text)} characters) ... {text[-half:]}"
