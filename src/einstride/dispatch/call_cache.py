"""Cache the checks and the plan of a call, so that an equal call on other values skips them.

On arrays of a few hundred elements the convolution itself takes one microsecond; its checks and
its plan take ten. The key of an entry holds everything that checks and plan depend on:

- the function, and every keyword as the caller wrote it, each with its type (1, 1.0 and True are
  equal as keys of a dictionary, but differ as strides);
- the shape, strides, dtype (with byte order) and alignment of each array;
- the number of threads that BLAS may use at this moment.

The cache is safe because the checks of shapes, dtypes and keywords, the plan, and the bounds of
every address are functions of the key alone, and only a call that passed all checks is entered: a
call that raised raises again. Calls that depend on more than the key are computed in full each
time: calls with `out` (it might overlap an input), with integers whose values must be checked,
with libraries that do not lend NumPy their memory, with subclasses of its arrays, and with keywords
of other than Python's own types. An entry holds no reference to a caller's array.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import DEBUG
from typing import Any

from einstride.algorithms import ALGORITHMS
from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.arrays.backends.passes import PASSES
from einstride.cpu.runtime.operands import addressable
from einstride.dispatch import depthwise, exchange, execute, run_plan
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import GROUPS, KEYWORDS, Keywords, Read
from einstride.planning.select import Decision
from einstride.support.caches import register

PLAIN_TYPES = {int, float, complex, str, bool, type(None), tuple}
"""Immutable types of keywords: equal values stay equal, so they may stand in a key."""

CALLS_PER_GENERATION = 512
"""Entries of a generation; the cache holds two generations, so at most twice this number."""

LARGE_FILTER = 1 << 15
"""Bytes of scratch memory from which a layer's call is not entered as a compiled program.

A program packs the filter in every call. For larger filters packing costs more than the Python
code that a program saves, so the layer's prepared filter is used instead.
"""

Hit = Callable[[Array, Array, Array | None, Prepared | None], Array]

_SEEN_ONCE: Any = object()
"""The entry of a call made once: its fast path is built at the second call, if there is one."""

_array_types: dict[type, Backend] = {}
"""The array types whose calls may be cached (NumPy's own), with their backend; filled on use."""
register(f"{__name__}._array_types", "process", _array_types.clear, _array_types.__len__)


class CallCache:
    """A cache that evicts the least recently used half of its entries, by two generations.

    A full new generation replaces the old one; an entry found in the old one moves to the new one.
    Reading and writing a dictionary are atomic, so threads need no lock: at worst two of them
    compute the same entry.
    """

    def __init__(self, size: int = CALLS_PER_GENERATION) -> None:
        self._size = size
        self._new: dict[Any, Any] = {}
        self._old: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        """Return the entry under a key, or None."""
        found = self._new.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Any, value: Any) -> None:
        """Enter a value under a key."""
        if len(self._new) >= self._size:
            self._old, self._new = self._new, {}
        self._new[key] = value

    @property
    def limit(self) -> int:
        """The most entries."""
        return 2 * self._size

    def clear(self) -> None:
        """Drop all entries: for code that changes what plans depend on."""
        self._new, self._old = {}, {}

    def __len__(self) -> int:
        return len(self._new) + len(self._old)


CACHE = CallCache()
register(f"{__name__}.CACHE", "results", CACHE.clear, CACHE.__len__, limit=CACHE.limit)


def call(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    given: tuple[Any, ...],
    read: Read | None = None,
    cache: CallCache | None = CACHE,
    kept: Prepared | None = None,
    b: Backend | None = None,
) -> Array:
    """Compute the result of one public function, through the cache if the call allows it.

    `given` holds the keywords in the order of `Keywords`, then the function's own arguments, from
    which `read` makes the `extra` of `execute.call`. Without a `cache` nothing is kept. `b` is the
    backend of the arrays if it is not the one that follows from their type.
    """
    if isinstance(given[GROUPS], str):
        return depthwise.call(
            call, where, direction, first, second, bias, out, given, read, cache, kept
        )
    known = _array_types.get(type(first))
    if b is not None:
        known = None if known is None else b
    elif known is None:
        theirs = backends.of_type(type(first))
        if theirs is not None and theirs.exchange is not None:
            return exchange.call(
                call, theirs, where, direction, first, second, bias, out, given, read, cache, kept
            )
    key = hit = None
    if execute.LOG.isEnabledFor(DEBUG):  # an entry of the cache logs nothing
        cache = None
    if out is None and cache is not None:
        key = _key(where, given, known, first, second, bias)
        if key is not None:
            try:
                hit = cache.get(key)
            except TypeError:  # a keyword that cannot be hashed
                key = None
            if hit is not None and hit is not _SEEN_ONCE:
                try:
                    result: Array = hit(first, second, bias, kept)
                    return result
                except MemoryError:  # a program names no function: `execute.call` does, or succeeds
                    key = None
    k = Keywords._make(given[:KEYWORDS])
    extra = None if read is None else read(where, given[KEYWORDS:])
    result = execute.call(where, direction, first, second, bias, out, k, extra, kept, b)
    if cache is not None and key is not None:
        if hit is None:
            cache.put(key, _SEEN_ONCE)
        elif known is not None and _all_plain(given):
            layer = kept is not None
            b, plan = execute.prepare(
                where, direction, first, second, bias, out, k, extra, layer, known
            )
            cache.put(key, _make_hit(where, plan, b, first, second, bias, layer))
    elif known is None:
        _remember_type(where, first)
    return result


def bound(
    where: str, first: Array, second: Array, bias: Array | None, k: Keywords, kept: Prepared
) -> Callable[[Array], Array]:
    """Return the function that convolves any array of this memory layout with a layer's filter.

    Everything is checked here, and nothing in the calls of the function.
    """
    b, plan = execute.prepare(where, "forward", first, second, bias, None, k, None, True)
    run = _make_hit(where, plan, b, first, second, bias, True)
    return lambda x: run(x, second, bias, kept)


def _key(
    where: str, given: tuple[Any, ...], b: Backend | None, first: Array, second: Array,
    bias: Array | None,
) -> tuple[Any, ...] | None:  # fmt: skip
    """Return everything that checks and plan depend on; None if the call must not be cached."""
    kind = type(first)
    if b is None or type(second) is not kind or not (bias is None or type(bias) is kind):
        return None
    key = (
        where, given, _types_of(given), b.threads(),
        first.shape, first.strides, first.dtype, first.flags.aligned,
        second.shape, second.strides, second.dtype, second.flags.aligned,
    )  # fmt: skip
    if bias is None:
        return key
    return (*key, bias.shape, bias.strides, bias.dtype, bias.flags.aligned)


def _types_of(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the types of values, and of the elements of tuples among them."""
    found = tuple(map(type, given))
    if tuple in found:
        return (found, *(_types_of(v) for v in given if type(v) is tuple))
    return found


def _all_plain(given: tuple[Any, ...]) -> bool:
    """True if the values, and all elements of tuples among them, are of `PLAIN_TYPES`."""
    return all(type(v) in PLAIN_TYPES and (type(v) is not tuple or _all_plain(v)) for v in given)


def _remember_type(where: str, array: Array) -> None:
    """Allow calls with this type of array to be cached, if it is NumPy's own and no subclass."""
    b, kind = backends.of(where, ("array",), array), type(array)
    if b.traits.on_host and kind is b.xp.ndarray:
        _array_types[kind] = b


def _make_hit(
    where: str, plan: Decision, b: Backend, first: Array, second: Array, bias: Array | None,
    layer: bool,
) -> Hit:  # fmt: skip
    """Return the function that runs a plan without checks, for arrays with these strides.

    It takes a layer's prepared filter as an argument: other layers share the entry.
    """
    found = _program(plan, b, first, second, bias, layer)
    if found is not None:
        return found

    def run(first: Array, second: Array, bias: Array | None, kept: Prepared | None) -> Array:
        return run_plan.run(where, plan, b, first, second, bias, None, kept)

    return run


def _program(
    plan: Decision, b: Backend, first: Array, second: Array, bias: Array | None, layer: bool
) -> Hit | None:
    """Return the plan as one compiled program, or None if its algorithm has none for the call."""
    job, make = plan.job, getattr(ALGORITHMS[plan.algorithm], "program", None)
    if (
        make is None
        or b.launch_program is None
        or job.hard
        or job.empty
        or job.extends_input
        or job.geometry.input_dilation
        or job.fills_border
    ):
        return None
    if job.arithmetic.check_values or (bias is not None and job.arithmetic.exact):
        return None
    from einstride.cpu.runtime.bound_call import bind

    if not all(addressable(a) for a in (first, second, bias) if a is not None):
        return None

    shape = layouts.canonical(job.shape, layouts.inverse(plan.orders[2]))
    result = b.empty(shape, job.arithmetic.result, first)
    arrays = [
        array if order is None else b.xp.permute_dims(array, order)
        for array, order in zip((first, second, result), plan.orders, strict=True)
    ]
    steps = make(arrays[0], arrays[1], bias, arrays[2], plan.inner, b)
    if steps is None or (layer and steps.scratch_bytes > LARGE_FILTER):
        return None
    return bind(steps, shape, result.dtype, b.launch_program)


PASSES[:] = [exchange.passes(call)]
