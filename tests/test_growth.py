"""Memory of plans, of cached tables and of first calls does not grow with the data."""

import gc
import os
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest

import einstride as es
from einstride import __main__ as command_line
from einstride.support.byte_cache import CACHE, LIMIT

MiB = 2**20
HUGE = (10**8, 10**14, 2**57)


def shapes_of_plans():
    for n in HUGE:
        for mode in ("zeros", "reflect", "replicate", "circular"):
            yield ((1, n, 1), (3, 1, 1)), {"padding": 1, "padding_mode": mode}
        yield ((1, n, 1), (3, 1, 1)), {"stride": 10**6, "dilation": 7}
        yield ((1, n, 1), (10**4, 1, 1)), {}
        yield ((1, n, 1), (3, 1, 1)), {"direction": "input_grad", "input_size": n + 2}
        yield ((1, n, 1), (3, 1, 1)), {
            "direction": "input_grad", "input_size": 10**6 * (n - 1) + 3, "stride": 10**6,
        }  # fmt: skip
        yield ((1, n, 1), (1, n, 1)), {"direction": "filter_grad", "kernel_size": 1}
        yield ((n, 28, 28, 1), (5, 5, 1, 1)), {}
        yield ((1, 3, n), (3, 1, n)), {"groups": n}
    yield ((1, 10**6, 10**6, 3), (31, 31, 3, 8)), {}
    yield ((1, 10**8, 1), (10**7, 1, 1)), {}
    yield ((1, 100, 3), (3, 3, 8)), {"input_dilation": 10**9}
    yield ((1, 100, 3), (3, 3, 8)), {"padding": 10**9}
    yield ((1, 100, 3), (3, 3, 8)), {"dilation": 10**9, "padding": 10**10}


@pytest.mark.parametrize(("shapes", "keywords"), list(shapes_of_plans()), ids=str)
def test_a_plan_takes_no_memory(shapes, keywords):
    """A plan of a huge axis takes little memory, or is refused with a reason."""

    def plan():
        try:
            es.plan(*shapes, **keywords)
        except ValueError as error:
            return str(error).startswith("plan: ")
        return True

    es.plan((1, 9, 1), (3, 1, 1))  # imports
    tracemalloc.start()
    try:
        assert plan()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * MiB


LENGTHS = """
    import gc, sys, tracemalloc
    import numpy as np, einstride as es
    from einstride.support.byte_cache import CACHE, LIMIT

    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(9, 1, 2)).astype("f4"), rng.normal(size=(3, 3, 2, 3)).astype("f4")
    def work(i):
        n = 100_000 + 1013 * i
        x = np.ones((1, n, 1), "f4")
        reflected = {"padding": 4, "padding_mode": "reflect"}
        for keywords in ({"padding": "same"}, {"stride": 2}, reflected):
            y = es.conv(x, f, **keywords)
            es.conv_input_grad(y, f, n, **keywords)
            es.conv_filter_grad(x, y, 9, **keywords)
        x = np.ones((1, 40 + i, 50 + 2 * i, 2), "f4")
        es.conv_filter_grad(x, es.conv(x, g, padding=1), 3, padding=1)

    work(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for i in range(1, int(sys.argv[1])):
        work(i)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    print(grown, CACHE.nbytes(), LIMIT)
"""


def test_sixty_lengths_and_sizes_leave_little_behind():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LENGTHS), "60"],
        capture_output=True, text=True, timeout=500,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown, kept, limit = map(int, done.stdout.split())
    assert kept <= limit
    assert grown <= limit + 16 * MiB


def test_every_kept_table_counts():
    """All arrays in the caches of the package count in the sum that is bounded."""
    gc.collect()
    for module in [m for n, m in sys.modules.items() if n.startswith("einstride.") and m]:
        for function in vars(module).values():
            if not hasattr(function, "cache_parameters"):
                continue
            held = [r for r in gc.get_referents(function) if isinstance(r, dict)]
            arrays = [v for d in held for v in d.values() if isinstance(v, np.ndarray)]
            assert sum(a.nbytes for a in arrays) < MiB, (module.__name__, function.__name__)
    assert CACHE.limit == LIMIT


@pytest.mark.parametrize("n", [10**6 + 7, 4 * 10**6 + 1])
@pytest.mark.parametrize("keywords", [{}, {"dilation": 2}, {"stride": 3}], ids=str)
def test_a_first_call_without_workspace(n, keywords):
    """`max_workspace=0` holds in the first call of a length, which makes no table and no block."""
    x, f = np.ones((1, n, 1), "f4"), np.ones((3, 1, 1), "f4")
    es.conv(x[:, :100], f, max_workspace=0, **keywords)  # imports
    tracemalloc.start()
    try:
        y = es.conv(x, f, max_workspace=0, **keywords)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert y[0, 5, 0] == 3
    assert peak - y.nbytes < MiB


def test_the_command_line_plans_what_no_memory_holds(capsys):
    assert command_line.main(["explain", "1x99999999999999x1", "3x1x1"]) in (0, None)
    assert "strided" in capsys.readouterr().out
