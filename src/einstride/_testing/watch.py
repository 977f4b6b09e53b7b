"""Watch, replace or break a function of the package, by the name of its idea in `FUNCTIONS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from einstride._testing import points
from einstride._testing.switches import clear_caches


@dataclass(frozen=True)
class Call:
    """One call of a function that was watched.

    Attributes
    ----------
    args, keywords : tuple, dict
        What it was called with.
    result : object
        What it returned.
    """

    args: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    result: Any = None


@contextmanager
def replacing(idea: str, by: Callable[..., Any], *, keep_caches: bool = False) -> Iterator[None]:
    """Call ``by(real, *args, **keywords)`` in the place of the real function.

    Parameters
    ----------
    idea : str
        One of `FUNCTIONS`.
    by : callable
        Its first argument is the function that it stands for.
    keep_caches : bool
        Leave the caches of results alone. They are emptied otherwise, at either end: what they hold
        would hide the new function at first, and keep what it returned later on.
    """
    with ExitStack() as stack:
        for module, name in points.places(points.FUNCTIONS, idea):
            real = getattr(module, name)
            stack.enter_context(points.function(real, _standing_in(real, by)))
        if not keep_caches:
            clear_caches()
            stack.callback(clear_caches)
        yield


def _standing_in(real: Any, by: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def stand_in(*args: Any, **keywords: Any) -> Any:
        return by(real, *args, **keywords)

    return stand_in


@contextmanager
def watching(idea: str, *, keep_caches: bool = False) -> Iterator[list[Call]]:
    """List the calls of a function in the order of their ends; it does what it always does.

    Parameters
    ----------
    idea, keep_caches
        As in `replacing`.
    """
    calls: list[Call] = []

    def watched(real: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        result = real(*args, **keywords)
        calls.append(Call(args, keywords, result))
        return result

    with replacing(idea, watched, keep_caches=keep_caches):
        yield calls


@contextmanager
def failing(
    idea: str, error: BaseException | type[BaseException], *, after: int = 0,
    keep_caches: bool = False,
) -> Iterator[None]:  # fmt: skip
    """Raise an error in the place of each call of a function.

    Parameters
    ----------
    idea, keep_caches
        As in `replacing`.
    error : exception
        What is raised.
    after : int
        The number of calls that succeed before.
    """
    counter = iter(range(after))

    def broken(real: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        if next(counter, None) is None:
            raise error
        return real(*args, **keywords)

    with replacing(idea, broken, keep_caches=keep_caches):
        yield


@contextmanager
def watching_kernels() -> Iterator[list[Any]]:
    """List the calls of compiled kernels, each an `argument_block.Call`, as they begin."""
    from einstride.cpu.runtime import argument_block

    calls: list[Any] = []
    real = argument_block.Call.__call__

    def watched(call: Any, launch: Any, **addresses: int) -> None:
        calls.append(call)
        real(call, launch, **addresses)

    argument_block.Call.__call__ = watched  # type: ignore[method-assign, assignment]
    try:
        yield calls
    finally:
        argument_block.Call.__call__ = real  # type: ignore[method-assign]
