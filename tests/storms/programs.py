"""Programs of the storms: how they are started, and what they share.

A program that does not end in time writes where each of its threads is, and fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ALGORITHMS = ("gemm", "strided", "direct", "program", "winograd", "fft")
"""``program`` is ``direct`` in a call without `out`, which the call cache turns into a program."""
PASSES = ("forward", "input_grad", "filter_grad")

SIZES = {"gemm": 16, "strided": 14, "direct": 20, "winograd": 24, "fft": 20}
"""Of the image: as small as two threads are used for."""


def run(code: str, *arguments: object, seconds: float = 120, **environment: str) -> list[str]:
    """The words that a program prints in a process of its own; after `seconds` it has failed."""
    here = Path(__file__).parent
    paths = [str(here.parent), *(p for p in sys.path if p)]
    head = "import faulthandler, signal; faulthandler.register(signal.SIGUSR2)\n"
    program = subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        start_new_session=True,  # so that its children can be ended with it
    )
    try:
        said, errors = program.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGUSR2)
        time.sleep(1)
        os.killpg(program.pid, signal.SIGKILL)
        said, errors = program.communicate()
        errors += f"\nstill running after {seconds} s"
    assert program.returncode == 0, f"{program.returncode}\n{said[-2000:]}\n{errors[-6000:]}"
    return said.split()


def case(algorithm: str, which: str) -> tuple[Callable[[Any], Any], Any]:
    """``call(out)`` of a pass that takes two threads, and its right result, which is exact."""
    import numpy as np

    import einstride as es

    rng, size = np.random.default_rng(0), SIZES.get(algorithm, 28)

    def whole(*shape: int) -> Any:
        return rng.integers(-2, 3, shape).astype("float32")

    x, f, gy = whole(2, size, size, 32), whole(3, 3, 32, 32), whole(2, size - 2, size - 2, 32)
    keywords: dict[str, Any] = {"algorithm": algorithm}
    if algorithm == "program":
        keywords["algorithm"] = "direct"
    functions: dict[str, Callable[..., Any]] = {
        "forward": partial(es.conv, x, f),
        "input_grad": partial(es.conv_input_grad, gy, f, (size, size)),
        "filter_grad": partial(es.conv_filter_grad, x, gy, (3, 3)),
    }
    call = partial(functions[which], **keywords)
    if algorithm == "program":
        return lambda out: call() if out is None else np.copyto(out, call()), call()
    return lambda out: call(out=out), call()


class Watch:
    """What an interrupt must leave as it was: BLAS, the threads of the process, the helpers."""

    def __init__(self) -> None:
        from threadpoolctl import ThreadpoolController

        from einstride.arrays.backends import spin_helpers

        self._helpers = spin_helpers
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._before = self._blas()
        self._idle, self._count = len(spin_helpers._idle), self._tasks()

    def _blas(self) -> list[int]:
        return [library.num_threads for library in self._libraries]

    @staticmethod
    def _tasks() -> int:
        return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0

    def quick(self) -> None:
        """What can be asked after every interrupt."""
        found = self._blas()
        assert found == self._before, f"BLAS has {found} threads, and had {self._before}"

    def whole(self, more: int = 0) -> None:
        """Also the threads; `more` may have been started since."""
        self.quick()
        assert len(self._helpers._idle) >= self._idle, "a helper is lost"
        assert self._tasks() <= self._count + more, f"{self._tasks()} threads, not {self._count}"
