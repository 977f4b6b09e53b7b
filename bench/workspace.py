"""Measures einstride's workspace on a row: NumPy's memory beyond the inputs and the output.

Each row has a new process, since buffers that are kept between calls would be missed after other
rows. The first call imports and compiles, so that of the memory it leaves allocated only arrays
count; the second call gives the peak. Memory that compiled code allocates without NumPy is not
counted.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np

from bench import data, machine
from bench.case import Row
from bench.options import Options

LIMIT = 120.0


def workspace_bytes(row: Row, folder: Path, options: Options) -> int | str:
    """Return the peak bytes beyond inputs and output of one plain call, or the error's text."""
    from bench.workers import ROOT

    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.workspace"],
            input=pickle.dumps((row, folder, options)),
            capture_output=True,
            env=machine.environment(options.threads, options.native_blas, options.fresh_memory),
            cwd=ROOT,
            timeout=LIMIT,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"more than {LIMIT:.0f} s"
    except subprocess.CalledProcessError as error:
        return (error.stderr.decode().strip().splitlines() or [f"status {error.returncode}"])[-1]
    return int(done.stdout.split()[-1])


def main() -> None:
    """Measure the row that was sent to standard input."""
    row, folder, options = pickle.load(sys.stdin.buffer)
    from bench.peers.ours import plain_call, start

    start(options)
    call = plain_call(row, data.load(folder), options.algorithm)
    tracemalloc.start()
    call()
    only_arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    kept = tracemalloc.take_snapshot().filter_traces([only_arrays]).statistics("filename")
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    print(max(0, sum(entry.size for entry in kept) + peak - before - result.nbytes))


if __name__ == "__main__":
    main()
