"""Find and change Python code as a syntax tree, whatever its layout, quotes and comments.

A pattern is an expression, or some statements in a row. In it

- ``_1``, ``_2``, ... stand for any expression, ``*_1`` for any number of elements or arguments in a
  row, ``**_1`` for any number of keyword arguments;
- ``...`` as a statement stands for any number of statements: the first in the old code for the
  first in the new code, and so on. An ``else`` and decorators that a statement with ``...`` in its
  body leaves out may be there, and stay.
"""

from __future__ import annotations

import ast
import copy
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .change import Bound, Change, Match, places

_IDENTIFIERS: dict[type[ast.AST], str] = {
    ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name", ast.ClassDef: "name",
    ast.ExceptHandler: "name", ast.Attribute: "attr", ast.keyword: "arg",
}  # fmt: skip
_SORTS: dict[type[ast.AST], str] = {
    ast.Attribute: "attribute", ast.keyword: "keyword",
    ast.FunctionDef: "definition", ast.ClassDef: "definition",
}  # fmt: skip
_SECONDARY = {"ctx", "kind", "type_comment"}  # they follow from the rest
_LEFT_OUT = {"orelse", "decorator_list", "returns"}
_PLACEHOLDER = re.compile(r"_\d+")


@dataclass(frozen=True)
class Place:
    """Hold a field of a node; if the field is a list, `count` of its elements from `index` on."""

    owner: ast.AST
    field: str
    index: int = 0
    count: int = 1

    @property
    def nodes(self) -> list[Any]:
        """Return the nodes at the place."""
        value = getattr(self.owner, self.field)
        if isinstance(value, list):
            return value[self.index : self.index + self.count]
        return [value]


class PythonSource:
    """Search and change a Python module."""

    def __init__(self, module: str, text: str):
        self._text, self._tree = text, ast.parse(text)
        whole = Place(self._tree, "body", count=len(self._tree.body))
        self._definitions = [(module, whole), *_defined(self._tree, module)]

    def places(self, name: str) -> list[Place]:
        """List the definitions whose full names end with this one; the whole module for ""."""
        return places(self._definitions, name)

    def find(self, place: Place, change: Change, renamed: bool) -> Iterator[Match]:
        """Find the old code at a place, if `renamed` with others for the names it has not there."""
        try:
            pattern, _ = _patterns(change)
        except SyntaxError:  # it is C
            return
        names = _names(pattern)
        if not renamed and not all(name in self._text for _, name in names):
            return  # quickly
        lost = names - _names(place.nodes) if renamed else set()
        for here in _places(place, pattern):
            bound = _match_all(pattern, here.nodes, Bound(frozenset(lost)))
            if bound is not None:
                yield Match(here, bound)

    def replace(self, match: Match, change: Change) -> str:
        """Return the module's text with the new code where the old code was found.

        The tree is changed for a moment: one thread at a time.
        """
        _, pattern = copy.deepcopy(_patterns(change))
        new, place = [_Filling(match.bound).visit(node) for node in pattern], match.place
        before = getattr(place.owner, place.field)
        if isinstance(before, list):
            after = [*before[: place.index], *new, *before[place.index + place.count :]]
            setattr(place.owner, place.field, after or [ast.Pass()])
        else:
            setattr(place.owner, place.field, *new)
        try:
            return ast.unparse(self._tree) + "\n"
        finally:
            setattr(place.owner, place.field, before)


@cache
def _patterns(change: Change) -> tuple[list[Any], list[Any]]:
    """Parse the old and the new code, as expressions if both are expressions, else as
    statements."""
    old, new = _pattern(change.old), _pattern(change.new)
    if [type(node) for node in old + new] == [ast.Expr, ast.Expr]:
        return [old[0].value], [new[0].value]
    return old, new


def _pattern(text: str) -> list[Any]:
    tree = ast.parse(text)
    gaps = [node for node in ast.walk(tree) if _is_gap(node)]
    for i, node in enumerate(sorted(gaps, key=lambda node: node.lineno)):
        node.gap = f"...{i}"
    return tree.body


def _defined(node: ast.AST, prefix: str, constants: bool = True) -> Iterator[tuple[str, Place]]:
    """List full names and places of functions, classes and constants in a node, without
    variables."""
    for place in _fields(node):
        for index, child in enumerate(place.nodes):
            here = Place(node, place.field, index)
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}.{child.name}"
                yield name, here
                yield from _defined(child, name, isinstance(child, ast.ClassDef))
            elif isinstance(child, (ast.Assign, ast.AnnAssign)) and constants:
                for part in ast.walk(child):
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                        yield f"{prefix}.{part.id}", here
            elif isinstance(child, (ast.stmt, ast.ExceptHandler)):
                yield from _defined(child, prefix, constants)


def _fields(node: ast.AST) -> Iterator[Place]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            yield Place(node, field, count=len(value))
        elif isinstance(value, ast.AST):
            yield Place(node, field)


def _places(whole: Place, pattern: list[Any]) -> Iterator[Place]:
    """List every place within a place that a pattern may match."""
    first, least = type(pattern[0]), len(pattern)
    most = sys.maxsize if any(map(_is_gap, pattern)) else least
    below = [whole]
    while below:
        place = below.pop()
        for i, node in enumerate(place.nodes):
            if isinstance(node, first):
                for count in range(least - (most > least), min(most, place.count - i) + 1):
                    yield Place(place.owner, place.field, place.index + i, count)
            if isinstance(node, ast.AST):
                below.extend(_fields(node))


def _names(nodes: Iterable[ast.AST]) -> set[tuple[str, str]]:
    """List the names in some nodes, each with its sort."""
    return {
        (_sort(node), getattr(node, _IDENTIFIERS[type(node)]))
        for top in nodes
        for node in ast.walk(top)
        if getattr(node, _IDENTIFIERS.get(type(node), ""), None) and not _placeholder(node)
    }


def _sort(node: ast.AST) -> str:
    return _SORTS.get(type(node), "variable")


def _placeholder(node: object) -> str | None:
    if isinstance(node, ast.Name) and _PLACEHOLDER.fullmatch(node.id):
        return node.id
    return None


def _several(node: object) -> str | None:
    """Return the placeholder if a node of a pattern stands for several nodes; else None."""
    if isinstance(node, ast.Starred) or (isinstance(node, ast.keyword) and node.arg is None):
        return _placeholder(node.value)
    return getattr(node, "gap", None)


def _is_gap(node: object) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=value)):
            return value is Ellipsis
    return False


def _open(node: ast.AST) -> str | None:
    """Return a placeholder for a statement of a pattern that has ``...`` in its body."""
    body = getattr(node, "body", None)
    gaps = [child.gap for child in body if _is_gap(child)] if isinstance(body, list) else []
    return f"around {gaps[0]}" if gaps else None


def _match_all(patterns: Sequence[Any], nodes: Sequence[Any], bound: Bound) -> Bound | None:
    """Match a list of patterns with a list: return what they stand for, or None."""
    if not patterns:
        return None if nodes else bound
    first, *rest = patterns
    name = _several(first)
    if name is None:
        found = _match(first, nodes[0], bound) if nodes else None
        return found and _match_all(rest, nodes[1:], found)
    for count in range(len(nodes) + 1):
        found = _match_all(rest, nodes[count:], bound.part(name, nodes[:count]))
        if found is not None:
            return found
    return None


def _match(pattern: Any, node: Any, bound: Bound) -> Bound | None:
    """Match a pattern with a node or a field's value: return what it stands for, or None."""
    name = _placeholder(pattern)
    if name is not None and isinstance(node, ast.expr):
        same = name not in bound.parts or ast.dump(bound.parts[name]) == ast.dump(node)
        return bound.part(name, node) if same else None
    if type(pattern) is not type(node):
        return None
    if isinstance(pattern, list):
        return _match_all(pattern, node, bound)
    if not isinstance(pattern, ast.AST):
        return bound if pattern == node else None
    statement = _open(pattern)
    if statement is not None:
        bound = bound.part(statement, node)
    for field, old in ast.iter_fields(pattern):
        here = getattr(node, field)
        left_out = _LEFT_OUT if statement else ()
        if field in _SECONDARY or (not old and field in left_out):
            continue
        if field == _IDENTIFIERS.get(type(pattern)) and None not in (old, here):
            found = bound.name(_sort(pattern), old, here)
        else:
            found = _match(old, here, bound)
        if found is None:
            return None
        bound = found
    return bound


class _Filling(ast.NodeTransformer):
    """Replace the names and placeholders in new code by what those of the old code stand for."""

    def __init__(self, bound: Bound):
        self._bound = bound

    def visit(self, node: ast.AST) -> Any:
        parts = self._bound.parts
        placeholder = _several(node) or _placeholder(node)
        if placeholder in parts:
            return parts[placeholder]
        before = parts.get(_open(node))
        self.generic_visit(node)
        for field in _LEFT_OUT & set(node._fields) if before else ():
            setattr(node, field, getattr(node, field) or getattr(before, field, None))
        field = _IDENTIFIERS.get(type(node))
        if field is not None:
            name = getattr(node, field)
            setattr(node, field, self._bound.names.get((_sort(node), name), name))
        return node
