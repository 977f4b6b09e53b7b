"""Bring plans into the form of the page: a bar per algorithm, the kernel, its register tile."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from einstride import calibration
from einstride.api.saved_plan import Plan
from einstride.geometry.arithmetic import ITEMSIZE


def planned(make: Callable[[], Plan], library: str, dtypes: tuple[str, str, str]) -> dict[str, Any]:
    """Describe a plan for the page, or the error that says why there is none."""
    try:
        plan = make()
    except (ValueError, TypeError) as error:  # the other passes have plans: the page shows both
        return {"refused": str(error)}
    job = plan.decision.job
    rates = calibration.rates(library, job.arithmetic.compute)
    sizes = (job.geometry.given_shape, job.geometry.f_shape, job.geometry.y_shape)
    least = sum(prod(s) * ITEMSIZE[name] for s, name in zip(sizes, dtypes, strict=True))
    return {
        "head": plan.head,
        "algorithm": plan.algorithm,
        "candidates": [
            {
                "algorithm": c.algorithm,
                "verdict": c.verdict,
                "cost": None
                if c.cost is None
                else {
                    "seconds": c.cost.seconds,
                    "multiply_adds": c.cost.multiply_adds,
                    "workspace": c.cost.workspace,
                    "moved": c.cost.moved,
                    "note": c.cost.note,
                },
            }
            for c in plan.candidates
        ],
        "limits": {
            "multiply_adds": job.geometry.multiply_adds,
            "arithmetic": job.geometry.multiply_adds * rates["matmul"],
            "least_bytes": least,
            "memory": least * rates["copy"],
        },
        "execution": _facts(plan.execution),
        "tile": plan.execution.get("register tile"),
    }


def _facts(execution: dict[str, Any]) -> list[tuple[str, str]]:
    """Write the facts of `Plan.execution` as texts."""
    found = []
    for name, value in execution.items():
        if isinstance(value, dict):
            text = ", ".join(f"{k}: {v}" for k, v in value.items())
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = str(value)
        found.append((name, text))
    return found
