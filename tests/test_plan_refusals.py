"""es.plan and Plan.from_json refuse wrong arguments, and foreign or truncated JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import einstride as es
from checks import refused, well_formed

FORWARD = es.plan((2, 8, 8, 3), (3, 3, 3, 4), padding=((1, 2), "same"))
TRANSPOSE = es.plan((2, 8, 8, 4), (3, 3, 3, 4), direction="transpose", stride=2, output_padding=1)
EACH = es.plan((2, 8, 3), (2, 6, 4), direction="filter_grad", kernel_size=3, per_example=True)
PLANS = {"forward": FORWARD, "transpose": TRANSPOSE, "each": EACH}


@pytest.mark.parametrize(
    ("keywords", "kind", "says"),
    [
        ({"direction": "backward"}, ValueError, "direction"),
        ({"direction": None}, TypeError, "direction"),
        ({"direction": "input_grad"}, ValueError, "input_size"),
        ({"direction": "filter_grad"}, ValueError, "kernel_size"),
        ({"per_example": True}, ValueError, "per_example"),
        ({"per_example": 1}, TypeError, "per_example"),
        ({"dtype": "float8"}, TypeError, "dtype"),
        ({"dtype": "object"}, TypeError, "dtype"),
        ({"dtype": 3}, TypeError, "dtype"),
        ({"library": "nosuch"}, (TypeError, ValueError), "nosuch"),
        ({"library": 3}, (TypeError, ValueError), "library"),
        ({"algorithm": "warp"}, ValueError, "algorithm"),
        ({"groups": 2}, ValueError, "groups"),
        ({"stride": 0}, ValueError, "stride"),
        ({"max_workspace": -1}, ValueError, "max_workspace"),
        ({"accumulate": "int8"}, ValueError, "accumulate"),
        ({"algorithm": "gemm", "max_workspace": 0}, ValueError, "max_workspace"),
    ],
    ids=str,
)
def test_wrong_keywords(keywords, kind, says):
    with refused("plan", kind, says):
        es.plan((2, 8, 8, 3), (3, 3, 3, 4), **keywords)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ((2, 8, 8, 3), (3, 3, 4, 4), ValueError),
        ((2, 8, 3), (3, 3, 3, 4), ValueError),
        ((2, -8, 8, 3), (3, 3, 3, 4), ValueError),
        ((2, 8.0, 8, 3), (3, 3, 3, 4), TypeError),
        ((2, True, 8, 3), (3, 3, 3, 4), TypeError),
        ((), (3, 3, 3, 4), ValueError),
        ("2x8", (3, 3, 3, 4), TypeError),
        (None, (3, 3, 3, 4), TypeError),
    ],
    ids=str,
)
def test_wrong_operands(first, second, kind):
    with refused("plan", kind):
        es.plan(first, second)


@pytest.mark.parametrize("name", PLANS)
def test_every_truncation_is_refused(name):
    text = PLANS[name].to_json()
    for length in range(len(text)):
        with refused("Plan.from_json", ValueError):
            es.Plan.from_json(text[:length])


@pytest.mark.parametrize("text", ["null", "3", "[]", '"gemm"', "{}", '{"algorithm": "gemm"}', "{]"])
def test_other_json(text):
    with refused("Plan.from_json", ValueError, "to_json"):
        es.Plan.from_json(text)


@pytest.mark.parametrize("text", [None, 3, FORWARD, {"algorithm": "gemm"}], ids=str)
def test_no_text(text):
    with refused("Plan.from_json", (ValueError, TypeError)):
        es.Plan.from_json(text)


FOREIGN = {
    "algorithm": ["warp", None, 3, ["gemm"], "auto, gemm"],
    "direction": ["sideways", None, 3, ["forward"], "transpose"],
    "dtypes": [[], ["float32"], ["float32"] * 3, ["float32", "object"], [None, None], "float32", 3,
               [["float32"], "float32"], [{}, "float32"]],
    "library": ["nosuch", "os", "", None, 3, ["numpy"], "numpy.linalg"],
    "shapes": [[], [[2, 8, 8, 3]], [[2, 8, 8, 3]] * 3, [[2, -8, 8, 3], [3, 3, 3, 4]], None, "ab",
               [[2, 8.5, 8, 3], [3, 3, 3, 4]], ["abcd", [3, 3, 3, 4]], [2, 3], [{}, {}],
               [[2, True, 8, 3], [3, 3, 3, 4]], [[2, None, 8, 3], [3, 3, 3, 4]]],
    "keywords": [None, [], 3, {"stride": 1}, {}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), [(k, v) for k, vs in FOREIGN.items() for v in vs], ids=lambda v: str(v)[:40]
)
def test_foreign_values(key, value):
    with refused("Plan.from_json", (ValueError, TypeError)):
        es.Plan.from_json(json.dumps(json.loads(FORWARD.to_json()) | {key: value}))


@pytest.mark.parametrize(
    ("name", "extra"),
    [("transpose", value) for value in (None, 3, [], [1], [1, None, 2], ["a", None], {}, [1, 16])]
    + [("each", value) for value in (None, [], ["per_example"], ["every", 3], {"kernel_size": 3},
                                     ["per_example", 3, 4], ["per_example", None])]
    + [("forward", value) for value in (3, [3, 3], "x", ["per_example", 3])],
    ids=str,
)  # fmt: skip
def test_foreign_extras(name, extra):
    with refused("Plan.from_json", (ValueError, TypeError)):
        es.Plan.from_json(json.dumps(json.loads(PLANS[name].to_json()) | {"extra": extra}))


@pytest.mark.parametrize("key", sorted(set(json.loads(FORWARD.to_json())) - {"execution"}))
def test_a_missing_entry(key):
    """JSON without one of its entries is refused; only the execution, a description, may be
    missing."""
    content = json.loads(FORWARD.to_json())
    del content[key]
    with refused("Plan.from_json", ValueError, "to_json"):
        es.Plan.from_json(json.dumps(content))


@pytest.mark.parametrize("where", ["top", "keywords"])
def test_an_unknown_entry_is_not_dropped(where):
    """JSON with an unknown entry, which another version may have written, is refused."""
    content = json.loads(FORWARD.to_json())
    (content if where == "top" else content["keywords"])["tune"] = True
    with refused("Plan.from_json", ValueError, "to_json"):
        es.Plan.from_json(json.dumps(content))


def test_a_missing_keyword():
    content = json.loads(FORWARD.to_json())
    del content["keywords"]["padding"]
    with refused("Plan.from_json", ValueError, "to_json"):
        es.Plan.from_json(json.dumps(content))


CONTENT = json.loads(FORWARD.to_json())
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    name=st.sampled_from(list(PLANS)), value=plain,
    key=st.sampled_from([*CONTENT, *CONTENT["keywords"]]),
)  # fmt: skip
def test_anything_is_a_plan_or_an_error(name, key, value):
    """Any value of any entry gives a plan or the library's own error."""
    content = json.loads(PLANS[name].to_json())
    (content if key in content else content["keywords"])[key] = value
    try:
        p = es.Plan.from_json(json.dumps(content))
    except (ValueError, TypeError) as error:
        sentence = str(error)
    else:
        assert es.Plan.from_json(p.to_json()).to_json() == p.to_json()
        return
    well_formed("Plan.from_json", sentence)
