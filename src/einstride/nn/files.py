"""Save and load a model's arrays, and move them to another library or dtype."""

from __future__ import annotations

import os

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import FLOATS, HostArray, from_host, sum_dtype, to_host
from einstride.nn.built import BaseModel
from einstride.nn.training import checkpoint
from einstride.nn.training.optimiser import Optimiser
from einstride.support.errors import bad_type, bad_value, shown


def save(model: BaseModel, path: str | os.PathLike[str], optimiser: Optimiser | None) -> None:
    """Write a model's arrays to a file: see `Model.save`."""
    arrays = {f"parameter/{k}": to_host(a) for k, a in model.parameters.items()}
    arrays |= {f"state/{k}": to_host(a) for k, a in model.state.items()}
    metadata: dict[str, object] = {"dtype": model.dtype}
    _check_optimiser("save", optimiser)
    if optimiser is not None:
        metadata |= {"optimiser": type(optimiser).__name__, "steps": optimiser.steps}
        arrays |= {
            f"optimiser/{kind}/{name}": to_host(a)
            for name, running in optimiser.running.items()
            for kind, a in running.items()
        }
    checkpoint.write(path, arrays, metadata)


def load(model: BaseModel, path: str | os.PathLike[str], optimiser: Optimiser | None) -> None:
    """Read a model's arrays from a file: see `Model.load`. Checks all of it before any change."""
    _check_optimiser("load", optimiser)
    arrays, metadata = checkpoint.read(path)
    groups: dict[str, dict[str, HostArray]] = {"parameter": {}, "state": {}, "optimiser": {}}
    for name, a in arrays.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = a
    current = {"parameter": model.parameters, "state": model.state}
    for group, own in current.items():
        _compare(group, own, groups[group])
    running: dict[str, dict[str, Array]] = {}
    if optimiser is not None:
        kind = type(optimiser).__name__
        if metadata.get("optimiser") != kind:
            raise bad_value(
                "load", f"the file must hold the running arrays of {kind}",
                f"those of {metadata.get('optimiser')}",
                "save(path, optimiser), or load without one",
            )  # fmt: skip
        for name, a in groups["optimiser"].items():
            which, _, parameter = name.partition("/")
            expected = tuple(current["parameter"][parameter].shape) if parameter in current[
                "parameter"] else None  # fmt: skip
            if which not in (*optimiser.names, "master") or a.shape != expected:
                raise bad_value(
                    "load", "running arrays must fit the parameters", name, "save it again"
                )
            running.setdefault(parameter, {})[which] = from_host(a, model._b)
    loaded = {
        k: _in_dtype_of(a, own[k], model._b) for group, own in current.items() for k, a in
        groups[group].items()
    }  # fmt: skip
    model.put(loaded)
    if optimiser is not None:
        optimiser.reset()
        optimiser.running, optimiser.steps = running, int(metadata["steps"])


def _check_optimiser(where: str, optimiser: object) -> None:
    if not (optimiser is None or isinstance(optimiser, Optimiser)):
        raise bad_type(
            where, "optimiser must be an optimiser of einstride.nn", shown(optimiser),
            "pass the one that the model was fitted with, or none",
        )  # fmt: skip


def move(model: BaseModel, b: Backend, dtype: str) -> None:
    """Move parameters and state to another library and dtype."""
    float32_at_least = _never_half(model)
    moved = {
        name: b.astype(
            from_host(to_host(a), b), sum_dtype(dtype) if name in float32_at_least else dtype
        )
        for name, a in (model.parameters | model.state).items()
    }
    model.put(moved)


def _never_half(model: BaseModel) -> set[str]:
    """Names of the arrays that are kept in float32 at least: all of layers with statistics."""
    return {
        f"{path}{k}"
        for path, leaf in model.net.leaves()
        if leaf.state
        for k in (*leaf.parameters, *leaf.state)
    }


def _compare(group: str, own: dict[str, Array], found: dict[str, HostArray]) -> None:
    remedy = "load a file that was saved from this model"
    for name, a in own.items():
        if name not in found:
            raise bad_value("load", f"the file must have {group} {name}", "none", remedy)
        if found[name].shape != tuple(a.shape):
            raise bad_value(
                "load", f"{group} {name} must have shape {tuple(a.shape)}", found[name].shape,
                remedy,
            )  # fmt: skip
        if found[name].dtype.name not in FLOATS:
            raise bad_value(
                "load", f"{group} {name} must hold floats", found[name].dtype.name, remedy
            )
    extra = sorted(set(found) - set(own))
    if extra:
        raise bad_value("load", f"the model has no {group} {extra[0]}", "one in the file", remedy)


def _in_dtype_of(a: HostArray, own: Array, b: Backend) -> Array:
    """Convert a NumPy array to the library and dtype of the model's array `own`."""
    name = b.dtype_name(own)
    if a.dtype.name == "bfloat16" and name != "bfloat16":
        a = a.astype("float32")
    return b.astype(from_host(a, b), name)
