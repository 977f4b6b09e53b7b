"""Convolve volumes on disk, in a process whose memory is measured."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("dask.array", reason="dask is not installed")

PROGRAM = """
import sys
import dask, dask.array as da, numpy as np, zarr
import einstride as es

f = np.full((3, 3, 3, 1, 1), 1 / 27, "float32")

def most_after(folder, chunks):  # MiB
    source = zarr.create_array(folder + "/x", shape=(1, 64 * chunks, 256, 256, 1),
                               chunks=(1, 64, 256, 256, 1), dtype="float32")
    source[0, 64, 10, 10, 0] = 27
    y = es.conv(da.from_zarr(source), f, padding="same")
    with dask.config.set(scheduler="threads", num_workers=2):
        y.to_zarr(folder + "/y")
    result = zarr.open_array(folder + "/y", mode="r")
    assert abs(result[0, 63:66, 9:12, 9:12, 0] - 1).max() < 1e-6
    assert abs(result[0, 500:540]).max() == 0
    with open("/proc/self/status") as status:  # ru_maxrss counts the process that started this one
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

folder = sys.argv[1]
for again in range(4):  # how many chunks are in flight at most is a matter of luck
    small = most_after(f"{folder}/small{again}", 12)
print(small, most_after(folder + "/large", 40))
"""


@pytest.mark.filterwarnings("ignore")
def test_memory_is_that_of_the_chunks_in_flight(tmp_path):
    """A sparse volume of 640 MiB takes hardly more memory than one of 192 MiB."""
    if subprocess.run([sys.executable, "-c", "import zarr"], capture_output=True).returncode:
        pytest.skip("zarr is not installed")
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    small, large = map(float, found.stdout.split())
    assert large - small < 100, (small, large)
    assert large < 1024
