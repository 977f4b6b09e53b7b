"""Compiles C and C++ into shared objects, which a cache on disk keeps for all processes."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"


class BuildError(RuntimeError):
    """Report that the compiler failed; the message is its log."""


@functools.lru_cache(maxsize=1)
def cache_directory() -> Path:
    """Return EINSTRIDE_CUPY_HOST_CACHE, or a directory of this user under the temporary
    directory."""
    chosen = os.environ.get("EINSTRIDE_CUPY_HOST_CACHE")
    if not chosen:
        chosen = os.path.join(tempfile.gettempdir(), f"einstride-cupy-host-{os.getuid()}")
    path = Path(chosen)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_uid != os.getuid():
        raise BuildError(f"{path} belongs to another user; set EINSTRIDE_CUPY_HOST_CACHE")
    return path


@functools.lru_cache(maxsize=4)
def compiler_identity(compiler: str) -> str:
    """Return the version of the compiler, which is part of every cache key."""
    out = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return out.stdout.splitlines()[0]


@functools.lru_cache(maxsize=1)
def headers_digest() -> str:
    """Return a digest of all headers of the host, on which every object may depend."""
    digest = hashlib.sha256()
    for header in sorted(SOURCES.glob("*.h")):
        digest.update(header.read_bytes())
    return digest.hexdigest()


def run(command: Sequence[str]) -> str:
    """Runs a compiler and returns its log; raises `BuildError` with the log if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stderr


def cached(name: str, parts: Sequence[str], suffix: str) -> Path:
    """Return the path of an object in the cache; `parts` is everything that determines its
    content."""
    key = hashlib.sha256("\0".join([headers_digest(), *parts]).encode()).hexdigest()[:24]
    return cache_directory() / f"{name}-{key}{suffix}"


def publish(made: Path, target: Path) -> None:
    """Moves a finished file into the cache; the last of several processes wins."""
    os.replace(made, target)


def build(
    name: str, files: Sequence[Path], flags: Sequence[str] = (), link: Sequence[str] = ()
) -> Path:
    """Compiles `files` (C, or C++ by suffix) into one shared object."""
    compiler = "g++" if any(f.suffix == ".cpp" for f in files) else "gcc"
    options = ["-w", "-shared", "-fPIC", f"-I{SOURCES}", *flags]
    texts = [f.read_text() for f in files]
    target = cached(name, [compiler_identity(compiler), *options, *link, *texts], ".so")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            made = Path(scratch) / target.name
            run([compiler, *options, "-o", str(made), *map(str, files), *link])
            publish(made, target)
    return target
