"""Calls that were made before: the same question about other numbers goes straight to its answer.

On arrays of a few hundred numbers a convolution takes one microsecond, and finding out what is to
be done takes ten. So what was found out is kept under everything that it was found out from:

- the function, and every keyword as the caller wrote it, each with its type (1, 1.0 and True are
  the same key of a dictionary, and not the same stride);
- of each array its shape, strides, dtype (with the byte order) and whether it is aligned;
- how many threads BLAS may use at this moment.

Why that is safe: checks of shapes, dtypes and keywords, the plan, and the bounds of every address
are functions of these and of nothing else, and only what passed all of them is kept. A call that
raised is never kept, so it raises again. What depends on more goes the whole way each time: `out`
(it might overlap an input), integers whose values must be looked at, libraries other than NumPy,
subclasses of its arrays, and keywords of other types than Python's own. Nothing kept refers to a
caller's array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einstride.algorithms import ALGORITHMS
from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.cpu.runtime.operands import addressable
from einstride.dispatch import execute
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import Keywords
from einstride.planning.select import Decision
from einstride.support.caches import register

PLAIN = {int, str, bool, type(None), tuple}
"""Types whose values say all: two that are equal mean the same, now and later."""

MOST = 512
"""Calls in a generation; two are kept."""

LARGE = 1 << 15
"""Bytes of a filter from which a layer's prepared one is worth more than a short way."""

COUNT = len(Keywords._fields)

Again = Callable[[Array, Array, Array | None, Prepared | None], Array]
Read = Callable[[str, tuple[Any, ...]], Any]

_ONCE: Any = object()
"""In the place of an answer: the question was asked once, and may never come again."""

_kinds: dict[type, Backend] = {}
"""NumPy's own array type, once it was met."""
register(f"{__name__}._kinds", "process", _kinds.clear, _kinds.__len__)


class Answers:
    """What was found out, by question; what was not asked for longest goes first.

    A full generation becomes the old one, and what is found there moves into the new one. Reading
    and writing a dictionary are single steps, so threads need no lock: at worst two of them find
    out the same.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._new: dict[Any, Any] = {}
        self._old: dict[Any, Any] = {}

    def get(self, question: Any) -> Any:
        """The answer, or None."""
        found = self._new.get(question)
        if found is None:
            found = self._old.get(question)
            if found is not None:
                self.put(question, found)
        return found

    def put(self, question: Any, answer: Any) -> None:
        """Keep an answer."""
        if len(self._new) >= self._most:
            self._old, self._new = self._new, {}
        self._new[question] = answer

    def clear(self) -> None:
        """Forget everything: for whoever changes what plans are made from."""
        self._new, self._old = {}, {}

    def __len__(self) -> int:
        return len(self._new) + len(self._old)


ANSWERS = Answers()
register(f"{__name__}.ANSWERS", "results", ANSWERS.clear, ANSWERS.__len__)


def call(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    given: tuple[Any, ...],
    read: Read | None = None,
    answers: Answers = ANSWERS,
    kept: Prepared | None = None,
) -> Array:
    """The result of one public function.

    `given` are the keywords in the order of `Keywords`, then what else the function was told, of
    which `read` makes what `execute` calls extra.
    """
    b = _kinds.get(type(first))
    question = _question(where, given, b, first, second, bias) if out is None else None
    again = None
    if question is not None:
        try:
            again = answers.get(question)
        except TypeError:  # a keyword that cannot be hashed
            question = None
        if again is not None and again is not _ONCE:
            result: Array = again(first, second, bias, kept)
            return result
    k = Keywords._make(given[:COUNT])
    extra = None if read is None else read(where, given[COUNT:])
    result = execute.call(where, direction, first, second, bias, out, k, extra, kept)
    if question is not None:
        if again is None:
            answers.put(question, _ONCE)
        elif b is not None and _all_plain(given):
            layer = kept is not None
            b, plan = execute.prepare(where, direction, first, second, bias, out, k, extra, layer)
            answers.put(question, _again(where, plan, b, first, second, bias, layer))
    elif b is None:
        _meet(where, first)
    return result


def _question(
    where: str, given: tuple[Any, ...], b: Backend | None, first: Array, second: Array,
    bias: Array | None,
) -> tuple[Any, ...] | None:  # fmt: skip
    """All that the way to the result is found out from; None if that cannot be said."""
    kind = type(first)
    if b is None or type(second) is not kind or not (bias is None or type(bias) is kind):
        return None
    asked = (
        where, given, _types(given), b.threads(),
        first.shape, first.strides, first.dtype, first.flags.aligned,
        second.shape, second.strides, second.dtype, second.flags.aligned,
    )  # fmt: skip
    if bias is None:
        return asked
    return (*asked, bias.shape, bias.strides, bias.dtype, bias.flags.aligned)


def _types(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The types of values, and of what tuples among them hold."""
    found = tuple(map(type, values))
    if tuple in found:
        return (found, *(_types(v) for v in values if type(v) is tuple))
    return found


def _all_plain(values: tuple[Any, ...]) -> bool:
    """Are they, and all that they hold, of types whose objects never change their minds?"""
    return all(type(v) in PLAIN and (type(v) is not tuple or _all_plain(v)) for v in values)


def _meet(where: str, array: Array) -> None:
    """Remember the type of an array, if it is NumPy's own and no subclass."""
    b, kind = backends.of(where, ("array",), array), type(array)
    if b.traits.on_host and kind is b.xp.ndarray:
        _kinds[kind] = b


def _again(
    where: str, plan: Decision, b: Backend, first: Array, second: Array, bias: Array | None,
    layer: bool,
) -> Again:  # fmt: skip
    """The shortest way to the result of a plan, for arrays that lie like these.

    What a layer has kept of its filter is handed in anew each time: other layers ask the same.
    """
    found = _program(plan, b, first, second, bias, layer)
    if found is not None:
        return found

    def run(first: Array, second: Array, bias: Array | None, kept: Prepared | None) -> Array:
        return execute.run(where, plan, b, first, second, bias, None, kept)

    return run


def _program(
    plan: Decision, b: Backend, first: Array, second: Array, bias: Array | None, layer: bool
) -> Again | None:
    """The plan as one compiled program, if its algorithm makes one of such a call."""
    job, make = plan.job, getattr(ALGORITHMS[plan.algorithm], "program", None)
    if make is None or job.hard or job.empty or job.detour or job.geometry.input_dilation:
        return None
    if job.arithmetic.check_values or (bias is not None and job.arithmetic.exact):
        return None
    from einstride.cpu.runtime.bound_call import bind, strided_zeros_like

    if not all(addressable(a) for a in (first, second, bias) if a is not None):
        return None

    shape = layouts.canonical(job.shape, layouts.inverse(plan.orders[2]))
    result = b.empty(shape, job.arithmetic.result, first)
    arrays = []
    for array, order in zip((first, second, result), plan.orders, strict=True):
        like = strided_zeros_like(array)
        if like is None:
            return None
        arrays.append(like if order is None else b.xp.permute_dims(like, order))
    steps = make(arrays[0], arrays[1], bias, arrays[2], plan.inner, b)
    if steps is None or (layer and steps.scratch > LARGE):
        return None
    return bind(steps, shape, result.dtype)
