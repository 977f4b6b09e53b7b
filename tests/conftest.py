"""Defines the options of the test run, the hypothesis profiles and the fixtures of all tests."""

from __future__ import annotations

import gc
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("libraries", "checks")
os.environ["EINSTRIDE_CALIBRATION"] = "shipped"  # plans do not depend on who runs the tests

import libraries  # noqa: E402  (its asserts must be rewritten first)

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=30,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("ci"), derandomize=False, max_examples=2000
)
hypothesis.settings.load_profile("ci")

CASES = 16
"""Without ``--all`` a run of all files takes one in `CASES` parameter sets of each test, chosen by
the hash of the commit."""

LONG = (
    "test_ten_thousand_calls_of_cupy",
    "test_dry_run",
    "test_eight_threads_get_the_bits_of_one",
    "test_registers_and_spills",
    "test_tensor_cores_are_used",
    "test_no_loop_is_longer_than_in_the_table",
    "test_full_demo",
    "test_quick_demo",
    "test_demo_on_array_api_strict",
    "test_the_seed_projects_network",
    "test_without_matplotlib_and_tqdm",
    "test_sixty_lengths_and_sizes_leave_little_behind",
    "test_no_kernel_touches_memory_not_its_own",
    "test_any_memory_of_any_operand",
    "test_nothing_out_of_bounds_is_touched",
    "test_little_address_space_gives_a_right_result_or_an_error",
    "test_every_case_of_onnx",
    "test_cupy_rows.py::test_random_geometries",
    "test_one_launch_and_no_slab",
    "test_gemm_operations",
    "test_nothing_beside_operands_and_results_is_touched",
    "test_max_workspace_is_never_exceeded[fft",
    "test_gradients_are_adjoint_to_the_forward_pass",
    "test_every_file_of_the_package_counts",
    "test_processes_share_an_empty_cache",
    "test_corrupted_kernels_are_compiled_again",
    "test_six_processes_share_the_folder",
    "test_every_function_is_reached",
    "test_compile_and_export_see_one_operator_each",
    "test_show_browser.py::test_every_tab",
    "test_show_browser.py::test_every_offset",
    "test_show_browser.py::test_the_products",
    "test_show_browser.py::test_no_width",
    "test_gallery.py::test_a_script_runs[plot_calibration",
    "test_gallery.py::test_a_script_runs[plot_denoise",
    "test_gallery.py::test_a_script_runs[plot_life",
    "test_the_code_of_a_page_runs[docs/do/pytorch",
    "test_the_code_of_a_page_runs[docs/do/jax",
    "test_the_page_of_gpus_runs",
)
"""Parts of the ids of tests that take more than five seconds: a run of all files takes them only
with ``--all``."""

THIRDS = (
    "storms/test_exit.py::",
    "storms/test_forks.py::",
    "storms/test_low_memory.py::",
    "storms/test_signals.py::",
    "test_accuracy.py::test_error_stays_below_the_bound",
    "test_adjoint.py::test_exact",
    "test_any_size.py::test_unrolled_rows_of_any_length",
    "test_batch_invariant.py::test_alone_as_in_any_batch",
    "test_bias.py::test_forward",
    "test_chunk_order.py::",
    "test_cupy_contract.py::test_work_is_done",
    "test_cupy_contract.py::test_workspace_stays_under_the_limit",
    "test_cupy_graphs.py::test_a_launch_gives_the_bits_of_a_call",
    "test_cupy_implicit_contract.py::test_launches_and_nothing_else",
    "test_cupy_implicit_gemm.py::test_every_tile",
    "test_cupy_implicit_gemm.py::test_random_geometries",
    "test_cupy_nvrtc.py::",
    "test_cupy_rows.py::",
    "test_cupy_streams.py::",
    "test_cupy_traffic.py::",
    "test_dask.py::test_chunks_have_the_values_of_the_whole",
    "test_depthwise.py::test_one_filter",
    "test_dtypes.py::test_every_pair",
    "test_fft.py::test_integer_values",
    "test_guarded_tails.py::",
    "test_input_dilation.py::test_against_the_loops_with_zeros_inserted",
    "test_integers.py::test_eight_bits_at_their_extremes",
    "test_kernel_texts.py::test_every_text_is_the_committed_one",
    "test_layout.py::test_any_permutation",
    "test_masked_loads.py::",
    "test_max_workspace_is_never_exceeded[",
    "test_memory_kinds.py::test_any_memory_of_any_operand",
    "test_ndimage.py::test_rows_and_long_borders",
    "test_nn_torch.py::test_every_layer",
    "test_padding_mode.py::test_against_the_loops",
    "test_padding_modes.py::test_every_mode_dtype_and_rank",
    "test_padding_modes.py::test_gradients_are_adjoint_to_the_forward_pass",
    "test_passes.py::test_each_dtype",
    "test_passes.py::test_many_blocks",
    "test_passes.py::test_random_geometries",
    "test_plans.py::test_it_knows_the_result_and_gives_it",
    "test_repeated.py::test_repeated_calls_have_the_bits_of_the_first",
    "test_simd_channelwise.py::",
    "test_simd_dense.py::test_against_the_loops",
    "test_simd_dense.py::test_nothing_beside",
    "test_simd_depthwise.py::test_every_width_of_vectors",
    "test_simd_depthwise.py::test_geometries",
    "test_simd_few.py::test_against_the_loops",
    "test_simd_few.py::test_nothing_beside",
    "test_simd_grouped.py::test_against_the_loops",
    "test_simd_grouped.py::test_nothing_beside",
    "test_simd_halves.py::",
    "test_simd_staged.py::test_against_the_loops",
    "test_simd_staged.py::test_dtypes",
    "test_simd_winograd.py::",
    "test_targets.py::test_kernels_compile_and_call_nothing",
    "test_winograd.py::test_against_the_loops",
    "test_winograd_errors.py::",
    "test_workspace.py::test_gradients_of_cropped_borders_are_counted",
    "test_workspace_random.py::",
)
"""Parts of the ids of tests whose cases together take more than ten seconds: ``--all`` takes a
third of the parameter sets of each test, chosen by the hash of the commit; with ``--every-case``
all."""

EVERYTHING = 5000
"""Number of collected tests from which a run is taken for a run of all files."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME[,NAME]",
        help=f"of {', '.join(libraries.LIBRARIES)}; default: {','.join(libraries.DEFAULT)}",
    )
    parser.addoption(
        "--all",
        action="store_true",
        help="run every case of almost all tests, and stress tests (tests/storms) and random tests "
        "at their full length",
    )
    parser.addoption(
        "--every-case",
        action="store_true",
        help="with --all: run every case also of the tests in THIRDS of tests/conftest.py",
    )


def pytest_configure(config: pytest.Config) -> None:
    unknown = set(_chosen(config)) - set(libraries.LIBRARIES)
    if unknown:
        raise pytest.UsageError(
            f"--backend: unknown {sorted(unknown)}; known: {', '.join(libraries.LIBRARIES)}"
        )


def _chosen(config: pytest.Config) -> list[str]:
    names = ",".join(config.getoption("--backend")).split(",")
    return [name.strip() for name in names if name.strip()] or list(libraries.DEFAULT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = _chosen(metafunc.config)
        metafunc.parametrize("backend", names, indirect=True, scope="session")
    if "gpu" in metafunc.fixturenames:
        names = [name for name in _chosen(metafunc.config) if name.startswith("cupy")]
        metafunc.parametrize("gpu", names, indirect=True, scope="session")


@cache
def commit_number() -> int:
    """Return the first 28 bits of the hash of the commit, which choose tests; 0 without git."""
    process = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return int(process.stdout[:7], 16) if process.returncode == 0 else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests in a run of all files, by `CASES` and `LONG`; with ``--all`` by `THIRDS`."""
    if len(items) < EVERYTHING or config.getoption("--every-case"):
        return
    if config.getoption("--all"):
        left_out = _beyond_a_share([item for item in items if _is_named(item, THIRDS)], 3)
    else:
        left_out = {item for item in items if _is_named(item, LONG)}
        left_out |= _beyond_a_share([item for item in items if item not in left_out], CASES)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


def _is_named(item: pytest.Item, parts: tuple[str, ...]) -> bool:
    return any(part in item.nodeid for part in parts)


def _beyond_a_share(items: list[pytest.Item], share: int) -> set[pytest.Item]:
    """Return all items but one parameter set in `share` of each test and backend."""
    tests: dict[tuple[str, str | None], list[pytest.Item]] = {}
    for item in items:
        tests.setdefault((item.nodeid.partition("[")[0], _backend_of(item)), []).append(item)
    left_out: set[pytest.Item] = set()
    for cases in tests.values():
        every = min(share, len(cases))
        left_out |= {item for i, item in enumerate(cases) if (i + commit_number()) % every}
    return left_out


_BEGINNINGS: dict[str, dict[str, object]] = {}
"""{test module: state of its random generator `RNG` before its first test}."""


@pytest.fixture(autouse=True)
def restore_rng(request: pytest.FixtureRequest) -> None:
    """Reset the module's `RNG` before each test, so that its numbers do not depend on other
    tests."""
    rng = getattr(request.module, "RNG", None)
    if rng is not None:
        bits = rng.bit_generator
        bits.state = _BEGINNINGS.setdefault(request.module.__name__, bits.state)


@pytest.fixture(scope="session")
def full_length(request: pytest.FixtureRequest) -> bool:
    """True if random and stress tests must run at their full length (``--all``)."""
    return bool(request.config.getoption("--all"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Collect tests without the garbage collector, which then never visits what they leave.

    The modules and tests are most objects of a run, and some tests call the garbage collector
    hundreds of times. Dask imports CuPy where it finds it, and CuPy may not be imported before the
    host is installed, so modules find no CuPy.
    """
    gc.disable()
    if "cupy" not in sys.modules:
        sys.modules["cupy"] = None  # type: ignore[assignment]
    try:
        return (yield)
    finally:
        _find_cupy_again()
        gc.freeze()
        gc.enable()


def _find_cupy_again() -> None:
    if "cupy" in sys.modules and sys.modules["cupy"] is None:
        del sys.modules["cupy"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install the CuPy host before the first test, because other libraries may import CuPy."""
    _find_cupy_again()
    needed = any(
        "installed_cupy_host" in names or _backend_of(item) == "cupy-host"
        for item in session.items
        if (names := getattr(item, "fixturenames", ()))
    )
    if needed and not session.config.option.collectonly:
        host = importlib.import_module("cupy_host")
        if host.unavailable_reason() is None:
            host.install()


def _backend_of(item: pytest.Item) -> str | None:
    given = item.callspec.params if hasattr(item, "callspec") else {}
    return given.get("backend") or given.get("gpu")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> libraries.Library:
    return libraries.load(request.param)


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> libraries.Library:
    """Return CuPy for tests of a GPU alone: `--backend cupy-host` emulates one, `cupy` needs one.

    Without either option these tests are skipped.
    """
    return libraries.load(request.param)


@pytest.fixture(autouse=True)
def _library_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if its library recorded a fault, such as a swallowed error or a bad launch."""
    libraries_used = [
        request.getfixturevalue(n) for n in ("backend", "gpu") if n in request.fixturenames
    ]
    yield
    for library in libraries_used:
        library.check()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print for each array library how many tests passed, failed and were skipped."""
    names = "|".join(sorted(libraries.LIBRARIES, key=len, reverse=True))
    pattern = re.compile(rf"\[(?:.*-)?({names})(?:-.*)?\]$")
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if outcome == "passed" and report.when != "call":
                continue
            if found := pattern.search(report.nodeid):
                counts[found[1], outcome] += 1
    for name in libraries.LIBRARIES:
        lines = [f"{n} {outcome}" for (library, outcome), n in counts.items() if library == name]
        if lines:
            terminalreporter.write_line(f"backend {name}: {', '.join(lines)}")


@pytest.fixture(autouse=True)
def isolated_caches(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the caches of einstride around each test that uses `monkeypatch`.

    Cached plans would hide what the test changes, and keep it for later tests.
    """
    if "monkeypatch" not in request.fixturenames:
        yield
        return
    from einstride import _testing

    with _testing.use():
        yield
