"""Finds and changes C, C++ and CUDA code as tokens, independent of its layout and comments.

A pattern is a sequence of tokens. Tokens that the old and the new code begin or end with in common
only locate the change: they stay as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from typing import NamedTuple

from .change import Bound, Change, Match, places

_TOKENS = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<name>[A-Za-z_]\w*)
    |"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'
    |\.?\d(?:[eEpP][+-]|[\w.'])*
    |->|\+\+|--|<<=|>>=|<<|>>|[-+*/%&|^<>=!]=|&&|\|\||::|.""",
    re.VERBOSE | re.DOTALL,
)
_LANGUAGE = frozenset(
    re.findall(
        r"\w+",
        """bool break case char class const constexpr continue default do double else enum false
        float for if inline int long namespace new operator return short signed sizeof static struct
        switch template true typename union unsigned using void volatile while""",
    )
)
_SCOPES = ("struct", "class", "union", "namespace")
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)


class Token(NamedTuple):
    """Hold a token of C and its range in the text."""

    text: str
    sort: str | None
    """"name" or "member"; None for a token that is no identifier."""
    begin: int
    end: int

    @property
    def key(self) -> tuple[str, str]:
        """Return (sort, text), by which names are compared."""
        return self.sort or "", self.text


class Place(NamedTuple):
    """Hold a range of tokens, from `first` to before `last`."""

    first: int
    last: int


class CSource:
    """Search and change a file of C, C++ or CUDA."""

    def __init__(self, module: str, text: str):
        self._module, self._text, self._tokens = module, text, _tokens(text)
        self._definitions = [(module, Place(0, len(self._tokens))), *self._defined()]

    def places(self, name: str) -> list[Place]:
        """List the definitions whose full names end with `name`; for "", the whole file."""
        return places(self._definitions, name)

    def find(self, place: Place, change: Change, renamed: bool) -> Iterator[Match]:
        """Find the old code of a change in a definition.

        If `renamed`, names of the old code that the definition lacks match any other names.
        """
        pattern, tokens = _tokens(change.old), self._tokens[slice(*place)]
        if not renamed and not all(token.text in self._text for token in pattern):
            return  # skips the search
        present = {token.key for token in tokens if token.sort}
        lost = frozenset(w.key for w in pattern if w.sort) - present if renamed else frozenset()
        for i in range(len(tokens) - len(pattern) + 1):
            bound = _match(pattern, tokens[i : i + len(pattern)], Bound(lost))
            if bound is not None:
                yield Match(Place(place.first + i, place.first + i + len(pattern)), bound)

    def replace(self, match: Match, change: Change) -> str:
        """Return the file's text with the new code where the old code was found."""
        old, new = _tokens(change.old), _tokens(change.new)
        front = _common_prefix(old, new)
        back = _common_prefix(old[front:][::-1], new[front:][::-1])
        first, last = match.place.first + front, match.place.last - back
        if first < last:
            begin, end = self._tokens[first].begin, self._tokens[last - 1].end
        else:  # tokens are only inserted
            begin = end = self._tokens[first].begin if back else self._tokens[first - 1].end
        middle = [match.bound.names.get(w.key, w.text) for w in new[front : len(new) - back]]
        return " ".join([self._text[:begin], *middle, self._text[end:]])

    def _defined(self) -> Iterator[tuple[str, Place]]:
        """Yield (full name, range) of functions and classes: braces with a name in front."""
        directives = [m.span() for m in _DIRECTIVE.finditer(self._text)]
        scopes: list[tuple[str, int]] = []
        header: list[int] = []  # indices of the tokens since the last ";", "{" or "}"
        for i, token in enumerate(self._tokens):
            if any(begin <= token.begin < end for begin, end in directives):
                continue
            header.append(i)
            if token.text == "{":
                scopes.append((_name([self._tokens[j].text for j in header]), header[0]))
            elif token.text == "}" and scopes:
                full = ".".join([self._module, *(name for name, _ in scopes if name)])
                name, first = scopes.pop()
                if name:
                    yield full, Place(first, i + 1)
            if token.text in ("{", "}", ";"):
                header = []


def _name(header: list[str]) -> str:
    """Return the name of the function or class whose body follows these tokens; "" if there is
    none."""
    if ")" in header:
        at, depth = len(header) - header[::-1].index(")") - 1, 1
        while depth and at:
            at -= 1
            depth += (header[at] == ")") - (header[at] == "(")
    else:
        at = max((i for i, token in enumerate(header) if token in _SCOPES), default=-2) + 2
    name = header[at - 1] if at else ""
    return name if name.isidentifier() and name not in _LANGUAGE else ""


def _common_prefix(first: list[Token], second: list[Token]) -> int:
    """Count the equal tokens at the start of two lists."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].text == pair[1].text, pairs))


@cache
def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    for found in _TOKENS.finditer(text):
        if found["skip"]:
            continue
        sort = None
        if found["name"] and found[0] not in _LANGUAGE:
            sort = "member" if tokens and tokens[-1].text in (".", "->") else "name"
        tokens.append(Token(found[0], sort, *found.span()))
    return tokens


def _match(pattern: list[Token], tokens: list[Token], bound: Bound) -> Bound | None:
    """Match a pattern with tokens: return the bindings of its names, or None."""
    for old, here in zip(pattern, tokens, strict=True):
        same = bound if old.text == here.text else None
        found = bound.name(old.sort, old.text, here.text) if old.sort else same
        if found is None or old.sort != here.sort:
            return None
        bound = found
    return bound
