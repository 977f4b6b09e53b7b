"""Measuring instead of predicting: which algorithm is fastest here, for one job, on request."""

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
from einstride.api.plan import Needs, arguments
from einstride.api.saved_plan import DIRECTIONS, LIBRARIES, Plan, made
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.geometry.types import Ints, Padding
from einstride.support.errors import bad_value, shown

VERSION = 1
HOPE = 20.0
"""Times the least predicted time, beyond which nothing is tried."""


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
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_last",
    flip: bool = False,
    accuracy: str = "normwise",
    accumulate: str | None = None,
    batch_invariant: bool = False,
    max_workspace: int | None = None,
) -> Plan:
    """The plan of the algorithm that is fastest here, by measuring all that can do the job.

    They take turns until the time is up, each at least once, and the least median wins; one that
    is predicted to take 20 times as long as another has no turn. Nothing else changes: `conv` goes
    on predicting, and the plan is yours to run, print and save.

    Parameters
    ----------
    first, second : array
        The two operands of the direction (x and f, gy and f, x and gy).
    direction : {"forward", "input_grad", "filter_grad", "transpose"}
        `conv`, `conv_input_grad`, `conv_filter_grad` or `conv_transpose`.
    seconds : float
        How long to measure, at most, once each algorithm had its turn.
    path : str or path, optional
        A JSON file of results: what it holds for this job on this machine is believed without
        measuring, and what is measured is added to it.
    input_size, kernel_size, output_padding, output_size, per_example : as in their functions
        What the direction needs.
    stride, padding, dilation, input_dilation, groups, padding_mode : as in `conv`
        The hyperparameters.
    layout, flip, accuracy, accumulate, batch_invariant, max_workspace : as in `conv`
        The same.

    Returns
    -------
    Plan
        ``p(first, second)`` runs it; ``p.algorithm`` names the winner.

    Raises
    ------
    ValueError, TypeError
        As in `conv`; or the file at `path` is not one of these.

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
        stride, padding, dilation, input_dilation, groups, padding_mode, layout, flip, "auto",
        accuracy, accumulate, batch_invariant, max_workspace,
    )  # fmt: skip
    needs = Needs(input_size, kernel_size, output_padding, output_size, per_example)
    path = None if path is None else parse.path(where, "path", path)
    plain = arguments(where, first, second, direction, None, LIBRARIES[0], needs, k)
    predicted = made(where, plain, k)  # every error there may be
    kept = None if path is None else _read(where, Path(path))
    key = _key(plain, first)
    if kept is not None and key in kept:
        return made(where, plain, k._replace(algorithm=kept[key]["algorithm"]))
    b = backends.of(where, ("the first operand", "the second operand"), first, second)
    rivals = {}
    for name in hopeful(predicted):
        try:
            rivals[name] = made(where, plain, k._replace(algorithm=name))
        except ValueError:  # it cannot do the job: the plan says why
            continue
    times = _measure(rivals, lambda p: b.finish(p(first, second)), seconds)
    best = min(times, key=lambda name: times[name])
    if path is not None and kept is not None:
        found = {"algorithm": best, "date": date.today().isoformat(), "seconds": times}
        _write(Path(path), {**kept, key: found})
    return rivals.get(best, predicted)


def hopeful(predicted: Plan) -> list[str]:
    """The algorithms that are worth a turn, by a plan's own predictions."""
    every = predicted.candidates
    able = [c for c in every if c.cost is not None]
    least = min(c.cost.seconds for c in able if c.cost is not None)
    return [c.algorithm for c in able if c.cost is not None and c.cost.seconds <= HOPE * least] + [
        c.algorithm for c in every if c.cost is None
    ]


def _measure(
    rivals: dict[str, Plan], run: Callable[[Plan], object], seconds: float
) -> dict[str, float]:
    """The median time of each; the first run, which may compile or plan, does not count.

    One that took five times as long as another in its first turn gets no second.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}

    def once(name: str) -> float:
        start = perf_counter()
        run(rivals[name])
        return perf_counter() - start

    for name in rivals:
        once(name)
        times[name].append(once(name))
    least = min(taken[0] for taken in times.values())
    close = [name for name, taken in times.items() if taken[0] <= 5 * least]
    stop = perf_counter() + seconds
    while len(close) > 1 and perf_counter() < stop:
        for name in close:
            times[name].append(once(name))
    return {name: median(taken) for name, taken in times.items()}


def _key(plain: dict[str, Any], first: Array) -> str:
    """The job and the machine, in one line."""
    device = str(getattr(first, "device", "cpu"))
    machine = f"{platform.machine()} {platform.processor()} {os.cpu_count()} {device}"
    return json.dumps({**plain, "machine": machine}, sort_keys=True)


def _read(where: str, path: Path) -> dict[str, Any]:
    """The results in a file; none if there is no file yet."""
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
    """The whole file or nothing: a reader never sees half of it."""
    text = json.dumps({"tuned": VERSION, "results": results}, indent=1, sort_keys=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)
