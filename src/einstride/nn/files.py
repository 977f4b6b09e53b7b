"""A model's arrays in another place: a file, a library, a dtype."""

from __future__ import annotations

import os

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import FLOATS, Host, device, host, wide
from einstride.nn.built import Built
from einstride.nn.training import checkpoint
from einstride.nn.training.optimiser import Optimiser
from einstride.support.errors import bad_type, bad_value, shown


def save(model: Built, path: str | os.PathLike[str], optimiser: Optimiser | None) -> None:
    """See `Model.save`."""
    arrays = {f"parameter/{k}": host(a) for k, a in model.parameters.items()}
    arrays |= {f"state/{k}": host(a) for k, a in model.state.items()}
    note: dict[str, object] = {"dtype": model.dtype}
    _check_optimiser("save", optimiser)
    if optimiser is not None:
        note |= {"optimiser": type(optimiser).__name__, "steps": optimiser.steps}
        arrays |= {
            f"optimiser/{kind}/{name}": host(a)
            for name, running in optimiser.running.items()
            for kind, a in running.items()
        }
    checkpoint.write(path, arrays, note)


def load(model: Built, path: str | os.PathLike[str], optimiser: Optimiser | None) -> None:
    """See `Model.load`: everything is checked before anything is changed."""
    _check_optimiser("load", optimiser)
    arrays, note = checkpoint.read(path)
    groups: dict[str, dict[str, Host]] = {"parameter": {}, "state": {}, "optimiser": {}}
    for name, a in arrays.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = a
    mine = {"parameter": model.parameters, "state": model.state}
    for group, own in mine.items():
        _compare(group, own, groups[group])
    running: dict[str, dict[str, Array]] = {}
    if optimiser is not None:
        kind = type(optimiser).__name__
        if note.get("optimiser") != kind:
            raise bad_value(
                "load", f"the file must hold the running arrays of {kind}",
                f"those of {note.get('optimiser')}", "save(path, optimiser), or load without one",
            )  # fmt: skip
        for name, a in groups["optimiser"].items():
            which, _, parameter = name.partition("/")
            expected = tuple(mine["parameter"][parameter].shape) if parameter in mine[
                "parameter"] else None  # fmt: skip
            if which not in (*optimiser.names, "master") or a.shape != expected:
                raise bad_value("load", "its running arrays must fit", name, "save it again")
            running.setdefault(parameter, {})[which] = device(a, model._b)
    fresh = {
        k: _like(a, own[k], model._b) for group, own in mine.items() for k, a in
        groups[group].items()
    }  # fmt: skip
    model.put(fresh)
    if optimiser is not None:
        optimiser.reset()
        optimiser.running, optimiser.steps = running, int(note["steps"])


def _check_optimiser(where: str, optimiser: object) -> None:
    if not (optimiser is None or isinstance(optimiser, Optimiser)):
        raise bad_type(
            where, "optimiser must be an optimiser of einstride.nn", shown(optimiser),
            "pass the one that the model was fitted with, or none",
        )  # fmt: skip


def move(model: Built, b: Backend, dtype: str) -> None:
    """Parameters and state in another library and dtype."""
    kept_wide = _wide(model)
    fresh = {
        name: b.astype(device(host(a), b), wide(dtype) if name in kept_wide else dtype)
        for name, a in (model.parameters | model.state).items()
    }
    model.put(fresh)


def _wide(model: Built) -> set[str]:
    """The arrays that are never kept in half precision: those beside running statistics."""
    return {
        f"{path}{k}"
        for path, leaf in model.net.leaves()
        if leaf.state
        for k in (*leaf.parameters, *leaf.state)
    }


def _compare(group: str, own: dict[str, Array], found: dict[str, Host]) -> None:
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


def _like(a: Host, own: Array, b: Backend) -> Array:
    """A host array in the library and the dtype of the model's."""
    name = b.dtype_name(own)
    if a.dtype.name == "bfloat16" and name != "bfloat16":
        a = a.astype("float32")
    return b.astype(device(a, b), name)
