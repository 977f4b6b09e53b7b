"""Compute graphs by real worker processes of dask.distributed, on the loopback interface."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

import einstride as es
from einstride import nn

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

RNG = np.random.default_rng(0)

# Of distributed and its sockets, when a worker is killed and when a cluster closes.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        mock.patch.dict(os.environ),  # a worker's variables are set in this process, too
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            host="127.0.0.1", memory_limit=None, silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


def test_workers_give_the_bits_of_one_process(client):
    x = RNG.standard_normal((2, 40, 40, 3))
    f = RNG.standard_normal((3, 3, 3, 4))
    lazy = da.from_array(x, chunks=(1, 15, 20, 3))
    layer = es.Conv(f, padding="same", accuracy="elementwise")
    y = layer(lazy)
    np.testing.assert_array_equal(y.compute(scheduler=client), layer(x))
    gf = es.conv_filter_grad(lazy, y, (3, 3), padding="same")
    here = gf.compute(scheduler="synchronous")
    np.testing.assert_array_equal(gf.compute(scheduler=client), here)


def test_a_killed_worker_costs_no_result(client):
    """One of two processes is killed while it holds chunks; the nanny starts another one."""
    x = da.random.default_rng(1).random((1, 400, 200, 1), chunks=(1, 20, 200, 1))
    slow = x.map_blocks(_wait, 0.1)
    y = es.conv(slow, np.ones((5, 5, 1, 1)), padding="same")
    expected = es.conv(x.compute(scheduler="synchronous"), np.ones((5, 5, 1, 1)), padding="same")
    found = y.persist(scheduler=client)
    victim = next(iter(client.run(os.getpid).values()))
    time.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    np.testing.assert_allclose(found.compute(scheduler=client), expected, rtol=1e-12)
    assert victim not in client.run(os.getpid).values()


def _wait(block: np.ndarray, seconds: float) -> np.ndarray:
    time.sleep(seconds)
    return block


class _Deadly(nn.CrossEntropy):
    """A loss that kills the process of the first shard that computes it."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    def value_and_gradient(self, y: Any, t: Any) -> Any:
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return super().value_and_gradient(y, t)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_costs_a_shard_and_no_training(client, tmp_path):
    x, t = RNG.standard_normal((16, 6, 6, 2)), RNG.integers(0, 3, 16)
    lazy = client.persist(da.from_array(x, chunks=(8, 6, 6, 2)))
    models = []
    for data, cluster in ((x, None), (lazy, client)):
        net = nn.Sequential(nn.Conv(4, 3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Dense(3))
        models.append(nn.Model(net, (6, 6, 2), dtype="float64"))
        loss = nn.CrossEntropy() if cluster is None else _Deadly(str(tmp_path / "killed"))
        models[-1].fit(
            data, t, loss, nn.Adam(0.01), epochs=1, batch_size=8, shards=2, cluster=cluster,
            progress=False,
        )  # fmt: skip
    assert (tmp_path / "killed").exists()
    for name, expected in models[0].parameters.items():
        np.testing.assert_allclose(models[1].parameters[name], expected, rtol=1e-12, atol=1e-12)


def test_a_model_larger_than_graphs_should_be_trains_without_a_warning(client):
    """The graph of a step holds the model, which Dask would take for an array in a wrong place."""
    net = nn.Sequential(nn.Flatten(), nn.Dense(3000), nn.ReLU(), nn.Dense(2))
    model = nn.Model(net, (32, 32, 1))
    assert sum(p.nbytes for p in model.parameters.values()) > 10_000_000
    data = (
        da.zeros((8, 32, 32, 1), dtype="float32", chunks=(4, -1, -1, -1)),
        da.zeros(8, dtype=int, chunks=4),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = model.fit(
            data=data, loss=nn.CrossEntropy(), optimiser=nn.SGD(0.1), epochs=1, batch_size=8,
            progress=False, cluster=client, shards=2,
        )  # fmt: skip
    assert len(history.epochs) == 1


def test_an_error_of_a_task_reaches_the_caller(client):
    x = da.full((1, 8, 1), 2**40, chunks=4, dtype="int64")
    y = es.conv(x, np.full((3, 1, 1), 2**40))
    with pytest.raises(ValueError, match="conv: sums of 3 products of these integers could leave"):
        y.compute(scheduler=client)


def test_workers_share_the_kernels_on_disk(client, tmp_path):
    """What one process has compiled, another one loads."""
    pytest.importorskip("llvmlite", reason="kernels are compiled by llvmlite")
    client.wait_for_workers(2, timeout=60)  # another test may have killed one
    first, second = client.scheduler_info()["workers"]
    counts = [
        client.run(_machine_codes, str(tmp_path), workers=[address])[address]
        for address in (first, second)
    ]
    assert counts[0] > 0
    assert counts[1] == 0


def _machine_codes(folder: str) -> int:
    """Return how many kernels a call compiles in a process that holds none."""
    from einstride import _testing

    with _testing.use(kernel_folder=folder), _testing.watching("compile a kernel") as made:
        es.conv(np.ones((1, 40, 40, 3)), np.ones((3, 3, 3, 5)), algorithm="direct")
    return len(made)


def test_a_lost_scheduler_gives_the_error_of_dask(tmp_path):
    """Its process is killed while the call waits for a worker, which never comes."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    silent = subprocess.DEVNULL
    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}):
        scheduler = subprocess.Popen([*command, *options], stdout=silent, stderr=silent)
        try:
            end = time.monotonic() + 60
            while not file.exists() and time.monotonic() < end:
                time.sleep(0.05)
            client = distributed.Client(scheduler_file=str(file), set_as_default=False, timeout=5)
            threading.Timer(0.3, scheduler.kill).start()
            y = es.conv(da.zeros((1, 40, 1), chunks=(1, 20, 1)), np.ones((3, 1, 1)))
            with pytest.raises(concurrent.futures.CancelledError, match="cancelled for reason"):
                y.compute(scheduler=client)
            with contextlib.suppress(Exception):
                client.close(timeout=1)
        finally:
            scheduler.kill()
            scheduler.wait(10)


def test_what_is_sent_is_small():
    """A layer after `forward`, a plan, and a task: the filter, and some integers and names."""
    layer = es.Conv(np.ones((3, 3, 4, 8), "float32"))
    layer.forward(np.ones((4, 100, 100, 4), "float32"))
    assert len(pickle.dumps(layer)) < layer.f.nbytes + 1000
    plan = es.plan((1, 64, 64, 4), (3, 3, 4, 8))
    again = pickle.loads(pickle.dumps(plan))
    assert (again.algorithm, again.output_shape) == (plan.algorithm, plan.output_shape)
    assert len(pickle.dumps(plan)) < 20_000
    lazy = da.zeros((1, 200, 200, 4), chunks=(1, 50, 50, 4))
    for y in (layer(lazy), es.conv_input_grad(layer(lazy), layer.f, (200, 200))):
        tasks = [task for key, task in y.dask.layers[y.name].items() if isinstance(key, tuple)]
        assert len(tasks) == y.npartitions
        assert max(len(pickle.dumps(task)) for task in tasks) < 3000
