"""The execution that a plan describes is what runs: engine, kernel, register tile, tiles,
threads."""

import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings

import einstride as es
from checks import refused, unless_refused
from einstride.__main__ import main
from einstride._testing import failing, use, watching, watching_kernels
from einstride.arrays.backends import numpy as backend
from einstride.codegen import jit
from strategies import arrays, cases, seeds
from test_plans import DIRECTIONS, planned

FAST = jit.available()
fast = pytest.mark.skipif(not FAST, reason="the extra fast is missing")

SIDES = {
    "dense": ("lanes", "vectors", "rows"),
    "outer": ("lanes", "vectors", "rows"),
    "blocked": ("lanes", "vectors", "rows"),
    "blocks": ("lanes", "vectors", "rows"),
    "lines": ("lanes", "vectors", "rows"),
    "runs": ("lanes", "vectors", "rows"),
    "run_lanes": ("lanes", "vectors", "rows", "taps"),
    "grouped": ("lanes", "vectors", "rows"),
    "grouped_gradient": ("lanes", "vectors", "layout.block", "taps"),
    "channelwise_channels": ("lanes", "vectors", "rows"),
    "channelwise_positions": ("lanes", "vectors", "rows"),
    "channelwise_channels_gradient": ("lanes", "vectors", "inputs", "taps"),
    "channelwise_positions_gradient": ("lanes", "rows"),
    "depthwise": ("lanes", "rows", "vectors"),
    "depthwise_gradient": ("lanes", "columns", "rows"),
}
"""{kernel: fields of its specification that are the sides of the register tile, as in a plan}."""

CASES = {
    "dense": ("direct", "forward", (2, 20, 20, 32), (3, 3, 32, 64), {"padding": 1}),
    "one axis, long": ("direct", "forward", (1, 3000, 8), (9, 8, 16), {}),
    "1x1": ("direct", "forward", (4, 14, 14, 64), (1, 1, 64, 48), {}),
    "four examples": ("direct", "forward", (4, 7, 7, 64), (3, 3, 64, 64), {"padding": 1}),
    "many threads' work": ("direct", "forward", (8, 30, 30, 32), (3, 3, 32, 64), {"padding": 1}),
    "channels first": (
        "direct", "forward", (2, 32, 20, 20), (64, 32, 3, 3), {"layout": "channels_first"},
    ),
    "bytes": ("direct", "forward", (2, 9, 9, 16), (3, 3, 16, 32), {"dtype": "int8"}),
    "complex": ("direct", "forward", (2, 9, 9, 16), (3, 3, 16, 32), {"dtype": "complex64"}),
    "half": ("direct", "forward", (2, 9, 9, 16), (3, 3, 16, 32), {"dtype": "float16"}),
    "first layer": ("direct", "forward", (2, 64, 64, 3), (7, 7, 3, 64), {"stride": 2}),
    "taps as channels": ("direct", "forward", (1, 40, 40, 2), (3, 3, 2, 9), {}),
    "depthwise": ("direct", "forward", (2, 20, 20, 64), (3, 3, 1, 64), {"groups": 64}),
    "two filters a channel": ("direct", "forward", (2, 20, 20, 8), (3, 3, 1, 16), {"groups": 8}),
    "image of one channel": ("direct", "forward", (1, 64, 64, 1), (5, 5, 1, 1), {}),
    "groups of four": ("direct", "forward", (2, 20, 20, 64), (3, 3, 4, 64), {"groups": 16}),
    "large filter": ("direct", "forward", (1, 4, 4, 640), (3, 3, 640, 512), {"padding": 1}),
    "spread input": ("direct", "forward", (2, 9, 9, 16), (3, 3, 16, 32), {"input_dilation": 2}),
    "dense, back": (
        "direct", "input_grad", (2, 20, 20, 64), (3, 3, 32, 64), {"padding": 1, "input_size": 20},
    ),
    "phases": (
        "direct", "input_grad", (2, 10, 10, 64), (3, 3, 32, 64),
        {"padding": 1, "stride": 2, "input_size": 20},
    ),
    "first layer, back": (
        "direct", "input_grad", (2, 29, 29, 64), (7, 7, 3, 64), {"stride": 2, "input_size": 64},
    ),
    "patches, back": (
        "direct", "input_grad", (2, 8, 8, 96), (4, 4, 3, 96), {"stride": 4, "input_size": 32},
    ),
    "depthwise, back": (
        "direct", "input_grad", (2, 20, 20, 64), (3, 3, 1, 64),
        {"groups": 64, "padding": 1, "input_size": 20},
    ),
    "groups, back": (
        "direct", "input_grad", (2, 20, 20, 64), (3, 3, 4, 64),
        {"groups": 16, "padding": 1, "input_size": 20},
    ),
    "image, back": (
        "direct", "input_grad", (1, 20, 20, 4), (3, 3, 1, 4), {"padding": 1, "input_size": 20},
    ),
    "reflected, back": (
        "direct", "input_grad", (2, 20, 20, 64), (3, 3, 32, 64),
        {"padding": 1, "input_size": 20, "padding_mode": "reflect"},
    ),
    "dense gradient": (
        "direct", "filter_grad", (2, 20, 20, 32), (2, 20, 20, 64),
        {"padding": 1, "kernel_size": 3},
    ),
    "packed gradient": (
        "direct", "filter_grad", (4, 30, 30, 32), (4, 28, 28, 64), {"kernel_size": 3},
    ),
    "complex gradient": (
        "direct", "filter_grad", (2, 9, 9, 32), (2, 7, 7, 64),
        {"kernel_size": 3, "dtype": "complex64", "flip": True},
    ),
    "first layer's gradient": (
        "direct", "filter_grad", (2, 64, 64, 3), (2, 29, 29, 64), {"stride": 2, "kernel_size": 7},
    ),
    "few channels' gradient": (
        "direct", "filter_grad", (2, 64, 64, 3), (2, 60, 60, 4), {"kernel_size": 5},
    ),
    "depthwise gradient": (
        "direct", "filter_grad", (2, 20, 20, 64), (2, 20, 20, 64),
        {"groups": 64, "padding": 1, "kernel_size": 3},
    ),
    "wide depthwise gradient": (
        "direct", "filter_grad", (2, 20, 20, 64), (2, 20, 20, 64),
        {"groups": 64, "padding": 3, "kernel_size": 7},
    ),
    "image's gradient": (
        "direct", "filter_grad", (2, 40, 40, 1), (2, 36, 36, 1), {"kernel_size": 5},
    ),
    "groups' gradient": (
        "direct", "filter_grad", (2, 20, 20, 64), (2, 18, 18, 64),
        {"groups": 16, "kernel_size": 3},
    ),
    "each gradient": (
        "direct", "filter_grad", (3, 20, 20, 32), (3, 18, 18, 64),
        {"kernel_size": 3, "per_example": True},
    ),
    "winograd": ("winograd", "forward", (2, 20, 20, 32), (3, 3, 32, 64), {"padding": 1}),
    "winograd, few tiles": ("winograd", "forward", (1, 7, 7, 64), (3, 3, 64, 64), {"padding": 1}),
    "winograd, one axis": ("winograd", "forward", (2, 400, 32), (5, 32, 32), {}),
    "winograd, a volume": ("winograd", "forward", (1, 9, 9, 9, 16), (3, 3, 3, 16, 16), {}),
    "winograd, groups": ("winograd", "forward", (2, 9, 9, 64), (3, 3, 32, 64), {"groups": 2}),
    "winograd, back": (
        "winograd", "input_grad", (2, 20, 20, 64), (3, 3, 32, 64),
        {"padding": 1, "input_size": 20},
    ),
    "winograd gradient": (
        "winograd", "filter_grad", (2, 20, 20, 32), (2, 20, 20, 64),
        {"padding": 1, "kernel_size": 3},
    ),
    "fft": ("fft", "forward", (1, 30, 30, 4), (9, 9, 4, 8), {}),
    "fft, long": ("fft", "forward", (1, 3000, 2), (300, 2, 2), {}),
    "fft, back": ("fft", "input_grad", (1, 22, 22, 8), (9, 9, 4, 8), {"input_size": 30}),
    "fft gradient": ("fft", "filter_grad", (1, 30, 30, 4), (1, 22, 22, 8), {"kernel_size": 9}),
    "fft, depthwise": (
        "fft", "forward", (1, 40, 40, 32), (15, 15, 1, 32), {"groups": 32, "padding": 7},
    ),
    "fft, wide depthwise": (
        "fft", "forward", (1, 20, 20, 512), (9, 9, 1, 512), {"groups": 512, "padding": 4},
    ),
    "fft, depthwise gradient": (
        "fft", "filter_grad", (2, 40, 40, 32), (2, 40, 40, 32),
        {"groups": 32, "padding": 7, "kernel_size": 15},
    ),
    "fft, each gradient": (
        "fft", "filter_grad", (2, 40, 40, 32), (2, 40, 40, 32),
        {"groups": 32, "padding": 7, "kernel_size": 15, "per_example": True},
    ),
    "gemm": ("gemm", "forward", (2, 40, 40, 32), (3, 3, 32, 64), {"padding": 1}),
    "gemm by tap": ("gemm", "forward", (1, 7, 7, 256), (3, 3, 256, 256), {"padding": 1}),
    "gemm by tap, back": (
        "gemm", "input_grad", (1, 7, 7, 256), (3, 3, 256, 256), {"padding": 1, "input_size": 7},
    ),
    "gemm, phases": (
        "gemm", "input_grad", (2, 10, 10, 64), (3, 3, 32, 64),
        {"padding": 1, "stride": 2, "input_size": 20},
    ),
    "gemm gradient": (
        "gemm", "filter_grad", (2, 20, 20, 32), (2, 20, 20, 64),
        {"padding": 1, "kernel_size": 3},
    ),
    "gemm, each gradient": (
        "gemm", "filter_grad", (3, 20, 20, 32), (3, 18, 18, 64),
        {"kernel_size": 3, "per_example": True},
    ),
    "strided": ("strided", "forward", (2, 20, 20, 32), (3, 3, 32, 64), {"padding": 1}),
    "strided, small": ("strided", "forward", (1, 5, 5, 2), (3, 3, 2, 4), {}),
    "strided, back": (
        "strided", "input_grad", (2, 20, 20, 64), (3, 3, 32, 64), {"padding": 1, "input_size": 20},
    ),
    "strided gradient": (
        "strided", "filter_grad", (2, 20, 20, 32), (2, 18, 18, 64), {"kernel_size": 3},
    ),
}  # fmt: skip


class Seen:
    """Record what ran: compiled kernels, blocks on the thread pool, plans of array code,
    einsums."""

    def __init__(self):
        self.calls, self.runs, self.tile_sizes, self.periods, self.equations = [], [], [], [], []

    def named(self, *names):
        return [call for call in self.calls if call.kernel.name in names]


@contextmanager
def observed():
    """Record all functions that compute, during a ``with`` block."""
    seen, own = Seen(), vars(backend.BACKEND)

    def run(make, boxes, threads, real=own["run"]):
        seen.runs.append((len(boxes), threads))
        return real(make, boxes, threads)

    def einsum(equation, *given, real=own["einsum"]):
        seen.equations.append(equation)
        return real(equation, *given)

    with (
        use(backend={"run": run, "einsum": einsum}),
        watching("run blocks of Winograd's tiles", keep_caches=True) as filtered,
        watching("transform axes", keep_caches=True) as transforms,
        watching_kernels() as seen.calls,
    ):
        try:
            yield seen
        finally:
            seen.tile_sizes += [call.args[2].tile_sizes for call in filtered]
            seen.periods += [call.args[0] for call in transforms]


def numbers(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype == "int8":
        return rng.integers(-2, 3, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def made(name):
    algorithm, direction, first, second, keywords = CASES[name]
    p = es.plan(first, second, **({"direction": direction, "algorithm": algorithm} | keywords))
    dtype = keywords.get("dtype", "float32")
    return p, numbers(first, dtype, 1), numbers(second, dtype, 2)


def field(spec, path):
    """Return a side of the register tile from the specification of a kernel."""
    value = spec
    for part in path.split("."):
        value = getattr(value, part)
    return value


def tile_of(kernel):
    """Return the sides of the register tile of a kernel that ran, from its specification."""
    return [field(kernel.parameters[0], path) for path in SIDES[kernel.name]]


def check_direct(described, seen):
    name = described["kernel"].partition(":")[0]
    if "copies" in described:  # the kernel runs inside of the one that copies blocks
        (blocks,) = seen.named("staged")
        chunks = blocks.argument("chunks")
        assert described["chunks"] == chunks
        assert described["threads"] == min(blocks.threads, chunks)
        assert name in SIDES
        return
    main = seen.named(*SIDES)
    assert {call.kernel.name for call in main} == {name}
    assert len(main) == described.get("passes", 1) * described.get("parts of the filter", 1)
    chunks = [c.argument("chunks") for c in main]
    alike = [(tile_of(c.kernel), n, min(c.threads, n)) for c, n in zip(main, chunks, strict=True)]
    assert (
        list(described["register tile"].values()),
        described["chunks"],
        described["threads"],
    ) in alike
    assert ("8-bit" in described["kernel"]) == any(
        getattr(c.kernel.parameters[0], "vnni", 0) for c in main
    )
    assert described["target"] == str(jit.host_target())
    engine = {"depthwise": "channelwise", "blocks": "few channels", "lines": "few channels",
              "runs": "few channels", "run_lanes": "few channels", "outer": "dense",
              "blocked": "dense"}  # fmt: skip
    assert described["engine"] == engine.get(
        name, engine.get(name.split("_")[0], name.split("_")[0])
    )


def check_winograd(described, seen):
    groups = described.get("groups, one after another", 1)
    compiled = seen.named("winograd", "winograd_grad")
    assert described["compiled"] is bool(compiled)
    if not compiled:
        (tile,) = {str(s) for s in seen.tile_sizes}
        assert described["tile"] == tile
        pairs = zip(seen.tile_sizes[0].m, seen.tile_sizes[0].kernel, strict=True)
        axes = [f"F({m}, {r})" if r > 1 else "taps summed directly" for m, r in pairs]
        assert list(described["axes"].values()) == axes
        assert (described.get("units", described["blocks"]), described["threads"]) in seen.runs
        return
    assert len(compiled) == groups
    call = compiled[0]
    form = call.kernel.parameters[0]
    assert described["kernel"].startswith(call.kernel.name + ":")
    assert list(described["register tile"].values()) == [form.lanes, form.vectors, form.tile]
    inner = [f"F({m}, {r})" for m, r in form.outputs_and_taps if r > 1]
    assert [v for v in described["axes"].values() if v.startswith("F")] == inner
    assert described["tiles"] == call.argument("tiles")
    assert described["tiles in a block"] == call.argument("block")
    assert described["threads"] == call.threads
    if "filter" in described:
        assert described["filter"].startswith("transformed once") == bool(
            seen.named("winograd_filter")
        )
        assert (call.kernel.parameters[1] == "prepared") == bool(seen.named("winograd_filter"))


def is_described(call, described):
    """True if the transforms are those of a kernel: a plan describes the largest of its passes."""
    plane = call.kernel.parameters[0]
    lengths = [call.argument(f"{axis}_length") for axis in ("height", "width")]
    lengths = lengths[1:] if plane.flat else lengths
    counts = [call.argument("down"), call.argument("across")]
    counts = counts[:1] if plane.flat else counts
    texts = described["transforms"].values()
    return described["lanes"] in ({"channels": plane.lanes}, {"tiles": plane.lanes}) and all(
        text.startswith(f"length {n} by FFT") and (plane.flat or f", {count} tiles of" in text)
        for text, n, count in zip(texts, lengths, counts, strict=True)
    )


def check_fft(described, seen):
    compiled = [call for call in seen.calls if call.kernel.name.startswith("fourier_")]
    assert described["compiled"] is bool(compiled)
    if compiled:
        assert {c.kernel.name for c in compiled} == set(described["kernel"].split(" and "))
        first = described["kernel"].split(" and ")[0]
        assert any(is_described(c, described) for c in compiled if c.kernel.name == first)
        return
    expected = [
        [f"length {x.period} by {'FFT' if x.fast else 'matrix'}, {x.tiles} tiles of {x.outputs} "
         "outputs" for x in axes]
        for axes in seen.periods
    ]  # fmt: skip
    assert list(described["transforms"].values()) in expected
    assert described["threads"] in [threads for _, threads in seen.runs]


def check_gemm(described, seen):
    count = described["units"] if "units" in described else described["blocks"]
    if described["cut"] == "by tap and channel":
        count = described["threads"]  # each thread has an equal part of the work
    if described["cut"] == "by examples and positions":  # blocks have whole examples
        assert described["threads"] in [threads for _, threads in seen.runs]
        return
    assert (count, described["threads"]) in seen.runs
    assert len(seen.runs) == described.get("passes", 1)


def check_strided(described, seen):
    assert {f"einsum {e}" for e in seen.equations} == {described["kernel"]}
    assert len(seen.equations) == described["parts"]
    assert [r[0] for r in seen.runs] == ([described["parts"]] if described["parts"] > 1 else [])


CHECKS = {
    "direct": check_direct, "winograd": check_winograd, "fft": check_fft, "gemm": check_gemm,
    "strided": check_strided,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_plan_says_is_what_runs(name):
    if CASES[name][0] == "direct" and not FAST:
        pytest.skip("the extra fast is missing")
    p, first, second = made(name)
    described = p.execution
    with observed() as seen:
        p(first, second)
    CHECKS[p.algorithm](described, seen)


@fast
def test_the_cases_use_every_kernel_of_direct():
    every = {made(name)[0].execution["kernel"].partition(":")[0]
             for name, case in CASES.items() if case[0] == "direct"}  # fmt: skip
    every |= {p.execution["kernel"].partition(":")[0] for p in more_plans()}
    assert every == set(SIDES)


def more_plans():
    """Return plans of kernels that only other memory orders or sizes use."""
    yield es.plan((2, 1, 40, 40), (2, 1, 36, 36), direction="filter_grad", kernel_size=5,
                  layout="channels_first", algorithm="direct")  # fmt: skip
    yield es.plan((2, 9, 9, 32), (2, 9, 9, 32), direction="filter_grad", kernel_size=9, padding=4,
                  groups=32, algorithm="direct")  # fmt: skip


@pytest.mark.parametrize("algorithm", CHECKS)
@pytest.mark.parametrize("which", DIRECTIONS)
@settings(max_examples=8)
@given(case=cases(max_rank=3), seed=seeds)
def test_the_description_of_any_plan_is_true(which, algorithm, case, seed):
    x, f, gy = arrays(case, "float32", seed)
    with unless_refused(algorithm):
        keywords = case.keywords | {"algorithm": algorithm}
        p, _, operands, _ = planned(case, which, x, f, gy, **keywords)
        described = p.execution
        with observed() as seen:
            p(*operands)
        if not described["kernel"].startswith("none"):
            CHECKS[algorithm](described, seen)


@fast
def test_plans_assume_contiguous_channels():
    """Plans assume contiguous channels and say so; arrays with other strides may use another
    engine."""
    p = es.plan((2, 20, 20, 64), (3, 3, 4, 64), groups=16, algorithm="direct")
    described = p.execution
    assert described["engine"] == "grouped"
    assert described["assumes"].startswith("packed")
    x, f = numbers((2, 20, 20, 128), "float32", 1)[..., ::2], numbers((3, 3, 4, 64), "float32", 2)
    with observed() as seen:
        p(x, f)
    assert not seen.named("grouped")


@pytest.mark.parametrize("name", ["dense", "winograd", "fft, depthwise", "gemm"])
def test_nothing_is_compiled(name):
    if CASES[name][0] == "direct" and not FAST:
        pytest.skip("the extra fast is missing")
    before = jit.count()
    with failing("compile a kernel", AssertionError("a kernel was compiled for a plan")):
        p, _, _ = made(name)
        assert p.execution["kernel"] in str(p)
        assert p.execution["kernel"] in json.loads(p.to_json())["execution"]["kernel"]
    assert jit.count() == before


def test_without_products_there_is_no_kernel():
    p = es.plan((0, 9, 9, 3), (3, 3, 3, 4))
    assert p.execution["kernel"].startswith("none")
    assert "none: nothing is to be multiplied" in str(p)


@pytest.mark.parametrize("name", CASES)
def test_it_is_printed_and_saved(name):
    if CASES[name][0] == "direct" and not FAST:
        pytest.skip("the extra fast is missing")
    p, _, _ = made(name)
    lines = str(p).splitlines()
    top, end = lines.index(f"{p.algorithm}:"), lines.index(p_table(p)[0])
    block = lines[top + 1 : end]
    assert [line.split("  ")[1].strip() for line in block] == list(p.execution)
    assert len({len(line) - len(line[2:].split("  ", 1)[1].lstrip()) for line in block}) == 1
    for line, value in zip(block, p.execution.values(), strict=True):
        if isinstance(value, int) and not isinstance(value, bool):
            assert line.endswith(f" {value}")
        if isinstance(value, str):
            assert line.endswith(value)
    text = p.to_json()
    assert json.loads(text)["execution"] == p.execution
    assert es.Plan.from_json(text).to_json() == text


def p_table(p):
    return [line for line in str(p).splitlines() if line.startswith("algorithm ")]


def test_explain_prints_it(capsys):
    assert main(["explain", "2x20x20x32", "3x3x32x64", "--algorithm", "gemm"]) == 0
    out = capsys.readouterr().out
    p = es.plan((2, 20, 20, 32), (3, 3, 32, 64), algorithm="gemm")
    assert out == f"{p}\n"
    assert "\ngemm:\n  compiled" in out
    assert main(["explain", "2x20x20x32", "3x3x32x64", "--algorithm", "gemm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["execution"] == p.execution


def test_a_plan_of_another_machine_describes_this_one():
    """A loaded plan describes its execution on this machine, also if it was saved without one."""
    p = es.plan((2, 20, 20, 32), (3, 3, 32, 64), algorithm="gemm")
    content = json.loads(p.to_json())
    content["execution"] = {"kernel": "of another machine", "register tile": {"lanes": 4}}
    loaded = es.Plan.from_json(json.dumps(content))
    assert loaded.execution == p.execution
    assert "another machine" not in str(loaded) + loaded.to_json()
    del content["execution"]
    assert es.Plan.from_json(json.dumps(content)).to_json() == p.to_json()


@pytest.mark.parametrize(
    "value",
    [None, 3, "text", [], ["kernel"], {"kernel": None}, {"kernel": [1]}, {"kernel": 1.5},
     {"tile": {"lanes": None}}, {"tile": {"lanes": {"deep": 1}}}],
    ids=str,
)  # fmt: skip
def test_invalid_executions_are_refused(value):
    content = json.loads(es.plan((1, 9, 9, 3), (3, 3, 3, 4), algorithm="gemm").to_json())
    content["execution"] = value
    with refused("Plan.from_json", ValueError, "to_json"):
        es.Plan.from_json(json.dumps(content))


def test_the_caller_may_change_a_description():
    p = es.plan((1, 9, 9, 3), (3, 3, 3, 4), algorithm="gemm")
    p.execution["kernel"] = "a lie"
    assert p.execution["kernel"] != "a lie"


WITHOUT = """
import sys
sys.modules["llvmlite"] = None
sys.path[:0] = {path!r}
import test_execution as tests
for name, case in tests.CASES.items():
    if case[0] == "direct":
        continue
    p, first, second = tests.made(name)
    described = p.execution
    assert described["compiled"] is False, described
    assert described["extra"].startswith("needs llvmlite"), described
    assert "llvmlite" in str(p)
    with tests.observed() as seen:
        p(first, second)
    tests.CHECKS[p.algorithm](described, seen)
print("described")
"""


def test_without_the_extra_fast():
    """In a process without LLVM, plans describe array code."""
    script = WITHOUT.format(path=sys.path)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "described\n", done.stderr
