"""Define `Plan`, which users print, save and run, and read plans that were saved as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from einstride.api import open_batch
from einstride.api.plan_parts import Parts
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import call_cache, depthwise, execute, run_plan
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
    """Hold the plan of a call, to be printed, saved and run. `plan` makes it.

    A plan keeps the number of threads that were available when it was made.

    Parameters
    ----------
    arguments : dict
        The arguments it was planned from, in the form that JSON holds: direction, shapes, dtypes,
        library, keywords.
    decision : object
        The planner's decision: algorithm, costs, reasons.
    parts : object, optional
        The figures of a graph; see the attribute.
    shape : tuple of int, optional
        The shape of the result, if it is not the one that follows from the decision.

    Attributes
    ----------
    algorithm : str
        The algorithm that will run.
    candidates : tuple
        Every algorithm, with its cost or the reason why it does not support the job.
    workspace : int
        Most bytes that the call takes beyond its inputs and output; where the batch may be any,
        that of one example, as are all other figures. Copies of arrays with strides
        that a kernel does not support (channels not contiguous, misaligned, byte-swapped) count
        only if `max_workspace` is given.
    output_shape : tuple of int
        The shape of the result, in the caller's layout, with None for a batch that may be any.
    dtype : str
        The dtype of the result.
    figures : dict
        Origin of the predicted times: on a GPU, whether they were measured, and on which device.
    execution : dict
        Description of the computation on this machine: for `direct` the engine, the kernel and its
        register tile, for `winograd` and `fft` the tiles and whether kernels are compiled.

    parts : Parts or None
        For Dask arrays: the numbers of chunks and tasks, the bytes of halos, what one task takes,
        and seconds by the number of workers.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> p = es.plan((8, 56, 56, 64), (3, 3, 64, 64), dtype="float32", padding="same")
    >>> p.output_shape, p.algorithm
    ((8, 56, 56, 64), 'winograd')
    """

    def __init__(
        self, arguments: dict[str, Any], decision: select.Decision, parts: Parts | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self._arguments = arguments
        self._decision = decision
        self.parts = parts
        self._shape = shape

    @property
    def decision(self) -> select.Decision:
        """The planner's decision, for code inside einstride."""
        return self._decision

    @property
    def algorithm(self) -> str:
        """The algorithm that will run."""
        return self._decision.algorithm

    @property
    def candidates(self) -> tuple[select.Candidate, ...]:
        """Every algorithm, with its cost or the reason why it does not support the job."""
        return self._decision.candidates

    @property
    def workspace(self) -> int:
        """Most bytes that the call takes beyond its inputs and output."""
        chosen = (c for c in self._decision.candidates if c.algorithm == self.algorithm)
        return next((c.cost.workspace for c in chosen if c.cost), 0)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of the result, in the caller's layout; None for a batch that may be any."""
        job = self._decision.job
        back = layouts.inverse(self._decision.orders[2])
        if self._shape is not None:
            shape, batch = self._shape, 0
        else:
            shape = layouts.canonical(job.shape, back)
            batch = 0 if back is None else back.index(0)
        if not self._any_batch or (job.direction == "filter_grad" and not job.per_example):
            return shape
        return tuple(None if axis == batch else n for axis, n in enumerate(shape))

    @property
    def _any_batch(self) -> bool:
        return any(None in s for s in self._arguments["shapes"])

    @property
    def dtype(self) -> str:
        """The dtype of the result."""
        return self._decision.job.arithmetic.result

    @property
    def figures(self) -> dict[str, Any]:
        """Origin of the predicted times: measured (bool), date, device, source, and text."""
        origin = self._decision.figures
        return {**asdict(origin), "text": str(origin)}

    @property
    def execution(self) -> dict[str, Any]:
        """Description of the computation on this machine, in texts and integers, for people.

        It is read, at each access, from the objects that the computation uses, for arrays as the
        entry "assumes" says; other arrays are copied first, or computed by another kernel. Nothing
        is compiled. The names of the entries may change from version to version.
        """
        return execution.execution(self._decision)

    def __str__(self) -> str:
        how = execution.text(self.algorithm, self.execution)
        more = "" if self.parts is None else f"\n{self.parts}"
        return f"{self.head}\n{how}\n{self._decision.table}{more}"

    @property
    def head(self) -> str:
        """The first lines of the plan's text: the job, and whether its batch may be any."""
        batch = "\nfor any batch; the figures are those of one example" * self._any_batch
        return self._decision.head(self._any_batch) + batch

    def __eq__(self, other: object) -> bool:
        """True if both plan one call, by the same algorithm, on equal threads and limits."""
        if not isinstance(other, Plan):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        decided, shapes = self._decision, tuple(map(tuple, self._arguments["shapes"]))
        return decided.algorithm, decided.job, decided.orders, decided.library, shapes

    def __repr__(self) -> str:
        a = self._arguments
        return f"<Plan {a['direction']} {a['shapes'][0]} {a['shapes'][1]}: {self.algorithm}>"

    def __call__(
        self, first: Array, second: Array, bias: Array | None = None, *, out: Array | None = None
    ) -> Array:
        """Run the plan on x and f, or gy and f, or x and gy.

        Parameters
        ----------
        first, second : array
            Arrays of the shapes, dtypes and library that were planned for.
        bias : array, optional
            As in `conv`.
        out : array, optional
            As in `conv`.

        Returns
        -------
        array
            The result of the planned function.
        """
        where, a = "Plan", self._arguments
        transposed = a["direction"] == "transpose"
        names = execute.TRANSPOSED if transposed else execute.NAMES[self._decision.job.direction]
        if self.parts is not None:
            direction, extra = extra_of(where, a)
            given = (*Keywords(**a["keywords"]), extra)
            return call_cache.call(
                where, direction, first, second, bias, out, given, parse.checked, cache=None
            )
        b = backends.of(where, names, first, second, bias, out)
        got = (
            [list(first.shape), list(second.shape)],
            [b.dtype_name(first), b.dtype_name(second)],
            b.traits.library,
        )
        wanted = [
            open_batch.filled(sizes, shape)
            for sizes, shape in zip(a["shapes"], got[0], strict=True)
        ]
        if got != (wanted, list(a["dtypes"]), a["library"]):
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
        copied = job.hard and b.exchange is None
        more = execute.copied(job.direction, b, first, second, out) if copied else 0
        other = self._any_batch or isinstance(a["keywords"]["groups"], str)
        if bias is not None or more or b.exchange is not None or other:
            keywords = Keywords(**{**a["keywords"], "algorithm": self.algorithm})
            direction, extra = extra_of(where, a)
            given = (*keywords, extra)
            return call_cache.call(
                where, direction, first, second, bias, out, given, parse.checked, cache=None
            )
        return run_plan.run(where, self._decision, b, first, second, None, out)

    def to_json(self) -> str:
        """Write the plan as a line of JSON, with its algorithm, and its `execution` for the reader.

        Returns
        -------
        str
            The text that `from_json` reads.
        """
        decided = {"algorithm": self.algorithm, "execution": self.execution}
        return json.dumps({**self._arguments, **decided}, sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that `to_json` wrote, with its algorithm, after all checks of a new plan.

        The text's description of the execution applies to the machine that wrote it. Its form is
        checked and it is dropped: `execution` of the plan describes this machine.

        Parameters
        ----------
        text : str
            The result of `to_json`.

        Returns
        -------
        Plan
            The plan, ready to run.
        """
        where = "Plan.from_json"
        try:
            arguments, keywords = _read(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise bad_value(
                where, "the text must be what to_json wrote", shown(error), "make the plan anew"
            ) from None
        return make_plan(where, arguments, keywords)


def read(saved: dict[str, Any]) -> Plan:
    """Plan the call of a saved plan, in the dictionary that JSON holds."""
    return make_plan("Plan.from_json", *_read(saved))


def _read(saved: dict[str, Any]) -> tuple[dict[str, Any], Keywords]:
    """Return the arguments and keywords of a saved plan; an invalid plan raises some error."""
    described = saved.get("execution", {})  # version 0.1 did not write it
    if set(saved) - {"execution"} != {*FIELDS, "algorithm"}:
        raise KeyError("other fields than a plan has")
    given = {"fill": 0, **saved["keywords"]}  # version 0.1 did not write it
    if set(given) != set(Keywords._fields):
        raise KeyError("other keywords than a plan has")
    if isinstance(given["fill"], str):
        given["fill"] = complex(given["fill"])
    if not isinstance(described, dict) or not all(map(_is_fact, described.values())):
        raise ValueError("the execution must be facts: names with texts or integers")
    shapes = [tuple(s) for s in saved["shapes"]]
    sizes = [n for s in shapes for n in s if n is not None]
    if len(shapes) != 2 or any(type(n) is not int or n < 0 for n in sizes):
        raise ValueError("two shapes of integers are needed")
    if len(saved["dtypes"]) != 2 or not all(name in ITEMSIZE for name in saved["dtypes"]):
        raise ValueError("two dtypes are needed")
    if saved["library"] not in LIBRARIES:
        raise ValueError(f"library {saved['library']!r} is unknown")
    if saved["direction"] not in DIRECTIONS:
        raise ValueError(f"direction {saved['direction']!r} is unknown")
    open_batch.check("Plan.from_json", saved["direction"], shapes, given["layout"])
    keywords = Keywords(**{k: _tuples(v) for k, v in given.items()})
    arguments = {name: saved[name] for name in FIELDS}
    arguments |= {"shapes": shapes, "extra": _tuples(saved["extra"])}
    arguments["keywords"] = keywords._asdict()
    direction, extra = arguments["direction"], arguments["extra"]
    per_example = isinstance(extra, tuple) and extra[:1] == ("per_example",)
    length = 2 if direction == "transpose" or (per_example and direction == "filter_grad") else None
    if (direction == "forward") != (extra is None) or (per_example and length is None):
        raise ValueError(f"extra {extra!r} does not go with {direction}")
    if length is not None and (not isinstance(extra, tuple) or len(extra) != length):
        raise ValueError(f"extra {extra!r} does not go with {direction}")
    extra_of("Plan.from_json", arguments)
    return arguments, keywords._replace(algorithm=saved["algorithm"])


def _is_fact(value: object) -> bool:
    """True if `value` is a text, an integer, or a dictionary of texts and integers."""
    if isinstance(value, dict):
        return all(isinstance(v, str | int) for v in value.values())
    return isinstance(value, str | int)


def make_plan(
    where: str, arguments: dict[str, Any], keywords: Keywords, parts: Parts | None = None
) -> Plan:
    """Plan a call from checked arguments, see `einstride.api.plan.arguments`."""
    b = backends.computing(backends.by_name(where, arguments["library"]))
    for name in arguments["dtypes"]:
        if name not in ITEMSIZE:
            raise bad_type(where, "dtype is unknown", shown(name), f"use one of {tuple(ITEMSIZE)}")
    direction, extra = extra_of(where, arguments)
    shapes, result = open_batch.of_one(arguments["shapes"]), None
    if isinstance(keywords.groups, str):
        keywords, shapes, extra, result = depthwise.resolve(
            where, direction, shapes, keywords, extra
        )
    names = (*arguments["dtypes"], None)
    decision = execute.decide(where, direction, shapes, names, keywords, extra, b)
    return Plan(arguments, decision, parts, result)


def extra_of(where: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Return the planner's direction, and the size or sizes that it needs in addition."""
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
