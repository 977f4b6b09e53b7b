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

import numpy as np

import einstride as es
from einstride import nn
from einstride.arrays.backends.numpy import BACKEND

from . import capture

FOLDER = Path(__file__).parent
PASSES = ("forward", "input_grad", "filter_grad")
OWN = {"x", "f", "passes", "algorithm", "engine", "bias", "arrays", "use", "threads", "layers",
       "on"}  # fmt: skip
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
        for name, table in tables.items():
            network = "layers" in table
            directions = ("network",) if network else tuple(table.get("passes", PASSES))
            for dtypes, target in _on(table["on"]):
                for direction in directions:
                    key = f"{family}.{name}/{direction}/{dtypes}/{target}"
                    spec = Specification(table, direction, tuple(dtypes.split("*")), target)
                    if found.setdefault(key, spec) is not spec:
                        raise ValueError(f"{key} is listed twice")
    return found


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
    run = nn.Run(BACKEND, table.get("training", True), True)
    y, kept = net.forward(np.zeros(table["x"], dtype), run)
    if run.training:
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
    keywords["algorithm"] = table.get("algorithm", "direct")
    (batch, *size, channels), (*kernel, filters) = table["x"], table["f"]
    sizes = {k: v for k, v in keywords.items() if k in ("stride", "padding", "dilation")}
    out = es.output_size(tuple(size), tuple(kernel), **_frozen(sizes))
    if isinstance(out, int):
        raise TypeError("sizes are given for each axis")
    shapes = {
        "x": (batch, *size, channels),
        "f": (*kernel, channels // table.get("groups", 1), filters),
        "y": (batch, *out, filters),
    }
    of_f = dtypes[-1]
    given = {"x": dtypes[0], "y": dtypes[0], "f": of_f}
    if direction == "filter_grad":
        given["y"] = of_f
    arrays = {
        role: _array(shape, given[role], table, role, keywords.get("layout", "channels_last"))
        for role, shape in shapes.items()
    }
    more = _frozen(keywords)
    for _ in range(3 if table.get("use") == "repeated" else 1):
        _call(table, direction, arrays, tuple(size), tuple(kernel), more)


def _call(
    table: dict[str, Any], direction: str, arrays: dict[str, Any], size: tuple[int, ...],
    kernel: tuple[int, ...], keywords: dict[str, Any],
) -> None:  # fmt: skip
    x, f, y = (arrays[role] for role in "xfy")
    if direction == "forward":
        bias = np.zeros(f.shape[-1], f.dtype) if table.get("bias") else None
        if table.get("use") == "layer":
            es.Conv(f, bias, **keywords)(x)
        else:
            es.conv(x, f, bias, **keywords, **_out(table, "y", y))
    elif direction == "input_grad":
        if table.get("use") == "layer":
            layer = es.Conv(f, **keywords)
            layer.forward(x)
            layer.backward(y)
        else:
            es.conv_input_grad(y, f, size, **keywords, **_out(table, "x", x))
    else:
        es.conv_filter_grad(x, y, kernel, **keywords, **_out(table, "f", f))


def _out(table: dict[str, Any], role: str, like: Any) -> dict[str, Any]:
    """The result's array where it is to have gaps, for dtypes whose products have the same dtype."""
    return {"out": like} if _gaps(table, role) else {}


def _gaps(table: dict[str, Any], role: str) -> bool:
    arrays = table.get("arrays", "")
    return bool(arrays == "gaps" or arrays == f"gaps in {role}")


def _array(shape: tuple[int, ...], dtype: str, table: dict[str, Any], role: str, layout: str) -> Any:
    """Zeros of a canonical shape in the memory order of the layout."""
    order = list(range(len(shape)))
    if layout == "channels_first":
        order = [order[-1], order[-2], *order[:-2]] if role == "f" else [0, order[-1], *order[1:-1]]
    elif layout != "channels_last":
        raise ValueError(f"the corpus has no arrays of layout {layout!r}")
    found = tuple(shape[axis] for axis in order)
    if not _gaps(table, role):
        return np.zeros(found, _dtype(dtype))
    return np.zeros((*found[:-1], 2 * found[-1]), _dtype(dtype))[..., ::2]


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _frozen(keywords: dict[str, Any]) -> dict[str, Any]:
    """With tuples in the place of TOML's lists: what is hashable can be cached."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return {key: tuples(value) for key, value in keywords.items()}
