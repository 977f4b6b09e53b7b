"""With little memory a call gives the right result or a MemoryError, and later calls are right."""

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
        call_into, right = programs.case(algorithm, which)
        def call():
            return call_into(None)
    for _ in range(4):
        call()
    state, allocation = programs.ThreadState(), 0
    while True:
        if first:
            CACHE.clear()
            call_cache.CACHE.clear()
        try:
            with allocator.in_use():
                allocator.fail(allocation)
                result = call()
                failed = allocator.failed
        except MemoryError as error:
            result, failed = None, True
            assert "conv" in str(error) or "Conv" in str(error), error
        finally:
            allocator.fail(-1)
        assert result is None or (result == right).all(), f"allocation {allocation}: wrong result"
        assert allocator.damage() is None
        state.check_blas()
        assert (call() == right).all(), f"allocation {allocation}: the next call is wrong"
        if not failed:
            break
        allocation += 1
    state.check(new_threads=3)
    assert allocation > 0, "nothing was allocated"
    print("ok", allocation)
"""


@pytest.mark.parametrize("how", ["first", "later"])
@pytest.mark.parametrize("which", [*PASSES, "layer"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_failing_allocation_raises_and_the_next_call_is_right(algorithm, which, how):
    """Let each allocation fail in turn, in first calls, which make tables, and in later calls."""
    pytest.importorskip("llvmlite")
    words = programs.run(EVERY_ALLOCATION, algorithm, which, how, ROOT, seconds=300)
    assert words[0] == "ok"


LIMITED = """
    import resource, sys, traceback
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        import numpy as np
        from storms import programs
        import einstride as es
    except Exception as error:
        # Other packages may raise any error when a library of theirs cannot allocate.
        file = traceback.extract_tb(error.__traceback__)[-1].filename
        # CPython itself may report a failed import as a SystemError "without exception set".
        ours = not isinstance(error, (MemoryError, ImportError, SystemError))
        if "einstride" in file and ours:
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
def test_little_address_space_gives_a_right_result_or_an_error(full_length, tmp_path):
    """Limit the address space, from too little for NumPy to enough for every call.

    No process crashes, and no result is wrong.
    """
    sizes = range(60, 3000, 20) if full_length else (100, 200, 260, 320, 400, 600, 1000, 3000)
    ends = []
    for mebibytes in sizes:
        ends += [_run_limited(mebibytes << 20, str(tmp_path))]
        if ends[-3:] == ["ok"] * 3:
            break
    assert ends[-1] == "ok", ends


def _run_limited(limit: int, cache: str) -> str:
    """Run `LIMITED` with `limit` bytes of address space, and return the first word it prints.

    Returns "numpy" if it prints nothing. Fails if it fails after einstride was imported.
    """
    from subprocess import run
    from textwrap import dedent

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = run(
        [sys.executable, "-c", dedent(LIMITED), str(limit)],
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
    words = process.stdout.split()
    imported = "einstride" in process.stderr
    assert process.returncode == 0 or not imported, f"{limit >> 20} MiB: {process.stderr[-3000:]}"
    return words[0] if words else "numpy"
