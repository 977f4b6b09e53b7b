"""Plans as users meet them: made from arrays or shapes, printed, saved, run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import execute
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.keywords import Keywords, PerExample, Transposed
from einstride.planning import execution, select
from einstride.support.errors import bad_type, bad_value, shown

DIRECTIONS = ("forward", "input_grad", "filter_grad", "transpose")
LIBRARIES = ("numpy", "cupy", "torch", "jax", "dask", "array_api_strict")
FIELDS = ("direction", "shapes", "dtypes", "library", "keywords", "extra")


class Plan:
    """What a call will do, decided beforehand: print it, save it, run it. Made by `plan`.

    It keeps the number of threads that there were when it was made.

    Parameters
    ----------
    arguments : dict
        What it was planned from, all plain: direction, shapes, dtypes, library, keywords.
    decision : object
        The planner's decision: algorithm, costs, reasons.

    Attributes
    ----------
    algorithm : str
        The algorithm that will run.
    candidates : tuple
        Every algorithm, with its cost or the reason why it cannot do the job.
    workspace : int
        Bytes it may use beyond its inputs and output, and beyond copies of arrays that a kernel
        can neither read nor write where they lie: channels apart from each other, misaligned,
        byte-swapped. Where `max_workspace` is given those count as well.
    output_shape : tuple of int
        The shape of the result, in the caller's layout.
    dtype : str
        The dtype of the result.
    figures : dict
        Where the times come from: on a GPU, whether they were measured, and on which device.
    execution : dict
        How the algorithm computes the job on this machine: of `direct` the engine, the kernel and
        its register tile, of `winograd` and `fft` the tiles and whether kernels are compiled.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> p = es.plan((8, 56, 56, 64), (3, 3, 64, 64), dtype="float32", padding="same")
    >>> p.output_shape, p.algorithm
    ((8, 56, 56, 64), 'winograd')
    """

    def __init__(self, arguments: dict[str, Any], decision: select.Decision) -> None:
        self._arguments = arguments
        self._decision = decision

    @property
    def algorithm(self) -> str:
        """The algorithm that will run."""
        return self._decision.algorithm

    @property
    def candidates(self) -> tuple[select.Candidate, ...]:
        """Every algorithm, with its cost or the reason why it cannot do the job."""
        return self._decision.candidates

    @property
    def workspace(self) -> int:
        """Bytes it may use beyond its inputs and output."""
        chosen = (c for c in self._decision.candidates if c.algorithm == self.algorithm)
        return next((c.cost.workspace for c in chosen if c.cost), 0)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the result, in the caller's layout."""
        back = layouts.inverse(self._decision.orders[2])
        return layouts.canonical(self._decision.job.shape, back)

    @property
    def dtype(self) -> str:
        """The dtype of the result."""
        return self._decision.job.arithmetic.result

    @property
    def figures(self) -> dict[str, Any]:
        """Where the times come from: measured (bool), date, device, source, and text; all plain."""
        of = self._decision.figures
        return {**asdict(of), "text": str(of)}

    @property
    def execution(self) -> dict[str, Any]:
        """How the algorithm computes the job on this machine, all plain: for people.

        It is read, whenever it is asked for, from the objects that the computation uses, for
        arrays as "assumes" says; others are copied first, or computed by another kernel. Nothing
        is compiled. The names of its entries may change from version to version.
        """
        return execution.execution(self._decision)

    def __str__(self) -> str:
        decided = self._decision
        how = execution.text(self.algorithm, self.execution)
        return f"{decided.head}\n{how}\n{decided.table}"

    def __repr__(self) -> str:
        a = self._arguments
        return f"<Plan {a['direction']} {a['shapes'][0]} {a['shapes'][1]}: {self.algorithm}>"

    def __call__(
        self, first: Array, second: Array, bias: Array | None = None, *, out: Array | None = None
    ) -> Array:
        """Run it: x and f, or gy and f, or x and gy.

        Parameters
        ----------
        first, second : array
            Of the shapes, dtypes and library that were planned for.
        bias : array, optional
            As in `conv`.
        out : array, optional
            As in `conv`.

        Returns
        -------
        array
            What the planned function would have returned.
        """
        where, a = "Plan", self._arguments
        transposed = a["direction"] == "transpose"
        names = execute.TRANSPOSED if transposed else execute.NAMES[self._decision.job.direction]
        b = backends.of(where, names, first, second, bias, out)
        got = (
            [list(first.shape), list(second.shape)],
            [b.dtype_name(first), b.dtype_name(second)],
            b.traits.library,
        )
        if got != ([list(s) for s in a["shapes"]], list(a["dtypes"]), a["library"]):
            raise bad_value(
                where,
                f"it was made for shapes {a['shapes']}, dtypes {a['dtypes']} on {a['library']}",
                f"shapes {got[0]}, dtypes {got[1]} on {got[2]}",
                "make another plan, or call the function itself",
            )
        if bias is not None and a["direction"] not in ("forward", "transpose"):
            raise bad_value(
                where, f"a plan of {a['direction']} has no bias", "a bias", "leave it out"
            )
        job = self._decision.job
        more = execute.copied(job.direction, b, first, second, out) if job.hard else 0
        if bias is not None or more:
            keywords = Keywords(**{**a["keywords"], "algorithm": self.algorithm})
            direction, extra = _extra(where, a)
            return execute.call(where, direction, first, second, bias, out, keywords, extra)
        return execute.run(where, self._decision, b, first, second, None, out)

    def to_json(self) -> str:
        """The plan as a line of JSON, with its algorithm, and its `execution` for the reader.

        Returns
        -------
        str
            For `from_json`.
        """
        decided = {"algorithm": self.algorithm, "execution": self.execution}
        return json.dumps({**self._arguments, **decided}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote: the same algorithm, checked anew.

        What the text says about the execution was true of the machine that wrote it. It is checked
        for its form and not kept: `execution` of the plan tells of this machine.

        Parameters
        ----------
        text : str
            What `to_json` gave.

        Returns
        -------
        Plan
            Ready to run.
        """
        where = "Plan.from_json"
        try:
            arguments, keywords = _read(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise bad_value(
                where, "the text must be what to_json wrote", shown(error), "make the plan anew"
            ) from None
        return made(where, arguments, keywords)


def _read(saved: dict[str, Any]) -> tuple[dict[str, Any], Keywords]:
    """The arguments of a saved plan; an error of any kind if it is not one."""
    told = saved.get("execution", {})  # version 0.1 told nothing
    if set(saved) - {"execution"} != {*FIELDS, "algorithm"}:
        raise KeyError("other fields than a plan has")
    if set(saved["keywords"]) != set(Keywords._fields):
        raise KeyError("other keywords than a plan has")
    if not isinstance(told, dict) or not all(map(_is_fact, told.values())):
        raise ValueError("the execution must be facts: names with texts or integers")
    shapes = [tuple(s) for s in saved["shapes"]]
    if len(shapes) != 2 or any(type(n) is not int or n < 0 for s in shapes for n in s):
        raise ValueError("two shapes of integers are needed")
    if len(saved["dtypes"]) != 2 or not all(name in ITEMSIZE for name in saved["dtypes"]):
        raise ValueError("two dtypes are needed")
    if saved["library"] not in LIBRARIES:
        raise ValueError(f"library {saved['library']!r} is unknown")
    if saved["direction"] not in DIRECTIONS:
        raise ValueError(f"direction {saved['direction']!r} is unknown")
    keywords = Keywords(**{k: _tuples(v) for k, v in saved["keywords"].items()})
    arguments = {name: saved[name] for name in FIELDS}
    arguments |= {"shapes": shapes, "extra": _tuples(saved["extra"])}
    arguments["keywords"] = keywords._asdict()
    direction, extra = arguments["direction"], arguments["extra"]
    each = isinstance(extra, tuple) and extra[:1] == ("per_example",)
    length = 2 if direction == "transpose" or (each and direction == "filter_grad") else None
    if (direction == "forward") != (extra is None) or (each and length is None):
        raise ValueError(f"extra {extra!r} does not go with {direction}")
    if length is not None and (not isinstance(extra, tuple) or len(extra) != length):
        raise ValueError(f"extra {extra!r} does not go with {direction}")
    _extra("Plan.from_json", arguments)
    return arguments, keywords._replace(algorithm=saved["algorithm"])


def _is_fact(value: object) -> bool:
    """True if it is a text, an integer, or a table of those."""
    if isinstance(value, dict):
        return all(isinstance(v, str | int) for v in value.values())
    return isinstance(value, str | int)


def made(where: str, arguments: dict[str, Any], keywords: Keywords) -> Plan:
    """The plan for plain arguments."""
    b = backends.by_name(where, arguments["library"])
    for name in arguments["dtypes"]:
        if name not in ITEMSIZE:
            raise bad_type(where, "dtype is unknown", shown(name), f"use one of {tuple(ITEMSIZE)}")
    direction, extra = _extra(where, arguments)
    decision = execute.decide(
        where,
        direction,
        tuple(arguments["shapes"]),
        (*arguments["dtypes"], None),
        keywords,
        extra,
        b,
    )
    return Plan(arguments, decision)


def _extra(where: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The planner's direction and what else it must know."""
    direction, extra = arguments["direction"], arguments["extra"]
    if direction == "transpose":
        return "input_grad", Transposed(
            parse.ints(where, "output_padding", extra[0]),
            parse.optional(where, "output_size", extra[1], parse.ints),
        )
    if isinstance(extra, tuple) and extra[:1] == ("per_example",):
        return direction, PerExample(parse.ints(where, "kernel_size", extra[1]))
    return direction, parse.optional(where, "size", extra, parse.ints)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
