"""Finds and changes Python code as a syntax tree, independent of layout, quotes and comments.

A pattern is an expression or a sequence of statements. In a pattern

- ``_1``, ``_2``, ... match any expression, ``*_1`` any number of consecutive elements or arguments,
  ``**_1`` any number of keyword arguments;
- ``...`` as a statement matches any number of statements; the n-th ``...`` of the new code stands
for
  the statements of the n-th ``...`` of the old code. A statement with ``...`` in its body also
  matches statements with an ``else`` or decorators that the pattern omits, and keeps them.
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
_SECONDARY = {"ctx", "kind", "type_comment"}  # determined by the other fields
_OMITTABLE = {"orelse", "decorator_list", "returns"}
_PLACEHOLDER = re.compile(r"_\d+")


@dataclass(frozen=True)
class Place:
    """Locate code: a field of a node, or `count` elements from `index` on if the field is a
    list."""

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
        """List the definitions whose full names end with `name`; for "", the whole module."""
        return places(self._definitions, name)

    def find(self, place: Place, change: Change, renamed: bool) -> Iterator[Match]:
        """Find the old code of a change in a definition.

        If `renamed`, names of the old code that the definition lacks match any other names.
        """
        try:
            pattern, _ = _patterns(change)
        except SyntaxError:  # the change is of C code
            return
        names = _names(pattern)
        if not renamed and not all(name in self._text for _, name in names):
            return  # skips the search
        lost = names - _names(place.nodes) if renamed else set()
        for here in _places(place, pattern):
            bound = _match_all(pattern, here.nodes, Bound(frozenset(lost)))
            if bound is not None:
                yield Match(here, bound)

    def replace(self, match: Match, change: Change) -> str:
        """Return the module's text with the new code where the old code was found.

        Changes the tree temporarily: not thread-safe.
        """
        _, pattern = copy.deepcopy(_patterns(change))
        new, place = [_Substitution(match.bound).visit(node) for node in pattern], match.place
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
    """Parse the old and the new code: as expressions if both are, else as statements."""
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
    """Yield (full name, place) of functions, classes and constants in a node; no local
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
    """Yield every place inside `whole` that has the type and length of a pattern."""
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
    """Return (sort, name) of all names in some nodes."""
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
    """Return the placeholder if a node of a pattern matches several nodes; else None."""
    if isinstance(node, ast.Starred) or (isinstance(node, ast.keyword) and node.arg is None):
        return _placeholder(node.value)
    return getattr(node, "gap", None)


def _is_gap(node: object) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=value)):
            return value is Ellipsis
    return False


def _open_statement(node: ast.AST) -> str | None:
    """Return a placeholder name for a statement of a pattern with ``...`` in its body; else
    None."""
    body = getattr(node, "body", None)
    gaps = [child.gap for child in body if _is_gap(child)] if isinstance(body, list) else []
    return f"around {gaps[0]}" if gaps else None


def _match_all(patterns: Sequence[Any], nodes: Sequence[Any], bound: Bound) -> Bound | None:
    """Match a list of patterns with a list of nodes: return the bindings, or None."""
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
    """Match a pattern with a node or a field's value: return the bindings, or None."""
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
    statement = _open_statement(pattern)
    if statement is not None:
        bound = bound.part(statement, node)
    for field, old in ast.iter_fields(pattern):
        here = getattr(node, field)
        left_out = _OMITTABLE if statement else ()
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


class _Substitution(ast.NodeTransformer):
    """Replace the names and placeholders in new code by the code that they are bound to."""

    def __init__(self, bound: Bound):
        self._bound = bound

    def visit(self, node: ast.AST) -> Any:
        parts = self._bound.parts
        placeholder = _several(node) or _placeholder(node)
        if placeholder in parts:
            return parts[placeholder]
        before = parts.get(_open_statement(node))
        self.generic_visit(node)
        for field in _OMITTABLE & set(node._fields) if before else ():
            setattr(node, field, getattr(node, field) or getattr(before, field, None))
        field = _IDENTIFIERS.get(type(node))
        if field is not None:
            name = getattr(node, field)
            setattr(node, field, self._bound.names.get((_sort(node), name), name))
        return node
