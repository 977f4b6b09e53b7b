"""The interpreter exits while daemon threads, exit functions and destructors convolve."""

import pytest

from storms import programs
from storms.programs import ALGORITHMS

EXIT = """
    import atexit, random, sys, threading, time
    import numpy as np, einstride as es
    from storms import programs

    algorithm, seed = sys.argv[1], int(sys.argv[2])
    call, right = programs.case(algorithm, "forward")
    write = sys.stdout.write

    def convolve():
        out = np.empty_like(right)
        while True:
            call(out)

    def convolve_once(text, out=np.empty_like(right), call=call, right=right):
        call(out)
        write(text if (out == right).all() else "wrong ")

    class ConvolvesWhenFreed:
        def __del__(self, convolve_once=convolve_once, write=write, errors=Exception):
            try:
                convolve_once("freed ")
            except errors as error:  # modules may be gone: an error is allowed, a hang is not
                write(f"refused:{type(error).__name__} ")

    atexit.register(convolve_once, "atexit ")
    cycle = ConvolvesWhenFreed()
    cycle.itself = cycle  # freed with the modules, if ever
    sys.modules["freed_at_exit"] = ConvolvesWhenFreed()
    for _ in range(4):
        threading.Thread(target=convolve, daemon=True).start()
    time.sleep(0.05 + 0.01 * (seed % 7))
"""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_interpreter_exits_while_threads_convolve(algorithm, full_length):
    """The process exits with status 0, and the exit function's result is right."""
    if algorithm in ("direct", "program"):
        pytest.importorskip("llvmlite")
    for seed in range(12 if full_length else 3):
        words = programs.run(EXIT, algorithm, seed, seconds=30)
        assert "atexit" in words, words
        assert "wrong" not in words
