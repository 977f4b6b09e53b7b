"""Public docstrings have numpydoc's form, and every code block of the README runs."""

import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from numpydoc.validate import validate

import einstride as es

ROOT = Path(__file__).parent.parent
IGNORED = {
    "ES01": "an extended summary only where there is more to say",
    "SA01": "see-also lists repeat the module's table of contents",
    "GL01": "the summary may stand on the line of the quotes",
    "GL02": "the closing quotes may follow a list",
    "GL08": "inherited members of tuples",
    "RT03": "the return value is described by its shape",
    "PR06": "types are words: 'array, shape (B, *S, C)'",
    "PR08": "a description may start with a name",
    "PR09": "and end without a stop",
    "RT02": "one return value may have a description of its shape",
    "RT05": "see RT03",
    "EX01": "methods show their use in the class",
    "SS06": "a summary may take two lines",
}


def public():
    for name in es.__all__:
        thing = getattr(es, name)
        yield f"einstride.{name}", thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if inspect.isfunction(value) and not member.startswith("_"):
                    yield f"einstride.{name}.{member}", value


@pytest.mark.parametrize(
    ("name", "thing"), list(public()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_numpydoc(name, thing):
    found = [e for e in validate(name)["errors"] if e[0] not in IGNORED]
    assert not found, f"{name}: {found}"
    text = inspect.getdoc(thing) or ""
    for section in (
        ("Returns", "Raises", "Examples")
        if inspect.isfunction(thing) and "." not in name[10:]
        else ()
    ):
        assert f"{section}\n---" in text, f"{name} has no section {section}"


def blocks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_readme_runs_top_to_bottom(tmp_path, monkeypatch):
    """All code blocks of the README run in one namespace, in order, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    code = blocks()
    assert len(code) >= 2
    namespace = {}
    for number, block in enumerate(code):
        exec(compile(block, f"README block {number}", "exec"), namespace)


PAGES = ["docs/show.md", "docs/errors.md"]
PAGES += [f"docs/learn/{page.name}" for page in sorted((ROOT / "docs" / "learn").glob("[0-9]*.md"))]
ON_A_GPU = "docs/do/gpu.md"
PAGES += [
    f"docs/do/{page.name}"
    for page in sorted((ROOT / "docs" / "do").glob("*.md"))
    if page.name not in ON_A_GPU
]
NEEDED = {
    "sklearn": "scikit-learn, of the extra docs,",
    "matplotlib": "Matplotlib, of the extra docs,",
    "pygame": "pygame-ce, of the extra docs,",
    "scipy": "SciPy, of the extra test,",
    "dask": "Dask",
    "torch": "PyTorch",
    "jax": "JAX",
}
"""What pages import, and how it is called where it is missing."""


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All code blocks of a page run in one namespace, in order, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


def test_the_page_of_gpus_runs(gpu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(ON_A_GPU)


def run_blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, called in NEEDED.items():
        if re.search(rf"import {name}|from {name}|find_spec\(.{name}", text) and not find_spec(
            name
        ):
            pytest.skip(f"{called} is missing")
    if "load_sample_image" in text:
        pytest.importorskip("PIL", reason="pillow, of the extra docs, is missing")
    code = re.findall(r"```python\n(.*?)```", text, re.S)
    assert code
    namespace = {}
    for number, block in enumerate(code):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


def test_the_picture_of_a_window_is_the_one_that_show_draws():
    """The command: ``show 6x6x1 3x3x1x1 --stride 2 --padding same --out docs/window.svg``."""
    drawn = es.show((6, 6, 1), (3, 3, 1, 1), stride=2, padding="same").svg()
    assert (ROOT / "docs" / "window.svg").read_text(encoding="utf-8") == drawn


def live(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return runpy.run_path(str(ROOT / "docs" / "build_site.py"))


def test_live_pages_show_the_arrays_of_the_code_above(monkeypatch):
    site = live(monkeypatch)
    for name, (where, keywords) in site["LIVE"].items():
        text = (ROOT / "docs" / "learn" / f"{where}.md").read_text(encoding="utf-8")
        above, frame, _ = text.partition(f'src="../live/{name}.html')
        assert frame
        code = "\n".join(re.findall(r"```python\n(.*?)```", above, re.S))
        made = {}
        exec(compile(code, where, "exec"), made)
        if "x_shape" in made:
            assert site["live_page"](name).data["shapes"]["x"] == made["x_shape"]
            continue
        keywords = {k: v for k, v in keywords.items() if k != "direction"}
        x, f = made["x"], made["f"]
        if x.ndim == 1:
            x, f = x[None, :, None], f[:, None, None]
        y = es.conv(x, f, **keywords)
        shown = site["live_page"](name).data
        assert shown["values"]["y"] == y.ravel().tolist()
        assert shown["drawn"]["whole"]
        if "gy" in made:
            assert shown["values"]["gy"] == made["gy"].ravel().tolist()


def test_an_operand_of_einsum_is_no_letter_of_its_equation():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [
        (path.name, letters, operands)
        for path in pages
        for letters, operands in re.findall(
            r'einsum\("([a-z,>-]+)", ([^)]*)\)', path.read_text(encoding="utf-8")
        )
    ]
    assert len(found) >= 4
    assert not [one for one in found if set(one[1]) & set(re.findall(r"\b[a-z]\b", one[2])) - {"f"}]


def test_the_interface_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"auto(?:function|class):: (\w+)\n", text))
    assert named == set(es.__all__)
    assert set(re.findall(r"automodule:: einstride\.(\w+)\n", text)) == {"nn", "ndimage", "signal"}


def test_pages_install_from_a_clone():
    """The name for an index stands only where it is said to be a later one."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        str(page.relative_to(ROOT)): text.count("einstride[")
        for page in pages
        if "einstride[" in (text := page.read_text(encoding="utf-8"))
    }
    assert named == {"README.md": 1, "docs/start.md": 1}
    for page in named:
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert re.search(
            r"no package index yet.*[Oo]nce it is published.*'einstride\[fast\]'", text
        )


def test_titles_of_pages_of_figures_differ():
    titles = [
        path.read_text(encoding="utf-8").splitlines()[0]
        for path in (ROOT / "bench" / "results").glob("*.md")
    ]
    assert len(set(titles)) == len(titles) > 5


def test_the_page_of_kernels_runs(tmp_path, monkeypatch):
    """The schedule of the worked example is compiled, and exact."""
    pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    namespace = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S)):
        exec(compile(block, f"docs/kernels.md, block {number}", "exec"), namespace)
    assert "lines" in namespace


def test_the_page_of_large_arrays_runs(tmp_path, monkeypatch):
    pytest.importorskip("dask.array", reason="dask is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    text = (ROOT / "docs" / "large.md").read_text(encoding="utf-8")
    namespace = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S)):
        exec(compile(block, f"docs/large.md, block {number}", "exec"), namespace)
    assert "whole" in namespace


def test_readme_quick_start_is_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Quick start")[1].split("\n## ")[0]
    commands = [
        line
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", section, re.S)
        for line in block.splitlines()
        if line and not line.startswith("#")
    ]
    assert commands == ["pip install '.[demo]' && python -m einstride demo", "ci/test"]


@pytest.mark.parametrize("page", ["signal.md", "settings.md", "accuracy.md"])
def test_the_blocks_of_a_page_run(page):
    """All code blocks of a page run in one namespace, in order."""
    namespace = {}
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/{page}, block {number}", "exec"), namespace)


SITE = {
    "index.html": """<h1 id="top-of-all">a</h1><a href="b/page.html#part">right</a>
        <a href="b/">a folder</a><a href="#top-of-all">here</a><img src="data:image/png;base64,AA">
        <a href="https://example.org/a?b#c">another site</a>""",
    "b/index.html": '<a href="../index.html">back</a>',
    "b/page.html": '<a name="part" href="%61.txt">quoted</a>',
    "b/a.txt": "",
}
WRONG_LINKS = {
    '<a href="gone.html">x</a>': "leads to no file",
    '<a href="b/page.html#gone">x</a>': "leads to no anchor",
    '<a href="#gone">x</a>': "leads to no anchor",
    '<img src="gone.png">': "leads to no file",
    '<a href="../outside.html">x</a>': "leads to no file",
    '<a href="http://example.org">x</a>': "has not the form",
    '<a href="javascript:alert(1)">x</a>': "has not the form",
    '<a href="https://example">x</a>': "has not the form",
    '<a href="https://[::1">x</a>': "is no address",
    '<script src="https://example.org/x.js"></script>': "is loaded from another site",
    '<link rel="stylesheet" href="https://example.org/x.css">': "is loaded from another site",
}


def make_site(folder, more=""):
    for name, text in SITE.items():
        (folder / "html" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "html" / name).write_text(text + more if name == "index.html" else text)
    (folder / "outside.html").write_text("")
    return folder / "html"


def test_links_of_the_site_that_lead_somewhere(tmp_path, capsys):
    links = runpy.run_path(str(ROOT / "docs" / "site_links.py"))
    assert links["main"]([str(make_site(tmp_path))]) == 0
    listed = (tmp_path / "external-links.txt").read_text()
    assert listed == "https://example.org/a?b#c  (index.html)\n"
    assert links["main"]([]) == 2


@pytest.mark.parametrize("link", WRONG_LINKS)
def test_a_broken_link_of_the_site_is_an_error(link, tmp_path, capsys):
    links = runpy.run_path(str(ROOT / "docs" / "site_links.py"))
    assert links["main"]([str(make_site(tmp_path, link))]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert WRONG_LINKS[link] in sentence
    assert sentence.startswith("index.html: ")


def test_the_changelog_has_the_headings_of_keep_a_changelog():
    """The newest version is the one of the package, of its metadata and of the citation."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *versions = re.findall(r"^## (.*)", text, re.M)
    assert first == "[Unreleased]"
    for version in versions:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version), version
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)", text, re.M)) <= kinds
    newest = versions[0][1:].partition("]")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert newest == es.__version__ == project["version"]
    assert f"\nversion: {newest}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


GUIDES = ("CONTRIBUTING.md", "docs/architecture.md")
PATH = re.compile(r"[\w./-]*/[\w./-]*|[\w-]+\.(?:py|md|toml|json|svg)")


def paths(text):
    """Yield the paths in code and links of a page: words with a slash or the suffix of a file."""
    code = re.findall(r"```\w*\n(.*?)```", text, re.S)
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    code += re.findall(r"`([^`]+)`", text) + re.findall(r"\]\(([^)]+)\)", text)
    words = {word.strip(",;:\"'`") for word in " ".join(code).split()}
    return sorted(w for w in words if PATH.fullmatch(w) and "NAME" not in w and ".venv" not in w)


@pytest.mark.parametrize("page", GUIDES)
def test_every_path_named_in_the_guides_exists(page):
    places = (ROOT, ROOT / "src" / "einstride", ROOT / "docs")
    named = paths((ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 15
    assert not [path for path in named if not any((place / path).exists() for place in places)]


@pytest.mark.parametrize("page", GUIDES)
def test_every_name_said_to_be_in_a_module_is_there(page):
    """`name` in `path`, or several names: each is defined in that file."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"((?:`\w+`(?:,| and)?\s+)+)in\s+`([\w/]+\.py)`", text)
    assert len(named) > 4
    for names, path in named:
        file = next(p for p in (ROOT / "src" / "einstride" / path, ROOT / path) if p.exists())
        code = file.read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names.replace(" and ", " ")):
            assert re.search(rf"^\s*(?:(?:def|class) )?{name}\b", code, re.M), (name, path)


def test_the_picture_of_the_rooms_is_what_the_code_draws():
    pytest.importorskip("llvmlite")
    script = ROOT / "docs" / "draw_architecture.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
