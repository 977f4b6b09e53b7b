"""The frontend's enumerations, the engines on offer, and what tests look at and turn."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

TYPES = {"HALF": "float16", "BFLOAT16": "bfloat16", "FLOAT": "float32", "DOUBLE": "float64"}
NOTES = (
    "TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "FFT", "NONDETERMINISTIC",
    "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13", "STRICT_NAN_PROP",
)  # fmt: skip
data_type = enum.Enum("data_type", {
    "NOT_SET": 0, "FLOAT": 1, "DOUBLE": 2, "HALF": 3, "BFLOAT16": 10,
})  # fmt: skip
numerical_note = enum.Enum("numerical_note", {n: i for i, n in enumerate(NOTES, 1)})
heur_mode = enum.Enum("heur_mode", {"A": 0, "B": 1, "FALLBACK": 2, "OPENSOURCE": 3})
build_plan_policy = enum.Enum("build_plan_policy", {"HEURISTICS_CHOICE": 0, "ALL": 1})
convolution_mode = enum.Enum("convolution_mode", {"CONVOLUTION": 1, "CROSS_CORRELATION": 2})


class cudnnGraphNotSupportedError(Exception):  # noqa: N801 - its name there
    pass


@dataclass(frozen=True)
class Engine:
    name: str
    notes: frozenset[str]
    workspace: int


def engine(name: str, workspace: int, *notes: str) -> Engine:
    return Engine(name, frozenset(notes), workspace)


ENGINES = (
    engine("atomics", 0, "NONDETERMINISTIC"),
    engine("winograd", 1 << 20, "WINOGRAD", "WINOGRAD_TILE_6x6"),
    engine("fft", 1 << 30, "FFT"),
    engine("half_sums", 0, "REDUCED_PRECISION_REDUCTION", "TENSOR_CORE"),
    engine("half_inputs", 0, "DOWN_CONVERT_INPUTS", "TENSOR_CORE"),
    engine("tensor_core", 1 << 18, "TENSOR_CORE"),
    engine("large", 1 << 29),
    engine("direct", 1 << 16),
    engine("frugal", 0),
)


@dataclass
class State:
    """What tests look at and turn: `built` has one entry for each graph that got a plan."""

    host: Any
    engines: tuple[Engine, ...] = ENGINES
    version: int = 92800
    fused_bias: bool = True
    orders: frozenset[str] = frozenset({"last", "first"})
    handles: dict[int, dict[str, int]] = field(default_factory=dict)
    built: list[tuple[str, Engine]] = field(default_factory=list)
    refused: int = 0
    ran: list[tuple[str, Engine, int, int]] = field(default_factory=list)  # device, stream
