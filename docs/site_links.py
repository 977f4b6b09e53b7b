"""Check the links of the built site, without the network.

    python docs/site_links.py build/site/html

A link to a page, a picture or an anchor of the site must lead to something; it is an error if not,
and it is one if a page loads anything from another site. Links to other sites are not followed,
because a build must neither need a network nor depend on the day: they must have the form
``https://host.name/path``, and are listed in ``external-links.txt`` beside the site, each with a
page that has it, for whoever wants to follow them.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

EXTERNAL = re.compile(r"https://(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?(?:[/?#][!-~]*)?", re.I)
"""The form of a link to another site: encrypted, a host with a dot, printable ASCII."""

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}
"""The attribute of each element that leads somewhere."""


class Anchors(HTMLParser):
    """Read the links of a page, what it loads, and the names that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: set[str] = set()
        self.names: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element's name and where it leads."""
        given = dict(attrs)
        self.names |= {name for key in ("id", "name") if (name := given.get(key))}
        link = given.get(LINKS.get(tag, ""))
        if link is not None:
            self.links.append(link)
            self.loaded |= set() if tag == "a" else {link}


def check(site: Path) -> tuple[list[str], dict[str, str]]:
    """Return a sentence for each broken link, and the external links, each with a page."""
    site = site.resolve()
    pages = {
        path: Anchors(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts  # the theme's templates
    }
    broken, external = [], {}
    for path, page in pages.items():
        where = path.relative_to(site)
        for link in dict.fromkeys(page.links):
            try:
                parts = urlsplit(link)
            except ValueError:
                broken.append(f"{where}: {link!r} is no address")
                continue
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                external.setdefault(link, str(where))
                if link in page.loaded:
                    broken.append(f"{where}: {link!r} is loaded from another site")
                if not EXTERNAL.fullmatch(link):
                    broken.append(f"{where}: {link!r} has not the form https://host.name/path")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_relative_to(site) or not target.exists():
                broken.append(f"{where}: {link!r} leads to no file of the site")
            elif target in pages and unquote(parts.fragment) not in pages[target].names:
                broken.append(f"{where}: {link!r} leads to no anchor of that page")
    return broken, external


def main(arguments: list[str]) -> int:
    """Check a site, write the list of external links, and return 1 if a link is broken."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python docs/site_links.py FOLDER", file=sys.stderr)
        return 2
    site = Path(arguments[0])
    broken, external = check(site)
    lines = [f"{link}  ({page})\n" for link, page in sorted(external.items())]
    listed = site.parent / "external-links.txt"
    listed.write_text("".join(lines), encoding="utf-8")
    for sentence in broken:
        print(sentence, file=sys.stderr)
    print(f"{len(broken)} broken links; {len(external)} external ones: {listed}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
