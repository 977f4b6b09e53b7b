"""Keep kernels' machine code in a folder of the user, so that later processes need not compile.

A file's name is a digest of everything that determines the code: the kernel's description (its
arguments and the CPU), LLVM's version, and the content of every file of this package. The file
holds 32 bytes of SHA-256 over its name and the code, then the code. Code is read only from a
regular file that belongs to this user and that nobody else may write, in a folder for which both
hold too.

The folder has a limit of bytes: the least recently used files are removed first. Several processes
may share it: a file appears complete or not at all, and a kernel that another process removed is
compiled again. A failure of the disk costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import time

from einstride.support.caches import cached, register
from einstride.support.errors import bad_value
from einstride.support.import_time import IMPORTED

LIMIT = 256 << 20
"""Bytes that the folder may hold, unless ``EINSTRIDE_CACHE_BYTES`` gives another number. Chosen:
the kernels of one network take 1 to 5 MB."""

MAX_FILE_BYTES = 64 << 20
"""Bytes of the largest file that is read or written; chosen: hundreds of times a large kernel."""

KEPT_FRACTION = 7 / 8
"""Fraction of the limit that removals leave, chosen so that not every write removes files."""

SHARERS = 8
"""Processes that may write at once without exceeding the limit, chosen: each counts the folder's
bytes again after it has written this fraction, 1 / `SHARERS`, of the bytes that were free."""

STALE_SECONDS = 3600
"""Seconds after which a temporary file is taken for the leftover of a killed process, and after
which a use of a kernel sets its file's time again; chosen, far longer than any write takes."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_KERNEL = re.compile(r"[0-9a-f]{40}\.kernel")
_TEMPORARY = re.compile(r"[0-9a-f]{40}\..*\.part")
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO opens at once, and is then refused
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

_uncounted = 0.0
"""Bytes that this process may still write before it counts the folder's bytes again."""


def _count_again() -> None:
    global _uncounted
    _uncounted = 0.0


register(f"{__name__}._uncounted", "process", _count_again, lambda: int(_uncounted > 0))


@cached(1, "process")
def limit() -> int:
    """Return the number of bytes that the folder may hold; 0 turns the disk cache off."""
    setting = os.environ.get("EINSTRIDE_CACHE_BYTES", "").strip()
    if not setting:
        return LIMIT
    if not (setting.isascii() and setting.isdigit() and len(setting) < 20):
        raise bad_value(
            "EINSTRIDE_CACHE_BYTES", "it must be a number of bytes, 0 for no cache on disk",
            repr(setting), f"unset it for {LIMIT}",
        )  # fmt: skip
    return int(setting)


def default_folder() -> Path:
    """Return the user's folder for caches, the one that the package platformdirs would choose."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "einstride" / "Cache"
    setting = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(setting):
        return Path(setting) / "einstride"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "einstride"


@cached(1, "process")
def folder() -> Path | None:
    """Return the folder of machine code; None if there is none that only this user may write."""
    setting = os.environ.get("EINSTRIDE_CACHE")
    path = Path(os.path.abspath(setting)) if setting else default_folder()
    if limit() == 0 or not path.is_absolute():  # no home is known: "~" stays as it is
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError:
        return None
    return path if _owned_by_user(status) else None


def read(description: str) -> bytes | None:
    """Read the machine code that `write` kept; None if there is no complete file of it."""
    path = _file_of(description)
    if path is None:
        return None
    try:
        content, age = _read_trusted(path)
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    if not code or _digest(path.name, code) != digest:
        return None
    if age > STALE_SECONDS:
        with suppress(OSError):  # in a read-only folder the time stays as it was
            os.utime(path)
    return code


def write(description: str, code: bytes) -> None:
    """Write machine code for later processes; nothing happens if the disk refuses."""
    global _uncounted
    path = _file_of(description)
    size = 32 + len(code)
    if path is None or size > min(limit(), MAX_FILE_BYTES):
        return
    with suppress(OSError):
        _replace(path, _digest(path.name, code) + code)
    _uncounted -= size
    if _uncounted <= 0:
        with suppress(OSError):
            _uncounted = (limit() - _trim(path.parent, limit())) / SHARERS


def size() -> int:
    """Return the number of bytes in the folder, temporary files among them."""
    directory = folder()
    if directory is None:
        return 0
    try:
        return sum(status.st_size for _, status in _cached_files(directory))
    except OSError:
        return 0


def _read_trusted(path: Path) -> tuple[bytes, float]:
    """Read a file that only this user can have written, and the seconds since its last use.

    The content is empty for any other file.
    """
    handle = os.open(path, _FLAGS)
    try:
        status = os.fstat(handle)
        if not (
            stat.S_ISREG(status.st_mode)
            and _owned_by_user(status)
            and status.st_size <= MAX_FILE_BYTES
        ):
            return b"", 0.0
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(status.st_size), time() - status.st_mtime
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, and leave no temporary file behind."""
    handle, temporary = tempfile.mkstemp(".part", f"{path.stem}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _trim(directory: Path, limit_bytes: int) -> int:
    """Remove stale temporary files and, above `limit_bytes`, old kernels; return the bytes left.

    Another process may do so at the same time: both then remove the same files.
    """
    total, kernels = 0, []
    for path, status in _cached_files(directory):
        if _TEMPORARY.fullmatch(path.name) and status.st_mtime < time() - STALE_SECONDS:
            _remove(path)
            continue
        total += status.st_size
        if _KERNEL.fullmatch(path.name):
            kernels.append((status.st_mtime_ns, path.name, status.st_size))
    if total <= limit_bytes:
        return total
    for _, name, size in sorted(kernels):
        if total <= KEPT_FRACTION * limit_bytes:
            break
        _remove(directory / name)
        total -= size
    return total


def _cached_files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files in the folder whose names this module gives."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if not (_KERNEL.fullmatch(entry.name) or _TEMPORARY.fullmatch(entry.name)):
                continue
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield Path(entry.path), status


def _remove(path: Path) -> None:
    with suppress(OSError):  # another process was first, or the folder is read-only
        path.unlink()


def _owned_by_user(status: os.stat_result) -> bool:
    """True if a file or a folder belongs to this user, and nobody else may write it."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _digest(name: str, code: bytes) -> bytes:
    return hashlib.sha256(name.encode() + code).digest()


def _file_of(description: str) -> Path | None:
    """Return the path of a kernel's file; None if its code cannot be kept."""
    directory, source = folder(), package_digest()
    if (
        directory is None or source is None or " at 0x" in description
    ):  # an address means nothing to a later process
        return None
    name = hashlib.sha256(f"{source} {description}".encode()).hexdigest()
    return directory / f"{name[:40]}.kernel"


@cached(1, "code")
def package_digest() -> str | None:
    """Digest LLVM's version and every file of this package; None if the digest is unreliable.

    It is unreliable if the package is no folder (a zip), if one of its modules was loaded from
    elsewhere, or if a file changed after this process had begun to import the package. Reading 230
    files, 1.3 MB, takes 5 ms, once per process and only when a kernel is needed.
    """
    from llvmlite import __version__
    from llvmlite.binding import llvm_version_info

    digest = hashlib.sha256(repr((__version__, llvm_version_info)).encode())
    digested = set()
    try:
        for path in sorted(_package_files(_PACKAGE)):
            with open(path, "rb", buffering=0) as file:
                if _changed_ns(os.fstat(file.fileno())) > IMPORTED:
                    return None
                content = file.read()
            digest.update(f"{os.path.relpath(path, _PACKAGE)} {len(content)} ".encode() + content)
            digested.add(os.path.normcase(path))
    except OSError:
        return None
    modules = [m for name, m in [*sys.modules.items()] if f"{name}.".startswith("einstride.")]
    origins = {os.path.normcase(str(getattr(module, "__file__", ""))) for module in modules}
    return digest.hexdigest() if origins <= digested else None


def _changed_ns(status: os.stat_result) -> int:
    """Return the time of a file's last change in ns; on POSIX no program can set that time."""
    return status.st_mtime_ns if sys.platform == "win32" else status.st_ctime_ns


def _package_files(root: str) -> Iterator[str]:
    """Yield the paths of all files below `root` except compiled Python files."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _package_files(entry.path)
            elif entry.is_file():
                yield entry.path
