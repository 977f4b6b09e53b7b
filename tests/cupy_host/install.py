"""Installs the host in the place of CUDA, before CuPy is imported."""

from __future__ import annotations

import os
import sys

from . import signatures
from .capsules import check_signatures, swap
from .copies import Copies
from .cublas import Cublas
from .cufft import Cufft
from .graphs import Captures, Graphs
from .host import Host, driver_error, runtime_error
from .launcher import Launcher
from .libraries import answer_pathfinder
from .programs import Programs
from .provides import provided
from .runtime import Runtime
from .streams import Streams
from .versions import Wheel, installed_wheel

# Functions that call no driver: CuPy's own ones stay.
_KEPT = {"check_status", "get_build_version", "make_Extent", "make_PitchedPtr", "make_Pos"}

_host: Host | None = None
_alive: list[object] = []  # objects that C code points to


def install() -> Host:
    """Makes `import cupy` run on the CPU, and returns the host; further calls return the same host.

    Raises RuntimeError if CuPy was imported before, or if the installed wheel is not supported.
    """
    global _host
    if _host is None:
        wheel = installed_wheel()
        if "cupy" in sys.modules:
            raise RuntimeError("cupy_host: CuPy is already imported; install the host before it")
        host = Host()
        _swap_backends(host, wheel)
        _import_cupy(host)
        _host = host
    return _host


def _swap_backends(host: Host, wheel: Wheel) -> None:
    # CUB's reductions need a real compiler; CuPy has plain ones too.
    os.environ["CUPY_ACCELERATORS"] = ""
    # The host has its own cache on disk; CuPy's cache would mix tickets with real cubins.
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
    from cupy_backends.cuda.api import driver, runtime
    from cupy_backends.cuda.libs import nvrtc

    runtime_signatures = check_signatures(runtime, signatures.RUNTIME)
    driver_signatures = check_signatures(driver, signatures.DRIVER)
    version = driver.get_build_version()
    host.captures = Captures(host)
    streams = Streams(host)
    serving = {}
    parts = (streams, Graphs(host, streams), Copies(host, streams))
    for part in (*parts, Runtime(host, streams, version)):
        serving.update(provided(part))
    for module, known, handlers, cuda_error in (
        (runtime, runtime_signatures, serving, runtime_error),
        (driver, driver_signatures, provided(Launcher(host, streams)), driver_error),
    ):
        complete = {}
        for name in known:
            if name not in _KEPT:
                handler = handlers.get(name)
                complete[name] = (
                    host.guard(name, handler, cuda_error)
                    if handler
                    else host.refusal(f"cuda {name}")
                )
        _alive.append(swap(module, known, complete))
        for name in set(handlers) - set(known):  # functions without a capsule
            setattr(module, name, host.guard(name, handlers[name], cuda_error))
    for name, handler in provided(Programs(nvrtc, version)).items():
        setattr(nvrtc, name, handler)
    blas, fft = Cublas(host, wheel), Cufft(host, wheel)
    _alive.extend([blas, fft])
    answer_pathfinder(host, {"cublas": blas.load, "cufft": fft.load})


def _import_cupy(host: Host) -> None:
    import cupy  # noqa: F401
    from cupy.cuda import cub, thrust

    from .poolhook import PoolHook

    # Compiled CUDA code of CuPy that calls a driver directly.
    for module in (cub, thrust):
        for name, function in list(vars(module).items()):
            public = not name.startswith("_") and name != "get_build_version"
            if public and callable(function) and not isinstance(function, type):
                setattr(module, name, host.refusal(f"{module.__name__}.{name}"))

    hook = PoolHook(host)
    host.on_new_thread = hook.enter_thread
    hook.enter_thread()
