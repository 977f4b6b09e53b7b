"""With little memory: the right result or a MemoryError, and everything as it was afterwards."""

import os
import sys

import pytest

from storms import programs
from storms.programs import ALGORITHMS, PASSES

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

EVERY_ALLOCATION = """
    import sys
    sys.path.insert(0, sys.argv[4])
    import numpy as np, einstride as es
    from einstride.dispatch import call_cache
    from einstride.support.byte_cache import CACHE
    from storms import programs
    from tests.fuzz.allocator import Allocator

    algorithm, which, first = sys.argv[1], sys.argv[2], sys.argv[3] == "first"
    allocator = Allocator()
    if which == "layer":
        x = np.ones((2, 28, 28, 32), "f4")
        name = "direct" if algorithm == "program" else algorithm
        layer = es.Conv(np.ones((3, 3, 32, 32), "f4"), algorithm=name)
        right = layer(x)
        def call():
            return layer(x)
    else:
        into, right = programs.case(algorithm, which)
        def call():
            return into(None)
    for _ in range(4):
        call()
    watch, after = programs.Watch(), 0
    while True:
        if first:
            CACHE.clear()
            call_cache.CACHE.clear()
        try:
            with allocator.in_use():
                allocator.fail(after)
                found = call()
                failed = allocator.failed
        except MemoryError as error:
            found, failed = None, True
            assert "conv" in str(error) or "Conv" in str(error), error
        finally:
            allocator.fail(-1)
        assert found is None or (found == right).all(), f"allocation {after}: a wrong result"
        assert allocator.damage() is None
        watch.quick()
        assert (call() == right).all(), f"allocation {after}: the next call is wrong"
        if not failed:
            break
        after += 1
    watch.whole(more=3)
    assert after > 0, "nothing was allocated"
    print("ok", after)
"""


@pytest.mark.parametrize("how", ["first", "later"])
@pytest.mark.parametrize("which", [*PASSES, "layer"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_allocation_may_fail(algorithm, which, how):
    """One after the other, in first calls (tables are made) and in later ones."""
    pytest.importorskip("llvmlite")
    said = programs.run(EVERY_ALLOCATION, algorithm, which, how, ROOT, seconds=300)
    assert said[0] == "ok"


LIMITED = """
    import resource, sys, traceback
    room = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        import numpy as np
        from storms import programs
        import einstride as es
    except Exception as error:
        # Python's own modules say many things where a library of theirs finds no room.
        raised = traceback.extract_tb(error.__traceback__)[-1].filename
        if "einstride" in raised and not isinstance(error, (MemoryError, ImportError)):
            raise
        print("import", type(error).__name__)
        sys.exit()
    try:
        for algorithm in ("auto", *programs.ALGORITHMS):
            for which in programs.PASSES:
                try:
                    call, right = programs.case(algorithm, which)
                    assert (call(None) == right).all()
                except MemoryError:
                    continue
                except ValueError as error:
                    assert "cannot do this" in str(error) or "unknown" in str(error), error
        x, f = np.ones((1, 40, 40, 8), "f4"), np.ones((3, 3, 8, 8), "f4")
        assert (es.conv(x, f) == 72).all()
    except (MemoryError, ImportError) as error:
        print("memory", type(error).__name__)
    else:
        print("ok")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_with_little_address_space(full_length, tmp_path):
    """From too little for NumPy to enough for all: nothing crashes, nothing is wrong."""
    steps = range(60, 3000, 20) if full_length else (100, 200, 260, 320, 400, 600, 1000, 3000)
    found = []
    for megabytes in steps:
        found += [_limited(megabytes << 20, str(tmp_path))]
        if found[-3:] == ["ok"] * 3:
            break
    assert found[-1] == "ok", found


def _limited(room: int, cache: str) -> str:
    """What the program says below a limit; too little for NumPy or Python itself is no matter."""
    from subprocess import run
    from textwrap import dedent

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = run(
        [sys.executable, "-c", dedent(LIMITED), str(room)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([here, *(p for p in sys.path if p)]),
            "EINSTRIDE_CACHE": cache,
            "OPENBLAS_NUM_THREADS": "2",
        },
    )
    words = done.stdout.split()
    imported = "einstride" in done.stderr
    assert done.returncode == 0 or not imported, f"{room >> 20} MiB: {done.stderr[-3000:]}"
    return words[0] if words else "numpy"
