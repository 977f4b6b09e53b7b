"""Read and write the committed digests, and compare them with those of the working tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import llvmlite

from .generate import Specification, digest, texts

FILE = Path(__file__).with_name("digests.txt")
HEAD = "# specification, kernel, digest of its text: python -m tests.kernel_texts --write\n"

Digests = dict[tuple[str, str], str]
"""{(specification, kernel): digest}."""

ERROR = "(error)"
"""Stands for the kernel's name if the call of a specification raises an error."""


def committed() -> Digests:
    """Read the digests of the file."""
    digests: Digests = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, kernel, value = line.split()
            digests[name, kernel] = value
    return digests


def generated(name: str, spec: Specification) -> dict[str, str]:
    """Return {kernel: text} of a specification, or {ERROR: message} if its call raises an
    error."""
    try:
        return texts(spec)
    except Exception as error:  # the other specifications are still compared
        return {ERROR: f"{name}: {type(error).__name__}: {error}"}


def current(specs: dict[str, Specification]) -> Digests:
    """Compute the digests of specifications from the working tree."""
    return {
        (name, kernel): digest(text)
        for name, spec in specs.items()
        for kernel, text in generated(name, spec).items()
    }


def differences(before: Digests, now: Digests, names: Iterable[str]) -> Iterator[str]:
    """Yield one line for each kernel of these specifications whose digest differs or is missing."""
    chosen = set(names)
    for key in sorted({k for k in (*before, *now) if k[0] in chosen}):
        old, new = before.get(key, "none"), now.get(key, "none")
        if old != new:
            yield f"{key[0]}  {key[1]}  {old} -> {new}"


def write(now: Digests) -> None:
    """Write the digests, sorted, to the file."""
    lines = (f"{name} {kernel} {now[name, kernel]}\n" for name, kernel in sorted(now))
    version = f"# llvmlite {llvmlite.__version__}\n"
    FILE.write_text(HEAD + version + "".join(lines), encoding="utf-8")


def version_note() -> str:
    """Return a remark if the file was written with another version of llvmlite, else ""."""
    current_line = f"# llvmlite {llvmlite.__version__}"
    head = FILE.read_text(encoding="utf-8").splitlines()[:2]
    if current_line in head:
        return ""
    return f" (the file was written with {head[1][2:]}, this is {current_line[2:]})"
