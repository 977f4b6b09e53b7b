"""Make the call of a specification, and return the texts of the kernels that it needs.

A specification is one line of the expanded table of `specifications.toml`:

    dense.plane/input_grad/float32/avx2
    table       pass       dtypes  target

A table of the file gives the shapes and the keywords of a call. Its key `targets` lists dtypes and
targets: ``targets = "float32@avx512,avx2 int8*uint8@sse"`` (the last: x is int8, f is uint8).
The other keys:

    x, f            shapes (B, *S, C) and (*K, D) of x and f; f is given without its channels
    passes          list of "forward", "input_grad", "filter_grad"; default: all three
    algorithm       default: "direct"
    engine          engine of direct convolution that is used; default: any
    bias            true: the forward pass adds a bias
    arrays          "gaps": in every array, neighbouring channels are not adjacent in memory;
                    "gaps in x", "gaps in f", "gaps in y": in this array only
    use             "layer": a `Conv` keeps the filter; "repeated": the call is made three times,
                    the last two times as one compiled program
    threads         number of threads that the call may use; default: 1
    layers          layers of `einstride.nn` with their arguments: a network is run forward and
                    backward instead of a convolution

All further keys are keywords of the public functions.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import einstride as es
from einstride import nn
from einstride.arrays.backends.numpy import BACKEND

from . import capture

FOLDER = Path(__file__).parent
PASSES = ("forward", "input_grad", "filter_grad")
CALL_KEYS = {"x", "f", "passes", "engine", "bias", "arrays", "use", "threads", "layers", "targets"}
"""Keys of a table that are not keywords of the public functions."""

Fill = Callable[[tuple[int, ...], Any], Any]
"""A function (shape, dtype) -> array."""


@dataclass(frozen=True)
class Specification:
    """Describe one call for one target.

    Attributes
    ----------
    table : dict
        The table of `specifications.toml` that describes the call.
    direction : str
        A pass of `PASSES`, or "network".
    dtypes : tuple of str
        The dtypes of x and f, or the dtype of the network.
    target : str
        One of `capture.TARGETS`.
    """

    table: dict[str, Any]
    direction: str
    dtypes: tuple[str, ...]
    target: str


@cache
def specifications() -> dict[str, Specification]:
    """Read all specifications: {name: specification}."""
    found: dict[str, Specification] = {}
    file = tomllib.loads((FOLDER / "specifications.toml").read_text(encoding="utf-8"))
    for family, tables in file.items():
        for name, given in tables.items():
            table = _with_tuples(given)
            directions = ("network",) if "layers" in table else table.get("passes", PASSES)
            for dtypes, target in _dtypes_and_targets(table["targets"]):
                for direction in directions:
                    key = f"{family}.{name}/{direction}/{dtypes}/{target}"
                    spec = Specification(table, direction, tuple(dtypes.split("*")), target)
                    if found.setdefault(key, spec) is not spec:
                        raise ValueError(f"{key} is listed twice")
    return found


def firsts() -> list[Specification]:
    """Return a specification for each table and pass: dtypes and targets share the generators."""
    found: dict[str, Specification] = {}
    for name, spec in specifications().items():
        found.setdefault(name.rsplit("/", 2)[0], spec)
    return list(found.values())


def _with_tuples(value: Any) -> Any:
    """Convert lists to tuples, also nested ones: caches need keywords that can be hashed."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _dtypes_and_targets(listed: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs (dtypes, target) that the key `targets` lists."""
    for item in listed.split():
        dtypes, _, targets = item.partition("@")
        for target in targets.split(","):
            yield dtypes, target


def texts(spec: Specification) -> dict[str, str]:
    """Return {kernel: text} for the different kernels that the call of a specification needs.

    The second text of a kernel is called "name.2", and so on, in the order of their use.
    """
    table = spec.table
    target, engine = capture.TARGETS[spec.target], table.get("engine", "")
    with (
        capture.recorded(target, engine, table.get("threads", 1)) as recorded,
        np.errstate(all="ignore"),
    ):
        call(spec, np.zeros)
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for kernel, ir in dict.fromkeys(recorded):
        counts[kernel] = count = counts.get(kernel, 0) + 1
        found[kernel if count == 1 else f"{kernel}.{count}"] = ir
    return found


def call(spec: Specification, fill: Fill) -> list[Any]:
    """Make the call of a specification, with arrays made by ``fill(shape, dtype)``.

    Returns the results of its convolutions; of a network the result and the gradient of the input.
    """
    if spec.direction == "network":
        return _train(spec.table, spec.dtypes[0], fill)
    return _convolve(spec.table, spec.direction, spec.dtypes, fill)


def digest(text: str) -> str:
    """Return 48 bits of a text's SHA-256 in hexadecimal, enough to tell all texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _train(table: dict[str, Any], dtype: str, fill: Fill) -> list[Any]:
    """Run a network forward and backward once, as training does."""
    net = nn.Sequential(*map(_layer, table["layers"]))
    nn.Model(net, table["x"][1:], dtype=dtype)
    run = nn.Run(BACKEND, True, True)
    y, kept = net.forward(fill(table["x"], np.dtype(dtype)), run)
    gy = fill(y.shape, np.dtype(dtype))
    y = y.copy()  # a later layer may reuse the memory
    return [y, net.backward(gy, kept, run)[0]]


def _layer(described: dict[str, Any]) -> nn.Layer:
    """Make a layer from a table such as ``{MaxPool = {kernel_size = 3}}``.

    A list of layers, as `body` or `shortcut`, is made a `Sequential`.
    """
    ((class_name, arguments),) = described.items()
    keywords = {
        key: nn.Sequential(*map(_layer, value)) if key in ("body", "shortcut") else value
        for key, value in arguments.items()
    }
    layer: nn.Layer = getattr(nn, class_name)(**keywords)
    return layer


def _convolve(
    table: dict[str, Any], direction: str, dtypes: tuple[str, ...], fill: Fill
) -> list[Any]:
    """Make the call of a specification."""
    keywords = {"algorithm": "direct"} | {k: v for k, v in table.items() if k not in CALL_KEYS}
    (batch, *size, channels), (*kernel, filters) = table["x"], table["f"]
    window = {k: v for k, v in keywords.items() if k in ("stride", "padding", "dilation")}
    out: Any = es.output_size(tuple(size), tuple(kernel), **window)
    first, second = dtypes[0], dtypes[-1]
    y_dtype = second if direction == "filter_grad" else first
    x, f, y = (
        _array(role, shape, dtype, table, fill)
        for role, shape, dtype in (
            ("x", (batch, *size, channels), first),
            ("f", (*kernel, channels // table.get("groups", 1), filters), second),
            ("y", (batch, *out, filters), y_dtype),
        )
    )
    bias = fill((filters,), f.dtype) if table.get("bias") else None
    results: list[Any] = []
    for _ in range(3 if table.get("use") == "repeated" else 1):
        if table.get("use") == "layer":
            layer = es.Conv(f, bias, **keywords)
            results.append(layer.forward(x))
            if direction == "input_grad":
                results.append(layer.backward(y)[0])
        elif direction == "forward":
            results.append(es.conv(x, f, bias, out=_out("y", y, table), **keywords))
        elif direction == "input_grad":
            out = _out("x", x, table)
            results.append(es.conv_input_grad(y, f, tuple(size), out=out, **keywords))
        else:
            out = _out("f", f, table)
            results.append(es.conv_filter_grad(x, y, tuple(kernel), out=out, **keywords))
    return results


def _out(role: str, like: Any, table: dict[str, Any]) -> Any:
    """Return `like` as the result's array if it has gaps, else None: the call allocates it.

    Its dtype is that of the operands.
    """
    return like if _has_gaps(role, table) else None


def _has_gaps(role: str, table: dict[str, Any]) -> bool:
    """True if neighbouring channels of an array are not adjacent in memory."""
    return table.get("arrays", "") in ("gaps", f"gaps in {role}")


def _array(role: str, shape: tuple[int, ...], dtype: str, table: dict[str, Any], fill: Fill) -> Any:
    """Make an array of a channels-last shape, with the axes in the order of the layout."""
    axes = list(range(len(shape)))
    if table.get("layout") == "channels_first":
        axes = [axes[-1], axes[-2], *axes[:-2]] if role == "f" else [0, axes[-1], *axes[1:-1]]
    ordered = [shape[axis] for axis in axes]
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if not _has_gaps(role, table):
        return fill(tuple(ordered), numpy_dtype)
    return fill((*ordered[:-1], 2 * ordered[-1]), numpy_dtype)[..., ::2]
