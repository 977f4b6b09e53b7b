"""Configure Sphinx for the documentation site; `build_site.py` calls it.

Sphinx with the PyData theme is what NumPy, SciPy and CuPy use: readers find the same places, and
docstrings have numpydoc's form there, too. The search works without a server.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import einstride

project = "einstride"
author = "The einstride developers"
copyright = "The einstride developers, BSD 3-Clause"
version = release = einstride.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
]
root_doc = "docs/index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["docs/gallery/**", "src/**"]
nitpicky = False  # numpydoc's types are words, not names of classes

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

numpydoc_show_class_members = False
autodoc_typehints = "none"  # numpydoc's sections say the types, in words
autodoc_member_order = "bysource"
default_role = "code"  # `name` in docstrings is code, as in Markdown

html_theme = "pydata_sphinx_theme"
html_title = f"einstride {version}"
html_static_path = ["static"]
html_js_files = ["frames.js"]
html_css_files = ["formulas.css"]
html_extra_path = []
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_math_renderer = "mathml"  # the browser's own, where MathJax would need the network

sphinx_gallery_conf = {
    "examples_dirs": "docs/gallery",
    "gallery_dirs": "docs/examples",
    "filename_pattern": r"\.py",
    "download_all_examples": False,
    "write_computation_times": False,  # that page would load a script from another site
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
}


def setup(app: Sphinx) -> None:
    """Add the hook for docstrings, and the renderer of formulas."""
    app.connect("autodoc-process-docstring", escape_axes, priority=100)  # before numpydoc
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_formula, None))


def escape_axes(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Escape the asterisk of axes such as (B, *S, C), which would begin an emphasis."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [
            re.sub(r"(?<=[(, ])\*(?=[A-Za-z_]+[,)])", r"\\*", part) for part in parts[::2]
        ]
        lines[i] = "".join(parts)


def visit_math(self: Any, node: nodes.math) -> None:
    """Write a formula in a line."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_formula(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    self.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode
