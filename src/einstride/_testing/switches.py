"""Empty the caches of the package, and set all its switches for tests by one ``with``."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from einstride._testing.points import constant, function
from einstride.codegen.jit import Target
from einstride.support import caches as caches_of_process
from einstride.support.caches import REGISTRY, Cache, Kind

SPECIAL = ("grouped", "few")
"""Engines of `direct` that support some jobs only; "dense" and "channelwise" do the others."""


def caches() -> tuple[Cache, ...]:
    """List every cache of the modules that were imported."""
    return tuple(REGISTRY)


def entries(kind: Kind) -> int:
    """Count the entries of all caches of a kind; see `einstride.support.caches.Kind`."""
    return sum(cache.entries() for cache in caches() if cache.kind == kind)


def clear_caches(*kinds: Kind) -> None:
    """Empty the caches of these kinds; see `einstride.support.caches.Kind`.

    Parameters
    ----------
    *kinds : {"results", "process", "code"}
        By default "results". After "process" the environment is read again, and after "code"
        kernels are compiled, or read from disk, again.
    """
    wanted = kinds or ("results",)
    caches_of_process.clear(*wanted)


@contextmanager
def use(
    *,
    target: Target | None = None,
    algorithm: str | None = None,
    engine: str | Sequence[str] | None = None,
    threads: int | None = None,
    backend: Mapping[str, object] | None = None,
    absent: Collection[str] = (),
    calibration: Mapping[str, Mapping[str, Any]] | None = None,
    kernel_folder: str | Path | None = None,
    kernel_folder_bytes: int | None = None,
    constants: Mapping[str, object] | None = None,
) -> Iterator[None]:
    """Set switches of the package during a ``with`` block; empty the result caches at both ends.

    Switches that are not given stay as they are, so that blocks may be nested.

    Parameters
    ----------
    target : Target or None
        The target of plans and kernels; see `vector_widths`.
    algorithm : str or None
        The only algorithm that "auto" may choose. Jobs that it does not support raise ValueError.
    engine : str, sequence of str or None
        The engines that `direct` has for NumPy: "dense", "channelwise", "grouped", "few". One name:
        this engine does every job that it supports; "grouped" and "few" leave the others to "dense"
        and "channelwise". A sequence: `direct` chooses among these engines as usual.
    threads : int or None
        The number of threads that NumPy's backend may use, however many cores there are.
    backend : mapping or None
        Fields of NumPy's backend to replace; see `einstride.arrays.backends.adapter`.
    absent : collection of str
        Packages to treat as not installed. "llvmlite": no compiled kernels.
    calibration : mapping or None
        Fields of the calibration files to replace, by the name of the file.
    kernel_folder : path or None
        The disk cache of kernels, also for processes that are started in the block. This process
        has no kernel in memory at first.
    kernel_folder_bytes : int or None
        The most bytes of this disk cache.
    constants : mapping or None
        Values of the constants in `CONSTANTS`.
    """
    with ExitStack() as stack:
        enter = stack.enter_context
        if target is not None:
            enter(_target(target))
        if algorithm is not None:
            enter(_algorithm(algorithm))
        if engine is not None:
            enter(_engines(engine))
        if threads is not None:
            enter(_backend(threads=lambda: threads))
        if backend is not None:
            enter(_backend(**backend))
        if absent:
            enter(_absent(absent))
        if calibration is not None:
            enter(_calibration(calibration))
        if kernel_folder is not None or kernel_folder_bytes is not None:
            enter(_kernel_folder(kernel_folder, kernel_folder_bytes))
        for idea, value in (constants or {}).items():
            enter(constant(idea, value))
        clear_caches()
        stack.callback(clear_caches)
        yield


@contextmanager
def _target(target: Target) -> Iterator[None]:
    from einstride.codegen import jit

    jit.host_target()  # initialises LLVM
    with function(jit.host_target, lambda: target):
        yield


@contextmanager
def _algorithm(name: str) -> Iterator[None]:
    from einstride import calibration

    with (
        function(calibration.auto_algorithms, lambda library: (name,)),
        constant("products worth rounding", 0),
    ):
        yield


@contextmanager
def _engines(given: str | Sequence[str]) -> Iterator[None]:
    from einstride.algorithms.direct import channelwise, cpu, dense, few, grouped

    table = {"dense": dense, "channelwise": channelwise, "grouped": grouped, "few": few}
    names = (given,) if isinstance(given, str) else tuple(given)
    if given in SPECIAL:
        names = ("dense", "channelwise", *names)
    before = cpu._ENGINES
    cpu._ENGINES = tuple(table[name] for name in names)
    try:
        if given == "few":
            with function(few.is_faster, lambda _, job, traits: few.supports(job, traits) is None):
                yield
        else:
            yield
    finally:
        cpu._ENGINES = before


@contextmanager
def _backend(**changes: Any) -> Iterator[None]:
    """Replace fields of NumPy's backend in place, since modules hold the object itself."""
    from einstride.arrays.backends.numpy import BACKEND

    fields = vars(BACKEND)
    before = {name: fields[name] for name in changes}
    try:
        fields.update(changes)
        yield
    finally:
        fields.update(before)


@contextmanager
def _absent(packages: Collection[str]) -> Iterator[None]:
    from einstride.arrays.backends.numpy import BACKEND

    present = {name: sys.modules[name] for name in packages if name in sys.modules}
    with ExitStack() as stack:
        if "llvmlite" in packages:
            stack.enter_context(_backend(traits=replace(BACKEND.traits, compiled=False)))
        stack.callback(clear_caches, "process")
        try:
            sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]  # None: no module
            clear_caches("process")
            yield
        finally:
            for name in packages:
                del sys.modules[name]
            sys.modules.update(present)


@contextmanager
def _calibration(changes: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    from einstride import calibration

    real = calibration.calibration

    def changed(name: str = "calibration") -> dict[str, Any]:
        return {**real(name), **changes.get(name, {})}

    with function(real, changed):
        yield


@contextmanager
def _kernel_folder(path: str | Path | None, limit: int | None) -> Iterator[None]:
    given = {"EINSTRIDE_CACHE": path, "EINSTRIDE_CACHE_BYTES": limit}
    changes = {name: str(value) for name, value in given.items() if value is not None}
    before = {name: os.environ.get(name) for name in changes}
    with ExitStack() as stack:
        stack.callback(clear_caches, "process", "code")
        try:
            os.environ.update(changes)
            clear_caches("process", "code")
            yield
        finally:
            for name, old in before.items():
                if old is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = old
