"""Kernels are compiled once, stored on disk, and never read from files that other users may
write."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest

import einstride as es
from einstride import _testing
from einstride.__main__ import main

compiler = pytest.importorskip("einstride.codegen.jit")
disk_cache = pytest.importorskip("einstride.codegen.disk_cache")
dense = pytest.importorskip(
    "einstride.cpu.dense.forward", reason="llvmlite, the extra fast, is missing"
)

TILE = dense.Tile("float32", "float32", "float32", 4, 2, 1, (False, True))


@pytest.fixture
def kept(tmp_path):
    """Use an empty folder of kernels, and forget all kernels of this process."""
    with _testing.use(kernel_folder=tmp_path / "kernels"):
        yield tmp_path / "kernels"


@pytest.fixture
def made():
    """Return the list of the kernels that are compiled during the test."""
    with _testing.watching("compile a kernel") as calls:
        yield calls


def ask():
    return compiler.kernel("dense", dense.kernel, TILE, target=compiler.host_target())


def test_compiled_once_a_process_and_once_a_disk(kept, made):
    assert ask() is ask()
    assert len(made) == 1
    _testing.clear_caches("code")  # as in a new process
    ask()
    assert len(made) == 1
    assert len(list(kept.glob("*.kernel"))) == 1


@pytest.mark.parametrize(
    "harm", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + b"x" + b[41:]]
)
def test_a_corrupted_file_is_compiled_again(kept, made, harm):
    ask()
    (path,) = kept.glob("*.kernel")
    path.write_bytes(harm(path.read_bytes()))
    _testing.clear_caches("code")
    ask()
    assert len(made) == 2
    _testing.clear_caches("code")
    ask()
    assert len(made) == 2  # the file was replaced


def test_another_cpu_or_another_source_gets_another_file(kept):
    ask()
    _testing.clear_caches("code")
    with _testing.replacing("digest the package", lambda real: "edited"):
        ask()
    assert len(list(kept.glob("*.kernel"))) == 2


def test_a_folder_that_others_may_write_is_not_used(kept):
    kept.mkdir()
    kept.chmod(0o777)
    assert disk_cache.folder() is None
    ask()
    assert not list(kept.iterdir())
    kept.chmod(0o700)
    _testing.clear_caches("process")
    assert disk_cache.folder() == kept


def test_its_folder_is_for_this_user_alone(kept):
    assert stat.S_IMODE(disk_cache.folder().stat().st_mode) == 0o700


def test_no_folder_at_all(tmp_path):
    (tmp_path / "file").write_text("")
    with _testing.use(kernel_folder=tmp_path / "file" / "kernels"):
        assert disk_cache.folder() is None
        ask()


def test_warmup_fills_it(kept, capsys):
    from einstride.tools import warmup

    with _testing.use(constants={"warmup samples": warmup.SAMPLES[:2]}):
        assert main(["warmup"]) == 0
    out = capsys.readouterr().out
    assert "2/2 layers" in out
    assert str(kept) in out
    assert list(kept.glob("*.kernel"))


WITHOUT = """
import importlib.util as util
real = util.find_spec
util.find_spec = lambda name, *a: None if name == "llvmlite" else real(name, *a)
import numpy as np, einstride as es
x, f = np.ones((2, 9, 8, 4), "float32"), np.ones((3, 3, 4, 6), "float32")
y = es.conv(x, f, padding="same")
es.conv_input_grad(y, f, (9, 8), padding="same"); es.conv_filter_grad(x, y, 3, padding="same")
p = es.plan(x, f)
assert "pip install 'einstride[fast]'" in str(p), p
try:
    es.conv(x, f, algorithm="direct")
except ValueError as error:
    print(error)
import sys
assert "llvmlite" not in sys.modules
print(y[1, 4, 4, 0])
"""


def test_without_the_extra_everything_works():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "direct: needs llvmlite: pip install 'einstride[fast]'" in done.stdout
    assert done.stdout.splitlines()[-1] == "36.0"


def test_llvm_is_imported_only_when_a_kernel_is_wanted():
    code = "import sys, einstride, numpy; print('llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_kernel_of_another_process_gives_the_same(kept):
    x, f = np.ones((1, 8, 8, 16), "float32"), np.ones((3, 3, 16, 16), "float32")
    first = es.conv(x, f, algorithm="direct")
    code = (
        "import numpy as np, einstride as es;"
        "x, f = np.ones((1, 8, 8, 16), 'float32'), np.ones((3, 3, 16, 16), 'float32');"
        "print(es.conv(x, f, algorithm='direct').sum())"
    )
    before = {path: path.stat().st_mtime_ns for path in kept.glob("*.kernel")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == first.sum()
    assert before == {path: path.stat().st_mtime_ns for path in kept.glob("*.kernel")}
