"""The committed digests, and how they differ from those of the code as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import llvmlite

from .generate import Specification, digest, texts

FILE = Path(__file__).with_name("digests.txt")
HEAD = "# specification, kernel, digest of its text: python -m tests.kernel_texts --write\n"

Digests = dict[tuple[str, str], str]
"""By specification and kernel."""

ERROR = "(error)"
"""In the place of a kernel's name: the call of the specification raised an error."""


def committed() -> Digests:
    """The digests of the file."""
    found: Digests = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, kernel, value = line.split()
            found[name, kernel] = value
    return found


def generated(name: str, spec: Specification) -> dict[str, str]:
    """The texts of a specification by kernel; the error alone if its call raised one."""
    try:
        return texts(spec)
    except Exception as error:  # one broken specification shall not hide what the others say
        return {ERROR: f"{name}: {type(error).__name__}: {error}"}


def current(specs: dict[str, Specification]) -> Digests:
    """The digests of the code as it is."""
    return {
        (name, kernel): digest(text)
        for name, spec in specs.items()
        for kernel, text in generated(name, spec).items()
    }


def differences(before: Digests, now: Digests, names: Iterable[str]) -> Iterator[str]:
    """One line for each kernel of these specifications whose digest is another one, or new."""
    chosen = set(names)
    for key in sorted({k for k in (*before, *now) if k[0] in chosen}):
        old, new = before.get(key, "none"), now.get(key, "none")
        if old != new:
            yield f"{key[0]}  {key[1]}  {old} -> {new}"


def write(now: Digests) -> None:
    """Replace the file."""
    lines = (f"{name} {kernel} {now[name, kernel]}\n" for name, kernel in sorted(now))
    version = f"# llvmlite {llvmlite.__version__}\n"
    FILE.write_text(HEAD + version + "".join(lines), encoding="utf-8")


def version_note() -> str:
    """Half a sentence if the file was written with another version of llvmlite, else nothing."""
    mine = f"# llvmlite {llvmlite.__version__}"
    head = FILE.read_text(encoding="utf-8").splitlines()[:2]
    return "" if mine in head else f" (written with {head[1][2:]}, here is {mine[2:]})"
