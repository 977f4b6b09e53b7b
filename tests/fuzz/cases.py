"""Draw random convolutions (`Case`) and random calls of them (`Call`), both plain data.

A case fixes the geometry, the dtypes and the values, so that an oracle computes its results once;
many calls of it then differ in function, algorithm, memory and the other keywords. To compile a
kernel takes as long as hundreds of calls, so the calls of a case share a `Focus`: a few functions,
algorithms and layouts, which need few kernels. Another seed has another focus.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isqrt, prod
from random import Random
from typing import Any

import numpy as np

from .memory import FOR_RESULTS, KINDS, Memory
from .oracle import HALVES, INTEGERS, dtype, pads_of, result_dtype

LARGE = 1 << 19
"""Least multiply-adds for which ``algorithm="auto"`` may take winograd or fft, which round."""

LARGE_BATCH = 6
"""Least number of examples at which `max_workspace` shows workspace that grows with the batch."""

ROLES = ("x", "f", "gy", "bias", "dx", "df")
LIMITS = {"float32": 2**24, "complex64": 2**23, "float64": 2**52, "complex128": 2**51}
LIMITS |= {"float16": 2**15, "bfloat16": 2**24, "int32": 2**31 - 1}
"""Bounds of sums, for each dtype of sums: smaller sums are exact in any order of their terms."""


@dataclass(frozen=True)
class Case:
    """Hold one convolution; sizes, strides and pads have one entry for each spatial axis."""

    batch: int = 1
    size: tuple[int, ...] = (1,)
    channels: int = 1
    filters: int = 1
    groups: int = 1
    kernel: tuple[int, ...] = (1,)
    stride: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)
    input_dilation: tuple[int, ...] = (1,)
    padding: tuple[Any, ...] = (0,)
    """An int, a name or a (low, high) pair for each axis, as the caller writes it."""
    mode: str = "zeros"
    flip: bool = False
    dtypes: tuple[str, ...] = ("float32",) * 4
    """Dtypes of x and dx, of f and df, of gy, and of the bias."""
    accumulate: str | None = None
    repeats: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(role, canonical axes along which the operand's values are equal): may be "broadcast"
    memory."""
    hankel: tuple[str, ...] = ()
    """Roles of operands whose values depend on the sum of their first two indices: may overlap."""
    values: int = 0
    """Seed of the values; 0: all values are one."""
    extreme: bool = False
    """True if values are as large as exact sums allow."""

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Return (low, high) of every axis."""
        axes = zip(
            self.padding, self.dilated_size, self.kernel, self.stride, self.dilation, strict=True
        )
        return tuple(pads_of(*axis) for axis in axes)

    @property
    def dilated_size(self) -> tuple[int, ...]:
        """Return the size of the dilated input."""
        return tuple(
            (n - 1) * t + 1 if n else 0 for n, t in zip(self.size, self.input_dilation, strict=True)
        )

    @property
    def last_offset(self) -> tuple[int, ...]:
        """Return for each axis the largest offset of a window; negative if the dilated filter does
        not fit."""
        axes = zip(self.dilated_size, self.kernel, self.dilation, self.pads, strict=True)
        return tuple(n + low + high - (k - 1) * d - 1 for n, k, d, (low, high) in axes)

    @property
    def out(self) -> tuple[int, ...]:
        """Return the size of the output."""
        return tuple(max(r // s + 1, 0) for r, s in zip(self.last_offset, self.stride, strict=True))

    @property
    def valid(self) -> bool:
        """True if every public function must accept the case."""
        for n, offset, pad, entry in zip(
            self.dilated_size, self.last_offset, self.pads, self.padding, strict=True
        ):
            same = isinstance(entry, str) and entry.startswith("same")
            if offset < 0 and not (n == 0 and n + sum(pad) >= 0 and same):
                return False
            most = {"reflect": n - 1, "circular": n, "symmetric": n, "replicate": 99 if n else 0}
            if max(*pad, 0) > max(most.get(self.mode, 99), 0):
                return False
            if n + min(pad[0], 0) + min(pad[1], 0) < 0 and offset < 0:
                return False
        return self.channels % self.groups == 0 == self.filters % self.groups

    def shape(self, role: str) -> tuple[int, ...]:
        """Return the canonical shape of an operand."""
        return {
            "x": (self.batch, *self.size, self.channels),
            "dx": (self.batch, *self.size, self.channels),
            "f": (*self.kernel, self.channels // self.groups, self.filters),
            "df": (*self.kernel, self.channels // self.groups, self.filters),
            "gy": (self.batch, *self.out, self.filters),
            "bias": (self.filters,),
            "bias of a transpose": (self.channels,),
        }[role]

    @property
    def multiply_adds(self) -> int:
        """Return the number of products of one pass."""
        return self.batch * prod(self.out) * prod(self.shape("f"))

    def dtype_of(self, role: str) -> str:
        """Return the dtype of an operand."""
        return self.dtypes["xfgb".index(role[-1] if role in ("dx", "df") else role[0])]

    @property
    def terms(self) -> int:
        """Return the number of products in the longest sum of any pass."""
        folds = prod(
            1 if self.mode == "zeros" else 2 + max(low, 0) + max(high, 0) for low, high in self.pads
        )
        taps = prod(self.kernel)
        one = max(self.channels, self.filters) // self.groups * taps * folds
        return max(one, self.batch * prod(self.out), 1)

    def magnitude(self) -> int:
        """Return the largest absolute value of x, f and gy with which every sum is exact."""
        least = 2**50
        for pair in ("xf", "gf", "xg"):
            names = [self.dtypes["xfgb".index(p)] for p in pair]
            for given in (names, [*names, self.dtypes[3]]):
                result = result_dtype(given, self.accumulate_for(given))
                least = min(least, LIMITS.get(result, 2**50))
            if "complex64" in names or "float32" in names:
                least = min(least, 2**23)
            if any(n in HALVES for n in names):
                least = min(least, 2**23 if "float16" not in names else 2**15)
        return max(isqrt(least // (4 * self.terms)), 1)

    def accumulate_for(self, names: list[str]) -> str | None:
        """Return the `accumulate` keyword, or None if it would be refused for these dtypes."""
        if self.accumulate is None:
            return None
        integers = all(n in INTEGERS for n in names)
        if integers:
            return self.accumulate if self.accumulate.startswith("int") else None
        result = result_dtype(names, None)
        allowed = {
            "float16": ("float32", "float64"), "bfloat16": ("float32", "float64"),
            "float32": ("float32", "float64"), "float64": ("float64",),
            "complex64": ("complex64", "complex128"), "complex128": ("complex128",),
        }[result]  # fmt: skip
        return self.accumulate if self.accumulate in allowed else None

    def array(self, role: str) -> np.ndarray:
        """Return the values of an operand, canonical and contiguous."""
        shape, name = self.shape(role), self.dtype_of(role)
        if self.values == 0 and role not in ("dx", "df"):
            return np.ones(shape, dtype(name))
        rng = np.random.default_rng((self.values, (*ROLES, "bias of a transpose").index(role)))
        most = self.magnitude()
        most = most if self.extreme else min(most, 3)
        if name == "bool":
            low, high = 0, 1
        elif name in INTEGERS:
            info = np.iinfo(name)
            low, high = max(-most, info.min), min(most, info.max)
        else:
            high = min(most, {"bfloat16": 256, "float16": 1024}.get(name, most))
            low = -high
        axes = () if role in self.hankel else dict(self.repeats).get(role, ())
        drawn = tuple(1 if i in axes else n for i, n in enumerate(shape))
        if role in self.hankel:
            drawn = (drawn[0] + drawn[1], *drawn[2:])
        found = rng.integers(low, high, drawn, endpoint=True)
        if name.startswith("complex"):
            found = found + 1j * rng.integers(low, high, drawn, endpoint=True)
        if role in self.hankel:
            found = found[np.arange(shape[0])[:, None] + np.arange(shape[1])]
        return np.ascontiguousarray(np.broadcast_to(found, shape)).astype(dtype(name))


FUNCTIONS = (
    "conv", "conv_input_grad", "conv_filter_grad", "conv_transpose", "conv_bias_grad", "conv_jvp",
    "windows", "conv4d_forward", "conv4d_input_gradient", "conv4d_filter_gradient",
)  # fmt: skip
HOW = ("function", "plan", "saved plan", "layer", "copied layer", "pickled layer", "backward")
ALGORITHMS = ("auto", "direct", "gemm", "strided", "winograd", "fft")


@dataclass(frozen=True)
class Call:
    """Describe one call of a case, which is made `repeat` times."""

    function: str = "conv"
    how: str = "function"
    algorithm: str = "auto"
    accuracy: str = "normwise"
    batch_invariant: bool = False
    per_example: bool = False
    workspace: str = ""
    """Limit: "" for none, "zero", "least" (the number in the refusal), "predicted" (by the
    plan)."""
    layout: str = "channels_last"
    bias: bool = False
    memory: tuple[Memory, ...] = (Memory(), Memory(), Memory())
    """Memory of the first operand, the second one, and the bias."""
    out: Memory | None = None
    repeat: int = 1
    threads: int = 1
    spelling: int = 0
    """Form of the values of keywords: 0 tuples, 1 ints, 2 lists, 3 NumPy's integers."""
    hostile: int = -1
    """Index in `hostile.HOSTILE` of a keyword that must be refused; -1 for none."""


def to_json(thing: Case | Call) -> dict[str, Any]:
    """Convert a case or call to data that JSON can hold, for another process."""
    return asdict(thing)


def case_from(data: dict[str, Any]) -> Case:
    """Make a case of the data of `to_json`, whose tuples JSON has turned into lists."""
    return Case(**{k: _tuples(v) for k, v in data.items()})


def call_from(data: dict[str, Any]) -> Call:
    """Make a call of the data of `to_json`, whose tuples JSON has turned into lists."""
    memory = tuple(Memory(**m) for m in data["memory"])
    out = None if data["out"] is None else Memory(**data["out"])
    return Call(**{**data, "memory": memory, "out": out})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


FLOAT_POOL = ("float32",) * 6 + ("float64",) * 3 + ("complex64",) * 2 + ("complex128",)
REAL_POOL = ("float32",) * 4 + ("float64", "float16", "int8")
COMPLEX_POOL = ("complex64", "complex64", "complex128")
HALF_POOL = ("bfloat16",) * 6 + ("float16",) * 3
INTEGER_POOL = ("int8",) * 4 + ("uint8",) * 4 + INTEGERS


def case(seed: int, vector_bytes: int) -> Case:
    """Draw the case of a seed."""
    rng = Random(f"case {seed}")
    pool = rng.choice((FLOAT_POOL, HALF_POOL, INTEGER_POOL))
    first = rng.choice(pool)
    second = first if rng.random() < 0.7 else rng.choice(FLOAT_POOL + HALF_POOL + INTEGER_POOL)
    if rng.random() < 0.2:  # one real and one complex operand
        first, second = rng.sample((rng.choice(REAL_POOL), rng.choice(COMPLEX_POOL)), 2)
    third = rng.choice((first, first, second, rng.choice(FLOAT_POOL + HALF_POOL + INTEGER_POOL)))
    bias = rng.choice((first, first, second, "float32", "int32"))
    rank = rng.choice((1, 1, 1, 2, 2, 2, 2, 3, 4))
    lanes = max(vector_bytes // min(dtype(first).itemsize * 2, 8) // rng.choice((1, 1, 2)), 2)
    channels, filters, groups = _channels(rng, lanes)
    kernel = tuple(rng.choice((1, 2, 3, 3, 3, 4, 5)[: 7 - rank]) for _ in range(rank))
    if rank == 1 and rng.random() < 0.15:
        kernel = (rng.randrange(5, 40),)
    if rank == 2 and rng.random() < 0.1:
        kernel = (rng.randrange(1, 12), rng.randrange(4, 12))
    for _ in range(200):
        found = _geometry(rng, rank, channels, filters, groups, kernel)
        if found.valid and found.multiply_adds <= (1 << 21 if rng.random() < 0.02 else 1 << 17):
            break
    else:
        found = Case(2, kernel, channels, filters, groups, kernel, *((1,) * rank,) * 3, (0,) * rank)
    accumulate = None
    if rng.random() < 0.12:
        accumulate = rng.choice(("int64", "int64", "float64", "float32", "complex128"))
    if first in HALVES and rng.random() < 0.15:
        accumulate = "float64"
    found = replace(
        found,
        dtypes=(first, second, third, bias),
        accumulate=accumulate,
        values=rng.randrange(1, 1 << 30),
        extreme=rng.random() < 0.4,
    )
    return replace(found, repeats=_repeats(rng, found), hankel=_hankel(rng))


def _channels(rng: Random, lanes: int) -> tuple[int, int, int]:
    """Draw (channels, filters, groups): often vector tails, small channels or depthwise."""

    def number(most: int) -> int:
        way = rng.random()
        if way < 0.5:
            tail = lanes * rng.choice((1, 1, 1, 2, 2, 3, 4)) + rng.choice((-1, 0, 1, 1, 1))
            return max(min(tail, most), 1)
        return rng.choice((1, 2, 3, 4)) if way < 0.72 else rng.randint(1, most)

    way = rng.random()
    if way < 0.4:  # depthwise
        channels = number(70)
        return channels, channels * rng.choice((1, 1, 1, 1, 1, 2, 3)), channels
    if way < 0.55:
        groups = rng.choice((2, 2, 3, 4, 5, 8, 16))
        return groups * number(70 // groups), groups * number(70 // groups), groups
    return number(70), number(70), 1


def _geometry(
    rng: Random, rank: int, channels: int, filters: int, groups: int, kernel: tuple[int, ...]
) -> Case:
    def mostly(one: Any, *others: Any, share: float = 0.65) -> tuple[Any, ...]:
        if rng.random() < share:
            return (one,) * rank
        return tuple(rng.choice((one, *others)) for _ in range(rank))

    stride = mostly(1, 2, 2, 3, share=0.6)
    dilation = mostly(1, 2, 3, share=0.75)
    input_dilation = mostly(1, 2, 3, share=0.9)
    most = {1: 60, 2: 20, 3: 9, 4: 6}[rank]
    size = tuple(
        rng.choice((rng.randint(1, most), rng.randint(1, most), k, k + 1, rng.randint(0, 3)))
        for k in kernel
    )
    if rank == 1 and rng.random() < 0.1:
        size = (rng.randint(100, 700),)
    names = ("valid", "same", "same_lower", "full", "causal")
    way = rng.random()
    if way < 0.3:
        padding = (0,) * rank
    elif way < 0.5:
        padding = (rng.choice(names),) * rank
    elif way < 0.65:
        padding = (rng.randint(0, 3),) * rank
    else:
        pairs = [(rng.randint(-2, 4), rng.randint(-2, 4)) for _ in range(rank)]
        padding = tuple(rng.choice((p, p, p[0], rng.choice(names))) for p in pairs)
    mode = "zeros"
    if rng.random() < 0.2:
        mode = rng.choice(("reflect", "replicate", "circular", "symmetric"))
    batch = rng.choice((1, 1, 1, 2, 2, 3, 5, 0 if rng.random() < 0.3 else 4))
    if rng.random() < 0.15:
        batch = rng.randint(LARGE_BATCH, 40)
    return Case(
        batch, size, channels, filters, groups, kernel, stride, dilation, input_dilation, padding,
        mode, rng.random() < 0.15,
    )  # fmt: skip


def _repeats(rng: Random, case: Case) -> tuple[tuple[str, tuple[int, ...]], ...]:
    found = []
    for role in ("x", "f", "gy"):
        if rng.random() < 0.2:
            rank = len(case.shape(role))
            axes = tuple(i for i in range(rank) if rng.random() < 0.4) or (rank - 1,)
            found.append((role, axes))
    return tuple(found)


def _hankel(rng: Random) -> tuple[str, ...]:
    return tuple(role for role in ("x", "gy") if rng.random() < 0.12)


def _spec(rng: Random, rank: int) -> str:
    """Draw a layout: a name, or a random spec string."""
    p = rng.random()
    if p < 0.55:
        return "channels_last"
    if p < 0.8:
        return "channels_first"
    letters = list("DHWXYZ"[:rank])
    x = list(letters)
    for letter in "NC":
        x.insert(rng.randint(0, len(x)), letter)
    f, y = [*letters, "I", "O"], [*letters, "N", "C"]
    rng.shuffle(f)
    rng.shuffle(y)
    return f"{''.join(x)},{''.join(f)}->{''.join(y)}"


def _memory(rng: Random, kinds: tuple[str, ...], plain: float) -> Memory:
    kind = "c" if rng.random() < plain else rng.choice(kinds)
    return Memory(kind, rng.randrange(1 << 16), rng.random() < 0.6)


@dataclass(frozen=True)
class Focus:
    """Hold the functions, algorithms and layout that the calls of one case share."""

    functions: tuple[str, ...]
    how: tuple[str, ...]
    algorithms: tuple[str, ...]
    layout: str

    @staticmethod
    def of(seed: int, case: Case) -> Focus:
        """Draw the focus of a seed; a large batch gets filter gradients, also per example."""
        rng = Random(f"focus {seed}")
        functions, how = rng.choice(PASSES if case.batch < LARGE_BATCH else PASSES[-3:])
        algorithms = ("auto",) * 3 + ("direct",) * 4 + ("gemm", "strided")
        if rng.random() < 0.35:
            algorithms += (rng.choice(("winograd", "fft")),) * 2
        if rng.random() < 0.1:
            algorithms = ("gemm", "strided", "winograd", "fft")
        return Focus(functions, how, algorithms, _spec(rng, len(case.size)))


PLANS = ("function",) * 8 + ("plan", "saved plan")
FORWARD = ("conv",) * 10 + ("conv_jvp", "conv4d_forward")
LAYERS = ("layer", "layer", "copied layer", "pickled layer")
INPUT = ("conv_input_grad",) * 8 + ("conv_transpose",) * 4 + ("conv4d_input_gradient",)
FILTER = ("conv_filter_grad",) * 11 + ("conv4d_filter_gradient",)
PASSES = (
    (FORWARD, PLANS + LAYERS), (FORWARD, PLANS), (INPUT, PLANS), (INPUT, PLANS), (FILTER, PLANS),
    (FILTER, PLANS), (("conv",) * 8 + INPUT + FILTER, (*PLANS, *LAYERS, "backward", "backward")),
)  # fmt: skip


def call(case: Case, seed: int, number: int, hostiles: int) -> Call:
    """Draw the call of a case that has this number."""
    focus = Focus.of(seed, case)
    rng = Random(seed << 20 | number)
    function = rng.choice(focus.functions)
    if rng.random() < 0.03:
        function = rng.choice(("conv_bias_grad", "windows"))
    how = rng.choice(focus.how)
    without_settings = function in ("conv_bias_grad", "windows") or function.startswith("conv4d")
    if without_settings or function == "conv_jvp" or (function != "conv" and how not in PLANS):
        how = "function"
    unusual = rng.random() < 0.8
    kinds = list(KINDS)
    kinds += ["broadcast"] * 4 if case.repeats else []
    kinds += ["overlapping"] * 3 if case.hankel else []
    memory = tuple(_memory(rng, tuple(kinds), 0.3 if unusual else 1.0) for _ in range(3))
    memory = tuple(
        replace(m, swapped=unusual and rng.random() < 0.06, readonly=unusual and rng.random() < 0.1)
        for m in memory
    )
    out = None
    if how in ("function", "plan", "layer") and rng.random() < 0.45:
        out = _memory(rng, FOR_RESULTS, 0.4)
    fixed = function == "windows" or function.startswith("conv4d")
    large_batch = case.batch >= LARGE_BATCH
    workspace = rng.choice(("",) * (2 if large_batch else 6) + ("zero", "least", "predicted"))
    return Call(
        function=function,
        how=how,
        algorithm="auto" if without_settings else rng.choice(focus.algorithms),
        accuracy=rng.choice(("normwise",) * 8 + ("elementwise", "elementwise", "tf32")),
        batch_invariant=rng.random() < 0.06,
        per_example=function == "conv_filter_grad" and rng.random() < (0.8 if large_batch else 0.3),
        workspace=workspace,
        layout="channels_last" if fixed else focus.layout,
        bias=function in ("conv", "conv_transpose") and rng.random() < 0.3,
        memory=memory,
        out=out if not without_settings and function != "conv_jvp" else None,
        repeat=3 if workspace else rng.choice((1, 2, 3, 4, 6)),
        threads=4 if rng.random() < 0.02 else 1,
        spelling=rng.choice((0, 0, 0, 1, 2, 3)),
        hostile=rng.randrange(hostiles) if rng.random() < 0.02 else -1,
    )  # fmt: skip
