"""Define `Page`, the HTML file that shows one convolution, and write data into its template."""

from __future__ import annotations

import json
import os
import webbrowser
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from einstride.geometry import keywords as parse
from einstride.viewer import svg

SCRIPTS = ("elements.js", "stage.js", "memory.js", "passes.js", "plan.js", "page.js")
"""The scripts of a page, in the order in which they run."""


class Page:
    """Hold a page that shows one convolution. `show` makes it; a notebook displays it.

    Parameters
    ----------
    data : dict
        Everything that the page shows, in the form that JSON holds.

    Attributes
    ----------
    data : dict
        Shapes, strides, offsets, numbers and plans: what the page shows.
    html : str
        The page: one file with its style and scripts, which loads nothing.

    Examples
    --------
    >>> import einstride as es
    >>> page = es.show((6, 6, 1), (3, 3, 1, 2), stride=2, padding="same")
    >>> page.data["memory"]["windows_strides"]
    ['196', '56', '8', '28', '4', '4']
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @cached_property
    def html(self) -> str:
        """The page: one file with its style and scripts, which loads nothing."""
        assets = files("einstride.viewer") / "assets"
        scripts = [(assets / name).read_text(encoding="utf-8") for name in SCRIPTS]
        return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
            title=escape(self.data["title"]),
            style=(assets / "page.css").read_text(encoding="utf-8"),
            data=_embedded(self.data),
            script="\n".join(scripts),
        )

    def svg(self, output: tuple[int, ...] | None = None) -> str:
        """Draw one window, its elements in memory and the strides between them.

        Parameters
        ----------
        output : tuple of int, optional
            The output whose window is drawn; by default one in the middle.

        Returns
        -------
        str
            An SVG file, which follows the reader's choice of light or dark.

        Raises
        ------
        ValueError
            If the output is not one that the page draws, or if there are not two spatial axes.
        """
        return svg.window("Page.svg", self.data, output)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file.

        Parameters
        ----------
        path : str or path-like
            The name of the file, which is replaced if it exists.

        Returns
        -------
        pathlib.Path
            The absolute path of the file.
        """
        where = Path(parse.path("Page.save", "path", path)).resolve()
        where.write_text(self.html, encoding="utf-8")
        return where

    def open(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file and open it in the browser.

        Parameters
        ----------
        path : str or path-like
            The name of the file, as in `save`.

        Returns
        -------
        pathlib.Path
            The absolute path of the file.
        """
        where = self.save(path)
        webbrowser.open(where.as_uri())
        return where

    def _repr_html_(self) -> str:
        """Return the page in a frame, for notebooks: its style and scripts stay inside."""
        return (
            f'<iframe title="{escape(self.data["title"])}" sandbox="allow-scripts" '
            f'style="width:100%;height:860px;border:0" srcdoc="{escape(self.html)}"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Page {self.data['title']}>"


def _embedded(data: dict[str, Any]) -> str:
    """Write JSON that no text in it can end: HTML reads `<`, `>` and `&`, JSON their numbers."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
