"""Run the programs of the stress tests in new processes, and give them jobs and checks to share.

A program that exceeds its time prints the Python stack of each of its threads, and fails.
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
"""{algorithm: positions on each axis of the image}, for the smallest images for which the algorithm
takes two threads."""


def run(code: str, *arguments: object, seconds: float = 120, **environment: str) -> list[str]:
    """Run a program in a new process and return the words that it prints.

    Fails if the exit status is not 0 or the program runs for more than `seconds`.
    """
    here = Path(__file__).parent
    paths = [str(here.parent), *(p for p in sys.path if p)]
    head = "import faulthandler, signal; faulthandler.register(signal.SIGUSR2)\n"
    program = subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        start_new_session=True,  # so that child processes of the program can be ended too
    )
    try:
        output, errors = program.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGUSR2)
        time.sleep(1)
        os.killpg(program.pid, signal.SIGKILL)
        output, errors = program.communicate()
        errors += f"\nstill running after {seconds} s"
    assert program.returncode == 0, f"{program.returncode}\n{output[-2000:]}\n{errors[-6000:]}"
    return output.split()


def case(algorithm: str, which: str) -> tuple[Callable[[Any], Any], Any]:
    """Return a call of a pass that takes two threads, as ``call(out)``, and its exact result."""
    import numpy as np

    import einstride as es

    rng, size = np.random.default_rng(0), SIZES.get(algorithm, 28)

    def integers(*shape: int) -> Any:
        return rng.integers(-2, 3, shape).astype("float32")

    x, f, gy = (
        integers(2, size, size, 32),
        integers(3, 3, 32, 32),
        integers(2, size - 2, size - 2, 32),
    )
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


class ThreadState:
    """Record the threads of BLAS, of the process and of the helpers, and check them later.

    An interrupted call must leave all three as they were.
    """

    def __init__(self) -> None:
        from threadpoolctl import ThreadpoolController

        from einstride.arrays.backends import spin_helpers

        self._helpers = spin_helpers
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._blas = self._blas_threads()
        self._idle, self._threads = len(spin_helpers._idle), self._process_threads()

    def _blas_threads(self) -> list[int]:
        """Return the number of threads that each BLAS library uses."""
        return [library.num_threads for library in self._libraries]

    @staticmethod
    def _process_threads() -> int:
        """Return the number of threads of this process; 0 on a system that does not list them."""
        return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0

    def check_blas(self) -> None:
        """Check the threads of BLAS, which is quick enough to be done after every interrupt."""
        now = self._blas_threads()
        assert now == self._blas, f"BLAS has {now} threads, and had {self._blas}"

    def check(self, new_threads: int = 0) -> None:
        """Check all threads, of which up to `new_threads` may have been started since."""
        self.check_blas()
        assert len(self._helpers._idle) >= self._idle, "a helper thread is no longer idle"
        now = self._process_threads()
        assert now <= self._threads + new_threads, f"{now} threads, and had {self._threads}"
