"""Memory of training steps goes round, and nothing that somebody still holds is overwritten."""

import numpy as np
import pytest

from einstride import nn
from einstride.nn import arena as arenas

pytestmark = pytest.mark.skipif(not arenas._UNUSED_COUNT, reason="references are not counted here")


def taken(arena, n=1 << 16):
    return arena.empty((n // 4,), "float32", np.empty(0, "float32"))


def place(a):
    return a.__array_interface__["data"][0]


def test_a_block_is_used_again_when_nobody_holds_it():
    arena = arenas.Arena()
    a = taken(arena)
    view, where = a[::2], place(a)
    del a
    assert place(taken(arena)) != where  # the view holds it
    del view
    assert place(taken(arena)) == where


def test_what_a_step_did_not_need_is_given_back():
    arena = arenas.Arena()
    a, c = taken(arena), taken(arena)
    del a, c
    arena.begin()
    taken(arena)
    arena.begin()
    assert [len(blocks) for blocks in arena._blocks.values()] == [1]
    arena.begin()
    assert not arena._blocks


def test_small_arrays_and_other_dtypes():
    arena = arenas.Arena()
    a = arena.empty((3, 5), "float64", np.empty(0))
    assert a.shape == (3, 5)
    assert a.dtype == "float64"
    assert not arena._blocks
    assert place(taken(arena)) % 64 == 0


class Keeping(nn.ReLU):
    """A layer whose author keeps what goes through."""

    def _forward(self, x, run, own):
        y, kept = super()._forward(x, run, own)
        self.seen = [*getattr(self, "seen", []), (y, y.copy())]
        return y, kept


def test_arrays_that_are_held_are_never_used_again():
    keeping = Keeping()
    net = nn.Sequential(nn.Conv(16, 3, padding=1), nn.BatchNorm(), keeping, nn.Conv(16, 3),
                        nn.GlobalAvgPool(), nn.Dense(2))  # fmt: skip
    model = nn.Model(net, (16, 16, 3))
    x = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype("float32")
    for _ in range(4):
        model.step(x, np.zeros(8, int), nn.CrossEntropy(), nn.SGD(0.1))
    for held, then in keeping.seen:
        np.testing.assert_array_equal(held, then)
    assert len({place(held) for held, _ in keeping.seen}) == 4


def test_fit_gives_everything_back():
    model = nn.Model(nn.Sequential(nn.Conv(32, 3), nn.GlobalAvgPool(), nn.Dense(2)), (32, 32, 3))
    x = np.zeros((8, 32, 32, 3), "float32")
    model.step(x, np.zeros(8, int), nn.CrossEntropy(), nn.SGD(0.1))
    assert model.arena._blocks
    model.fit(x, np.zeros(8, int), nn.CrossEntropy(), nn.SGD(0.1), epochs=1, progress=False)
    assert not model.arena._blocks
