"""Controls the workers: one process per library, all stopped except the one that works."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import machine
from bench.options import Options

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT = 120.0  # seconds that importing a library may take


class WorkerFailure(Exception):
    """Report that a request failed: `kind` is "unsupported", "error" or "too slow"."""

    def __init__(self, kind: str, text: str, replaced: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.replaced = replaced  # True if the process is new, without prepared variants


class Worker:
    """Run a library in a process of its own, which is stopped except while it answers a request."""

    def __init__(
        self, name: str, options: Options, source: Path | None = None, kernels: Path | None = None
    ) -> None:
        """`source` holds the einstride to import, `kernels` its disk cache; None: the usual."""
        self.name = name
        self.about: dict[str, Any] = {}
        self._options = options
        self._places = {"PYTHONPATH": source, "EINSTRIDE_CACHE": kernels}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self.restart()

    def restart(self) -> None:
        """Start a new process."""
        self.close()
        ours, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", self.name, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=machine.environment(
                self._options.threads, self._options.native_blas, self._options.fresh_memory
            )
            | {name: str(place) for name, place in self._places.items() if place},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        chosen = machine.cores(self._options.threads)
        if chosen:  # set before a library counts the processors
            os.sched_setaffinity(self._process.pid, chosen)
        try:
            self.about = self.ask("start", self._options, limit=START_LIMIT, first=True)
        except WorkerFailure:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any, limit: float, first: bool = False) -> Any:
        """Let the process run until it has answered; a process that is too slow is replaced."""
        assert self._process is not None and self._pipe is not None
        try:
            if not first:
                os.kill(self._process.pid, signal.SIGCONT)
            self._pipe.send((method, arguments))
            if not self._pipe.poll(limit):
                self._replace(first)
                raise WorkerFailure("too slow", f"more than {limit:.0f} s", replaced=True)
            kind, value = self._pipe.recv()
            os.kill(self._process.pid, signal.SIGSTOP)
        except (EOFError, OSError) as error:
            code = self._process.wait(5)
            self._replace(first)
            raise WorkerFailure(
                "error", f"the process ended with status {code}", replaced=True
            ) from error
        if kind != "ok":
            raise WorkerFailure(kind, value)
        return value

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _replace(self, first: bool) -> None:
        if first:
            self.close()
        else:
            self.restart()


class Crew:
    """Hold all workers of a run; a context manager ends them."""

    def __init__(self, names: Iterable[str], options: Options) -> None:
        self.workers: dict[str, Worker] = {}
        self.absent: dict[str, str] = {}  # name: why it is not there
        for name in names:
            try:
                self.workers[name] = Worker(name, options)
            except WorkerFailure as failure:
                self.absent[name] = str(failure)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.workers.values():
            worker.close()
