"""Environment variables set the folder of compiled kernels and the bound of its size."""

import os
import sys

import pytest

from einstride import _testing
from einstride.__main__ import main

pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")
disk_cache = pytest.importorskip("einstride.codegen.disk_cache")


@pytest.fixture
def kept(tmp_path):
    with _testing.use(kernel_folder=tmp_path / "kernels"):
        yield tmp_path / "kernels"


@pytest.mark.parametrize("text", ["many", "-1", "1e6", "1.5", "9" * 30, "٣"])
def test_a_limit_that_is_no_number(kept, monkeypatch, text, capsys):
    monkeypatch.setenv("EINSTRIDE_CACHE_BYTES", text)
    _testing.clear_caches("process")
    with pytest.raises(ValueError, match=r"EINSTRIDE_CACHE_BYTES: .*; got .*; unset"):
        disk_cache.limit()
    assert main(["info"]) == 0
    assert "EINSTRIDE_CACHE_BYTES: it must be" in capsys.readouterr().out


def test_info_tells_folder_size_and_limit(kept, capsys):
    disk_cache.write("a kernel", b"x" * (1 << 20))
    assert main(["info"]) == 0
    assert f"kept in {kept}: 1.0 of 256.0 MiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/einstride"),
        ("linux", {}, "/home/me/.cache/einstride"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/einstride"),
        ("darwin", {}, "/home/me/Library/Caches/einstride"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/einstride/Cache"),
    ],
)
def test_the_default_folder(monkeypatch, platform, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/me"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(disk_cache.default_folder()) == expected


def test_the_default_folder_is_that_of_platformdirs():
    platformdirs = pytest.importorskip("platformdirs", reason="platformdirs is not installed")
    expected = platformdirs.user_cache_dir("einstride", appauthor=False)
    assert str(disk_cache.default_folder()) == expected


def test_without_a_home_nothing_is_kept(monkeypatch, tmp_path):
    """Without a home directory no kernel is stored, also not in a folder named "~"."""
    for name in ("EINSTRIDE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    _testing.clear_caches("process")
    assert disk_cache.folder() is None
    assert not list(tmp_path.iterdir())
    _testing.clear_caches("process")


def test_a_relative_folder_stays_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setenv("EINSTRIDE_CACHE", "kernels")
    monkeypatch.chdir(tmp_path)
    _testing.clear_caches("process")
    assert disk_cache.folder() == tmp_path / "kernels"
    _testing.clear_caches("process")


def aged(path, seconds):
    """Set the time of last use of a file to `seconds` ago."""
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def test_the_least_recently_used_go_first(kept, monkeypatch):
    monkeypatch.setenv("EINSTRIDE_CACHE_BYTES", "10000")
    _testing.clear_caches("process")
    for number in range(8):  # of 1,032 bytes
        disk_cache.write(f"kernel {number}", bytes([number]) * 1000)
        aged(disk_cache._file_of(f"kernel {number}"), 86400 * (8 - number))
    assert disk_cache.read("kernel 0") is not None  # reading is a use
    disk_cache.write("kernel 8", b"x" * 1000)
    assert len(list(kept.iterdir())) == 9
    disk_cache.write("kernel 9", b"x" * 1000)
    found = [n for n in range(10) if disk_cache.read(f"kernel {n}") is not None]
    assert found == [0, 3, 4, 5, 6, 7, 8, 9]
    assert disk_cache.size() == 8 * 1032


def test_what_is_larger_than_the_limit_is_not_kept(kept, monkeypatch):
    monkeypatch.setenv("EINSTRIDE_CACHE_BYTES", "1031")
    _testing.clear_caches("process")
    disk_cache.write("a kernel", b"x" * 1000)
    assert not list(kept.iterdir())
    disk_cache.write("a kernel", b"x" * 999)
    assert disk_cache.size() == 1031


def test_other_files_of_the_folder_stay(kept, monkeypatch):
    monkeypatch.setenv("EINSTRIDE_CACHE_BYTES", "1100")
    _testing.clear_caches("process")
    assert disk_cache.folder() == kept
    for name in ("thesis.txt", "x.kernel", "b.part", f"{'0' * 40}.kernel.bak"):
        (kept / name).write_bytes(b"x" * 5000)
        aged(kept / name, 1e6)
    for number in range(3):
        disk_cache.write(f"kernel {number}", b"x" * 1000)
    assert {p.name for p in kept.iterdir()} >= {"thesis.txt", "x.kernel", "b.part"}
    assert len(list(kept.glob("*.kernel"))) == 2
    assert disk_cache.size() == 1032


def test_temporary_files_of_killed_processes_go(kept):
    disk_cache.write("a kernel", b"x")
    (path,) = kept.iterdir()
    old, new = (kept / f"{path.stem}.{word}.part" for word in ("abc", "def"))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    aged(old, disk_cache.STALE_SECONDS + 60)
    _testing.clear_caches("process")
    disk_cache.folder()
    disk_cache.write("another", b"x")
    assert not old.exists()
    assert new.exists()  # its process may still write it


def test_no_bytes_no_folder(kept, monkeypatch):
    monkeypatch.setenv("EINSTRIDE_CACHE_BYTES", "0")
    _testing.clear_caches("process")
    assert disk_cache.folder() is None
    disk_cache.write("a kernel", b"x")
    assert not kept.exists()
