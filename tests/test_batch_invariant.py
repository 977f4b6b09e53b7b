"""With batch_invariant=True, an example alone gives the bits that it gives in any batch."""

import numpy as np
import pytest

import einstride as es
from checks import refused, same
from einstride.algorithms import ALGORITHMS
from oracle import Case

# Cases in which blocks, threads and vector tails depend on the batch without batch_invariant.
CASES = {
    "small": Case(17, (9, 8), (3, 3), 5, 7, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "blocks": Case(17, (40, 37), (3, 3), 24, 20, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strided": Case(17, (33, 30), (5, 3), 12, 16, (2, 3), ((2, 2), (0, 1)), (1, 1)),
    "grouped": Case(17, (20, 19), (3, 3), 12, 18, (1, 1), ((2, 2), (2, 2)), (2, 2), groups=3),
    "wrapped": Case(17, (24, 21), (3, 3), 8, 8, (1, 1), ((2, 1), (1, 2)), (1, 1), mode="circular"),
    "line": Case(17, (700,), (9,), 3, 4, (1,), ((4, 4),), (1,)),
    "examples": Case(17, (28, 28), (3, 3), 16, 32, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "pointwise": Case(17, (14, 14), (1, 1), 64, 48, (1, 1), ((0, 0), (0, 0)), (1, 1)),
}
BATCHES = (2, 3, 8, 17)
CALLS = ("forward", "input_grad", "per_example", "transpose", "jvp")
DTYPES = ("float32", "float64", "complex64", "float16")


def rounded(shape, dtype, seed):
    """Return values whose sums depend on the order of their terms, in the last bits."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 3, shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.standard_normal(shape)
    return (values / 16 if dtype == "float16" else values).astype(dtype)


def call_of(which, case, dtype, algorithm):
    """Return (the call, its arrays with a batch, its arrays without a batch)."""
    x, f, gy = (rounded(s, dtype, i) for i, s in enumerate(
        (case.x_shape, case.f_shape, case.y_shape)))  # fmt: skip
    keywords = case.explicit | {"batch_invariant": True, "algorithm": algorithm}
    bare = {key: value for key, value in keywords.items() if key != "padding_mode"}
    return {
        "forward": (lambda x: es.conv(x, f, **keywords), (x,)),
        "input_grad": (lambda gy: es.conv_input_grad(gy, f, case.input_size, **keywords), (gy,)),
        "per_example": (
            lambda x, gy: es.conv_filter_grad(
                x, gy, case.kernel_size, per_example=True, **keywords
            ),
            (x, gy),
        ),
        "transpose": (
            lambda gy: es.conv_transpose(gy, f, output_size=case.input_size, **bare),
            (gy,),
        ),
        "jvp": (lambda x, dx: es.conv_jvp(x, f, dx, f[::-1], **keywords), (x, x[::-1].copy())),
    }[which]


def claims(algorithm, which, case, dtype):
    """True if the algorithm accepts batch_invariant; else check that its refusal gives the
    reason."""
    call, given = call_of(which, case, dtype, algorithm)
    try:
        call(*(a[:1] for a in given))
    except ValueError as error:
        refusal = str(error)
    else:
        return True
    assert f"algorithm={algorithm!r} cannot do this" in refusal
    assert f"{algorithm}: " in refusal
    return False


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("which", CALLS)
@pytest.mark.parametrize("name", CASES)
def test_alone_as_in_any_batch(name, which, algorithm):
    case = CASES[name]
    if which == "transpose" and case.mode != "zeros":
        case = CASES["blocks"]
    for dtype in DTYPES if name == "small" else DTYPES[:1]:
        if not claims(algorithm, which, case, dtype):
            assert algorithm != "auto"
            return  # the algorithm refuses batch_invariant
        call, given = call_of(which, case, dtype, algorithm)
        alone = np.concatenate([call(*(a[i : i + 1] for a in given)) for i in range(17)])
        for n in BATCHES:
            bits = f"u{alone.real.itemsize}"
            for lo in {0, 17 - n}:
                together = call(*(a[lo : lo + n] for a in given))
                same(together.view(bits), alone[lo : lo + n].view(bits))


@pytest.mark.parametrize("name", ["small", "blocks"])
def test_the_others_in_the_batch_may_hold_anything(name):
    case = CASES[name]
    x, f = rounded(case.x_shape, "float32", 1), rounded(case.f_shape, "float32", 2)
    keywords = case.explicit | {"batch_invariant": True}
    alone = es.conv(x[3:4], f, **keywords)
    wild = np.full_like(x, np.nan)
    wild[5] = x[3]
    same(es.conv(wild, f, **keywords)[5:6].view("u4"), alone.view("u4"))


def test_memory_order_of_the_batch_does_not_matter():
    case = CASES["blocks"]
    x, f = rounded(case.x_shape, "float32", 1), rounded(case.f_shape, "float32", 2)
    keywords = case.explicit | {"batch_invariant": True}
    whole = es.conv(x, f, **keywords)
    same(es.conv(x[::-1], f, **keywords)[::-1].view("u4"), whole.view("u4"))
    same(es.conv(x[::2], f, **keywords).view("u4"), whole[::2].view("u4"))


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
def test_a_sum_over_the_batch_cannot_promise_it(algorithm):
    x, gy = np.ones((2, 5, 1)), np.ones((2, 4, 1))
    with refused("conv_filter_grad", ValueError) as caught:
        es.conv_filter_grad(x, gy, 2, batch_invariant=True, algorithm=algorithm)
    assert f"algorithm={algorithm!r}" in str(caught.value)
    says = ("batch", "no kernels of its own for numpy", "CuPy only")
    assert any(words in str(caught.value) for words in says)


@pytest.mark.parametrize("which", ["forward", "input_grad", "per_example"])
def test_every_backend_gives_the_value(backend, which):
    case = CASES["small"]
    call, given = call_of(which, case, "float64", "auto")
    function = {"forward": es.conv, "input_grad": es.conv_input_grad}.get(
        which, es.conv_filter_grad
    )
    f = rounded(case.f_shape, "float64", 1)
    keywords = case.explicit | {"batch_invariant": True}
    extra = {"forward": (f,), "input_grad": (f, case.input_size)}.get(which, (case.kernel_size,))
    keywords |= {"per_example": True} if which == "per_example" else {}
    together = backend(function, *given, *extra, **keywords)
    np.testing.assert_allclose(together, call(*given), rtol=1e-12, atol=1e-9)
    one = backend(function, *(a[4:5] for a in given), *extra, **keywords)
    same(one.view("u8"), together[4:5].view("u8"))


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_it_is_true_or_false(value):
    with refused("conv", TypeError, "batch_invariant"):
        es.conv(np.ones((1, 4, 1)), np.ones((2, 1, 1)), batch_invariant=value)
