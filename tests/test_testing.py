"""Each switch of `einstride._testing` takes effect, and is undone at the end of its block."""

import ast
import os
import subprocess
import sys
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import einstride as es
from einstride import _testing
from einstride._testing import points

ROOT = Path(es.__file__).parent
X, F = np.ones((2, 9, 8, 6), "f4"), np.ones((3, 3, 6, 12), "f4")
compiled = pytest.mark.skipif(not find_spec("llvmlite"), reason="llvmlite is missing")


class StopError(Exception):
    pass


@cache
def imported_by():
    """Return {(module, name): modules that import the name from this module}."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(["einstride", *path.relative_to(ROOT).with_suffix("").parts])
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    taken = found.setdefault((node.module, alias.name), set())
                    taken.add(name.removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("idea", _testing.FUNCTIONS)
def test_each_function_is_found_replaced_and_put_back(idea):
    for module, name in points.attributes(points.FUNCTIONS, idea):
        real = getattr(module, name)
        with pytest.raises(StopError), _testing.replacing(idea, lambda real: None):
            assert getattr(module, name) is not real
            assert getattr(module, name).__wrapped__ is real
            raise StopError
        assert getattr(module, name) is real


@pytest.mark.parametrize("idea", _testing.CONSTANTS)
def test_each_constant_is_changed_wherever_it_is_read(idea):
    places = points.attributes(points.CONSTANTS, idea)
    before = [getattr(module, name) for module, name in places]
    assert all(value is before[0] or value == before[0] for value in before)
    with pytest.raises(StopError), _testing.use(constants={idea: StopError}):
        assert all(getattr(module, name) is StopError for module, name in places)
        raise StopError
    assert [getattr(module, name) for module, name in places] == before
    listed = {module.__name__ for module, _ in places}
    for module, name in places:
        assert imported_by().get((module.__name__, name), set()) <= listed


def test_what_is_unknown_is_refused():
    with pytest.raises(LookupError, match="'nonsense' is none of"), _testing.watching("nonsense"):
        pass
    with pytest.raises(LookupError), _testing.use(constants={"nonsense": 1}):
        pass


def test_a_switch_inside_another_leaves_that_one():
    small, large = {"products worth rounding": 1}, {"products worth rounding": 2}
    [(module, name)] = points.attributes(points.CONSTANTS, "products worth rounding")
    before = getattr(module, name)
    with _testing.use(constants=small):
        with _testing.use(constants=large):
            assert getattr(module, name) == 2
        assert getattr(module, name) == 1
    assert getattr(module, name) == before
    with _testing.watching("choose a plan") as outer, _testing.watching("choose a plan") as inner:
        es.plan(X.shape, F.shape)
    assert len(outer) == len(inner) == 1


@pytest.mark.parametrize("algorithm", ["strided", "gemm", "winograd", "fft"])
def test_auto_takes_the_algorithm(algorithm):
    with _testing.use(algorithm=algorithm):
        assert es.plan(X.shape, F.shape).algorithm == algorithm
        with pytest.raises(ValueError, match="not proved on numpy"), _testing.use(algorithm="?"):
            es.plan(X.shape, F.shape)


@pytest.mark.parametrize("threads", [1, 3, 50])
def test_threads(threads):
    with _testing.use(threads=threads):
        assert f"up to {threads} threads" in str(es.plan(X.shape, F.shape))


def test_calibration():
    changed = {"calibration": {"date": "2222-02-02"}}
    with _testing.use(calibration=changed):
        assert "2222-02-02" in str(es.plan(X.shape, F.shape))
    assert "2222-02-02" not in str(es.plan(X.shape, F.shape))


@compiled
def test_without_llvmlite():
    direct = {"algorithm": "direct"}
    with _testing.use(absent={"llvmlite"}):
        assert "pip install 'einstride[fast]'" in str(es.plan(X.shape, F.shape))
        with pytest.raises(ValueError, match="llvmlite"):
            es.conv(X, F, **direct)
    np.testing.assert_array_equal(es.conv(X, F, **direct), es.conv(X, F, algorithm="strided"))


@compiled
def test_kernels_are_compiled_for_the_target_and_kept_in_the_folder(tmp_path):
    targets = _testing.vector_widths()
    with _testing.use(kernel_folder=tmp_path), _testing.watching("compile a kernel") as made:
        for name, target in targets.items():
            with _testing.use(target=target, engine="dense", threads=1):
                for _ in range(2):
                    es.conv(X, F, algorithm="direct")
            assert {call.args[1] for call in made} <= set(targets.values())
            assert made[-1].args[1] == target, name
        files = list(tmp_path.iterdir())
        assert len(files) == len(made) >= len(targets)
        _testing.clear_caches("code", "results")
        with _testing.use(engine="dense", threads=1):
            es.conv(X, F, algorithm="direct")
        assert list(tmp_path.iterdir()) == files
    assert os.environ.get("EINSTRIDE_CACHE") != str(tmp_path)


@compiled
@pytest.mark.parametrize("engine", ["dense", "channelwise", "grouped", "few"])
def test_engines(engine):
    groups = 2 if engine == "grouped" else 1
    f = np.ones((3, 3, 6 // groups, 12), "f4")
    right = es.conv(X, f, groups=groups, algorithm="strided")
    idea = {"grouped": "run a kernel of small groups", "few": "prefer few channels"}
    with _testing.use(engine=engine), _testing.watching(idea.get(engine, "get a kernel")) as calls:
        found = es.conv(X, f, groups=groups, algorithm="direct")
    np.testing.assert_array_equal(found, right)
    assert calls
    assert engine != "few" or calls[0].result


def test_faults():
    right = es.conv(X, F)
    with _testing.failing("compute a plan's result", StopError("now"), after=1):
        np.testing.assert_array_equal(es.conv(X, F), right)
        with pytest.raises(StopError, match="now"):
            es.conv(X, F)

    def negated(real, *given):
        result = real(*given)
        return np.negative(result, out=result)

    with _testing.replacing("gemm forward", negated):
        np.testing.assert_array_equal(es.conv(X, F, algorithm="gemm"), -right)
    np.testing.assert_array_equal(es.conv(X, F, algorithm="gemm"), right)


def test_every_cache_can_be_counted_and_emptied():
    for _ in range(3):
        es.conv(X, F)
    filled = [cache for cache in _testing.caches() if cache.entries()]
    assert {cache.kind for cache in filled} >= {"results", "process"}
    assert all(cache.nbytes is None or cache.nbytes() >= 0 for cache in filled)
    _testing.clear_caches("results", "process", "code")
    with ExitStack() as stack:
        calls = stack.enter_context(_testing.watching("choose a plan"))
        assert not [cache.name for cache in _testing.caches() if cache.entries()]
        np.testing.assert_array_equal(es.conv(X, F), es.conv(X, F))
    assert len(calls) == 1


def test_nothing_imports_it():
    code = (
        "import sys, einstride, einstride.nn, einstride.__main__;"
        "sys.exit(any(name.startswith('einstride._testing') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
