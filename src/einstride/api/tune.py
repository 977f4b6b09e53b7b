"""Define `tune`, which measures the algorithms on one job and plans the fastest."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from einstride.algorithms import ALGORITHMS
from einstride.api import saved_plan
from einstride.api.plan import DirectionArguments, arguments
from einstride.api.saved_plan import DIRECTIONS, LIBRARIES, Plan, make_plan
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.geometry.types import Accumulate, Accuracy, Groups, Ints, Padding, PaddingMode
from einstride.planning import tuned
from einstride.support import caches
from einstride.support.errors import bad_value, shown

VERSION = 1
SLOWEST_MEASURED = 20.0
"""Largest predicted time of an algorithm that is measured, relative to the least predicted time.
Predictions are off by less than that; a higher limit spends the time on slow algorithms."""

SLOWEST_REPEATED = 5
"""Largest time of an algorithm that is measured more than once, relative to the fastest one's."""


def tune(
    first: Array,
    second: Array,
    *,
    direction: str = "forward",
    seconds: float = 1.0,
    path: str | os.PathLike[str] | None = None,
    input_size: Ints | None = None,
    kernel_size: Ints | None = None,
    output_padding: Ints = 0,
    output_size: Ints | None = None,
    per_example: bool = False,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: Groups = 1,
    padding_mode: PaddingMode = "zeros",
    fill: complex = 0,
    layout: str = "channels_last",
    flip: bool = False,
    accuracy: Accuracy = "normwise",
    accumulate: Accumulate | None = None,
    batch_invariant: bool = False,
    max_workspace: int | None = None,
) -> Plan:
    """Measure all algorithms that support a job on this machine, and plan the fastest.

    The algorithms take turns until the time is up, each at least once, and the one with the least
    median wins. One that is predicted to take 20 times as long as another is not measured. Nothing
    else changes: `conv` still chooses by predictions, and the plan can be run, printed and saved.

    Parameters
    ----------
    first, second : array
        The two operands of the direction (x and f, gy and f, x and gy).
    direction : {"forward", "input_grad", "filter_grad", "transpose"}
        `conv`, `conv_input_grad`, `conv_filter_grad` or `conv_transpose`.
    seconds : float
        The longest time to measure, after each algorithm had its first turn.
    path : str or path, optional
        A JSON file of results: a result for this job on this machine replaces the measurement, and
        a new measurement is added to the file.
    input_size, kernel_size, output_padding, output_size, per_example : as in their functions
        The arguments of the direction's function.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters.
    layout, flip, accuracy, accumulate, batch_invariant, max_workspace : as in `conv`
        The same.

    Returns
    -------
    Plan
        ``p(first, second)`` runs the plan; ``p.algorithm`` names the fastest algorithm.

    Raises
    ------
    ValueError, TypeError
        As in `conv`; also if `tune` did not write the file at `path`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.ones((1, 9, 9, 4)), np.ones((3, 3, 4, 8))
    >>> p = es.tune(x, f, padding="same", seconds=0.01)
    >>> p(x, f).shape
    (1, 9, 9, 8)
    """
    where = "tune"
    parse.choice(where, "direction", direction, DIRECTIONS)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 <= seconds < 1e9:
        raise bad_value(where, "seconds must be a number from 0 to 1e9", shown(seconds), "try 1.0")
    k = Keywords(
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip, "auto",
        accuracy, accumulate, batch_invariant, max_workspace,
    )  # fmt: skip
    sizes = DirectionArguments(input_size, kernel_size, output_padding, output_size, per_example)
    path = None if path is None else parse.path(where, "path", path)
    given = arguments(where, first, second, direction, None, LIBRARIES[0], sizes, k)
    predicted = make_plan(where, given, k)  # raises every error before anything is measured
    saved = None if path is None else _read(where, Path(path))
    key = _key(given, first)
    if saved is not None and key in saved:
        return make_plan(where, given, k._replace(algorithm=saved[key]["algorithm"]))
    b = backends.of(where, ("the first operand", "the second operand"), first, second)
    plans = {}
    for name in worth_measuring(predicted):
        try:
            plans[name] = make_plan(where, given, k._replace(algorithm=name))
        except ValueError:  # the algorithm does not support the job: the plan says why
            continue
    times = _measure(plans, lambda p: b.finish(p(first, second)), seconds)
    best = min(times, key=lambda name: times[name])
    if path is not None and saved is not None:
        found = {"algorithm": best, "date": date.today().isoformat(), "seconds": times}
        _write(Path(path), {**saved, key: found})
    return plans.get(best, predicted)


def use_tuned(path: str | os.PathLike[str] | None) -> None:
    """Make the results in a file of `tune` the default of this process.

    A call with ``algorithm="auto"`` whose job was measured takes the algorithm that was the
    fastest, whatever is predicted; its plan names the file. Results of other machines are left out.

    Parameters
    ----------
    path : path or None
        A file that `tune` wrote; None returns to predictions alone.

    Returns
    -------
    None
        Nothing.

    Raises
    ------
    ValueError
        If `tune` did not write the file, or there is none.

    Examples
    --------
    >>> import einstride as es
    >>> es.use_tuned(None)
    """
    where = "use_tuned"
    found: dict[tuple[Any, ...], str] = {}
    source = []
    if path is not None:
        file = Path(parse.path(where, "path", path))
        source = [str(file)]
        saved = _read(where, file)
        if not saved:
            raise bad_value(
                where, "path must name a file of results", repr(str(file)), "write it by tune"
            )
        for text, result in saved.items():
            given = json.loads(text)
            if given.pop("machine", "").startswith(_machine()):
                plan = saved_plan.read({**given, "algorithm": "auto"})
                decided = plan.decision
                key = tuned.key(decided.job, decided.orders, decided.library)
                found[key] = result["algorithm"]
    tuned.TABLE.clear()
    tuned.TABLE.update(found)
    tuned.SOURCE[:] = source
    for cache in caches.REGISTRY:
        if cache.kind == "results":  # plans among them, which follow from the table
            cache.clear()


def _machine() -> str:
    return f"{platform.machine()} {platform.processor()} {os.cpu_count()} "


def worth_measuring(predicted: Plan) -> list[str]:
    """List the algorithms that may be the fastest by a plan's own predictions."""
    every = predicted.candidates
    able = [c for c in every if c.cost is not None]
    least = min(c.cost.seconds for c in able if c.cost is not None)
    limit = SLOWEST_MEASURED * least
    return [c.algorithm for c in able if c.cost is not None and c.cost.seconds <= limit] + [
        c.algorithm for c in every if c.cost is None
    ]


def _measure(
    plans: dict[str, Plan], run: Callable[[Plan], object], seconds: float
) -> dict[str, float]:
    """Return the median time of each plan in seconds.

    The first run of a plan, which may compile kernels, does not count. A plan whose first time is
    more than `SLOWEST_REPEATED` times the least one is not run again.
    """
    times: dict[str, list[float]] = {name: [] for name in plans}

    def once(name: str) -> float:
        start = perf_counter()
        run(plans[name])
        return perf_counter() - start

    for name in plans:
        once(name)
        times[name].append(once(name))
    least = min(taken[0] for taken in times.values())
    close = [name for name, taken in times.items() if taken[0] <= SLOWEST_REPEATED * least]
    stop = perf_counter() + seconds
    while len(close) > 1 and perf_counter() < stop:
        for name in close:
            times[name].append(once(name))
    return {name: median(taken) for name, taken in times.items()}


def _key(given: dict[str, Any], first: Array) -> str:
    """Return the key of a job on this machine in a file of results, a line of JSON."""
    device = str(getattr(first, "device", "cpu"))
    machine = f"{_machine()}{device}"
    return json.dumps({**given, "machine": machine}, sort_keys=True, default=str)


def _read(where: str, path: Path) -> dict[str, Any]:
    """Read the results in a file; return none if there is no file yet."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        results = saved["results"]
        if saved["tuned"] != VERSION or any(
            r["algorithm"] not in ALGORITHMS for r in results.values()
        ):
            raise ValueError("other contents")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise bad_value(
            where,
            "path must name a file that tune wrote, or none",
            f"{str(path)!r} ({error!r})",
            "name another file, or delete this one",
        ) from None
    return dict(results)


def _write(path: Path, results: dict[str, Any]) -> None:
    """Replace the file in one step, so that no reader sees a part of it."""
    text = json.dumps({"tuned": VERSION, "results": results}, indent=1, sort_keys=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)
