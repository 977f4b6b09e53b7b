"""Eight threads that run a hundred different jobs at once get the bits of one thread alone.

Jobs call every public function, with every algorithm, every pass and many dtypes; layers, plans and
models are shared by all threads. The interpreter switches threads every 10 microseconds. After each
round one thread empties the library's caches, so that tables are made and freed while other threads
read them.
"""

import copy
import itertools
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

import einstride as es
from einstride import _testing, nn

THREADS, MIN_JOBS = 8, 100
SHAPES = {  # name of a case: (shape of x (B, *S, C), of f (*K, C // G, D), groups)
    "plane": ((2, 12, 11, 8), (3, 3, 8, 16), 1),
    "line": ((2, 300, 6), (31, 6, 5), 1),
    "groups": ((2, 10, 11, 16), (3, 3, 4, 16), 4),
    "depthwise": ((2, 13, 12, 24), (3, 3, 1, 24), 24),
    "image": ((1, 20, 20, 3), (5, 5, 3, 8), 1),
    "volume": ((1, 6, 7, 6, 4), (2, 3, 2, 4, 4), 1),
}
PAIRS = [
    ("f4", "f4"), ("f8", "f8"), ("f2", "f2"), ("c8", "c8"), ("f4", "c8"), ("i1", "i1"),
    ("u1", "f4"), ("i4", "i4"),
]  # fmt: skip


def every_job():
    """Return all jobs by name: functions without arguments that return arrays and plain values."""
    jobs, rng = {}, np.random.default_rng(0)

    def array(shape, dtype):
        if dtype[0] in "iu":
            return rng.integers(0, 5, shape).astype(dtype)
        real = rng.standard_normal(shape)
        return (real + 1j * rng.standard_normal(shape) if dtype[0] == "c" else real).astype(dtype)

    def add(name, function, *args, **keywords):
        def job():
            return function(*args, **keywords)

        try:
            job()
        except (ValueError, TypeError):  # the algorithm refuses the job
            return
        jobs[name] = job

    for (name, (x_shape, f_shape, groups)), (first, second) in itertools.product(
        SHAPES.items(), PAIRS
    ):
        if name not in ("plane", "groups") and (first, second) not in PAIRS[:2]:
            continue
        x, f = array(x_shape, first), array(f_shape, second)
        grouping = {"groups": groups, "padding": "same"}
        gy = array(es.conv(x, f, **grouping).shape, first)
        size, kernel = x_shape[1:-1], f_shape[:-2]
        for algorithm in ("auto", "direct", "gemm", "strided", "fft", "winograd"):
            if algorithm == "fft" and name not in ("plane", "line"):
                continue  # kernels of an FFT take seconds to compile
            label = f"{name} {first} {second} {algorithm}"
            keywords = grouping | {"algorithm": algorithm}
            add(f"{label} conv", es.conv, x, f, **keywords)
            add(f"{label} input", es.conv_input_grad, gy, f, size, **keywords)
            add(f"{label} filter", es.conv_filter_grad, x, gy, kernel, **keywords)
            if (first, second) in PAIRS[:2] and algorithm in ("auto", "direct"):
                bias = array(f_shape[-1:], second)
                layer = es.Conv(f, bias, **keywords)
                add(f"{label} layer", layer, x)
                add(f"{label} layer backward", layer.backward, gy, x)
                add(f"{label} layer copied", lambda x, layer: copy.deepcopy(layer)(x), x, layer)
                add(f"{label} per example", es.conv_filter_grad, x, gy, kernel, per_example=True,
                    **grouping)  # fmt: skip
                add(f"{label} hard limit", es.conv, x, f, bias, max_workspace=1 << 20, **keywords)
        if (first, second) in PAIRS[:2]:
            pair = (first, second)
            add(f"{name} {pair} plan", es.plan(x, f, **grouping), x, f)
            add(f"{name} {pair} saved", lambda p: es.Plan.from_json(p.to_json()).algorithm,
                es.plan(x, f, **grouping))  # fmt: skip
            add(f"{name} {pair} pickled", pickle.loads, pickle.dumps(es.Conv(f, **grouping)))
            add(f"{name} {pair} transpose", es.conv_transpose, gy, f, stride=2, groups=groups)
            add(f"{name} {pair} jvp", es.conv_jvp, x, f, x, f, **grouping)
            add(f"{name} {pair} bias", es.conv_bias_grad, gy)
            add(f"{name} {pair} windows", es.windows, x, kernel)
            add(f"{name} {pair} border", es.conv, x, f, padding=1, padding_mode="reflect",
                groups=groups)  # fmt: skip
    x, f, gy = (array(shape, "f8") for shape in ((2, 8, 8, 3), (3, 3, 3, 4), (2, 6, 6, 4)))
    add("seed", es.conv4d_forward, x, f, (1, 1))
    add("seed filter", es.conv4d_filter_gradient, x, f, gy, (1, 1))
    add("seed input", es.conv4d_input_gradient, x, f, gy, (1, 1))
    net = nn.Sequential(nn.Conv(8, 3), nn.BatchNorm(), nn.ReLU(), nn.MaxPool(2), nn.Flatten(),
                        nn.Dense(4))  # fmt: skip
    model = nn.Model(net, (8, 8, 3))
    add("model", model, x.astype("f4"))
    add("model copied", lambda x: copy.deepcopy(model)(x), x.astype("f4"))

    def trained():
        """Train a copy for three steps, which use arenas, optimisers and compiled norms."""
        copied, optimiser = copy.deepcopy(model), nn.Adam(0.01)
        losses = [
            float(copied.step(x.astype("f4"), np.array([0, 1]), nn.CrossEntropy(), optimiser))
            for _ in range(3)
        ]
        return losses, *copied.parameters.values()

    add("model trained", trained)
    return jobs


def bits(value):
    """Convert a result to a value that equals another one if and only if all their bits agree."""
    if isinstance(value, tuple | list):
        return tuple(map(bits, value))
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, es.Conv):
        return bits(value.f)
    return value


def clear_caches():
    """Empty the caches of the library, except that of compiled kernels."""
    _testing.clear_caches("results", "process")


def main(seconds):
    """Run the threads for a number of seconds, print what failed, and return the exit status."""
    jobs = list(every_job().items())
    assert len(jobs) >= MIN_JOBS, len(jobs)
    right = [bits(job()) for _, job in jobs]
    sys.setswitchinterval(1e-5)
    barrier, failures, calls = threading.Barrier(THREADS), [], [0] * THREADS
    end = time.monotonic() + seconds

    def caller(number):
        rng = np.random.default_rng(number)
        barrier.wait(60)
        while not failures and (not calls[number] or time.monotonic() < end):
            for i in rng.permutation(len(jobs)):
                name, job = jobs[i]
                try:
                    if bits(job()) != right[i]:
                        failures.append(f"{name}: other bits")
                except BaseException as error:
                    failures.append(f"{name}: {error!r}")
                calls[number] += 1
                if failures or (calls[number] > len(jobs) and time.monotonic() > end):
                    break
            if number == 0:
                clear_caches()

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(jobs)} jobs, {sum(calls)} calls, {len(failures)} failed", *failures[:20], sep="\n")
    return 1 if failures else 0


def test_eight_threads_get_the_bits_of_one(full_length):
    """Run `main` in a new process, in which every warning is an error."""
    process = subprocess.run(
        [sys.executable, "-W", "error", __file__, "12" if full_length else "3"],
        capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]


def test_threads_share_a_layer_that_drops_prepared_filters():
    """A layer drops prepared filters while other threads look them up, once with a `KeyError`."""
    layer = es.Conv(np.ones((3, 3, 16, 16), "f4"), padding=1, algorithm="direct")
    inputs = [np.ones((1, 3 + n, 5, 16), "f4") for n in range(12)]
    right, failures, before = [layer(x) for x in inputs], [], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def caller(number):
            try:
                for i in np.random.default_rng(number).integers(0, len(inputs), 300):
                    if not np.array_equal(layer(inputs[i]), right[i]):
                        failures.append(i)
            except BaseException as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=caller, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures, failures[:5]


def test_a_new_filter_is_seen_with_its_own_transforms():
    """While one thread assigns filters, each result in other threads is that of one filter."""
    x = np.ones((1, 9, 9, 16), "f4")
    layer = es.Conv(np.ones((3, 3, 16, 16), "f4"), algorithm="direct")
    filters = [np.full((3, 3, 16, 16), n, "f4") for n in (1, 2, 3)]
    values, failures, stop = {144.0, 288.0, 432.0}, [], threading.Event()

    def caller():
        try:
            while not stop.is_set():
                found = set(layer(x).ravel().tolist())
                if len(found) != 1 or not found <= values:
                    failures.append(found)
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in range(400):
            layer.f = filters[n % 3]
            assert layer(x)[0, 0, 0, 0] == 144 * (n % 3 + 1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:5]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
