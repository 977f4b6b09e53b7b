"""Plans of packed arrays predict at least what a call takes, and at most a quarter more."""

import numpy as np
import pytest

import einstride as es
from checks import PYTHON_OVERHEAD
from einstride import _testing
from test_workspace import peak

pytest.importorskip("llvmlite")  # without kernels other engines run, with other workspaces

ROWS = {  # the algorithm, x, the filter's side, output channels, keywords
    "dense": ("direct", (2, 14, 14, 128), 3, 160, {"padding": 1}),
    "phases": ("direct", (2, 14, 14, 256), 3, 256, {"padding": 1, "stride": 2}),
    "flipped": ("direct", (2, 14, 14, 128), 3, 160, {"padding": 1, "flip": True}),
    "by position": ("gemm", (2, 15, 15, 256), 3, 256, {"stride": 2}),
}


@pytest.mark.parametrize("which", ["forward", "input_grad", "filter_grad"])
@pytest.mark.parametrize("name", ROWS)
def test_a_prediction_is_what_a_call_takes(name, which):
    """Three copies of a filter and one of its gradient were once counted, but not made."""
    algorithm, size, side, filters, keywords = ROWS[name]
    x, f = np.ones(size, "float32"), np.ones((side, side, size[-1], filters), "float32")
    gy = np.ones(es.conv(x, f, **keywords).shape, "float32")
    function, given, sizes = {
        "forward": (es.conv, (x, f), {}),
        "input_grad": (es.conv_input_grad, (gy, f), {"input_size": x.shape[1:-1]}),
        "filter_grad": (es.conv_filter_grad, (x, gy), {"kernel_size": f.shape[:-2]}),
    }[which]
    keywords = {"algorithm": algorithm, **sizes, **keywords}
    with _testing.use(threads=1):  # with two, the second may begin when the first has ended
        predicted = es.plan(*given, direction=which, **keywords).workspace
        _, used = peak(function, *given, **keywords)
    assert used <= predicted + PYTHON_OVERHEAD
    assert predicted <= 1.25 * used + PYTHON_OVERHEAD


def test_a_split_by_tap_copies_no_filter():
    """The copy of the filter that a split by positions may need was predicted, too."""
    x, f = np.ones((1, 7, 7, 256), "float32"), np.ones((3, 3, 256, 256), "float32")
    with _testing.use(threads=2):
        assert 0 < es.plan(x, f, algorithm="gemm", padding=1).workspace < f.nbytes // 2
