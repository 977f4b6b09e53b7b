"""The direct algorithm launches kernels on the device, and does nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import einstride as es
from cupy_host import events
from test_cupy_contract import CASES, WAYS, prepared, recorded

pytest_plugins = ["cupy_host.fixtures"]

KERNELS = {"small_channels_correlate", "small_channels_filter", "tile_product", "sum_parts"}
DTYPES = ("float32", "float16", "complex64")
all_cases = pytest.mark.parametrize("name", CASES)
ways = pytest.mark.parametrize("which", WAYS)


@ways
@all_cases
def test_no_transfer_no_wait_no_copy_no_library(host, cp, which, name):
    dtype = DTYPES[(list(CASES).index(name) + WAYS.index(which)) % 3]
    function, args, keywords = prepared(cp, which, CASES[name], dtype)
    with host.recording() as first:
        function(*args, algorithm="direct", **keywords)
    _, seen = recorded(host, function, args, algorithm="direct", **keywords)
    for log in (first, seen):
        assert not [e for e in log.of(events.Copy) if e.kind != "device_to_device"]
        assert not log.of(events.Synchronize)
    assert not seen.of(events.Copy)
    assert not seen.of(events.LibraryCall)
    assert not seen.of(events.PinnedAllocate)
    launches = [e.kernel.partition("<")[0] for e in seen.of(events.Launch)]
    assert set(launches) <= KERNELS
    phases = int(np.prod(CASES[name].stride)) if which in ("input_grad", "transpose") else 1
    assert len(launches) <= (2 if which == "filter_grad" else phases)


def test_the_plan_knows_the_workspace(host, cp):
    _, args, keywords = prepared(cp, "filter_grad", CASES["depthwise"])
    p = es.plan(
        *args[:2], direction="filter_grad", kernel_size=args[2], algorithm="direct", **keywords
    )
    p(*args[:2])
    with host.recording() as seen:
        result = p(*args[:2])
    assert 0 < seen.peak_growth(0) - result.nbytes <= p.workspace
