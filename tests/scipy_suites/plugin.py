"""Replace SciPy's functions by einstride's in SciPy's own tests, as a plugin of pytest.

After the collection, every name in SciPy's public module, in the test modules and among the
parameters of tests that is one of SciPy's functions becomes einstride's function of that name. The
report lists each test that called one of them, with its outcome; other tests do not count.
"""

import functools
import importlib
import json
import os

import pytest

ROOM = os.environ["EINSTRIDE_SUITE_ROOM"]  # "signal" or "ndimage"
REPORT = os.environ["EINSTRIDE_SUITE_REPORT"]
EVERY = int(os.environ.get("EINSTRIDE_SUITE_EVERY", "1"))

ours = importlib.import_module(f"einstride.{ROOM}")
theirs = importlib.import_module(f"scipy.{ROOM}")
called = set()
outcomes = {}


def _recorded(name):
    function = getattr(ours, name)

    @functools.wraps(function)
    def call(*args, **kwargs):
        called.add(name)
        return function(*args, **kwargs)

    return call


def _replacements():
    names = [n for n in ours.__all__ if hasattr(theirs, n)]
    return [(getattr(theirs, n), _recorded(n), n) for n in names]


@pytest.hookimpl(trylast=True)  # after -k has deselected tests
def pytest_collection_modifyitems(items):
    replacements = _replacements()
    items[:] = items[::EVERY]

    def replaced(value):
        return next((mine for original, mine, _ in replacements if value is original), value)

    for _, mine, name in replacements:
        setattr(theirs, name, mine)
    for module in {item.module for item in items}:
        for name, value in list(vars(module).items()):
            if callable(value):
                setattr(module, name, replaced(value))
    for item in items:
        if hasattr(item, "callspec"):
            parameters = item.callspec.params
            for name, value in list(parameters.items()):
                if callable(value):
                    parameters[name] = replaced(value)


def pytest_runtest_setup(item):
    called.clear()


def pytest_runtest_makereport(item, call):
    if call.when == "call":
        failed = call.excinfo is not None and call.excinfo.typename not in ("Skipped", "XFailed")
        skipped = call.excinfo is not None and not failed
        test = item.nodeid.rpartition("/")[2]
        if called and not skipped:
            outcomes[test] = "failed" if failed else "passed"


def pytest_sessionfinish(session):
    with open(REPORT, "w", encoding="utf-8") as file:
        json.dump(outcomes, file, indent=0, sort_keys=True)
