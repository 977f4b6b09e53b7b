"""Print the kernels that differ from the committed digests: ``python -m tests.kernel_texts``.

Each argument PART chooses the specifications whose names contain it; without arguments all are
taken. One line is printed for each kernel whose text differs, and the exit status is 1 if there is
such a kernel.
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
"""Path of the module that uses the library's private names: another commit needs its own."""

NUMBER = re.compile(r'%"\.\d+"')
"""A numbered value of LLVM IR."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernel_texts", description=__doc__)
    parser.add_argument("part", nargs="*")
    parser.add_argument("--write", action="store_true", help="replace the committed digests")
    parser.add_argument("--show", action="store_true", help="print the texts")
    parser.add_argument("--against", metavar="COMMIT", help="print the differences from its texts")
    parser.add_argument("--digests", action="store_true", help="print the digests")
    parser.add_argument("--dump", metavar="FILE", help="write the texts as lines of JSON")
    return parser.parse_args()


def main() -> int:
    """Run the action that the command line chooses, and return the exit status."""
    options = arguments()
    specs = {
        name: spec
        for name, spec in specifications().items()
        if not options.part or any(part in name for part in options.part)
    }
    if not specs:
        print("no specification's name contains that", file=sys.stderr)
        return 2
    if options.dump:
        dump(specs, Path(options.dump))
    elif options.against:
        return compare(specs, options.against, options.part)
    elif options.show:
        for name, kernel, text in _all_texts(specs):
            print(f"; {name} {kernel}\n{text}")
    elif options.digests:
        for (name, kernel), value in digests.current(specs).items():
            print(name, kernel, value)
    elif options.write:
        if options.part:
            print("--write takes all specifications", file=sys.stderr)
            return 2
        return write(specs)
    else:
        now, before = digests.current(specs), digests.committed()
        names = specs if options.part else {*specs, *(name for name, _ in before)}
        found = list(digests.differences(before, now, names))
        print(*found, f"{len(found)} of {len(now)} kernels differ", sep="\n", end="")
        print(digests.version_note() if found else "")
        return int(bool(found))
    return 0


def write(specs: dict[str, Specification]) -> int:
    """Replace the committed digests, unless a specification's call fails; return the exit
    status."""
    before, now = digests.committed() if digests.FILE.exists() else {}, digests.current(specs)
    failed = [name for name, kernel in now if kernel == digests.ERROR]
    if failed:
        print("nothing is written; these fail, see --show:", *failed, sep="\n", file=sys.stderr)
        return 1
    digests.write(now)
    changed = list(digests.differences(before, now, {name for name, _ in (*before, *now)}))
    print(*changed, f"{len(changed)} of {len(now)} kernels changed", sep="\n")
    return 0


def _all_texts(specs: dict[str, Specification]) -> Iterator[tuple[str, str, str]]:
    """Yield (specification, kernel, text) for each kernel."""
    for name, spec in specs.items():
        for kernel, text in digests.generated(name, spec).items():
            yield name, kernel, text


def dump(specs: dict[str, Specification], file: Path) -> None:
    """Write one line of JSON for each kernel: its specification, its name, its text."""
    with file.open("w", encoding="utf-8") as lines:
        for kernel in _all_texts(specs):
            lines.write(json.dumps(kernel) + "\n")


def compare(specs: dict[str, Specification], commit: str, parts: list[str]) -> int:
    """Print unified diffs between the texts of a commit and of the working tree.

    Returns the exit status. Numbers of values are left out, because one added instruction changes
    all numbers behind it, unless two texts differ in numbers only.
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
        new = {(spec, kernel): text for spec, kernel, text in _all_texts(specs)}
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
    """Write a commit's sources, with its `HOOKS` if it has them, and a copy of this package."""
    copied = folder / "tests" / "kernel_texts"
    shutil.copytree(FOLDER, copied, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["git", "ls-tree", "--name-only", commit, "src", HOOKS]
    paths = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    command = ["git", "archive", commit, *paths.splitlines()]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


if __name__ == "__main__":
    sys.exit(main())
