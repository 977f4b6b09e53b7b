"""Times Dask arrays and streams: `python -m bench.large`, which prints tables.

Each row compares ways that take turns, and shows the median of the ratios of neighbouring turns:
other processes of the machine slow both alike.

- threads: `es.conv` of a Dask array, by Dask's threads, against `es.conv` of the whole array, for
  images of a batch, for chunks of an array in memory and for chunks in memory of their own, and the
  latter against `map_overlap` around `scipy.ndimage.correlate` and against `dask_image`
- graphs: microseconds of CPU to write a task
- streams: `Stream.push` against `scipy.signal.lfilter` with its state
- cluster: two worker processes of one thread against one process
- volume: a sparse Zarr volume convolved into a Zarr store, and the most memory resident
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dask
import dask.array as da
import dask_image.ndfilters
import numpy as np
import scipy.ndimage
import scipy.signal

import einstride as es

TURNS = 7
Row = tuple[str, ...]


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], turns: int = TURNS) -> float:
    """Return the seconds of theirs divided by those of ours, after a warm-up of both."""
    ours(), theirs()
    return median(seconds(theirs) / seconds(ours) for _ in range(turns))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cpu_microseconds(call: Callable[[], Any], count: int) -> float:
    """Return the least CPU time of a call among seven turns of `count` calls."""
    found = []
    for _ in range(7):
        start = time.process_time()
        for _ in range(count):
            call()
        found.append((time.process_time() - start) / count * 1e6)
    return min(found)


LAYERS = {
    "5x5 filter, 4 MiB squares": ((1, 4096, 4096, 1), (1, 1024, 1024, 1), (5, 5, 1, 1)),
    "5x5 filter, 16 MiB of rows": ((1, 4096, 4096, 1), (1, 1024, 4096, 1), (5, 5, 1, 1)),
    "3x3, 64 to 64 channels, 16 MiB": ((2, 512, 512, 64), (1, 256, 256, 64), (3, 3, 64, 64)),
    "3x3x3 filter, 8 MiB cubes": ((1, 256, 256, 256, 1), (1, 128, 128, 128, 1), (3, 3, 3, 1, 1)),
    "3x3x3 filter, 8 MiB of planes": ((1, 256, 256, 256, 1), (1, 32, 256, 256, 1), (3, 3, 3, 1, 1)),
}


def threads() -> list[Row]:
    """Compare Dask's threads on chunks with one call on the whole array.

    All ways take turns, and hold the whole result in memory. Images of a batch have the same size
    as the chunks, but no neighbours: what they take is the time of Dask and of the filter.
    """
    rows = []
    for name, (shape, chunks, filter_shape) in LAYERS.items():
        x = np.random.default_rng(0).random(shape, "float32")
        f = np.random.default_rng(1).random(filter_shape, "float32")
        lazy = da.from_array(x, chunks=chunks, name=False)
        own = _persist(lazy.map_blocks(np.copy))
        images = x.reshape(-1, *chunks[1:])
        batch = _persist(da.from_array(images, chunks=chunks, name=False).map_blocks(np.copy))
        ways: dict[str, Callable[[], Any]] = {
            "whole": lambda x=x, f=f: es.conv(x, f, padding="same")
        }
        for way, source in {"batch": batch, "lazy": lazy, "own": own}.items():
            ways[way] = partial(_persist, es.conv(source, f, padding="same"))
        if filter_shape[-1] == 1:
            taps = f.reshape((1, *filter_shape[:-2], 1))
            depth = tuple(k // 2 for k in taps.shape)
            ways["overlap"] = partial(_persist, own.map_overlap(
                _correlate, depth=depth, boundary=0, taps=taps, dtype=x.dtype
            ))  # fmt: skip
            ways["dask-image"] = partial(
                _persist, dask_image.ndfilters.correlate(own, taps, mode="constant")
            )
        took = in_turns(ways)
        rows.append((
            name,
            *(f"{median_ratio(took['whole'], took[way]):.2f}" for way in ("batch", "lazy", "own")),
            *(
                f"{median_ratio(took[way], took['own']):.1f}" if way in took else "-"
                for way in ("overlap", "dask-image")
            ),
        ))  # fmt: skip
    return rows


def in_turns(ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of every way in each turn, after a warm-up."""
    for call in ways.values():
        call()
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, call in ways.items():
            took[way].append(seconds(call))
    return took


def median_ratio(one: list[float], other: list[float]) -> float:
    """Return the median, over turns, of the seconds of one divided by those of the other."""
    return median(a / b for a, b in zip(one, other, strict=True))


def _persist(y: Any) -> Any:
    """Compute every chunk, and hold all of them."""
    return y.persist(scheduler="threads")


def _correlate(block: Any, taps: Any) -> Any:
    return scipy.ndimage.correlate(block, taps, mode="constant")


def _nothing(block: Any) -> Any:
    return np.zeros((1,) * block.ndim, "int8")


def graphs() -> list[Row]:
    rows = []
    f = np.ones((3, 3, 1, 1), "float32")
    for side in (20, 60):
        x = da.zeros((1, side * 16, side * 16, 1), chunks=(1, 16, 16, 1), dtype="float32")
        for name, call in {
            "conv": lambda x=x: es.conv(x, f, padding="same"),
            "input gradient": lambda x=x: es.conv_input_grad(x, f, x.shape[1:3], padding="same"),
            "filter gradient": lambda x=x: es.conv_filter_grad(x, x, (3, 3), padding="same"),
        }.items():
            each = cpu_microseconds(call, 1) / side**2
            rows.append((f"{name}, {side**2} chunks", f"{each:.0f}", ""))
    return rows


def streams() -> list[Row]:
    rng = np.random.default_rng(0)
    rows = []
    for n, taps in ((128, 31), (1024, 31), (128, 512)):
        f, x = rng.random((taps, 1, 1)), rng.random((1, n, 1))
        stream, state = es.Stream(f), np.zeros(taps - 1)
        ours = cpu_microseconds(lambda s=stream, x=x: s.push(x), 2000)
        row, column = f[::-1, 0, 0].copy(), x[0, :, 0].copy()
        theirs = cpu_microseconds(
            lambda a=row, c=column, z=state: scipy.signal.lfilter(a, 1.0, c, zi=z), 500
        )
        rows.append((f"{n} samples, {taps} taps", f"{ours:.1f}", f"{theirs:.1f}"))
    stream, x = es.Stream(rng.random((48_000, 1, 1), "float32")), rng.random((1, 256, 1), "float32")
    each = cpu_microseconds(lambda: stream.push(x), 100)
    share = each / (256 / 48_000 * 1e6)
    rows.append(("256 samples, 48,000 taps", f"{each:.0f}", f"{share:.3f} of real time at 48 kHz"))
    return rows


def cluster() -> list[Row]:
    import distributed

    f = np.random.default_rng(1).random((3, 3, 64, 64), "float32")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as local,
        distributed.Client(local) as client,
    ):
        x = da.random.default_rng(0).random((4, 512, 512, 64), "float32", chunks=(1, 256, 256, 64))
        x = client.persist(x)
        distributed.wait(x)
        y = es.conv(x, f, padding="same")
        marks = y.map_blocks(_nothing, dtype="int8", chunks=(1,) * y.ndim)
        here = np.random.default_rng(0).random((4, 512, 512, 64), "float32")
        found = ratio(
            lambda: client.compute(marks).result(), lambda: es.conv(here, f, padding="same"), 3
        )
    return [("3x3, 64 to 64 channels, 16 chunks", f"{found:.2f}", "")]


def volume(gib: float) -> list[Row]:
    """Convolve a sparse volume; most of its chunks are not stored."""
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        # 64 chunks of 16 MiB a GiB, side by side along one axis: a task reads three of them
        shape = (1, max(round(gib * 64), 1) * 64, 256, 256, 1)
        source = zarr.create_array(
            Path(folder) / "x.zarr", shape=shape, chunks=(1, 64, 256, 256, 1), dtype="float32"
        )
        source[0, 64, 100, 100, 0] = 27
        lazy = da.from_zarr(source)
        f = np.full((3, 3, 3, 1, 1), 1 / 27, "float32")
        y = es.conv(lazy, f, padding="same")
        with dask.config.set(scheduler="threads", num_workers=2):
            took = seconds(lambda: y.to_zarr(str(Path(folder) / "y.zarr"), compute=True))
        result = zarr.open_array(Path(folder) / "y.zarr")
        if abs(float(result[0, 63, 101, 99, 0]) - 1) > 1e-6:
            raise RuntimeError("the volume was convolved wrongly")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [(f"{lazy.nbytes / 2**30:.0f} GiB", f"{took:.0f} s", f"{most:.0f} MiB resident at most")]


def table(heads: Row, rows: list[Row]) -> str:
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--markdown", type=Path, help="the file for the tables")
    parser.add_argument("--cluster", action="store_true", help="start two worker processes, too")
    parser.add_argument("--volume", type=float, default=0, metavar="GIB", help="a volume in Zarr")
    given = parser.parse_args()
    parts = []
    if given.volume:  # first: the most memory resident is that of the process so far
        parts.append(table(("volume, Zarr to Zarr", "time", "memory"), volume(given.volume)))
    parts += [
        table(("threads; `es.conv` of the whole = 1", "images of a batch", "chunks of one array",
               "chunks of their own", "`map_overlap` of SciPy = 1", "`dask_image` = 1"), threads()),
        table(("graphs", "us of CPU a chunk", ""), graphs()),
        table(("streams", "us of CPU a block", "`lfilter`, us"), streams()),
    ]  # fmt: skip
    if given.cluster:
        parts.append(table(("cluster of 2 processes", "one process = 1", ""), cluster()))
    text = "\n".join(parts)
    print(text)
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
