"""Depthwise kernels that load each vector of x once are exact: tiles, borders, strides, copies."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands, same
from einstride import _testing
from strategies import arrays

pytest.importorskip("llvmlite")

from einstride.cpu.runtime import spin_handoff
from test_simd_channelwise import check, depthwise, only_this_engine, target  # noqa: F401

GEOMETRIES = {
    "short row": depthwise(16, input_size=(9, 14)),
    "short row, stride 2": depthwise(17, input_size=(9, 15), stride=(2, 2), flip=True),
    "short row, stride 3, dilated": depthwise(16, input_size=(13, 17), stride=(3, 3),
                                              dilation=(2, 2), pads=((2, 1), (1, 3))),
    "long row": depthwise(16, input_size=(7, 61)),
    "long row, stride 2": depthwise(33, input_size=(8, 90), stride=(2, 2), flip=True),
    "long row, odd stride": depthwise(16, input_size=(6, 91), stride=(1, 3), kernel_size=(2, 5)),
    "long row, dilated": depthwise(16, input_size=(9, 64), dilation=(2, 3),
                                   pads=((2, 3), (5, 4))),
    "long row, cropped": depthwise(16, input_size=(9, 64), pads=((-2, 1), (-3, -4))),
    "long row, one side": depthwise(16, input_size=(9, 40), pads=((0, 3), (0, 6)),
                                    kernel_size=(4, 7)),
    "all taps of 5 x 5": depthwise(16, input_size=(11, 40), kernel_size=(5, 5),
                                   pads=((2, 2), (2, 2))),
    "one row": depthwise(16, input_size=(1, 40), kernel_size=(1, 3), pads=((0, 0), (1, 1))),
    "one column": depthwise(16, input_size=(12, 1), kernel_size=(3, 1), pads=((1, 1), (0, 0))),
    "wide filter": depthwise(16, input_size=(5, 70), kernel_size=(3, 31),
                             pads=((1, 1), (15, 15))),
    "wide filter, stride 2": depthwise(16, input_size=(4, 80), kernel_size=(2, 33), stride=(1, 2),
                                       pads=((0, 1), (16, 17))),
    "copied": depthwise(64, input_size=(7, 7), kernel_size=(13, 13), pads=((6, 6), (6, 6)),
                        batch=3),
    "copied, last vector": depthwise(35, input_size=(9, 8), kernel_size=(5, 5), stride=(2, 2),
                                     pads=((2, 2), (2, 1)), flip=True),
    "copied line": depthwise(16, input_size=(200,), kernel_size=(31,), stride=(1,),
                             pads=((15, 15),), dilation=(1,)),
    "copied line, dilated": depthwise(16, input_size=(200,), kernel_size=(29,), stride=(2,),
                                      pads=((30, 31),), dilation=(3,)),
    "long line": depthwise(16, input_size=(700,), kernel_size=(9,), stride=(1,),
                           pads=((4, 4),), dilation=(1,)),
    "volume, deep": depthwise(16, input_size=(5, 9, 14), kernel_size=(3, 3, 3), stride=(1, 1, 1),
                              pads=((1, 1), (1, 1), (1, 1)), dilation=(1, 1, 1)),
    "volume, strided": depthwise(17, input_size=(5, 9, 40), kernel_size=(3, 3, 3),
                                 stride=(2, 2, 2), pads=((1, 1),) * 3, dilation=(1, 1, 1)),
    "reflect, long": depthwise(16, input_size=(9, 50), pads=((2, 1), (4, 3)), mode="reflect"),
    "replicate, short": depthwise(16, input_size=(9, 9), pads=((2, 1), (4, 3)), mode="replicate"),
    "circular, copied": depthwise(16, input_size=(9, 9), kernel_size=(5, 5),
                                  pads=((2, 2), (3, 2)), mode="circular"),
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("which", PASSES)
def test_geometries(which, name):
    check(which, GEOMETRIES[name])


@pytest.mark.parametrize("name", ["short row", "long row, stride 2", "copied", "wide filter"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
@pytest.mark.parametrize("which", PASSES)
def test_every_width_of_vectors(target, which, dtype, name):  # noqa: F811
    check(which, GEOMETRIES[name], dtype)


@pytest.mark.parametrize("dtype", ["float16", "int16", "int64"])
@pytest.mark.parametrize("which", PASSES)
def test_other_numbers(which, dtype):
    check(which, GEOMETRIES["long row"], dtype)
    check(which, GEOMETRIES["copied line"], dtype)


@pytest.mark.parametrize("name", ["short row", "long row, stride 2", "copied"])
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_odd_memory(which, name):
    """Operands with negative strides and gaps give right results, also in a result with gaps."""
    case = GEOMETRIES[name]
    function, args, pair = operands(which, case, *arrays(case, "float32", 4))
    first, rest = args[0], args[1:]
    expected = oracle.FAST[which](*pair, case)
    spaces = tuple(range(1, first.ndim - 1))
    backwards = np.flip(np.ascontiguousarray(np.flip(first, spaces)), spaces)
    wide = np.repeat(first, 2, axis=2)[:, :, ::2]
    for odd in (backwards, wide):
        room = np.full((*expected.shape[:-1], expected.shape[-1] + 3), 7, "float32")
        function(odd, *rest, out=room[..., :-3], algorithm="direct", **case.explicit)
        same(room[..., :-3], expected)
        assert (room[..., -3:] == 7).all()


@pytest.mark.parametrize("name", ["short row", "long row", "copied", "copied line", "volume, deep"])
@pytest.mark.parametrize("which", PASSES)
def test_threads_and_batch_leave_the_bits_alone(which, name):
    case = GEOMETRIES[name]
    rng = np.random.default_rng(3)
    given = [rng.standard_normal(s).astype("float32") for s in
             (case.x_shape, case.f_shape, case.y_shape)]  # fmt: skip
    function, args, _ = operands(which, case, *given)
    found = []
    for threads in (1, 2, 5):
        with _testing.use(threads=threads, constants={"products worth threads": 0}):
            found.append(function(*args, algorithm="direct", **case.explicit))
    for other in found[1:]:
        same(other.view("u4"), found[0].view("u4"))
    if which != "filter_grad":
        last = function(args[0][-1:], *args[1:], algorithm="direct", **case.explicit)
        same(last.view("u4"), found[0][-1:].view("u4"))


@pytest.mark.parametrize("name", ["short row", "long row", "long row, stride 2", "copied"])
@pytest.mark.parametrize("which", PASSES)
def test_nan_stays_inside_its_own_windows(which, name):
    """A NaN or an infinity reaches only the results of its windows, also at borders."""
    case = GEOMETRIES[name]
    function, args, pair = operands(which, case, *arrays(case, "float32", 5))
    for i in range(2):
        spoiled = [a.copy() for a in args[:2]]
        middle = tuple(n // 2 for n in spoiled[i].shape)
        spoiled[i][middle] = np.nan
        mark = [np.ones_like(a) for a in pair]
        mark[i][...] = 0
        mark[i][middle] = 1
        touched = oracle.FAST[which](*mark, case) != 0
        found = function(*spoiled, *args[2:], algorithm="direct", **case.explicit)
        np.testing.assert_array_equal(np.isnan(found), touched)


def test_bias_of_a_part_of_a_vector():
    case = GEOMETRIES["copied, last vector"]
    x, f, _ = arrays(case, "float32", 6)
    bias = np.arange(case.filters, dtype="float32")
    y = es.conv(x, f, bias, algorithm="direct", **case.explicit)
    same(y, oracle.fast_forward(x, f, case) + bias)


@pytest.mark.parametrize("name", ["long row", "long row, stride 2", "copied", "copied line"])
@pytest.mark.parametrize("which", PASSES)
def test_these_kernels_are_taken(which, name):
    """The cases of this file run the depthwise kernels, and no others."""
    with _testing.watching("get a kernel") as calls:
        check(which, GEOMETRIES[name])
    taken = [
        (module, getattr(spec, "packed", 0))
        for module, _, spec in (call.args for call in calls)
        if module
        != spin_handoff.NAME  # a kernel of the thread pool, compiled in the first call of a process
    ]
    few = which != "filter_grad" or "copied" not in name
    expected = "depthwise_gradient" if which == "filter_grad" else "depthwise"
    assert [module == expected for module, _ in taken] == [few]
    assert which == "filter_grad" or bool(taken[0][1]) is name.startswith("copied")
