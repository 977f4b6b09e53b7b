"""Kernel texts have the committed digests; see kernel_texts and docs/architecture.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")

import einstride
from einstride._testing import replacing
from einstride.codegen import jit
from kernel_texts import digests, generate

ROOT = Path(__file__).parents[1]
PACKAGE = Path(einstride.__file__).parent
SPECIFICATIONS = generate.specifications()
TABLES = sorted({name.partition("/")[0] for name in SPECIFICATIONS})
SOME = list(SPECIFICATIONS)[5::53]
"""Some specifications, of every kernel family."""


def chosen(table):
    return {n: s for n, s in SPECIFICATIONS.items() if n.partition("/")[0] == table}


@pytest.mark.parametrize("table", TABLES)
def test_every_text_is_the_committed_one(table):
    """Every kernel text has the committed digest.

    After an intended change of kernels, run ``python -m tests.kernel_texts --write``.
    """
    specs = chosen(table)
    found = list(digests.differences(digests.committed(), digests.current(specs), specs))
    assert not found, f"python -m tests.kernel_texts --against HEAD {table}{digests.version_note()}"


def test_the_file_names_the_specifications():
    lines = digests.FILE.read_text().splitlines()[2:]
    assert lines == sorted(lines)
    assert len(lines) == len(digests.committed())
    assert {name for name, _ in digests.committed()} == set(SPECIFICATIONS)
    assert not [kernel for _, kernel in digests.committed() if kernel == digests.ERROR]


def run(*command, **environment):
    """Run Python in the project's folder with the package under test."""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment | {"PYTHONPATH": path},
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_texts_depend_on_no_process(seed):
    """Texts do not depend on hash seeds, threads of BLAS, cores, or the folder of compiled
    kernels."""
    limits = {"PYTHONHASHSEED": seed, "EINSTRIDE_CACHE_BYTES": "0", "OPENBLAS_NUM_THREADS": "1"}
    command = ["-m", "tests.kernel_texts", *SOME]
    if seed == "0" and hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
        code = (
            f"import os, runpy; os.sched_setaffinity(0, [{core}]); "
            "runpy.run_module('tests.kernel_texts', run_name='__main__')"
        )
        command[:2] = ["-c", code]
    assert run(*command, **limits).stdout.startswith("0 of ")


def test_texts_depend_on_no_order_and_no_host(monkeypatch):
    """Texts are made without asking LLVM for the CPU of this machine."""
    from llvmlite import binding

    jit.host_target()  # initialises LLVM, for which the host is asked once

    def refuse(*_):
        raise AssertionError("the host was asked for")

    for name in ("get_host_cpu_name", "get_host_cpu_features", "parse_assembly"):
        monkeypatch.setattr(binding, name, refuse)
    specs = {name: SPECIFICATIONS[name] for name in reversed(SOME)}
    assert not list(digests.differences(digests.committed(), digests.current(specs), specs))


def test_nothing_recorded_stays():
    """After texts are recorded, kernels are compiled and run as before."""
    import numpy as np

    x, f = np.ones((1, 6, 7, 16), "float32"), np.ones((3, 3, 16, 20), "float32")
    for _ in range(4):
        assert (einstride.conv(x, f, algorithm="direct") == 144).all()
        generate.texts(SPECIFICATIONS["dense.repeated-call/forward/float32/avx512"])
        generate.texts(SPECIFICATIONS["dense.threads/forward/float32/avx512"])


CHANGES = {
    "write a dense kernel": {"dense"},
    "write a depthwise kernel": {"depthwise"},
    "write pairs of frequencies": {
        "fourier_spectrum", "fourier_convolve", "fourier_gather", "fourier_finish",
        "fourier_reduce", "fourier_whole",
    },
    "write a grouped kernel": {"grouped"},
    "write the end of Winograd's filter gradient": {"winograd_grad", "winograd_finish"},
    "write a norm's statistics": {"norm_forward"},
}  # fmt: skip
"""{function that writes a part of a kernel: kernels that have this part}."""


@pytest.mark.parametrize("changed", CHANGES)
def test_a_change_is_seen_in_its_kernels_alone(changed):
    """An extra load, whose result is unused, changes only the kernels of the changed function."""

    def with_a_load(real, code, *given, **named):
        code.argument(0).load()
        return real(code, *given, **named)

    names = (
        "dense.plane/forward/float32/avx2", "dense.plane/filter_grad/float32/avx2",
        "depthwise.short-row/input_grad/float32/avx2", "small_channels.image/forward/float32/avx2",
        "fft.plane/forward/float32/avx2", "grouped.four-per-group/input_grad/float32/avx2",
        "winograd.plane/filter_grad/float32/avx2", "nn.norm/network/float32/avx2",
    )  # fmt: skip
    specs = {name: SPECIFICATIONS[name] for name in names}
    with replacing(changed, with_a_load):
        lines = digests.differences(digests.committed(), digests.current(specs), specs)
    differing = {line.split()[1].partition(".")[0] for line in lines}
    assert differing
    assert differing <= CHANGES[changed]


UNREACHED = {
    # called when the module is imported
    "cpu/runtime/aligned_memory.py": {"_addresses_readable", "reported_address"},
    # only transposed convolutions have a bias behind an input gradient
    "cpu/conv/small_channels/blocks.py": {"bias_of_columns"},
    # only the descriptions of plans read these
    "cpu/conv/schedule.py": {"Schedule.describe", "Schedule.sides"},
    "cpu/conv/dense/forward.py": {"DenseForward.describe"},
    "cpu/conv/dense/matrix_tiles.py": {"MatrixTiles.sides"},
    "cpu/conv/grouped/filter_gradient.py": {"GroupedGradient.sides"},
    "cpu/conv/small_channels/spans.py": {"SpanLaneGradient.sides"},
    "cpu/conv/channelwise/channels_gradient.py": {"ChannelsGradient.sides"},
    "cpu/conv/channelwise/positions_gradient.py": {"PositionsGradient.sides"},
    "cpu/conv/depthwise/filter_gradient.py": {"DepthwiseGradient.sides"},
    "cpu/conv/depthwise/tile.py": {"Depthwise.sides"},
}
"""{module: functions that no specification calls}, with the reasons as comments."""


def test_every_function_is_reached():
    """Every function of the generators is called, so that no change of kernels is missed."""
    missed = json.loads(run("-m", "tests.kernel_texts.reached").stdout)
    assert {module: set(names) for module, names in missed.items()} == UNREACHED
