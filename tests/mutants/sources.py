"""Changes definitions in the sources, even after they were renamed or moved.

The old code of a change is looked for in the definition of its name; then there with other names in
place of names that the definition no longer has; then, exactly as written, in definitions that have
the last parts of the name; at last in all sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from .c_source import CSource
from .change import Change, NotThereError
from .python_source import PythonSource

FOLDERS = ("src", "tests/cupy_host")
LANGUAGES: dict[str, type[PythonSource | CSource]] = {
    ".py": PythonSource, ".cu": CSource, ".cuh": CSource, ".cpp": CSource, ".h": CSource,
}  # fmt: skip


def read(root: Path, folders: Iterable[str] = FOLDERS) -> dict[str, str]:
    """Return {path below `root`: text} of all sources."""
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in LANGUAGES
    }


def make(change: Change, texts: dict[str, str]) -> dict[str, str]:
    """Return {path of the changed file: new text}, given the texts of all sources."""
    sources = {path: source(path, text) for path, text in texts.items()}
    for name, renamed in _names(change.definition):
        found = {
            (path, match.place): match
            for path, source in sources.items()
            for place in source.places(name)
            for match in source.find(place, change, renamed)
        }
        if len(found) > 1:
            files = ", ".join(sorted({path for path, _ in found}))
            raise NotThereError(f"{change} is {len(found)} times there, in {files}")
        for (path, _), match in found.items():
            return {path: sources[path].replace(match, change)}
    raise NotThereError(f"{change} is not there")


def _names(definition: str) -> Iterator[tuple[str, bool]]:
    """Yield (name of a definition to search, True if names in it may differ), in order.

    The last name is "", for all sources.
    """
    yield definition, False
    yield definition, True
    while definition:
        definition = definition.partition(".")[2]
        yield definition, False


@cache
def source(path: str, text: str) -> PythonSource | CSource:
    """Parse a source file."""
    at = Path(path)
    parts = at.parent.parts if at.stem == "__init__" else at.with_suffix("").parts
    return LANGUAGES[at.suffix](".".join(parts), text)
