"""Find the adapter of an array by its type, without importing libraries that the caller has not.

The type's module names the library. A library with no module here is served by `generic`, if its
arrays have an array-API namespace.

What may enter: adapters, and code that only one of them needs. Libraries are compared by name only
in this room. Start with `adapter`, the record that an adapter fills in, then `numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from re import fullmatch
from typing import Any

from einstride.arrays.backends.adapter import Array, Backend, Traits
from einstride.support.caches import register
from einstride.support.errors import bad_type

__all__ = ["Array", "Backend", "Traits", "by_name", "computing", "of"]

ADAPTERS = ("numpy", "cupy", "torch", "jax", "dask")
"""The libraries that have an adapter of their own, a module of this folder."""

_ARRAY_TYPES = {
    "numpy": r"numpy\.(ndarray|memmap)",
    "cupy": r"cupy\.(.*\.)?ndarray",
    "torch": r"torch\.Tensor",
    "jax": r"jax(lib)?\.(.*\.)?(Array|ArrayImpl|Tracer)",
    "dask": r"dask\.array\.core\.Array",
}
"""Patterns of the full names of array types. Subclasses count too where `_SUBCLASSES` says so."""

_SUBCLASSES = ("torch", "jax")
"""Libraries whose adapters know subclasses of the array types; a tracer of JAX is one."""

_LOADED: dict[str, Backend] = {}
"""The adapters that were imported, by the name of the library."""

_LIBRARIES: dict[type, str | None] = {}
register(f"{__name__}._LIBRARIES", "process", _LIBRARIES.clear, _LIBRARIES.__len__)

_GENERAL: dict[type, Backend] = {}
register(f"{__name__}._GENERAL", "process", _GENERAL.clear, _GENERAL.__len__)


def of(where: str, names: tuple[str, ...], *arrays: Array) -> Backend:
    """Return the backend that all arrays belong to; an optional array may be None.

    A TypeError that names `where` says which argument is no array, or is of another library or
    device than the first.
    """
    first = arrays[0]
    backend = of_type(type(first)) or _find(where, names[0], first)
    for name, other in zip(names[1:], arrays[1:], strict=True):
        if other is None and name in ("bias", "out"):
            continue
        found = of_type(type(other)) or _find(where, name, other)
        if found is not backend:
            raise bad_type(
                where,
                "all arrays must come from one library",
                f"{names[0]} from {backend.traits.library}, {name} from {found.traits.library}",
                "convert one of them yourself: nothing is copied between libraries silently",
            )
    if backend.device is not None:
        _on_one_device(where, names, arrays, backend.device)
    return backend


def of_type(kind: type) -> Backend | None:
    """Return the backend of a type of arrays whose library has an adapter of its own, or None."""
    library = _library(kind)
    return None if library is None else _LOADED[library]


def _library(kind: type) -> str | None:
    """Return the library of a type of arrays after importing its adapter, or None without one."""
    library = _LIBRARIES.get(kind, "")
    if library == "":
        library = _LIBRARIES[kind] = _name(kind)
        if library is not None:
            _module(library)
    return library


# PyTorch's compiler then calls the function instead of tracing it: `assume_constant_result`.
_library._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _on_one_device(
    where: str,
    names: tuple[str, ...],
    arrays: tuple[Array | None, ...],
    device: Callable[[Array], object],
) -> None:
    """Refuse arrays on two devices; an array whose device is unknown may be on any."""
    first, found = "", None
    for name, array in zip(names, arrays, strict=True):
        theirs = None if array is None else device(array)
        if theirs is None or theirs == found:
            continue
        if found is not None:
            raise bad_type(
                where,
                "all arrays must be on one device",
                f"{first} on {found}, {name} on {theirs}",
                "move one of them yourself: nothing is copied between devices silently",
            )
        first, found = name, theirs


def _find(where: str, name: str, array: object) -> Backend:
    """Return the backend of an array that has a namespace; refuse anything else."""
    kind = type(array)
    if kind in _GENERAL:
        return _GENERAL[kind]
    if not _changes_numpy(kind):
        from array_api_compat import array_namespace, is_array_api_obj

        if is_array_api_obj(array):
            from einstride.arrays.backends import generic

            return _GENERAL.setdefault(kind, generic.of(array_namespace(array)))
    raise bad_type(
        where,
        f"{name} must be a plain array of NumPy, CuPy or another array-API library",
        f"{kind.__module__}.{kind.__qualname__}",
        f"convert it, e.g. numpy.asarray({name})",
    )


def _changes_numpy(kind: type) -> bool:
    """True for subclasses of the arrays of NumPy and CuPy, which change operations.

    Examples are masked arrays and matrices; a memmap is an array like others.
    """
    if kind.__module__.partition(".")[0] in ("numpy", "cupy"):
        return True
    return any(base.__module__.partition(".")[0] == "numpy" for base in kind.__mro__[1:])


def _name(kind: type) -> str | None:
    """Return the name of the adapter for a type, from the full names of the type and its bases."""
    for library, pattern in _ARRAY_TYPES.items():
        bases = kind.__mro__ if library in _SUBCLASSES else (kind,)
        if any(fullmatch(pattern, f"{b.__module__}.{b.__qualname__}") for b in bases):
            return library
    return None


def _module(library: str) -> Backend:
    """Import the adapter of a library, at its first use."""
    if library not in _LOADED:
        _LOADED[library] = import_module(f"{__name__}.{library}").BACKEND
    return _LOADED[library]


def by_name(where: str, library: str) -> Backend:
    """Return the backend of a library that is given by its name; the library is imported."""
    try:
        if library in ADAPTERS:
            return _module(library)
        from einstride.arrays.backends import generic

        return generic.of(_namespace(library))
    except ImportError as error:
        raise bad_type(
            where, "the library cannot be imported", f"{library!r}: {error}", "install it"
        ) from None


def computing(b: Backend) -> Backend:
    """Return the backend that computes on memory of the CPU that arrays of `b` lend, or `b`."""
    return b if b.exchange is None else b.exchange.host


def _namespace(library: str) -> Any:
    return import_module(library)
