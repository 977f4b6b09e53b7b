"""From a specification to the kernel texts that its call asks for.

A specification is one line of the expanded table of `specifications.toml`:

    dense.plane/input_grad/float32/avx2
    table       pass       dtypes  target

A table of the file gives the shapes of a call and its keywords; `on` lists dtypes and targets, as
in ``on = "float32@avx512,avx2 int8*uint8@sse"`` (x of int8, f of uint8). The keys:

    x, f            shapes (B, *S, C) and (*K, D) of a convolution; f leaves out its channels
    passes          of forward, input_grad, filter_grad; default: all three
    algorithm       default: "direct"; with `engine`, the one of its engines to be taken
    bias            true: with a bias (forward)
    arrays          "gaps": neighbouring channels are not neighbours in memory, of no array;
                    "gaps in x" and the like: of one array
    use             "layer": the filter is kept in a `Conv`; "repeated": the call is made three
                    times, the last two as one compiled program
    threads         how many the call may use; default: 1
    layers          of a network instead of a convolution: layers of `einstride.nn` with their
                    arguments; its passes are forward and backward in one

All other keys are keywords of the public functions.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
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
OWN = {"x", "f", "passes", "engine", "bias", "arrays", "use", "threads", "layers", "on"}
"""The keys that are not keywords of the public functions."""


@dataclass(frozen=True)
class Specification:
    """One call for one target machine.

    Attributes
    ----------
    table : dict
        The call, as `specifications.toml` describes it.
    direction : str
        A pass of `PASSES`, or "network".
    dtypes : tuple of str
        Of x and f, or of the network.
    target : str
        One of `capture.TARGETS`.
    """

    table: dict[str, Any]
    direction: str
    dtypes: tuple[str, ...]
    target: str


@cache
def specifications() -> dict[str, Specification]:
    """All specifications, by name."""
    found: dict[str, Specification] = {}
    file = tomllib.loads((FOLDER / "specifications.toml").read_text(encoding="utf-8"))
    for family, tables in file.items():
        for name, given in tables.items():
            table = _with_tuples(given)
            directions = ("network",) if "layers" in table else table.get("passes", PASSES)
            for dtypes, target in _on(table["on"]):
                for direction in directions:
                    key = f"{family}.{name}/{direction}/{dtypes}/{target}"
                    spec = Specification(table, direction, tuple(dtypes.split("*")), target)
                    if found.setdefault(key, spec) is not spec:
                        raise ValueError(f"{key} is listed twice")
    return found


def _with_tuples(value: Any) -> Any:
    """With tuples in the place of TOML's lists: keywords that can be hashed can be cached."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _on(listed: str) -> Iterator[tuple[str, str]]:
    for item in listed.split():
        dtypes, _, targets = item.partition("@")
        for target in targets.split(","):
            yield dtypes, target


def texts(spec: Specification) -> dict[str, str]:
    """The different kernel texts that a specification's call asks for, by kernel.

    A second text of a kernel's name is called "name.2", in the order in which they are asked for.
    """
    table = spec.table
    given = capture.TARGETS[spec.target], table.get("engine", ""), table.get("threads", 1)
    with capture.recorded(*given) as recorded, np.errstate(all="ignore"):
        if spec.direction == "network":
            _train(table, spec.dtypes[0])
        else:
            _convolve(table, spec.direction, spec.dtypes)
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for kernel, ir in dict.fromkeys(recorded):
        counts[kernel] = count = counts.get(kernel, 0) + 1
        found[kernel if count == 1 else f"{kernel}.{count}"] = ir
    return found


def digest(text: str) -> str:
    """Forty-eight bits of a text's SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _train(table: dict[str, Any], dtype: str) -> None:
    """Run a network forward and backward once, as training does."""
    net = nn.Sequential(*map(_layer, table["layers"]))
    nn.Model(net, table["x"][1:], dtype=dtype)
    run = nn.Run(BACKEND, True, True)
    y, kept = net.forward(np.zeros(table["x"], dtype), run)
    net.backward(np.zeros_like(y), kept, run)


def _layer(described: dict[str, Any]) -> nn.Layer:
    """``{MaxPool = {kernel_size = 3}}`` as a layer; a list of layers stands for `Sequential`."""
    ((kind, given),) = described.items()
    made = {
        key: nn.Sequential(*map(_layer, value)) if key in ("body", "shortcut") else value
        for key, value in given.items()
    }
    found: nn.Layer = getattr(nn, kind)(**made)
    return found


def _convolve(table: dict[str, Any], direction: str, dtypes: tuple[str, ...]) -> None:
    """Make the call of a specification."""
    keywords = {"algorithm": "direct"} | {k: v for k, v in table.items() if k not in OWN}
    (batch, *size, channels), (*kernel, filters) = table["x"], table["f"]
    moved = {k: v for k, v in keywords.items() if k in ("stride", "padding", "dilation")}
    out: Any = es.output_size(tuple(size), tuple(kernel), **moved)
    first, second = dtypes[0], dtypes[-1]
    of_y = second if direction == "filter_grad" else first
    x, f, y = (
        _array(role, shape, dtype, table)
        for role, shape, dtype in (
            ("x", (batch, *size, channels), first),
            ("f", (*kernel, channels // table.get("groups", 1), filters), second),
            ("y", (batch, *out, filters), of_y),
        )
    )
    bias = np.zeros(filters, f.dtype) if table.get("bias") else None
    for _ in range(3 if table.get("use") == "repeated" else 1):
        if table.get("use") == "layer":
            layer = es.Conv(f, bias, **keywords)
            layer.forward(x)
            if direction == "input_grad":
                layer.backward(y)
        elif direction == "forward":
            es.conv(x, f, bias, out=_out("y", y, table), **keywords)
        elif direction == "input_grad":
            es.conv_input_grad(y, f, tuple(size), out=_out("x", x, table), **keywords)
        else:
            es.conv_filter_grad(x, y, tuple(kernel), out=_out("f", f, table), **keywords)


def _out(role: str, like: Any, table: dict[str, Any]) -> Any:
    """The result's array where it is to have gaps: its dtype is that of the operands."""
    return like if _gaps(role, table) else None


def _gaps(role: str, table: dict[str, Any]) -> bool:
    """True if neighbouring channels of an array are not to be neighbours in memory."""
    return table.get("arrays", "") in ("gaps", f"gaps in {role}")


def _array(role: str, shape: tuple[int, ...], dtype: str, table: dict[str, Any]) -> Any:
    """Zeros of a canonical shape in the order of axes that the layout says."""
    axes = list(range(len(shape)))
    if table.get("layout") == "channels_first":
        axes = [axes[-1], axes[-2], *axes[:-2]] if role == "f" else [0, axes[-1], *axes[1:-1]]
    found = [shape[axis] for axis in axes]
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if not _gaps(role, table):
        return np.zeros(found, kind)
    return np.zeros((*found[:-1], 2 * found[-1]), kind)[..., ::2]
