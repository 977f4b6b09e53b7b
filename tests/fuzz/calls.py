"""Makes one call of a public function as its `Call` describes, and checks all its effects.

`Runner.run` returns the problems that it found. A refusal is counted; it is a problem if the call
is valid.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2, prod
from random import Random
from typing import Any

import numpy as np

import einstride as es

from .allocator import Allocator
from .cases import LARGE, Call, Case
from .hostile import HOSTILE
from .memory import Buffers, Memory, Placed, address, place
from .oracle import HALVES, INTEGERS, Exact, dtype, result_dtype, rounded, table

SLACK = 2 << 10
"""Bytes by which a call may exceed `max_workspace`: small offset tables and argument blocks."""

FFT_ELEMENTS = 300
"""Most elements of x or y in a call with the least workspace of an FFT: blocks of one position and
one channel take seconds for larger arrays."""


@dataclass(frozen=True)
class Problem:
    """Describe a problem by its kind and a text with the numbers."""

    kind: str
    text: str


class Refused(Exception):  # noqa: N818  (a refusal is no error)
    """Report an allowed refusal, which is counted and is no problem."""


OPERANDS = {
    "conv": ("x", "f"),
    "conv_input_grad": ("gy", "f"),
    "conv_filter_grad": ("x", "gy"),
    "conv_transpose": ("gy", "f"),
    "conv_bias_grad": ("gy",),
    "conv_jvp": ("x", "f", "dx", "df"),
    "windows": ("x",),
    "conv4d_forward": ("x", "f"),
    "conv4d_input_gradient": ("x", "f", "gy"),
    "conv4d_filter_gradient": ("x", "f", "gy"),
}
DIRECTIONS = {
    "conv": "forward",
    "conv_input_grad": "input_grad",
    "conv_filter_grad": "filter_grad",
    "conv_transpose": "transpose",
}


class Reference:
    """Hold a case with its values and exact results, each computed at its first use."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._arrays: dict[str, np.ndarray] = {}
        self._results: dict[Any, np.ndarray] = {}

    def array(self, role: str) -> np.ndarray:
        """Return the values of an operand."""
        if role not in self._arrays:
            self._arrays[role] = self.case.array(role)
        return self._arrays[role]

    def exact(self, x: str = "x", f: str = "f") -> Exact:
        """Return the exact results for the operands of these roles."""
        key = ("exact", x, f)
        if key not in self._results:
            self._results[key] = Exact(
                _Geometry(self.case), self.array(x), self.array(f), self.array("gy")
            )
        return self._results[key]

    @cached_property
    def plain(self) -> Reference | None:
        """Return the case without padding and other keywords that some functions do not have."""
        c, rank = self.case, len(self.case.size)
        one = (1,) * rank
        c = replace(c, groups=1, filters=c.filters // c.groups, channels=c.channels // c.groups)
        c = replace(
            c, dilation=one, input_dilation=one, padding=(0,) * rank, mode="zeros", flip=False
        )
        c = replace(c, accumulate=None)
        return Reference(c) if c.valid and min(c.size) > 0 else None


class _Geometry:
    """Hold the sizes of a case that `Exact` reads."""

    def __init__(self, case: Case) -> None:
        self.batch, self.size, self.kernel = case.batch, case.size, case.kernel
        self.channels, self.filters, self.groups = case.channels, case.filters, case.groups
        self.stride, self.dilation, self.input_dilation = (
            case.stride,
            case.dilation,
            case.input_dilation,
        )
        self.pads, self.mode, self.flip, self.out = case.pads, case.mode, case.flip, case.out


class Runner:
    """Make calls; hold their buffers, threads and counts."""

    def __init__(self) -> None:
        self.buffers = Buffers()
        self.allocator = Allocator()
        self.calls = 0
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.refusals: Counter[str] = Counter()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, reference: Reference, call: Call) -> list[Problem]:
        """Make a call and return its problems."""
        if call.function.startswith("conv4d") or call.function == "windows":
            if reference.plain is None or (
                call.function != "windows" and len(reference.case.size) != 2
            ):
                self.refusals["not made: the function has no padding or another rank"] += 1
                return []
            reference = reference.plain
        if call.function == "conv_transpose" and _no_transpose(reference.case):
            self.refusals["not made: a transpose has no such keywords"] += 1
            return []
        return Attempt(self, reference, call).problems()

    def count(self, call: Call, reference: Reference, made: int) -> None:
        """Add a call to the counts of the summary."""
        made = max(made, 1)
        self.calls += made
        name = call.function if call.how == "function" else f"{call.function} ({call.how})"
        kinds = {m.kind for m, _ in zip(call.memory, OPERANDS[call.function], strict=False)}
        c = self.counts
        c["function", name] += made
        c["algorithm", call.algorithm] += made
        c["dtypes", reference.case.dtype_of(OPERANDS[call.function][0])] += made
        for kind in kinds:
            c["memory", kind] += made
        if call.out is not None:
            c["out", call.out.kind] += made
        if call.threads > 1:
            c["threads", str(call.threads)] += made

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Return the pool of threads that call concurrently."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(4)
        return self._pool


def _no_transpose(case: Case) -> bool:
    return case.mode != "zeros" or max(case.input_dilation) > 1 or 0 in case.out or 0 in case.size


class Attempt:
    """Hold the arrays, keywords and expected results of one call."""

    def __init__(self, runner: Runner, reference: Reference, call: Call) -> None:
        self.runner, self.reference, self.call, self.case = runner, reference, call, reference.case
        self.name = call.function
        self.rng = Random(call.spelling)
        self.parts = _parts(call.layout, len(self.case.size))
        self.found: list[Problem] = []
        self.made = 0
        """Number of convolutions so far."""
        self.predicted: int | None = None
        """Workspace in bytes that the plan predicts, if it must be compared."""

    # -- expected results

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return OPERANDS[self.name]

    @cached_property
    def biased(self) -> str | None:
        """Return the role of the bias, or None without a bias."""
        if not self.call.bias or self.name not in ("conv", "conv_transpose"):
            return None
        if self.case.accumulate and self.call.how in ("plan", "saved plan"):
            return None  # plans ignore the bias, which decides what accumulate may be
        return "bias" if self.name == "conv" else "bias of a transpose"

    @cached_property
    def result(self) -> str:
        """Return the dtype of the result."""
        names = [self.case.dtype_of(r) for r in self.multiplied]
        if self.name == "conv_bias_grad":
            if names[0] in INTEGERS:
                return "uint64" if names[0] == "uint64" else "int64"
            return names[0]
        if self.name == "windows":
            return names[0]
        names += [self.case.dtype_of("bias")] if self.biased else []
        return result_dtype(names, self.accumulate)

    @cached_property
    def multiplied(self) -> tuple[str, ...]:
        """Return the roles of the two operands that are multiplied."""
        return {
            "conv4d_input_gradient": ("gy", "f"),
            "conv4d_filter_gradient": ("x", "gy"),
            "conv_jvp": ("x", "f"),
        }.get(self.name, self.roles)

    @cached_property
    def accumulate(self) -> str | None:
        if self.name in ("conv_bias_grad", "windows") or self.name.startswith("conv4d"):
            return None
        names = [self.case.dtype_of(r) for r in self.multiplied]
        names += [self.case.dtype_of("bias")] if self.biased else []
        if self.call.how == "backward" and len({*self.case.dtypes}) > 1:
            return None  # all three passes, of other dtypes, would have to allow it
        return self.case.accumulate_for(names)

    @cached_property
    def expected(self) -> np.ndarray:
        """Return the exact result, rounded once, in canonical layout."""
        return self._expected("f")

    def _expected(self, f: str) -> np.ndarray:
        key = (self.name, self.result, bool(self.biased), self.call.per_example, f)
        found = self.reference._results.get(key)
        if found is None:
            found = self.reference._results[key] = self._compute(f)
        return found

    def _compute(self, f: str) -> np.ndarray:
        reference, name = self.reference, self.name
        if name == "conv_bias_grad":
            gy = reference.array("gy")
            wide = gy.astype("complex128" if gy.dtype.kind == "c" else "float64")
            return rounded(wide.sum(axis=tuple(range(gy.ndim - 1))), self.result)
        if name == "windows":
            return reference.exact().windows.astype(dtype(self.result))
        if name == "conv_jvp":
            one = rounded(reference.exact("dx").forward, self.result)
            return one + rounded(reference.exact(f="df").forward, self.result)
        e = reference.exact(f=f)
        if name in ("conv", "conv4d_forward"):
            wide = e.forward
        elif name in ("conv_input_grad", "conv_transpose", "conv4d_input_gradient"):
            wide = e.input_grad
        else:
            wide = e.filter_grad_each if self.call.per_example else e.filter_grad
        if self.biased:
            bias = reference.array(self.biased)
            wide = wide + bias.astype("complex128" if bias.dtype.kind == "c" else "float64")
        return rounded(wide, self.result)

    @cached_property
    def complex(self) -> bool:
        return self.result.startswith("complex")

    def _tolerance(self, f: str) -> float:
        """Return the largest error that winograd or fft may make; 0 if the result must be exact.

        The bounds of winograd and fft are normwise: a constant times log2 of the length times the
        unit roundoff times ||first|| ||second||, for each element and product. `f` is the role of
        the filter.
        """
        case, call = self.case, self.call
        if self.result in INTEGERS or call.accuracy == "elementwise":
            return 0.0
        rounds = call.algorithm in ("winograd", "fft")
        if not rounds and (call.algorithm != "auto" or case.multiply_adds < LARGE // 4):
            return 0.0
        sums = self.accumulate or {"float16": "float32", "bfloat16": "float32"}.get(
            self.result, self.result
        )
        unit = np.finfo(sums).eps
        length = prod(n + k for n, k in zip(case.dilated_size, case.kernel, strict=True)) + 2
        error = 0.0
        for pair in self._products(f):
            norms = [np.linalg.norm(self.reference.array(r).astype(complex).ravel()) for r in pair]
            error += 64 * unit * log2(length) * prod(norms)
        expected = self._expected(f)
        magnitudes = [np.abs(expected).max(initial=0)]
        if self.name == "conv_jvp":  # each of the two terms is rounded, and the terms may cancel
            magnitudes = [
                np.abs(self.reference.exact(*p).forward).max(initial=0) for p in self._products(f)
            ]
        if self.result in HALVES:
            least = 2.0**-8 if self.result == "bfloat16" else 2.0**-11
            error += 2 * least * float(sum(magnitudes))
        if self.biased or self.name == "conv_jvp":
            error += 4 * unit * float(sum(magnitudes))
        return float(error)

    def _products(self, f: str) -> list[tuple[str, ...]]:
        """List the pairs of roles whose products the result sums."""
        if self.name == "conv_jvp":
            return [("dx", "f"), ("x", "df")]
        return [tuple(f if role == "f" else role for role in self.multiplied)]

    # -- the call

    def problems(self) -> list[Problem]:
        call, runner = self.call, self.runner
        self.placed: dict[str, Placed] = {}
        memories = list(zip(self.roles, (*call.memory, *call.memory), strict=False))
        if self.biased:
            memories.append((self.biased, call.memory[2]))
        for role, memory in memories:
            self.placed[role] = self._placed(role, memory)
        try:
            if call.hostile >= 0:
                self._hostile()
            else:
                self._make()
        except Refused as refusal:
            runner.refusals[_without_numbers(str(refusal))] += 1
        except MemoryError:
            self._problem("memory error", "MemoryError")
        runner.count(call, self.reference, self.made)
        for role, placed in self.placed.items():
            if placed.changed():
                self._problem("written input", f"{role} or memory beside it was written")
        damage = runner.allocator.damage()
        if damage is not None:
            self._problem("written beyond", damage)
        return self.found

    def _problem(self, kind: str, text: str) -> None:
        self.found.append(Problem(kind, text))

    def _placed(self, role: str, memory: Memory) -> Placed:
        values = self.reference.array(role)
        order = self._order(role)
        repeats = () if role in self.case.hankel else dict(self.case.repeats).get(role, ())
        repeats = tuple(order.index(a) for a in repeats)
        hankel = (order.index(0), order.index(1)) if role in self.case.hankel else ()
        return place(self.runner.buffers, values.transpose(order), memory, repeats, hankel)

    def _order(self, role: str, each: bool = False) -> tuple[int, ...]:
        """Return the canonical axis of each axis of the user's array."""
        if role.startswith("bias"):
            return (0,)
        spatial, *parts = self.parts
        part = parts["xfy".index({"gy": "y", "dx": "x", "df": "f"}.get(role, role))]
        if self.name == "conv_transpose" and "I" not in part:  # its x has the shape of an output
            part = parts[2 if role == "x" else 0]
        letters = f"{spatial}IO" if "I" in part else f"N{spatial}C"
        return tuple(letters.index(c) for c in part)

    @cached_property
    def order_out(self) -> tuple[int, ...]:
        """Return the canonical axis of each axis of the result."""
        name = self.name
        if name in ("conv_bias_grad", "windows"):
            return tuple(range(self.expected.ndim))
        if name in ("conv", "conv_jvp", "conv4d_forward"):
            return self._order("y")
        if name in ("conv_filter_grad", "conv4d_filter_gradient"):
            order = self._order("f")
            return (0, *(i + 1 for i in order)) if self.call.per_example else order
        return self._order("x")

    @cached_property
    def wanted(self) -> np.ndarray:
        """Return the expected result in the caller's layout."""
        return self.expected.transpose(self.order_out)

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """Return the keywords of the call, without max_workspace and out."""
        case, call = self.case, self.call
        if self.name == "conv_bias_grad":
            return {"layout": call.layout}
        if self.name in ("windows",) or self.name.startswith("conv4d"):
            return {}
        rank = len(case.size)
        found: dict[str, Any] = {}
        for key, value, default in (
            ("stride", case.stride, 1), ("dilation", case.dilation, 1),
            ("input_dilation", case.input_dilation, 1),
        ):  # fmt: skip
            if value != (default,) * rank:
                found[key] = self._written(value)
        if case.padding != (0,) * rank:
            found["padding"] = self._padding()
        plain = {
            "groups": (case.groups, 1), "padding_mode": (case.mode, "zeros"),
            "flip": (case.flip, False), "layout": (call.layout, "channels_last"),
            "algorithm": (call.algorithm, "auto"), "accuracy": (call.accuracy, "normwise"),
            "batch_invariant": (call.batch_invariant, False),
            "accumulate": (self.accumulate, None),
        }  # fmt: skip
        found |= {k: value for k, (value, default) in plain.items() if value != default}
        return found

    def _written(self, value: tuple[int, ...]) -> Any:
        way = self.call.spelling
        if way == 1 and len(set(value)) == 1:
            return value[0]
        return {2: list(value), 3: tuple(np.int64(v) for v in value)}.get(way, value)

    def _padding(self) -> Any:
        entries = self.case.padding
        if self.call.spelling and len(set(entries)) == 1 and not isinstance(entries[0], tuple):
            return entries[0]
        return list(entries) if self.call.spelling == 2 else entries

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Return (positional arguments, keyword arguments that are no settings)."""
        given, more = self.arguments_of_names()
        arrays = [self.placed[r].array for r in self.roles] + given
        if self.biased:
            arrays.append(self.placed[self.biased].array)
        return arrays, more

    def arguments_of_names(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments that are neither operands nor settings: (positional, keywords)."""
        case, name = self.case, self.name
        arrays: list[Any] = []
        more: dict[str, Any] = {}
        if name == "conv_input_grad":
            arrays.append(self._written(case.size))
        elif name == "conv_filter_grad":
            arrays.append(self._written(case.kernel))
            if self.call.per_example:
                more["per_example"] = True
        elif name == "conv_transpose":
            more["output_size"] = case.size
        elif name == "windows":
            arrays += [self._written(case.kernel), self._written(case.stride)]
        elif name.startswith("conv4d"):
            arrays.append(case.stride)
        return arrays, more

    def _make(self) -> None:
        call = self.call
        arrays, more = self.arguments()
        run, prefix = self._function(arrays, more)
        out = self._out()
        first: Any = None
        workspace = self._workspace(run, prefix)
        for number in range(call.repeat):
            given = workspace if out is None else {**workspace, "out": out.array}
            result = self._call(run, prefix, given)
            if out is not None:
                if result is not out.array:
                    self._problem(
                        "out", f"the result is not the array given as out: {result!r:.80}"
                    )
                result = out.take_result()
                if out.changed():
                    self._problem("written beyond", f"memory beside out ({call.out}) was written")
            used = self.runner.allocator.peak
            limit = workspace.get("max_workspace", self.predicted)
            # the first two calls also fill the call cache
            if limit is not None and number >= 2 and call.how in ("function", "layer"):
                own = 0 if out is not None else self.wanted.nbytes
                own *= 3 if self.name == "conv_jvp" else 1  # two terms and their sum are allocated
                said = "predicted" if "max_workspace" not in workspace else "max_workspace"
                own += self._copies(out) if said == "predicted" else 0
                if used > limit + own + self._slack:
                    self._problem("workspace", f"{said} {limit}, but {used - own} bytes were used")
            self._compare(result, self.wanted)
            if first is None:
                first = result if out is not None else result.copy()
            elif not self.found and first.tobytes() != result.tobytes():
                self._problem("other bits", f"call {number + 1} has other bits than the first")
            if self.found:
                return
        if call.threads > 1 and out is None:
            self._threads(run, workspace, first)

    def _copies(self, out: Placed | None) -> int:
        """Return the most bytes of copies of arrays whose strides kernels do not support.

        Plans are made without arrays and omit these copies; `max_workspace` counts them.
        """
        arrays = [p.array for p in self.placed.values()]
        arrays.append(out.array if out else self.wanted)  # also has the caller's layout
        last = self.call.layout == "channels_last"
        return sum(
            a.size * 2 * max(a.itemsize, 8) for a in arrays if not (last and _is_contiguous(a))
        )

    @cached_property
    def _slack(self) -> int:
        large = prod(self.wanted.shape) * self.wanted.itemsize
        return SLACK + (4096 if large >= 1 << 19 else 64)

    def _function(self, arrays: list[Any], more: dict[str, Any]) -> tuple[Callable[..., Any], str]:
        """Return (function of max_workspace and out that makes the call, name that errors begin
        with)."""
        call, name, keywords = self.call, self.name, self.keywords
        function = getattr(es, name)
        if call.how == "function":
            return (lambda **given: function(*arrays, **more, **keywords, **given)), name
        if call.how in ("plan", "saved plan"):
            return (lambda **given: self._planned(arrays, more, **given)), "Plan"
        return (lambda **given: self._layer(arrays, **given)), "Conv"

    def _planned(self, arrays: list[Any], more: dict[str, Any], **given: Any) -> Any:
        extra: dict[str, Any] = {"direction": DIRECTIONS[self.name], **more}
        if self.name == "conv_input_grad":
            extra["input_size"] = arrays[2]
        if self.name == "conv_filter_grad":
            extra["kernel_size"] = arrays[2]
        out = given.pop("out", None)
        try:
            p = es.plan(arrays[0], arrays[1], **extra, **self.keywords, **given)
        except (ValueError, TypeError) as error:
            text = str(error)
            if not text.startswith("plan: "):
                raise
            raise type(error)("Plan" + text[4:]) from error
        if self.call.how == "saved plan":
            p = es.Plan.from_json(p.to_json())
        bias = (self.placed[self.biased].array,) if self.biased else ()
        return p(arrays[0], arrays[1], *bias, out=out)

    def _layer(self, arrays: list[Any], **given: Any) -> Any:
        """Call through a `Conv`, or compare a `Conv` with a copy whose filter is changed."""
        x, f, *bias = arrays
        out, how = given.pop("out", None), self.call.how
        layer = es.Conv(f, *bias, **self.keywords, **given)
        self.made += {"layer": 1, "backward": 2}.get(how, 3)
        if how == "layer":
            layer(x)
            self.runner.allocator.restart()  # the limit is for one call, not for two
            return layer(x, out=out)
        if how == "backward":
            return self._backward(layer, x)
        y = layer.forward(x)
        if how == "copied layer":
            other = copy.deepcopy(layer)
        else:
            text = pickle.dumps(layer)
            small = sum(a.nbytes for a in arrays[1:])
            if len(text) > 2 * small + 8192:
                self._problem("pickle", f"{len(text)} bytes for a layer of {small}")
            other = pickle.loads(text)
        self._compare(other(x), self.wanted, "a copied layer")
        new = self.reference.array("df").transpose(self._order("f"))
        if other.f.flags.writeable:
            other.f[...] = new
        else:
            other.f = new
        changed = self._expected("df").transpose(self.order_out)
        self._compare(other(x), changed, "a copied layer whose filter was changed", f="df")
        self._compare(layer(x), self.wanted, "a layer whose copy was changed")
        return y

    @cached_property
    def _gy(self) -> Placed:
        """Place gy once for all calls: buffers are reused in turn, and another operand would
        overwrite gy."""
        return self._placed("gy", self.call.memory[1])

    def _backward(self, layer: Any, x: np.ndarray) -> Any:
        y, gy = layer.forward(x), self._gy
        gradients = layer.backward(gy.array)
        for function, got in zip(
            ("conv_input_grad", "conv_filter_grad", "conv_bias_grad"), gradients, strict=True
        ):
            if got is not None:
                how = replace(self.call, function=function, bias=False, how="function")
                other = Attempt(self.runner, self.reference, how)
                if other.accumulate == self.accumulate:
                    other._compare(got, other.wanted, f"Conv.backward: {function}")
                    self.found += other.found
        if gy.changed():
            self._problem("written input", "gy or memory beside it was written")
        return y

    def _call(self, run: Callable[..., Any], prefix: str, given: dict[str, Any]) -> Any:
        """Return the result of the call; raise `Refused` if it is refused, also after an error."""
        self.made += 1
        try:
            with self.runner.allocator.in_use():
                return run(**given)
        except (ValueError, TypeError) as error:
            text = str(error)
            names = (prefix, "Conv", "Conv.backward") if prefix == "Conv" else (prefix,)
            if not text.startswith(tuple(f"{n}: " for n in names)):
                self._problem("unnamed error", f"{type(error).__name__}: {text[:300]}")
            elif not self._may_refuse(text):
                self._problem("refused", text[:400])
            raise Refused(text) from None
        except MemoryError:
            raise
        except Exception as error:
            self._problem("error", f"{type(error).__name__}: {str(error)[:300]}")
            raise Refused(type(error).__name__) from None

    def _may_refuse(self, text: str) -> bool:
        call = self.call
        if "max_workspace is too small" in text:
            return call.workspace in ("zero", "least")
        if call.algorithm not in ("auto", "strided", "gemm") and "cannot do this" in text:
            return True
        if call.how in ("plan", "saved plan") and self.biased:
            return "cannot do this" in text  # the plan knows no bias
        if call.batch_invariant and (
            call.algorithm == "strided" or self.name == "conv_filter_grad" or call.how == "backward"
        ):
            return "cannot do this" in text
        return False

    def _workspace(self, run: Callable[..., Any], prefix: str) -> dict[str, Any]:
        """Return the `max_workspace` of the call."""
        limit = self.call.workspace
        if (
            not limit
            or self.name in ("conv_bias_grad", "windows")
            or self.name.startswith("conv4d")
        ):
            return {}
        if limit == "zero":
            return {"max_workspace": 0}
        if limit == "predicted":
            if self.name not in DIRECTIONS or self.call.how != "function" or self.biased:
                return {}  # plans are made without a bias, whose dtype may change the algorithm
            self.predicted = self._predicted()
            return {}
        c = self.case
        positions = prod(
            max(n, k, o) for n, k, o in zip(c.dilated_size, c.kernel, c.out, strict=True)
        )
        elements = c.batch * positions * max(c.channels, c.filters)
        if self.call.algorithm in ("fft", "auto") and elements > FFT_ELEMENTS:
            return {}  # see FFT_ELEMENTS
        try:
            self._call(run, prefix, {"max_workspace": 0})
        except Refused as refusal:
            found = re.search(r"max_workspace=(\d+) bytes or more", str(refusal))
            if not found:
                raise
            return {"max_workspace": int(found[1])}
        return {"max_workspace": 0}

    def _predicted(self) -> int:
        extra: dict[str, Any] = {"direction": DIRECTIONS[self.name]}
        if self.name == "conv_input_grad":
            extra["input_size"] = self.case.size
        elif self.name == "conv_filter_grad":
            extra |= {"kernel_size": self.case.kernel, "per_example": self.call.per_example}
        elif self.name == "conv_transpose":
            extra["output_size"] = self.case.size
        arrays = [self.placed[r].array for r in self.roles]
        try:
            return es.plan(*arrays, **extra, **self.keywords).workspace
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from None

    def _out(self) -> Placed | None:
        call = self.call
        if call.out is None:
            return None
        poison = np.full(self.wanted.shape, 0, dtype(self.result))
        poison.view(np.uint8)[...] = 0xFF if poison.size else 0
        return place(self.runner.buffers, poison, call.out)

    def _compare(
        self, got: Any, wanted: np.ndarray, what: str = "the result", f: str = "f"
    ) -> None:
        if not isinstance(got, np.ndarray):
            self._problem("wrong kind", f"{what} is a {type(got).__name__}")
            return
        if got.shape != wanted.shape or got.dtype.name != wanted.dtype.name:
            self._problem(
                "wrong kind",
                f"{what} has shape {got.shape} and dtype {got.dtype}; "
                f"wanted {wanted.shape} and {wanted.dtype}",
            )
            return
        if np.array_equal(got, wanted):
            return
        tolerance = self._tolerance(f)
        with np.errstate(all="ignore"):
            kind = np.complex128 if self.complex else np.float64
            error = np.abs(got.astype(kind) - wanted.astype(kind))
            bad = ~(error <= tolerance)
        if bad.any():
            at = tuple(int(i[0]) for i in np.nonzero(bad))
            self._problem(
                "wrong", f"{what}{list(at)} is {got[at]}, not {wanted[at]}; "
                f"{int(bad.sum())} of {bad.size} are wrong"
                + (f", bound {tolerance:.2g}" * (tolerance > 0)),
            )  # fmt: skip

    def _threads(self, run: Callable[..., Any], given: dict[str, Any], first: np.ndarray) -> None:
        """Check that four concurrent callers get equal bits."""
        jobs = [self.runner.pool.submit(run, **given) for _ in range(self.call.threads)]
        for job in jobs:
            error = job.exception(timeout=60)
            if error is not None:
                self._problem("threads", f"{type(error).__name__}: {str(error)[:300]}")
            elif np.array(job.result()).tobytes() != first.tobytes():
                self._problem("threads", "several callers at once get other bits")
            self.made += 1

    # -- invalid keywords

    def _hostile(self) -> None:
        keyword, value = HOSTILE[self.call.hostile]
        arrays, more = self.arguments()
        name, keywords = self.name, dict(self.keywords)
        every = name in ("conv", "conv_input_grad", "conv_filter_grad", "conv_transpose")
        one = keyword == "first" and name in ("conv_bias_grad", "windows", "conv4d_forward")
        if not (every or one):
            return  # these gradients read only the shape of one operand
        if name == "windows" and value in ("objects", "longdouble", "dates", "text"):
            return  # views may have any dtype
        if keyword in ("first", "second"):
            at = 0 if keyword == "first" else 1
            arrays[at] = self._bad_array(arrays[at], value)
        elif keyword == "bias":
            if self.biased is None or (isinstance(value, str) and arrays[-1].shape == (7,)):
                return
            arrays[-1] = np.ones(7, "f4") if isinstance(value, str) else value
            if len(value) and arrays[-1].__class__ is np.ndarray and self.wanted.shape == ():
                return
        elif keyword == "out":
            keywords["out"] = self._bad_out(value, arrays)
            if keywords["out"] is None:
                return
        elif keyword == "groups" and value == 997 and self.case.channels % 997 == 0:
            return
        else:
            keywords[keyword] = value
        if keyword in ("accumulate", "algorithm") and 0 in (
            self.case.multiply_adds,
            self.wanted.size,
        ):
            return  # nothing is computed
        try:
            getattr(es, name)(*arrays, **more, **keywords)
        except (ValueError, TypeError) as error:
            text = str(error)
            if keyword == "unknown":
                return
            if not text.startswith(f"{name}: "):
                self._problem("unnamed error", f"{keyword}={value!r}: {text[:300]}")
        except Exception as error:
            self._problem("error", f"{keyword}={value!r}: {type(error).__name__}: {error}"[:400])
        else:
            self._problem("not refused", f"{keyword}={value!r} was taken")

    def _bad_array(self, a: Any, value: Any) -> Any:
        if not isinstance(value, str) or value == "x":
            return value
        return {
            "flat": lambda: np.ones(4, "f4"),
            "objects": lambda: a.astype(object),
            "longdouble": lambda: np.ones(a.shape, np.longdouble),
            "dates": lambda: np.zeros(a.shape, "M8[s]"),
            "text": lambda: np.full(a.shape, "a"),
            "no taps": lambda: np.ones((*a.shape, 0), "f4"),
            "more axes": lambda: a[None],
        }[value]()

    def _bad_out(self, value: Any, arrays: list[Any]) -> Any:
        shape, kind = self.wanted.shape, dtype(self.result)
        if value == "wrong shape":
            return np.empty((*shape, 2), kind)
        if value == "wrong dtype":
            return np.empty(shape, "f8" if self.result != "float64" else "f4")
        if value == "read-only":
            out = np.empty(shape, kind)
            out.flags.writeable = False
            return out
        if value == "itself":
            return _overlapping(shape, kind) if prod(shape) > 1 else None
        if value == "overlapping":
            if 0 in shape or arrays[0].size == 0 or not arrays[0].dtype.isnative:
                return None
            a = arrays[0]
            if a.dtype != kind or prod(shape) > a.size or not a.flags.c_contiguous:
                return None
            return a.reshape(-1)[: prod(shape)].reshape(shape) if a.flags.writeable else None
        if value == "swapped":
            return np.empty(shape, kind.newbyteorder()) if kind.isbuiltin == 1 and (
                kind.itemsize > 1
            ) else None  # fmt: skip
        return value


def _is_contiguous(a: np.ndarray) -> bool:
    """True if the array is aligned, native and contiguous, so that every kernel can read it."""
    own = tuple(a.itemsize * prod(a.shape[i + 1 :]) for i in range(a.ndim))
    return a.flags.aligned and a.dtype.isnative and a.strides == own


def _overlapping(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Return a writeable array whose elements all have one address."""
    return np.lib.stride_tricks.as_strided(
        np.zeros(1, kind), shape, (0,) * len(shape), writeable=True
    )


def _parts(layout: str, rank: int) -> tuple[str, str, str, str]:
    """Split a layout spec into spatial letters and the parts of x, f and y."""
    letters = "DHWXYZ"[:rank]
    if layout == "channels_last":
        return letters, f"N{letters}C", f"{letters}IO", f"N{letters}C"
    if layout == "channels_first":
        return letters, f"NC{letters}", f"OI{letters}", f"NC{letters}"
    x, _, rest = layout.partition(",")
    f, _, y = rest.partition("->")
    return "".join(c for c in x if c not in "NC"), x, f, y


def _without_numbers(text: str) -> str:
    """Return the text of a refusal without its numbers."""
    if "cannot do this" in text:
        text = text.split("; got ")[-1].rsplit("; ", 1)[0]
    elif "max_workspace" in text:
        text = "max_workspace is too small"
    return re.sub(r"\d[\d., ()]*", "# ", text)[:110]


__all__ = ["Problem", "Reference", "Runner", "address", "table"]
