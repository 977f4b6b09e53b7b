"""``python -m tests.kernel_texts [PART ...]``: which kernels differ from the committed digests.

PART chooses the specifications whose names contain it; without any, all are taken. A line is
printed for each kernel whose text differs, and the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from . import digests
from .generate import FOLDER, Specification, specifications

ROOT = FOLDER.parents[1]
HOOKS = "tests/kernel_texts/capture.py"
"""The module that knows the library's private names: another commit needs its own."""

NUMBER = re.compile(r'%"\.\d+"')
"""A value that LLVM IR refers to by number."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernel_texts", description=__doc__)
    parser.add_argument("part", nargs="*")
    parser.add_argument("--write", action="store_true", help="replace the committed digests")
    parser.add_argument("--show", action="store_true", help="print the texts")
    parser.add_argument("--against", metavar="COMMIT", help="print how the texts differ from its")
    parser.add_argument("--digests", action="store_true", help="print the digests")
    parser.add_argument("--dump", metavar="FILE", help="write the texts as lines of JSON")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says."""
    given = arguments()
    specs = {
        name: spec
        for name, spec in specifications().items()
        if not given.part or any(part in name for part in given.part)
    }
    if not specs:
        print("no specification's name contains that", file=sys.stderr)
        return 2
    if given.dump:
        dump(specs, Path(given.dump))
    elif given.against:
        return compare(specs, given.against, given.part)
    elif given.show:
        for name, kernel, text in _generated(specs):
            print(f"; {name} {kernel}\n{text}")
    elif given.digests:
        for (name, kernel), value in digests.current(specs).items():
            print(name, kernel, value)
    elif given.write:
        if given.part:
            print("--write takes all specifications", file=sys.stderr)
            return 2
        return write(specs)
    else:
        now, before = digests.current(specs), digests.committed()
        names = specs if given.part else {*specs, *(name for name, _ in before)}
        found = list(digests.differences(before, now, names))
        print(*found, f"{len(found)} of {len(now)} kernels differ", sep="\n", end="")
        print(digests.version_note() if found else "")
        return int(bool(found))
    return 0


def write(specs: dict[str, Specification]) -> int:
    """Replace the committed digests, unless a specification's call fails."""
    before, now = digests.committed() if digests.FILE.exists() else {}, digests.current(specs)
    failed = [name for name, kernel in now if kernel == digests.ERROR]
    if failed:
        print("not written: look with --show at", *failed, sep="\n", file=sys.stderr)
        return 1
    digests.write(now)
    changed = list(digests.differences(before, now, {name for name, _ in (*before, *now)}))
    print(*changed, f"{len(changed)} of {len(now)} kernels changed", sep="\n")
    return 0


def _generated(specs: dict[str, Specification]) -> Iterator[tuple[str, str, str]]:
    for name, spec in specs.items():
        for kernel, text in digests.generated(name, spec).items():
            yield name, kernel, text


def dump(specs: dict[str, Specification], file: Path) -> None:
    """Write one line for each kernel: its specification, its name, its text."""
    with file.open("w", encoding="utf-8") as lines:
        for found in _generated(specs):
            lines.write(json.dumps(found) + "\n")


def compare(specs: dict[str, Specification], commit: str, parts: list[str]) -> int:
    """Print unified diffs between the texts of a commit's sources and those of the sources here.

    Values are shown without their numbers, which all change behind an instruction that was added,
    unless the numbers are all that differs.
    """
    with tempfile.TemporaryDirectory(prefix="einstride-texts-") as name:
        folder = Path(name)
        checkout(commit, folder)
        before = folder / "texts.json"
        environment = os.environ | {"PYTHONPATH": str(folder / "src")}
        command = [sys.executable, "-m", "tests.kernel_texts", "--dump", str(before), *parts]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        with before.open(encoding="utf-8") as lines:
            old = {(spec, kernel): text for spec, kernel, text in map(json.loads, lines)}
        new = {(spec, kernel): text for spec, kernel, text in _generated(specs)}
        differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        for spec, kernel in differing:
            pair = [side.get((spec, kernel), "") for side in (old, new)]
            shown = [NUMBER.sub("%", text) for text in pair]
            shown = pair if shown[0] == shown[1] else shown
            for side, text in zip(("before", "here"), shown, strict=True):
                path = folder / side / spec / f"{kernel}.ll"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        if differing:
            command = ["git", "diff", "--no-index", "--no-prefix", "before", "here"]
            subprocess.run(command, cwd=folder, check=False)
    print(f"{len(differing)} of {len(new)} kernels differ from {commit}", file=sys.stderr)
    return int(bool(differing))


def checkout(commit: str, folder: Path) -> None:
    """Put a commit's sources, and its hooks if it has them, beside the specifications of here."""
    mine = folder / "tests" / "kernel_texts"
    shutil.copytree(FOLDER, mine, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["git", "ls-tree", "--name-only", commit, "src", HOOKS]
    paths = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    command = ["git", "archive", commit, *paths.splitlines()]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


if __name__ == "__main__":
    sys.exit(main())
