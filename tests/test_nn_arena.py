"""Training steps reuse memory, and never overwrite an array that is still referenced."""

import numpy as np
import pytest

from einstride import nn
from einstride.nn import arena as arenas

pytestmark = pytest.mark.skipif(not arenas._UNUSED_COUNT, reason="references are not counted here")


def taken(arena, n=1 << 16):
    return arena.empty((n // 4,), "float32", np.empty(0, "float32"))


def address(a):
    return a.__array_interface__["data"][0]


def test_a_block_is_reused_when_nothing_references_it():
    arena = arenas.Arena()
    a = taken(arena)
    view, where = a[::2], address(a)
    del a
    assert address(taken(arena)) != where  # the view references the block
    del view
    assert address(taken(arena)) == where


def test_memory_that_a_step_did_not_need_is_freed():
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
    assert address(taken(arena)) % 64 == 0


class Keeping(nn.ReLU):
    """A layer that keeps references to its inputs."""

    def _forward(self, x, run, own):
        y, kept = super()._forward(x, run, own)
        self.seen = [*getattr(self, "seen", []), (y, y.copy())]
        return y, kept


def test_memory_of_referenced_arrays_is_never_reused():
    keeping = Keeping()
    net = nn.Sequential(nn.Conv(16, 3, padding=1), nn.BatchNorm(), keeping, nn.Conv(16, 3),
                        nn.GlobalAvgPool(), nn.Dense(2))  # fmt: skip
    model = nn.Model(net, (16, 16, 3))
    x = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype("float32")
    for _ in range(4):
        model.step(x, np.zeros(8, int), nn.CrossEntropy(), nn.SGD(0.1))
    for held, then in keeping.seen:
        np.testing.assert_array_equal(held, then)
    assert len({address(held) for held, _ in keeping.seen}) == 4


def test_fit_frees_all_memory():
    model = nn.Model(nn.Sequential(nn.Conv(32, 3), nn.GlobalAvgPool(), nn.Dense(2)), (32, 32, 3))
    x = np.zeros((8, 32, 32, 3), "float32")
    model.step(x, np.zeros(8, int), nn.CrossEntropy(), nn.SGD(0.1))
    assert model.arena._blocks
    model.fit(x, np.zeros(8, int), nn.CrossEntropy(), nn.SGD(0.1), epochs=1, progress=False)
    assert not model.arena._blocks
