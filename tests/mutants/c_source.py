"""Find and change C, C++ and CUDA code as tokens, whatever its layout and comments.

A pattern is some words in a row. What old and new code begin or end with alike stays as it is
written; it only tells the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from typing import NamedTuple

from .change import Bound, Change, Match, places

_WORDS = re.compile(
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


class Word(NamedTuple):
    """Hold a token of C, and where it begins and ends in the text."""

    text: str
    sort: str | None
    """None if it is no name."""
    begin: int
    end: int

    @property
    def key(self) -> tuple[str, str]:
        """Return the name with its sort."""
        return self.sort or "", self.text


class Place(NamedTuple):
    """Hold a range of tokens, from `first` to before `last`."""

    first: int
    last: int


class CSource:
    """Search and change a file of C, C++ or CUDA."""

    def __init__(self, module: str, text: str):
        self._module, self._text, self._words = module, text, _words(text)
        self._definitions = [(module, Place(0, len(self._words))), *self._defined()]

    def places(self, name: str) -> list[Place]:
        """List the definitions whose full names end with this one; the whole file for ""."""
        return places(self._definitions, name)

    def find(self, place: Place, change: Change, renamed: bool) -> Iterator[Match]:
        """Find the old code at a place, if `renamed` with others for the names it has not there."""
        pattern, here = _words(change.old), self._words[slice(*place)]
        if not renamed and not all(word.text in self._text for word in pattern):
            return  # quickly
        names = {word.key for word in here if word.sort}
        lost = frozenset(w.key for w in pattern if w.sort) - names if renamed else frozenset()
        for i in range(len(here) - len(pattern) + 1):
            bound = _match(pattern, here[i : i + len(pattern)], Bound(lost))
            if bound is not None:
                yield Match(Place(place.first + i, place.first + i + len(pattern)), bound)

    def replace(self, match: Match, change: Change) -> str:
        """Return the file's text with the new code where the old code was found."""
        old, new = _words(change.old), _words(change.new)
        front = _alike(old, new)
        back = _alike(old[front:][::-1], new[front:][::-1])
        first, last = match.place.first + front, match.place.last - back
        if first < last:
            begin, end = self._words[first].begin, self._words[last - 1].end
        else:  # nothing goes, something comes in between
            begin = end = self._words[first].begin if back else self._words[first - 1].end
        middle = [match.bound.names.get(w.key, w.text) for w in new[front : len(new) - back]]
        return " ".join([self._text[:begin], *middle, self._text[end:]])

    def _defined(self) -> Iterator[tuple[str, Place]]:
        """List full names and ranges of functions and classes, which have a name before a brace."""
        directives = [m.span() for m in _DIRECTIVE.finditer(self._text)]
        scopes: list[tuple[str, int]] = []
        header: list[int] = []  # the words since a statement or a brace
        for i, word in enumerate(self._words):
            if any(begin <= word.begin < end for begin, end in directives):
                continue
            header.append(i)
            if word.text == "{":
                scopes.append((_name([self._words[j].text for j in header]), header[0]))
            elif word.text == "}" and scopes:
                full = ".".join([self._module, *(name for name, _ in scopes if name)])
                name, first = scopes.pop()
                if name:
                    yield full, Place(first, i + 1)
            if word.text in ("{", "}", ";"):
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
        at = max((i for i, word in enumerate(header) if word in _SCOPES), default=-2) + 2
    name = header[at - 1] if at else ""
    return name if name.isidentifier() and name not in _LANGUAGE else ""


def _alike(first: list[Word], second: list[Word]) -> int:
    """Count the equal tokens at the start of two lists."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].text == pair[1].text, pairs))


@cache
def _words(text: str) -> list[Word]:
    words: list[Word] = []
    for found in _WORDS.finditer(text):
        if found["skip"]:
            continue
        sort = None
        if found["name"] and found[0] not in _LANGUAGE:
            sort = "member" if words and words[-1].text in (".", "->") else "name"
        words.append(Word(found[0], sort, *found.span()))
    return words


def _match(pattern: list[Word], words: list[Word], bound: Bound) -> Bound | None:
    """Match a pattern with tokens: return what its names stand for, or None."""
    for old, here in zip(pattern, words, strict=True):
        same = bound if old.text == here.text else None
        found = bound.name(old.sort, old.text, here.text) if old.sort else same
        if found is None or old.sort != here.sort:
            return None
        bound = found
    return bound
