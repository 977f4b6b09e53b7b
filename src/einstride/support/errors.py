"""Write the text of every error in one form: *function: the rule; the values got; the remedy*."""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 400
"""Most characters of each part of a message: rule, values, remedy. A longer part keeps its start
and its end, by which a reader recognises a long name. A higher limit makes messages hard to read, a
lower one cuts the rules themselves."""


def bad_value(where: str, rule: str, got: object, remedy: str) -> ValueError:
    """Make a ValueError that names the function, the rule, the values got and the remedy."""
    return ValueError(_text(where, rule, got, remedy))


def bad_type(where: str, rule: str, got: object, remedy: str) -> TypeError:
    """Make a TypeError of the same form as `bad_value`."""
    return TypeError(_text(where, rule, got, remedy))


def bad_call(where: str, rule: str, got: object, remedy: str) -> RuntimeError:
    """Make a RuntimeError of the same form as `bad_value`; `scipy.ndimage` raises them."""
    return RuntimeError(_text(where, rule, got, remedy))


def no_memory(where: str, rule: str, got: object, remedy: str) -> MemoryError:
    """Make a MemoryError of the same form as `bad_value`."""
    return MemoryError(_text(where, rule, got, remedy))


def shown(value: object) -> str:
    """Return ``repr(value)`` for a message, shortened; a description if `repr` raises an error."""
    return _shortened(_written(value, repr))


def _text(where: str, rule: str, got: object, remedy: str) -> str:
    parts = (_shortened(rule), f"got {_shortened(_written(got, str))}", _shortened(remedy))
    return f"{where}: {'; '.join(parts)}"


def _written(value: object, write: type[str] | Callable[[object], str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1024:
        return f"an integer of {value.bit_length()} bits"
    try:
        return write(value)
    except Exception as error:  # raised by the caller's class, or by Python's limit of digits
        return f"a {type(value).__name__} that cannot be written ({type(error).__name__})"


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2 - 20
    return f"{text[:half]} ... ({len(text)} characters) ... {text[-half:]}"
