"""The cache folder on disks that fail, are full, read-only or corrupted, and shared by processes.

Whatever happens to the folder, results are right, nothing hangs, and no temporary file stays.
"""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

import einstride
from einstride import _testing

pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")
compiler = pytest.importorskip("einstride.codegen.jit")
dense = pytest.importorskip("einstride.cpu.dense.forward")
disk_cache = pytest.importorskip("einstride.codegen.disk_cache")

TIME = 120
"""Seconds after which a process counts as hanging."""

CONVOLVE = """
import numpy as np, einstride as es
x = np.arange(8 * 8 * 16, dtype="f4").reshape(1, 8, 8, 16) % 7
f = np.arange(9 * 16 * 16, dtype="f4").reshape(3, 3, 16, 16) % 5
y = es.conv(x, f, algorithm="strided")
for function, operands in (
    (es.conv, (x, f)),
    (es.conv, (x, f[..., :3])),
    (es.conv_input_grad, (y, f, 8)),
    (es.conv_filter_grad, (x, y, 3)),
):
    right = function(*operands, algorithm="strided")
    assert (function(*operands, algorithm="direct") == right).all()
"""
WITHOUT_ROOTS_RIGHTS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
sets[0] &= ~0b110  # effective: no more reading and writing against permissions
assert libc.capset(header, sets) == 0
"""
WORDS = "a kernel"


@pytest.fixture
def kept(tmp_path):
    with _testing.use(kernel_folder=tmp_path / "kernels"):
        yield tmp_path / "kernels"


def process(code, folder, before="", **variables):
    environment = dict(os.environ) | {
        "PYTHONPATH": str(Path(einstride.__file__).parent.parent), "EINSTRIDE_CACHE": str(folder),
    } | variables  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", before + code], env=environment, stderr=subprocess.PIPE, text=True
    )


def ends_well(started):
    try:
        _, error = started.communicate(timeout=TIME)
    except subprocess.TimeoutExpired:
        started.kill()
        raise
    assert started.returncode == 0, error


def temporary(folder):
    """Everything in the folder but whole kernels."""
    return [p for p in folder.iterdir() if not disk_cache._KERNEL.fullmatch(p.name)]


CALLS = {
    "open": (os, "open"),
    "mkstemp": (tempfile, "mkstemp"),
    "fdopen": (os, "fdopen"),
    "replace": (os, "replace"),
    "unlink": (os, "unlink"),
    "fstat": (os, "fstat"),
    "scandir": (os, "scandir"),
    "utime": (os, "utime"),
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("name", [*CALLS, "remove"])
def test_every_call_to_the_disk_may_fail(kept, monkeypatch, name, code):
    """Kept or not, what is read is what was written, and only a failing unlink leaves a file."""
    monkeypatch.setenv("EINSTRIDE_CACHE_BYTES", "5000")
    _testing.clear_caches("process")
    disk_cache.package_digest()
    disk_cache.folder()

    def fail(*args, **keywords):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken, ExitStack() as stack:
        if name == "remove":
            stack.enter_context(
                _testing.replacing("remove a kernel's file", lambda real, path: None)
            )
        else:
            broken.setattr(*CALLS[name], fail)
        for number in range(8):
            disk_cache.write(f"kernel {number}", bytes([number]) * 1000)
            assert disk_cache.read(f"kernel {number}") in (None, bytes([number]) * 1000)
    _testing.clear_caches("process")
    disk_cache.write("kernel 9", b"9" * 1000)
    assert disk_cache.read("kernel 9") == b"9" * 1000
    assert disk_cache.size() <= 5000
    assert not temporary(kept)


class Failing:
    """A file that writes some bytes and then has no room, or is interrupted."""

    def __init__(self, file, room, error):
        self.file, self.room, self.error = file, room, error

    def __enter__(self):
        return self

    def __exit__(self, *given):
        self.file.close()

    def write(self, content):
        self.file.write(content[: self.room])
        raise self.error


@pytest.mark.parametrize("room", [0, 1, 31, 32, 33, 500])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
def test_a_full_disk_leaves_nothing(kept, monkeypatch, room, error):
    disk_cache.folder()
    real = os.fdopen
    with monkeypatch.context() as full:
        full.setattr(os, "fdopen", lambda *a, **k: Failing(real(*a, **k), room, error))
        try:
            disk_cache.write(WORDS, b"x" * 1000)
        except KeyboardInterrupt:
            assert isinstance(error, KeyboardInterrupt)
    assert not list(kept.iterdir())
    assert disk_cache.read(WORDS) is None


@pytest.mark.parametrize("most", [0, 100, 3000])
def test_a_process_that_may_write_few_bytes(kept, most):
    """The system refuses longer files, as a full disk would."""
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
    ends_well(process(CONVOLVE, kept, before))
    assert all(path.stat().st_size <= most for path in kept.iterdir())
    assert not temporary(kept)


def test_a_small_disk(kept):
    """A file system of one page, in a namespace of its own where the system allows that."""
    before = textwrap.dedent(f"""
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        os.makedirs({str(kept)!r})
        mounted = libc.unshare(0x00020000) == 0 and libc.mount(
            b"none", {str(kept)!r}.encode(), b"tmpfs", 0, b"size=4096,mode=0700") == 0
        if not mounted:
            sys.exit(77)
        import atexit
        atexit.register(lambda: print(os.listdir({str(kept)!r}), file=sys.stderr))
    """)
    started = process(CONVOLVE, kept, before)
    _, error = started.communicate(timeout=TIME)
    if started.returncode == 77:
        pytest.skip("this system mounts nothing for this user")
    assert started.returncode == 0, error
    assert ".part" not in error


@pytest.mark.parametrize("where", ["file/kernels", "/proc/einstride", "/dev/null/einstride"])
def test_a_folder_that_cannot_be_made(tmp_path, where):
    (tmp_path / "file").write_text("")
    ends_well(process(CONVOLVE, tmp_path / where))


@pytest.mark.parametrize("mode", [0o500, 0o000, 0o300])
def test_a_folder_that_cannot_be_written_or_read(tmp_path, mode):
    """Permissions do not stop root, unless it gives that right away."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    before = "" if os.getuid() else WITHOUT_ROOTS_RIGHTS
    try:
        if mode == 0o500:  # with kernels in it
            ends_well(process(CONVOLVE, folder, before))
        full = sorted(folder.iterdir())
        folder.chmod(mode)
        ends_well(process(CONVOLVE, folder, before))
    finally:
        folder.chmod(0o700)
    assert not temporary(folder)
    assert bool(full) == (mode == 0o500)
    if mode == 0o500:
        assert sorted(folder.iterdir()) == full


def test_a_file_cut_at_every_length(kept):
    disk_cache.write(WORDS, bytes(range(256)))
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert disk_cache.read(WORDS) is None
    path.write_bytes(whole + b"x")
    assert disk_cache.read(WORDS) is None
    disk_cache.write(WORDS, bytes(range(256)))
    assert path.read_bytes() == whole


def test_a_file_with_any_byte_flipped(kept):
    disk_cache.write(WORDS, bytes(range(256)))
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flipped in (1, 0x80, 0xFF):
            harmed = bytearray(whole)
            harmed[place] ^= flipped
            path.write_bytes(harmed)
            assert disk_cache.read(WORDS) is None


def test_corrupted_kernels_are_compiled_again(kept, full_length):
    """Whole processes, on folders in which every kernel is harmed in another way."""
    ends_well(process(CONVOLVE, kept))
    whole = {path: path.read_bytes() for path in kept.iterdir()}
    assert len(whole) >= 3
    chance = random.Random(1)
    for _ in range(8 if full_length else 2):
        for path, content in whole.items():
            harmed = bytearray(content)
            for _ in range(chance.choice((1, 1, 100))):
                harmed[chance.randrange(len(harmed))] ^= chance.randrange(1, 256)
            cut = chance.choice((None, None, chance.randrange(len(harmed))))
            path.write_bytes(harmed[:cut])
        ends_well(process(CONVOLVE, kept))
        assert {path: path.read_bytes() for path in kept.iterdir()} == whole


def test_other_things_in_the_places_of_kernels(kept):
    ends_well(process(CONVOLVE, kept))
    places = sorted(kept.iterdir())
    for number, path in enumerate(places):
        content = path.read_bytes()
        path.unlink()
        if number % 4 == 0:
            os.mkfifo(path)
        elif number % 4 == 1:
            path.mkdir()
        elif number % 4 == 2:
            path.symlink_to("/dev/zero")
        else:
            path.with_suffix(".elsewhere").write_bytes(content)
            path.symlink_to(path.with_suffix(".elsewhere"))
    ends_well(process(CONVOLVE, kept))
    for number, path in enumerate(places):
        assert path.is_dir() if number % 4 == 1 else path.is_file()
        assert not path.is_symlink()
    assert not list(kept.glob("*.part"))


def test_six_processes_share_it(kept, full_length):
    """All start at once, on an empty folder, and remove each other's files."""
    for limit in ["20000", "1", "none"] if full_length else ["20000"]:
        variables = {} if limit == "none" else {"EINSTRIDE_CACHE_BYTES": limit}
        started = [process(CONVOLVE, kept, **variables) for _ in range(6)]
        for one in started:
            ends_well(one)
        assert not temporary(kept)
        held = sum(path.stat().st_size for path in kept.iterdir())
        assert held > 0 if limit == "none" else held <= int(limit)
        for path in kept.iterdir():
            path.unlink()


SHARE = """
import random, sys
from einstride import _testing
from einstride.codegen import disk_cache
chance = random.Random(int(sys.argv[1]))
seen = 0
with _testing.replacing("digest the package", lambda real: "source"):
    for _ in range(int(sys.argv[2])):
        number = chance.randrange(40)
        code = bytes([number]) * (100 * number + 1)
        found = disk_cache.read(f"kernel {number}")
        assert found in (None, code), number
        seen += found is not None
        if found is None:
            disk_cache.write(f"kernel {number}", code)
assert seen
"""


def test_readers_writers_and_removers(kept, full_length):
    """Six processes read and write forty small files of which half fit."""
    environment = dict(os.environ) | {
        "PYTHONPATH": str(Path(einstride.__file__).parent.parent),
        "EINSTRIDE_CACHE_BYTES": "40000",
    }
    rounds = str(6000 if full_length else 1000)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(seed), rounds],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(6)
    ]  # fmt: skip
    for one in started:
        ends_well(one)
    assert not temporary(kept)
    assert sum(path.stat().st_size for path in kept.iterdir()) <= 40000


def test_processes_that_are_killed_while_they_write(kept, full_length):
    """Their temporary files go when they are old; kernels are whole or absent."""
    code = SHARE.replace("random.Random(int(sys.argv[1]))", "random.Random(0)").replace(
        "for _ in range(int(sys.argv[2])):", "print('go', file=sys.stderr, flush=True)\nwhile True:"
    ).replace("found is None:", "True:")  # fmt: skip
    chance = random.Random(2)
    for _ in range(25 if full_length else 6):
        started = process(code, kept)
        assert started.stderr.readline() == "go\n"
        try:
            started.wait(chance.uniform(0.01, 0.1))
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGKILL)
        started.communicate()
    for path in temporary(kept):
        os.utime(path, (1, 1))
    disk_cache.write(WORDS, b"x")
    assert not temporary(kept)
    for path in kept.iterdir():
        content = path.read_bytes()
        assert disk_cache._digest(path.name, content[32:]) == content[:32]


def test_no_descriptor_stays_open(kept):
    """Neither of files that are read nor of those that are refused."""
    disk_cache.write(WORDS, b"x")
    os.mkfifo(disk_cache._file_of("a pipe"))
    disk_cache._file_of("a folder").mkdir()
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else most
    for _ in range(50):
        for name in (WORDS, "a pipe", "a folder", "nothing"):
            disk_cache.read(name)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else most
    assert after == before
