"""Planted faults: each can be made in the sources, however they are written, and fails a test."""

from __future__ import annotations

import ast
import builtins
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import cupy_host
from fuzz import planted
from mutants import run
from mutants.change import NotThereError
from mutants.sources import make, read, source

WANTED = os.environ.get("EINSTRIDE_MUTANTS") == "1"
COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
TEXTS = read(run.ROOT)
CHANGES = [
    *(fault.change for fault in run.faults()),
    *(change for changes in planted.FAULTS.values() for change in changes),
]


@cache
def made():
    """List (change, path of the changed file, new text) of all faults."""
    return [(change, *file) for change in CHANGES for file in make(change, TEXTS).items()]


@pytest.mark.skipif(not WANTED, reason="a minute or two: set EINSTRIDE_MUTANTS=1")
def test_no_fault_survives():
    reason = cupy_host.unavailable_reason()
    if reason:
        pytest.skip(reason)
    script = Path(__file__).parent / "mutants" / "run.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def code(path, text):
    """Return the code of a text in a normal form, without comments and layout."""
    if path.endswith(".py"):
        return ast.unparse(ast.parse(text)).strip()
    return "".join(COMMENTS.sub("", text).split())


def test_each_fault_changes_the_code_of_a_definition():
    for change, path, text in made():
        assert any(source(*known).places(change.definition) for known in TEXTS.items()), change
        assert code(path, text) != code(path, TEXTS[path])


def unbound(text):
    """Return the names that some code reads but binds nowhere."""
    nodes = list(ast.walk(ast.parse(text)))
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for kind in ("arg", "name", "asname"):
        bound |= {getattr(n, kind, None) for n in nodes}
    return read - bound - {*dir(builtins)}


def test_no_fault_reads_undefined_names():
    """A fault that raises a NameError would fail any test, and prove nothing."""
    for change, path, text in made():
        if path.endswith(".py"):
            assert unbound(text) <= unbound(TEXTS[path]), change


def missed(rewritten, faults):
    """Yield an error for each fault that cannot be made in rewritten sources, or is made elsewhere.

    `rewritten` maps (change, path, text of the file) to another path and text.
    """
    for change, path, text in faults:
        to, before = rewritten(change, path, TEXTS[path])
        others = {other: known for other, known in TEXTS.items() if other != path}
        try:
            found = make(change, {**others, to: before})
        except NotThereError as error:
            yield str(error)
            continue
        _, after = rewritten(change, path, text)
        if [*found] != [to] or not same(to, found[to], after):
            yield f"{change} is made elsewhere, or otherwise"


def stored(text):
    """Return the variables that some code assigns."""
    nodes = ast.walk(ast.parse(text))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def same(path, first, second):
    return first.strip() == second.strip() or code(path, first) == code(path, second)


class OtherLocals(ast.NodeTransformer):
    """Rename the arguments and local variables of functions, except for some."""

    names: frozenset[str] = frozenset()

    def __init__(self, kept):
        self.kept = kept

    def visit_FunctionDef(self, node):
        outer = self.names
        for inside in ast.walk(node):
            if isinstance(inside, ast.arg):
                self.names |= {inside.arg}
            elif isinstance(getattr(inside, "ctx", None), ast.Store):
                self.names |= {getattr(inside, "id", None)}
        self.names -= self.kept
        self.generic_visit(node)
        self.names = outer
        return node

    def visit_Name(self, node):
        node.id += "_renamed" * (node.id in self.names)
        return node

    def visit_arg(self, node):
        node.arg += "_renamed" * (node.arg in self.names)
        return self.generic_visit(node)


def with_another_layout(change, path, text):
    """Rewrite a file with another layout, without comments, and with renamed variables."""
    if path.endswith(".py"):
        tree = OtherLocals(stored(change.new) - stored(change.old)).visit(ast.parse(text))
        return path, ast.unparse(tree)
    text = re.sub(r"(?<=[(,;])(?![^\n]*#)", "  ", COMMENTS.sub("", text))
    kept = {"if", "for", "return", "continue", "int", "long", "unsigned", "const", "true"}
    for name in {*re.findall(r"(?<![.>\w])[a-z]\w*", change.old)} - kept:
        text = re.sub(rf"(?<![.>#\w]){name}\b(?! unroll)", f"{name}_renamed", text)
    return path, text


def test_layout_and_names_of_variables_do_not_matter():
    assert not [*missed(with_another_layout, made())]


def with_another_name(change, path, text):
    """Rewrite a file so that the definition of the change has another name."""
    name = change.definition.rpartition(".")[2]
    if name.startswith("__"):
        return path, text
    before = r"^\s*(?:def|class) |^" if path.endswith(".py") else r"(?<![.>\w])"
    return path, re.sub(rf"({before}){name}\b", rf"\1{name}_renamed", text, flags=re.MULTILINE)


def test_a_definition_that_is_renamed_is_found():
    """Tried for one fault in eight: without a name, the search goes through all sources."""
    assert not [*missed(with_another_name, made()[::8])]


def in_a_module_of_its_own(change, path, text):
    """Move the definition into a new module in a new folder."""
    to = str(Path("src/einstride/attic/alone").with_suffix(Path(path).suffix))
    if not path.endswith(".py"):
        return to, text
    parts, tree = set(change.definition.split(".")), ast.parse(text)
    body = [node for node in tree.body if parts & defined(node)]
    return to, ast.unparse(ast.Module(body or tree.body, []))


def defined(node):
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}


TWINS = {"cupy.astype"}  # another module has a function of the same code: the module must be named


def test_a_definition_that_moves_is_found():
    assert not [
        *missed(
            in_a_module_of_its_own, [file for file in made() if file[0].definition not in TWINS]
        )
    ]
