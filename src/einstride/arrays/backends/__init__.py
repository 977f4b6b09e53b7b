"""Find the adapter of an array by its type, without importing libraries that the caller has not.

The type's module names the library. A library with no module here is served by `generic`, if its
arrays have an array-API namespace.

What may enter: adapters, and code that only one of them needs. Libraries are compared by name only
in this room. Start with `adapter`, the record that an adapter fills in, then `numpy`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from einstride.arrays.backends.adapter import Array, Backend, Bilinear, Traits
from einstride.support.caches import register
from einstride.support.errors import bad_type

__all__ = ["Array", "Backend", "Bilinear", "Traits", "by_name", "of"]

_FOUND: dict[type, Backend] = {}
register(f"{__name__}._FOUND", "process", _FOUND.clear, _FOUND.__len__)


def of(where: str, names: tuple[str, ...], *arrays: Array) -> Backend:
    """Return the backend that all arrays belong to; an optional array may be None.

    A TypeError that names `where` says which argument is no array, or is of another library or
    device than the first.
    """
    first = arrays[0]
    backend = _FOUND.get(type(first)) or _find(where, names[0], first)
    for name, other in zip(names[1:], arrays[1:], strict=True):
        if other is None and name in ("bias", "out"):
            continue
        found = _FOUND.get(type(other)) or _find(where, name, other)
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
    kind = type(array)
    backend = _load(kind, array)
    if backend is None:
        raise bad_type(
            where,
            f"{name} must be a plain array of NumPy, CuPy or another array-API library",
            f"{kind.__module__}.{kind.__qualname__}",
            f"convert it, e.g. numpy.asarray({name})",
        )
    _FOUND[kind] = backend
    return backend


def _load(kind: type, array: object) -> Backend | None:
    library = kind.__module__.partition(".")[0]
    if library == "numpy":
        # Subclasses change the meaning of operations (masked arrays, matrices); a memmap does not.
        if kind.__qualname__ not in ("ndarray", "memmap"):
            return None
        from einstride.arrays.backends import numpy

        return numpy.BACKEND
    if any(base.__module__.partition(".")[0] == "numpy" for base in kind.__mro__[1:]):
        return None
    if library == "cupy":
        if kind.__qualname__ != "ndarray":
            return None
        from einstride.arrays.backends import cupy

        return cupy.BACKEND
    from array_api_compat import array_namespace, is_array_api_obj

    if not is_array_api_obj(array):
        return None
    return _general(array_namespace(array))


def _general(xp: Any) -> Backend:
    """Return the backend of an array-API namespace, extended by what its library does besides."""
    from einstride.arrays.backends import generic

    backend = generic.of(xp)
    if backend.traits.library == "jax":
        from einstride.arrays.backends import jax, numpy

        return jax.extended(backend, numpy.BACKEND)
    return backend


def by_name(where: str, library: str) -> Backend:
    """Return the backend of a library that is given by its name; the library is imported."""
    try:
        if library == "numpy":
            from einstride.arrays.backends import numpy

            return numpy.BACKEND
        if library == "cupy":
            from einstride.arrays.backends import cupy

            return cupy.BACKEND
        return _general(_namespace(library))
    except ImportError as error:
        raise bad_type(
            where, "the library cannot be imported", f"{library!r}: {error}", "install it"
        ) from None


def _namespace(library: str) -> Any:
    if library in ("torch", "dask"):
        return import_module(f"array_api_compat.{library}{'.array' if library == 'dask' else ''}")
    return import_module("jax.numpy" if library == "jax" else library)
