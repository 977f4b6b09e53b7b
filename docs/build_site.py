"""Build the documentation site: every page of the repository, the API, the gallery, live pages.

    python docs/build_site.py              into build/site/html
    python docs/build_site.py --no-gallery without running the scripts of docs/gallery

The pages keep their places in a copy of the repository's tree, so that the links that a reader
follows in the repository lead to the same pages on the site. Warnings are errors, and so are links
of the built pages that lead nowhere (`site_links.py`, which also lists the links to other sites and
checks their form). Needs the extra `docs`, and no network.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import site_links

import einstride as es

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
COPIED = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "LICENSE",
    "docs", "bench/NOTES.md", "bench/results", "tests/cupy_host/README.md",
    "tests/scipy_suites/cannot_pass.toml", "src/einstride",
)  # fmt: skip
"""What pages consist of or link to."""

LIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "valid": ("1-windows", {}),
    "stride": ("1-windows", {"stride": 2, "padding": "same"}),
    "gradient": ("2-einsum", {"stride": 2, "direction": "input_grad"}),
    "dilation": ("6-more", {"dilation": 2, "padding": "causal"}),
    "groups": ("6-more", {"groups": 2}),
    "plan": ("3-matrix-products", {}),
    "fourier": ("4-fourier", {}),
    "winograd": ("5-winograd", {}),
}
"""Pages of `show` that pages of docs/learn embed: {name: (the page, keywords)}. A page shows the
arrays x and f, or their shapes, that the code above its frame has made, and gy where there is one.
"""


def assemble(source: Path) -> None:
    """Copy the pages, and list those that no section lists."""
    shutil.rmtree(SITE, ignore_errors=True)
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(path, source / name, ignore=ignored)
        else:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    do = source / "docs" / "do.md"
    do.write_text(do.read_text(encoding="utf-8").replace("% others", "\n".join(others(source))))


def others(source: Path) -> list[str]:
    """List the pages of docs that no page names in a list: they are added to the section Do."""
    pages = {path.stem for path in (source / "docs").glob("*.md")}
    for path in (source / "docs").glob("*.md"):
        for listed in re.findall(r"```{toctree}(.*?)```", path.read_text(encoding="utf-8"), re.S):
            pages -= set(listed.split())
    return sorted(pages - {"index"})


def live_page(name: str) -> es.Page:
    """Show the arrays of the code that stands above the frame of a live page."""
    where, keywords = LIVE[name]
    text = (ROOT / "docs" / "learn" / f"{where}.md").read_text(encoding="utf-8")
    above, _, _ = text.partition(f'src="../live/{name}.html')
    made: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", above, re.S):
        exec(compile(block, f"docs/learn/{where}.md", "exec"), made)
    if "x_shape" in made:
        return es.show(made["x_shape"], made["f_shape"], **keywords)
    x, f = made["x"], made["f"]
    if x.ndim == 1:
        x, f = x[None, :, None], f[:, None, None]
    return es.show(x, f, made.get("gy"), **keywords)


def make_live_pages() -> None:
    """Write the pages that tutorials embed, after a check that they embed no others."""
    live = SITE / "html" / "docs" / "live"
    live.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "docs" / "learn").glob("*.md"):
        named = set(re.findall(r'src="\.\./live/(\w+)\.html["?]', path.read_text(encoding="utf-8")))
        if named - set(LIVE):
            raise SystemExit(
                f"{path}: embeds {sorted(named - set(LIVE))}, which LIVE does not have"
            )
    for run in (ROOT / "bench" / "results").glob("2*-cpu.json"):
        where = SITE / "html" / "bench" / "results" / f"{run.stem}.page.html"
        subprocess.run([sys.executable, "-m", "bench.html", run, where], cwd=ROOT, check=True)
    for name in LIVE:
        live_page(name).save(live / f"{name}.html")


def main() -> int:
    """Build the site, and return the exit status of Sphinx."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--no-gallery", action="store_true", help="leave the gallery unrun")
    arguments = parser.parse_args()
    source = SITE / "source"
    assemble(source)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-c", str(ROOT / "docs"), "-d", str(SITE / "doctrees")]
    if arguments.no_gallery:
        command += ["-D", "plot_gallery=0"]
    status = subprocess.run([*command, str(source), str(SITE / "html")], check=False).returncode
    if status == 0:
        make_live_pages()
        shutil.copy(ROOT / "docs" / "start.html", SITE / "html" / "index.html")
        status = site_links.main([str(SITE / "html")])
        print(f"{SITE / 'html' / 'index.html'}: the site, which also works without a server")
    return status


if __name__ == "__main__":
    sys.exit(main())
