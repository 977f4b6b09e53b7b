"""The interpreter ends, whoever is convolving: daemon threads, exit functions, dying objects."""

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

    def once(text, out=np.empty_like(right), call=call, right=right):
        call(out)
        write(text if (out == right).all() else "wrong ")

    class Dying:
        def __del__(self, once=once, write=write, ended=Exception):
            try:
                once("dying ")
            except ended as error:  # modules may be gone by now; what must not be is a hang
                write(f"refused:{type(error).__name__} ")

    atexit.register(once, "atexit ")
    kept = Dying()
    kept.itself = kept  # dies when the modules do, if at all
    sys.modules["kept"] = Dying()
    for _ in range(4):
        threading.Thread(target=convolve, daemon=True).start()
    time.sleep(0.05 + 0.01 * (seed % 7))
"""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_interpreter_ends(algorithm, full_length):
    if algorithm in ("direct", "program"):
        pytest.importorskip("llvmlite")
    for seed in range(12 if full_length else 3):
        words = programs.run(EXIT, algorithm, seed, seconds=30)
        assert "atexit" in words, words
        assert "wrong" not in words
