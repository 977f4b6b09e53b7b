"""Watch or replace a private function, or make it fail, by its name in `FUNCTIONS`."""

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
    """Hold one call of a watched function.

    Attributes
    ----------
    args, keywords : tuple, dict
        The arguments.
    result : object
        The return value.
    """

    args: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    result: Any = None


@contextmanager
def replacing(idea: str, by: Callable[..., Any], *, keep_caches: bool = False) -> Iterator[None]:
    """Call ``by(real, *args, **keywords)`` instead of a function during a ``with`` block.

    Parameters
    ----------
    idea : str
        A key of `FUNCTIONS`.
    by : callable
        The replacement, whose first argument is the real function.
    keep_caches : bool
        True leaves the caches of results as they are. By default they are emptied at both ends of
        the block: cached results would hide the replacement at first, and its results would remain.
    """
    with ExitStack() as stack:
        for module, name in points.attributes(points.FUNCTIONS, idea):
            real = getattr(module, name)
            stack.enter_context(points.function(real, _replacement(real, by)))
        if not keep_caches:
            clear_caches()
            stack.callback(clear_caches)
        yield


def _replacement(real: Any, by: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def replacement(*args: Any, **keywords: Any) -> Any:
        return by(real, *args, **keywords)

    return replacement


@contextmanager
def watching(idea: str, *, keep_caches: bool = False) -> Iterator[list[Call]]:
    """Record the calls of a function, in the order of their ends, without changing the function.

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
    """Raise an error instead of each call of a function during a ``with`` block.

    Parameters
    ----------
    idea, keep_caches
        As in `replacing`.
    error : exception
        The error to raise.
    after : int
        The number of calls that succeed before the first error.
    """
    counter = iter(range(after))

    def broken(real: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        if next(counter, None) is None:
            raise error
        return real(*args, **keywords)

    with replacing(idea, broken, keep_caches=keep_caches):
        yield


@contextmanager
def chunks_backwards() -> Iterator[None]:
    """Write kernels that take their chunks from the last to the first, during a ``with`` block."""
    from einstride.codegen.function_builder import Code

    real = Code.chunks

    @contextmanager
    def chunks(code: Code, count: Any, counter: int = 0) -> Iterator[Any]:
        with real(code, count, counter) as chunk:
            yield count - 1 - chunk

    Code.chunks = chunks  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Code.chunks = real  # type: ignore[method-assign]


@contextmanager
def watching_kernels() -> Iterator[list[Any]]:
    """Record the calls of compiled kernels, each an `argument_block.Call`, when they begin."""
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
