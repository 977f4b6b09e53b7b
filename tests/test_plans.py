"""Plans can be printed, saved and run, and are made from shapes and dtypes alone."""

import re
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings

import einstride as es
from checks import ALGORITHMS as NAMES
from checks import PYTHON_OVERHEAD, promoted, refused, same, unless_refused
from einstride import _testing
from einstride.algorithms import ALGORITHMS as TABLE
from oracle import Case
from strategies import arrays, cases, seeds
from test_workspace import peak

HERE = ("strided", "gemm")  # algorithms for all NumPy arrays; others may refuse
CASE = Case(2, (9, 8), (3, 2), 4, 6, (2, 1), ((2, 1), (0, 1)), (1, 2), groups=2)
BIG = Case(4, (40, 40), (3, 3), 16, 24, (1, 1), ((1, 1), (1, 1)), (1, 1))


def calls(case, x, f, gy):
    """Return {direction: (function, arrays, further positional arguments, keywords of plan)}."""
    size = {"input_size": case.input_size}
    kernel = {"kernel_size": case.kernel_size}
    return {
        "forward": (es.conv, (x, f), {}, {}),
        "input_grad": (es.conv_input_grad, (gy, f), size, size),
        "filter_grad": (es.conv_filter_grad, (x, gy), kernel, kernel),
        "per_example": (
            es.conv_filter_grad, (x, gy), kernel | {"per_example": True},
            kernel | {"per_example": True, "direction": "filter_grad"},
        ),
        "transpose": (
            es.conv_transpose, (gy, f), {"output_size": case.input_size},
            {"output_size": case.input_size},
        ),
    }  # fmt: skip


ALGORITHMS = NAMES[1:]  # algorithms that run on NumPy
DIRECTIONS = tuple(calls(CASE, None, None, None))


def planned(case, which, x, f, gy, shapes=False, **keywords):
    function, given, extra, more = calls(case, x, f, gy)[which]
    operands = [a.shape for a in given] if shapes else given
    return es.plan(*operands, **({"direction": which} | more | keywords)), function, given, extra


@pytest.mark.parametrize("which", DIRECTIONS)
@settings(max_examples=20)
@given(case=cases(max_rank=3), seed=seeds)
def test_it_knows_the_result_and_gives_it(backend, which, case, seed):
    x, f, gy = arrays(case, "float32", seed)
    p, function, given, extra = planned(case, which, x, f, gy, shapes=True, **case.keywords)
    expected = function(*given, **extra, **case.keywords)
    assert p.output_shape == expected.shape
    assert p.dtype == "float32"
    x, f, gy = (backend.asarray(a) for a in (x, f, gy))
    mine = planned(case, which, x, f, gy, **case.keywords)[0]
    same(backend.asnumpy(mine(*calls(case, x, f, gy)[which][1])), expected)


@pytest.mark.parametrize("which", DIRECTIONS)
@pytest.mark.parametrize("algorithm", ["auto", *HERE])
def test_json_round_trip(which, algorithm):
    """A loaded plan has the algorithm, result and text of the saved one, not those of a new
    choice."""
    x, f, gy = arrays(CASE, "float64", 1)
    layout = {"layout": "NHWC,HWIO->NHWC", "flip": True}
    keywords = CASE.explicit | layout | {"algorithm": algorithm, "max_workspace": 2**22}
    with unless_refused(algorithm):
        round_trip(*planned(CASE, which, x, f, gy, **keywords), keywords)


def round_trip(p, function, given, extra, keywords):
    text = p.to_json()
    loaded = es.Plan.from_json(text)
    assert loaded.algorithm == p.algorithm
    assert "\n" not in text
    assert loaded.to_json() == text
    assert (loaded.output_shape, loaded.dtype, loaded.workspace) == (
        p.output_shape, p.dtype, p.workspace,
    )  # fmt: skip
    same(loaded(*given), p(*given))
    same(p(*given), function(*given, **extra, **keywords))


@pytest.mark.parametrize("which", DIRECTIONS)
def test_arrays_and_their_shapes_give_one_plan(which):
    x, f, gy = arrays(CASE, "float64", 1)
    first = planned(CASE, which, x, f, gy, **CASE.explicit)[0]
    second = planned(CASE, which, x, f, gy, shapes=True, dtype="float64", **CASE.explicit)[0]
    assert str(first) == str(second)
    assert first.to_json() == second.to_json()
    default = planned(CASE, which, x, f, gy, shapes=True, **CASE.explicit)[0]
    assert default.dtype == "float32"


@pytest.mark.parametrize("dtype", ["int8", "uint64", "bfloat16", "complex64", "float16"])
def test_dtypes_by_name(dtype):
    expected = dtype if dtype == "bfloat16" else promoted(dtype, dtype)
    assert es.plan((1, 5, 2), (3, 2, 4), dtype=dtype).dtype == expected


def rows(p):
    """Parse the table of a plan: {algorithm: cells of its row}."""
    lines = str(p).splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("algorithm"))
    cells = [re.split(r" {2,}", line.strip()) for line in lines[top:]]
    assert cells[0] == ["algorithm", "multiply-adds", "moved", "workspace", "predicted"]
    return "\n".join(lines[:top]), {row[0]: row[1:] for row in cells[1:]}


@pytest.mark.parametrize("which", DIRECTIONS)
def test_the_table(which):
    x, f, gy = arrays(BIG, "float32", 1)
    p = planned(BIG, which, x, f, gy, **BIG.explicit)[0]
    head, table = rows(p)
    shapes = (str(BIG.x_shape), str(BIG.f_shape), str(BIG.y_shape))
    settings = ("stride (1, 1)", "padding ((1, 1), (1, 1))", "dilation (1, 1)", "groups 1")
    for part in ("numpy", *shapes, "float32", *settings):
        assert part in head
    assert re.search(r"figures measured on .*, \d{4}-\d\d-\d\d", head)
    assert list(table) == list(TABLE)
    products = prod(BIG.y_shape) * prod(BIG.f_shape[:-1])
    for name, cells in table.items():
        if cells[0] == "-":
            assert name not in HERE
            assert cells[1:4] == ["-"] * 3
            assert len(cells[4].split()) > 2
            continue
        assert int(cells[0].replace(",", "")) >= products * (name in HERE)
        for cell in cells[1:3]:
            assert re.fullmatch(r"\d+ B|\d+\.\d [KMGT]iB", cell)
        assert re.fullmatch(r"\d+\.\d{3} ms", cells[3])
        verdict = "chosen" if name == p.algorithm else r"predicted \d+\.\d+x the time"
        note = r"; F\(\S+, 3x3\), error \de-\d\d normwise" if name == "winograd" else ""
        assert re.fullmatch(verdict + note, cells[4])
    assert f"{products:,}" == table["gemm"][0]


def test_the_table_says_why_each_rival_lost():
    asked = rows(es.plan((1, 9, 9, 3), (3, 3, 3, 4), algorithm="gemm"))[1]
    assert (asked["gemm"][-1], asked["strided"][-1]) == ("asked for", "not asked for")
    limited = rows(es.plan((8, 32, 32, 8), (3, 3, 8, 8), padding=1, max_workspace=100_000))[1]
    assert re.fullmatch(r"needs at least \d+ bytes of workspace", limited["strided"][-1])
    refusing = rows(es.plan((1, 9, 9, 3), (3, 3, 3, 4), batch_invariant=True))[1]
    assert refusing["strided"][0] == "-"
    assert "batch" in refusing["strided"][-1]


def test_repr_is_one_line():
    text = repr(es.plan((1, 9, 9, 3), (3, 3, 3, 4), algorithm="gemm"))
    assert text == "<Plan forward (1, 9, 9, 3) (3, 3, 3, 4): gemm>"


@pytest.mark.parametrize("which", DIRECTIONS)
@pytest.mark.parametrize("algorithm", HERE)
def test_the_workspace_is_an_upper_bound(which, algorithm):
    """The predicted workspace is never exceeded."""
    x, f, gy = arrays(BIG, "float32", 1)
    with unless_refused(algorithm):
        p, _, given, _ = planned(BIG, which, x, f, gy, algorithm=algorithm, **BIG.explicit)
        assert peak(p, *given)[1] <= p.workspace + PYTHON_OVERHEAD


TIGHT = {
    "complex": ("gemm", "filter_grad", (2, 14, 13, 12, 2), (1, 1, 1, 2, 24), "complex64",
                {"padding": ((-1, 2),) * 3, "accumulate": "complex128"}),
    "wide": ("gemm", "filter_grad", (2, 48, 44, 2), (3, 3, 2, 24), "complex64",
             {"dilation": (1, 2), "padding": 1, "padding_mode": "replicate",
              "input_dilation": 3}),
    "bordered": ("gemm", "input_grad", (2, 14, 13, 12, 16), (2, 2, 2, 16, 2), "float64",
                 {"stride": (2, 1, 2), "padding": 1, "padding_mode": "reflect",
                  "input_dilation": 2}),
    "stuffed": ("strided", "input_grad", (2, 14, 13, 12, 2), (2, 2, 2, 2, 24), "float32",
                {"stride": (2, 3, 2), "padding": 2, "input_dilation": (1, 1, 3)}),
    "forward": ("strided", "forward", (2, 14, 13, 12, 16), (1, 1, 1, 16, 8), "float64",
                {"stride": (2, 3, 1), "input_dilation": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", TIGHT)
def test_the_workspace_is_an_upper_bound_in_corners(name):
    """The predicted workspace counts conjugates, borders of dilated inputs and inserted zeros."""
    algorithm, which, x, f, dtype, keywords = TIGHT[name]
    x, f = np.ones(x, dtype), np.ones(f, dtype)
    gy = np.ones(es.conv(x, f, **keywords).shape, dtype)
    size = {
        "forward": {},
        "input_grad": {"input_size": x.shape[1:-1]},
        "filter_grad": {"kernel_size": f.shape[:-2]},
    }[which]
    given = {"forward": (x, f), "input_grad": (gy, f), "filter_grad": (x, gy)}[which]
    p = es.plan(*given, direction=which, algorithm=algorithm, **size, **keywords)
    assert peak(p, *given)[1] <= p.workspace + PYTHON_OVERHEAD


def test_bias_and_out():
    x, f, gy = arrays(CASE, "float64", 1)
    bias, out = np.arange(6.0), np.empty(CASE.y_shape)
    p = es.plan(x, f, **CASE.explicit)
    expected = es.conv(x, f, bias, **CASE.explicit)
    same(p(x, f, bias), expected)
    assert p(x, f, bias, out=out) is out
    same(out, expected)
    same(p(x, f, out=out), expected - bias)
    back = es.plan(gy, f, direction="transpose", output_size=(9, 8), **CASE.explicit)
    bias = np.arange(4.0)
    same(back(gy, f, bias), es.conv_transpose(gy, f, bias, output_size=(9, 8), **CASE.explicit))


X, F, GY = arrays(CASE, "float64", 1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((X[:1], F), "shapes"), ((X, F[:2]), "shapes"), ((X.astype("f4"), F), "dtypes"),
        ((X, F.astype("f4")), "dtypes"), ((F, X), "shapes"), ((X[..., None], F), "shapes"),
    ],
    ids=range(6),
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(given, says):
    with refused("Plan", ValueError, says):
        es.plan(X, F, **CASE.explicit)(*given)


def test_other_libraries_and_wrong_arguments_are_refused():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    p = es.plan(X, F, **CASE.explicit)
    with refused("Plan", ValueError, "array_api_strict"):
        p(strict.asarray(X), strict.asarray(F))
    with refused("Plan", TypeError, "library"):
        p(X, strict.asarray(F))
    with refused("Plan", TypeError, "array"):
        p(X.tolist(), F)
    with refused("Plan", ValueError, "bias"):
        p(X, F, np.ones(5))
    with refused("Plan", ValueError, "out"):
        p(X, F, out=np.empty((1, 1)))


def test_values_are_looked_at_when_it_runs():
    """A plan accepts integers that overflow, since it reads no values; its call refuses them."""
    x, f = np.full((1, 4, 1), 2**62), np.full((2, 1, 1), 2)
    p = es.plan(x, f)
    same(p(x // 2**40, f), es.conv(x // 2**40, f))
    with refused("Plan", ValueError, "int64"):
        p(x, f)


def huge(*shape):
    return np.broadcast_to(np.float32(1), shape)


@pytest.mark.parametrize("which", DIRECTIONS)
def test_planning_reads_no_values(which):
    """Plans of broadcast arrays of more than 2**31 elements are made, since no value is read."""
    case = Case(4096, (1024, 1024), (3, 3), 64, 64, (1, 1), ((1, 1), (1, 1)), (1, 1))
    x, f, gy = huge(*case.x_shape), huge(*case.f_shape), huge(*case.y_shape)
    p = planned(case, which, x, f, gy, **case.explicit)[0]
    if which in ("forward", "input_grad", "transpose"):
        assert p.output_shape == (4096, 1024, 1024, 64)
    assert str(9 * 64 * prod(case.y_shape)) in str(p).replace(",", "")

    def again():
        planned(case, which, x, f, gy, **case.explicit)
        return np.empty(0)

    assert peak(again)[1] < 64 * 1024


def test_plans_are_cached():
    with _testing.watching("choose a plan") as made:
        for _ in range(3):
            es.plan((3, 11, 13, 7), (3, 3, 7, 5), padding="same")
        assert len(made) == 1
        x, f = np.ones((3, 11, 13, 7), "f4"), np.ones((3, 3, 7, 5), "f4")
        es.conv(x, f, padding="same")  # has its own entry: errors name the function
        assert len(made) == 2
        es.conv(x + 1, f, padding="same")
        assert len(made) == 2
