"""The disk cache works on disks that fail, are full or read-only, with corrupted files, and shared.

Whatever happens to the cache's folder, results are right, no process hangs, and no temporary file
remains.
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

TIMEOUT = 120
"""Seconds after which a process is taken for a hanging one; processes end in a few."""

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
DROP_ROOT_RIGHTS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, sets) == 0
sets[0] &= ~0b110  # effective set without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
assert libc.capset(header, sets) == 0
"""
KERNEL = "a kernel"
"""Key of a file in the cache."""


@pytest.fixture
def folder(tmp_path):
    """Use a new folder as the cache's during a test."""
    with _testing.use(kernel_folder=tmp_path / "kernels"):
        yield tmp_path / "kernels"


def start(code, folder, before="", **variables):
    """Start a process that runs `before` and `code` with a folder as the cache's."""
    environment = dict(os.environ) | {
        "PYTHONPATH": str(Path(einstride.__file__).parent.parent), "EINSTRIDE_CACHE": str(folder),
    } | variables  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", before + code], env=environment, stderr=subprocess.PIPE, text=True
    )


def check_exit(process):
    """Check that a process ends in time with exit status 0."""
    try:
        _, error = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, error


def temporary_files(folder):
    """Return the paths in a folder whose names are not those of kernels."""
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
"""{name of a case: (module, function of the module that fails)}."""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("name", [*CALLS, "remove"])
def test_a_failing_disk_call_loses_at_most_its_kernel(folder, monkeypatch, name, code):
    """A failing call loses a kernel at most: what is read is what was written.

    Afterwards no temporary file remains, and the cache keeps its limit.
    """
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
    assert not temporary_files(folder)


class FailingFile:
    """Write at most `capacity` bytes to a file, then raise an error."""

    def __init__(self, file, capacity, error):
        self.file, self.capacity, self.error = file, capacity, error

    def __enter__(self):
        return self

    def __exit__(self, *given):
        self.file.close()

    def write(self, content):
        self.file.write(content[: self.capacity])
        raise self.error


@pytest.mark.parametrize("capacity", [0, 1, 31, 32, 33, 500])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
def test_a_full_disk_leaves_no_file(folder, monkeypatch, capacity, error):
    """A write that fails or is interrupted after some bytes leaves no file."""
    disk_cache.folder()
    real = os.fdopen
    with monkeypatch.context() as full:
        full.setattr(os, "fdopen", lambda *a, **k: FailingFile(real(*a, **k), capacity, error))
        try:
            disk_cache.write(KERNEL, b"x" * 1000)
        except KeyboardInterrupt:
            assert isinstance(error, KeyboardInterrupt)
    assert not list(folder.iterdir())
    assert disk_cache.read(KERNEL) is None


@pytest.mark.parametrize("limit", [0, 100, 3000])
def test_a_process_with_a_file_size_limit_convolves(folder, limit):
    """A process convolves although the system refuses files of more than `limit` bytes."""
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    check_exit(start(CONVOLVE, folder, before))
    assert all(path.stat().st_size <= limit for path in folder.iterdir())
    assert not temporary_files(folder)


def test_a_process_with_a_disk_of_one_page_convolves(folder):
    """A process convolves with its cache on a file system of one page.

    Skipped where the system does not let this user mount one in a new namespace.
    """
    before = textwrap.dedent(f"""
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        os.makedirs({str(folder)!r})
        mounted = libc.unshare(0x00020000) == 0 and libc.mount(
            b"none", {str(folder)!r}.encode(), b"tmpfs", 0, b"size=4096,mode=0700") == 0
        if not mounted:
            sys.exit(77)
        import atexit
        atexit.register(lambda: print(os.listdir({str(folder)!r}), file=sys.stderr))
    """)
    process = start(CONVOLVE, folder, before)
    _, error = process.communicate(timeout=TIMEOUT)
    if process.returncode == 77:
        pytest.skip("this system does not let this user mount a file system")
    assert process.returncode == 0, error
    assert ".part" not in error


@pytest.mark.parametrize("path", ["file/kernels", "/proc/einstride", "/dev/null/einstride"])
def test_a_process_convolves_if_the_folder_cannot_be_made(tmp_path, path):
    """A process convolves without a cache if the folder cannot be made."""
    (tmp_path / "file").write_text("")
    check_exit(start(CONVOLVE, tmp_path / path))


@pytest.mark.parametrize("mode", [0o500, 0o000, 0o300])
def test_a_process_convolves_if_the_folder_cannot_be_written_or_read(tmp_path, mode):
    """A process convolves if permissions forbid to write or read the folder.

    A process of root first gives up the right to ignore permissions.
    """
    folder = tmp_path / "kernels"
    folder.mkdir()
    before = "" if os.getuid() else DROP_ROOT_RIGHTS
    try:
        if mode == 0o500:  # the folder holds kernels already
            check_exit(start(CONVOLVE, folder, before))
        files = sorted(folder.iterdir())
        folder.chmod(mode)
        check_exit(start(CONVOLVE, folder, before))
    finally:
        folder.chmod(0o700)
    assert not temporary_files(folder)
    assert bool(files) == (mode == 0o500)
    if mode == 0o500:
        assert sorted(folder.iterdir()) == files


def test_a_file_of_any_wrong_length_is_written_again(folder):
    """A file that is too short or too long is not read, and is written again."""
    disk_cache.write(KERNEL, bytes(range(256)))
    (path,) = folder.iterdir()
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert disk_cache.read(KERNEL) is None
    path.write_bytes(content + b"x")
    assert disk_cache.read(KERNEL) is None
    disk_cache.write(KERNEL, bytes(range(256)))
    assert path.read_bytes() == content


def test_a_file_with_a_wrong_byte_is_not_read(folder):
    """A file with any wrong byte is not read."""
    disk_cache.write(KERNEL, bytes(range(256)))
    (path,) = folder.iterdir()
    content = path.read_bytes()
    for index in range(len(content)):
        for flipped_bits in (1, 0x80, 0xFF):
            corrupted = bytearray(content)
            corrupted[index] ^= flipped_bits
            path.write_bytes(corrupted)
            assert disk_cache.read(KERNEL) is None


def test_corrupted_kernels_are_compiled_again(folder, full_length):
    """A process compiles and writes again every kernel whose file is corrupted, at random."""
    check_exit(start(CONVOLVE, folder))
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(contents) >= 3
    rng = random.Random(1)
    for _ in range(8 if full_length else 2):
        for path, content in contents.items():
            corrupted = bytearray(content)
            for _ in range(rng.choice((1, 1, 100))):
                corrupted[rng.randrange(len(corrupted))] ^= rng.randrange(1, 256)
            length = rng.choice((None, None, rng.randrange(len(corrupted))))
            path.write_bytes(corrupted[:length])
        check_exit(start(CONVOLVE, folder))
        assert {path: path.read_bytes() for path in folder.iterdir()} == contents


def test_pipes_folders_and_links_are_replaced_by_kernels(folder):
    """A process replaces pipes, folders and links that have the names of kernels by kernels.

    A folder remains, because no file can replace it.
    """
    check_exit(start(CONVOLVE, folder))
    paths = sorted(folder.iterdir())
    for number, path in enumerate(paths):
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
    check_exit(start(CONVOLVE, folder))
    for number, path in enumerate(paths):
        assert path.is_dir() if number % 4 == 1 else path.is_file()
        assert not path.is_symlink()
    assert not list(folder.glob("*.part"))


def test_six_processes_share_the_folder(folder, full_length):
    """Six processes start at once on an empty folder, convolve, and remove each other's files."""
    for limit in ["20000", "1", "none"] if full_length else ["20000"]:
        variables = {} if limit == "none" else {"EINSTRIDE_CACHE_BYTES": limit}
        processes = [start(CONVOLVE, folder, **variables) for _ in range(6)]
        for process in processes:
            check_exit(process)
        assert not temporary_files(folder)
        total = sum(path.stat().st_size for path in folder.iterdir())
        assert total > 0 if limit == "none" else total <= int(limit)
        for path in folder.iterdir():
            path.unlink()


SHARE = """
import random, sys
from einstride import _testing
from einstride.codegen import disk_cache
rng = random.Random(int(sys.argv[1]))
hits = 0
with _testing.replacing("digest the package", lambda real: "source"):
    for _ in range(int(sys.argv[2])):
        number = rng.randrange(40)
        code = bytes([number]) * (100 * number + 1)
        found = disk_cache.read(f"kernel {number}")
        assert found in (None, code), number
        hits += found is not None
        if found is None:
            disk_cache.write(f"kernel {number}", code)
assert hits
"""


def test_six_processes_read_complete_files_and_keep_the_limit(folder, full_length):
    """Six processes read and write forty small files, of which the limit admits half."""
    environment = dict(os.environ) | {
        "PYTHONPATH": str(Path(einstride.__file__).parent.parent),
        "EINSTRIDE_CACHE_BYTES": "40000",
    }
    rounds = str(6000 if full_length else 1000)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(seed), rounds],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(6)
    ]  # fmt: skip
    for process in processes:
        check_exit(process)
    assert not temporary_files(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40000


def test_killed_processes_leave_complete_files(folder, full_length):
    """Old temporary files of killed processes are removed, and files of kernels are complete."""
    code = SHARE.replace("random.Random(int(sys.argv[1]))", "random.Random(0)").replace(
        "for _ in range(int(sys.argv[2])):", "print('go', file=sys.stderr, flush=True)\nwhile True:"
    ).replace("found is None:", "True:")  # fmt: skip
    rng = random.Random(2)
    for _ in range(25 if full_length else 6):
        process = start(code, folder)
        assert process.stderr.readline() == "go\n"
        try:
            process.wait(rng.uniform(0.01, 0.1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    for path in temporary_files(folder):
        os.utime(path, (1, 1))
    disk_cache.write(KERNEL, b"x")
    assert not temporary_files(folder)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert disk_cache._digest(path.name, content[32:]) == content[:32]


def test_no_descriptor_stays_open(folder):
    """No file descriptor stays open, of a file that is read or of one that is refused."""
    disk_cache.write(KERNEL, b"x")
    os.mkfifo(disk_cache._file_of("a pipe"))
    disk_cache._file_of("a folder").mkdir()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else limit
    for _ in range(50):
        for name in (KERNEL, "a pipe", "a folder", "nothing"):
            disk_cache.read(name)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else limit
    assert after == before
