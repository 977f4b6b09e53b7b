"""Registers the tests of the cells of docs/mapping.md, {(row, library): function}.

Each function returns (result of einstride, result of the library). All values are integers, so that
both must be equal to the last bit.
"""

import numpy as np
import pytest

import einstride as es
from strategies import integer_data

CELLS = {}

X = integer_data((2, 9, 8, 4), "float64", 1)
F = integer_data((3, 2, 2, 6), "float64", 2)  # filter of two groups
UNGROUPED = integer_data((3, 2, 4, 6), "float64", 3)  # filter of one group
BIAS = integer_data((6,), "float64", 4)
GROUPED = {"stride": (2, 1), "dilation": (1, 2), "groups": 2}
LINE, TAPS = integer_data((1, 9, 1), "float64", 5), integer_data((3, 1, 1), "float64", 6)
COMPLEX = integer_data((2, 9, 8, 4), "complex128", 7), integer_data((3, 2, 4, 6), "complex128", 8)
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def cell(row, library):
    def register(function):
        CELLS[row, library] = function
        return function

    return register


def first(a):
    """Move the axes from channels last to channels first."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def first_filter(f):
    """Move the axes of a filter from (*K, C, D) to (D, C, *K)."""
    return np.ascontiguousarray(np.moveaxis(f, (-1, -2), (0, 1)))


def last(a):
    return np.moveaxis(np.asarray(a), 1, -1)


def last_filter(f):
    return np.moveaxis(np.asarray(f), (0, 1), (-1, -2))


def library(name, reason="is not installed"):
    """Import a module, or skip the test with the reason."""
    try:
        return pytest.importorskip(name, reason=f"{name} {reason}", exc_type=ImportError)
    except pytest.skip.Exception:
        raise
    except Exception as error:  # some libraries raise other errors than ImportError
        pytest.skip(f"{name} cannot be imported: {error!r}")


def plain(**keywords):
    """Convolve without groups, with the filter `UNGROUPED`."""
    return es.conv(X, UNGROUPED, **keywords)


GY = integer_data(es.conv(X, F, **GROUPED).shape, "float64", 9)
GY_PLAIN = integer_data(plain(stride=2).shape, "float64", 10)
SMALL = integer_data((2, 5, 4, 6), "float64", 11)  # the input of a transposed convolution
