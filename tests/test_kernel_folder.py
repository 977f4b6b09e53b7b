"""The folder of compiled kernels: which files are read, their names, and the bound of its size.

tests/storms/test_disk_cache.py adds disks that fail, and processes that share the folder.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import einstride
from einstride import _testing
from mutants.change import Change
from mutants.sources import make, read

pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")
disk_cache = pytest.importorskip("einstride.codegen.disk_cache")

PACKAGE = Path(einstride.__file__).parent
WINOGRAD = """
import numpy as np, einstride as es
from einstride.codegen import disk_cache
x = np.random.default_rng(0).standard_normal((2, 16, 16, 64)).astype("float32")
f = np.random.default_rng(1).standard_normal((3, 3, 64, 64)).astype("float32")
y = es.conv(x, f, padding="same", algorithm="winograd")
right = es.conv(x.astype("float64"), f.astype("float64"), padding="same", algorithm="strided")
print(es.__file__, disk_cache.package_digest(), np.abs(y - right).max() / np.abs(right).max())
"""
DIRECT = """
import numpy as np, einstride as es
from einstride.codegen import disk_cache
y = es.conv(np.ones((1, 8, 8, 16), "f4"), np.ones((3, 3, 16, 16), "f4"), algorithm="direct")
print(es.__file__, disk_cache.package_digest(), float(np.abs(y - 144).max()))
"""


@pytest.fixture
def kept(tmp_path):
    with _testing.use(kernel_folder=tmp_path / "kernels"):
        yield tmp_path / "kernels"


def run(code, folder, path=PACKAGE.parent, **variables):
    """Return the three words that a new process prints, which imports the package from `path`."""
    environment = dict(os.environ) | {
        "PYTHONPATH": str(path), "EINSTRIDE_CACHE": str(folder),
    } | variables  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def kernels(folder):
    return {path.name for path in folder.glob("*.kernel")}


@pytest.fixture
def copied(tmp_path):
    """Return a copy of the package in another folder."""
    return Path(
        shutil.copytree(
            PACKAGE, tmp_path / "copy" / "einstride", ignore=shutil.ignore_patterns("__pycache__")
        )
    )


def test_an_edit_of_any_module_gives_other_files(kept, copied):
    """An edit of any module changes the names of files; here of one outside the compiler's
    folder."""
    _, before, error = run(WINOGRAD, kept, copied.parent)
    assert float(error) < 1e-5
    first = kernels(kept)
    assert first
    _, repeated, _ = run(WINOGRAD, kept, copied.parent)
    assert repeated == before
    assert kernels(kept) == first
    change = Change("cook_toom.POINTS", "(0, 1, -1, 2, -_HALF)", "(0, 1, -1, _HALF, -2)")
    for file, text in make(change, read(copied.parent, [copied.name])).items():
        (copied.parent / file).write_text(text)
    where, after, error = run(WINOGRAD, kept, copied.parent)
    assert where.startswith(str(copied))
    assert after != before
    assert float(error) < 1e-5
    assert not first & (kernels(kept) - first)
    assert kernels(kept) > first


def test_two_copies_of_the_package_share_it(kept, copied):
    assert run(DIRECT, kept, copied.parent)[1] == disk_cache.package_digest()


def test_every_file_of_the_package_counts(kept, copied):
    digests = {run(DIRECT, kept, copied.parent)[1]}
    for name in (
        "geometry/padding_modes.py",
        "nn/layers/dense.py",
        "calibration/cpu_64_avx512.json",
        "new.py",
    ):
        with open(copied / name, "a") as file:
            file.write("\n")
        digests.add(run(DIRECT, kept, copied.parent)[1])
    assert len(digests) == 5


def test_a_package_without_sources(kept, copied):
    """Without sources, the digest is that of the bytecode files."""
    compileall = [sys.executable, "-m", "compileall", "-q", "-b", str(copied)]
    subprocess.run(compileall, check=True)
    for path in copied.rglob("*.py"):
        path.unlink()
    where, digest, error = run(DIRECT, kept, copied.parent)
    assert where.endswith(".pyc")
    assert (float(error), digest != "None") == (0, True)
    assert kernels(kept)
    with open(copied / "geometry" / "cook_toom.pyc", "ab") as file:
        file.write(b"\0")
    assert run(DIRECT, kept, copied.parent)[1] != digest


def test_a_package_in_a_zip_keeps_nothing(kept, copied, tmp_path):
    with zipfile.ZipFile(tmp_path / "einstride.zip", "w") as file:
        for path in copied.rglob("*"):
            file.write(path, path.relative_to(copied.parent))
    code = DIRECT.replace("algorithm='direct'", "").replace(
        "import numpy", "import pathlib; import numpy"
    )
    where, digest, error = run(code, kept, tmp_path / "einstride.zip")
    assert ".zip" in where
    assert (digest, float(error)) == ("None", 0)
    assert not kernels(kept)


def test_a_module_from_elsewhere_keeps_nothing(kept, copied, tmp_path):
    """A module from another folder has no file in the package, so its code has no digest."""
    (tmp_path / "toom.py").write_text((copied / "geometry" / "cook_toom.py").read_text())
    code = (
        "import importlib.util, sys, einstride\n"
        f"path = {str(tmp_path / 'toom.py')!r}\n"
        "spec = importlib.util.spec_from_file_location('einstride.geometry.cook_toom', path)\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['einstride.geometry.cook_toom'] = module\n"
        "spec.loader.exec_module(module)\n"
    )  # fmt: skip
    assert run(code + DIRECT, kept, copied.parent)[1:] == ["None", "0.0"]
    assert not kernels(kept)


def test_a_source_that_changes_after_the_import_keeps_nothing(kept, copied):
    """The process runs the old code, whose kernels must not get the name of the new code."""
    code = f"import einstride, os; os.utime({str(copied / 'geometry' / 'cook_toom.py')!r})\n"
    assert run(code + DIRECT, kept, copied.parent)[1:] == ["None", "0.0"]
    assert not kernels(kept)


def test_what_is_kept_comes_back(kept):
    assert disk_cache.read("a kernel") is None
    disk_cache.write("a kernel", b"code")
    assert disk_cache.read("a kernel") == b"code"
    assert disk_cache.read("another") is None


def test_a_file_under_another_name_is_refused(kept):
    disk_cache.write("a kernel", b"code")
    (path,) = kept.iterdir()
    path.rename(disk_cache._file_of("another"))
    assert disk_cache.read("another") is None


def test_a_description_with_an_address_is_not_kept(kept):
    disk_cache.write(f"a kernel of {object()}", b"code")
    assert not list(kept.iterdir())


def put_fifo(path):
    os.mkfifo(path)


def put_directory(path):
    path.mkdir()
    (path / "inside").write_text("")


def put_link(path):
    """Put a link to a valid file in the place of a kernel."""
    disk_cache.write("a kernel", b"code")
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def put_link_to_a_device(path):
    path.symlink_to("/dev/zero")


def put_device(path):
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError as error:
        pytest.skip(f"devices cannot be made: {error}")


def put_writeable_by_all(path):
    disk_cache.write("a kernel", b"code")
    path.chmod(0o666)


def put_another_users(path):
    disk_cache.write("a kernel", b"code")
    try:
        os.chown(path, 12345, 12345)
    except PermissionError as error:
        pytest.skip(f"files cannot be given away: {error}")


def put_too_large(path):
    with open(path, "wb") as file:
        file.truncate(disk_cache.MAX_FILE_BYTES + 1)


@pytest.mark.skipif(sys.platform == "win32", reason="files of POSIX")
@pytest.mark.parametrize(
    "put",
    [put_fifo, put_directory, put_link, put_link_to_a_device, put_device, put_writeable_by_all,
     put_another_users, put_too_large],
)  # fmt: skip
def test_only_this_users_own_regular_files_are_read(kept, put):
    path = disk_cache._file_of("a kernel")
    put(path)
    assert disk_cache.read("a kernel") is None
    disk_cache.write("a kernel", b"code")
    if put is put_directory:  # the folder stays: it may be another program's
        assert disk_cache.read("a kernel") is None
    else:
        assert disk_cache.read("a kernel") == b"code"
        assert path.is_file()
        assert not path.is_symlink()
    assert not list(kept.glob("*.part"))


def test_the_key_holds_the_cpu(kept):
    """The key has the CPU, because machines of two kinds may share a folder on a network disk."""
    from dataclasses import replace

    from einstride.codegen import jit

    here = jit.host_target()
    with (
        _testing.watching("read a kernel's file") as reads,
        _testing.replacing("compile a kernel", lambda *_: b""),
        _testing.replacing("load a kernel", lambda *_: None),
    ):
        for target in (
            here,
            replace(here, name="other"),
            replace(here, features=here.features + ",+x"),
        ):
            jit.kernel("k", str, 1, target=target)
    asked = [call.args[0] for call in reads]
    assert len(set(asked)) == 3
    assert all(re.search(r"Target\(name='.*features='", text) for text in asked)
