"""Print the functions of the kernel generators that no first specification calls, as JSON.

    python -m tests.kernel_texts.reached

Every function of these folders notes its call in a statement that is added to it while its module
is imported, because a profiler more than doubles the time of the calls.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

FOLDERS = ("cpu", "nn/cpu")
"""Folders of the package with the generators of kernels."""

CALLED: set[int] = set()
"""Indices into `FUNCTIONS` of the functions that were called."""

FUNCTIONS: list[tuple[str, str]] = []
"""(module's path below the package, qualified name) of each function of `FOLDERS`."""


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[ast.FunctionDef, str]]:
    """Yield each function and method of a module with its qualified name, also nested ones.

    Abstract methods are left out: nothing calls them.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            if any(ast.unparse(d) == "abstractmethod" for d in node.decorator_list):
                continue
            yield node, prefix + node.name
            yield from functions(node, f"{prefix}{node.name}.<locals>.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


class Loader(SourceFileLoader):
    """Load a module whose functions add their indices to `CALLED`."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path))
        module = Path(self.path).relative_to(package()).as_posix()
        for function, name in functions(tree):
            call = ast.parse(f"_called({len(FUNCTIONS)})").body
            FUNCTIONS.append((module, name))
            at = function.body[0]
            function.body[:0] = [ast.copy_location(statement, at) for statement in call]
        code: CodeType = compile(ast.fix_missing_locations(tree), self.path, "exec")
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["_called"] = CALLED.add
        super().exec_module(module)


class Finder(MetaPathFinder):
    """Find modules in `FOLDERS`, to be loaded by `Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("einstride."):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or not in_folders(Path(spec.origin)):
            return None
        spec.loader = Loader(fullname, spec.origin)
        return spec


def package() -> Path:
    """Return the folder of the package, without importing it."""
    spec = find_spec("einstride")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def in_folders(path: Path) -> bool:
    """True if a file is in one of `FOLDERS`."""
    return any(path.is_relative_to(package() / folder) for folder in FOLDERS)


def main() -> None:
    """Import every module, forget the calls of the imports, and make the texts."""
    sys.meta_path.insert(0, Finder())
    for folder in FOLDERS:
        for path in sorted((package() / folder).rglob("*.py")):
            parts = path.relative_to(package().parent).with_suffix("").parts
            importlib.import_module(".".join(p for p in parts if p != "__init__"))
    from . import generate

    CALLED.clear()
    for spec in generate.firsts():
        generate.texts(spec)
    missed: dict[str, list[str]] = {}
    for index, (module, name) in enumerate(FUNCTIONS):
        if index not in CALLED:
            missed.setdefault(module, []).append(name)
    print(json.dumps(missed))


if __name__ == "__main__":
    main()
