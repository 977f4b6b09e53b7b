"""The sources follow the project's rules: imports, caches, names and public signatures."""

import ast
import importlib
import inspect
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import einstride as es
from checks import ALGORITHMS

ROOT = Path(es.__file__).parent
REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(ROOT.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.glob("*.py"))
PUBLIC = {
    "Conv",
    "conv",
    "conv4d_filter_gradient",
    "conv4d_forward",
    "conv4d_input_gradient",
    "conv_bias_grad",
    "conv_filter_grad",
    "conv_input_grad",
    "conv_transpose",
    "windows",
}


def name(path):
    return path.relative_to(path.parents[1] if path in TESTS else ROOT).as_posix()


def nodes(path):
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_asserted_or_left_undone(path):
    text, tree = path.read_text(), nodes(path)
    assert not [node.lineno for node in tree if isinstance(node, ast.Assert)]
    for word in ("NotImplementedError", "TODO", "FIXME", "XXX"):
        assert word not in text


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_as_strided_is_called_in_one_place(path):
    allowed = path.name == "ops.py" or "backends" in path.parts  # Dask: a view of its chunks
    used = [
        n.lineno for n in nodes(path) if getattr(n, "attr", getattr(n, "id", "")) == "as_strided"
    ]
    assert allowed or not used, used


def imports(path):
    """Yield every module that a file imports, also inside functions, as absolute dotted names."""
    package = ["einstride", *path.relative_to(ROOT).parent.parts]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_cache_is_in_the_registry(path):
    """Caches are made by `einstride.support.caches`, which bounds them and empties them for
    tests."""
    if path == ROOT / "support" / "caches.py":
        return
    assert not {"functools.lru_cache", "functools.cache"} & set(imports(path))
    functools = [n for n in nodes(path) if getattr(getattr(n, "value", 0), "id", "") == "functools"]
    assert not {n.attr for n in functools} & {"lru_cache", "cache"}


PROGRAMS = sorted(p for folder in ("tests", "bench") for p in (REPOSITORY / folder).rglob("*.py"))
CHANGES = {"setattr", "setitem", "delattr", "delitem"}
"""Methods of `pytest.MonkeyPatch` that change an object."""


def insides(path):
    """Yield the names in a file that are bound to modules of the package, or to their contents."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("einstride."):
                    yield alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("einstride"):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value)
            if re.match(r"[\w.]*(importorskip|import_module)\(f?['\"]einstride\.", called):
                yield from map(ast.unparse, node.targets)


def owner(node):
    """Return the innermost object of a chain of attributes and items, as text."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return ast.unparse(node)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_the_inside_is_changed_through_one_entry(path):
    """Tests and benchmarks change the package only by `einstride._testing`, which knows private
    names."""
    if path == Path(__file__):
        return
    assert "cache_clear" not in path.read_text()
    inside, changed = set(insides(path)) - {"_testing"}, []
    for node in nodes(path):
        if isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in CHANGES:
                changed.append(node.args[0])
        elif isinstance(node, ast.Assign | ast.Delete):
            changed += [t for t in node.targets if isinstance(t, ast.Attribute | ast.Subscript)]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign) and not isinstance(
            node.target, ast.Name
        ):
            changed.append(node.target)
    for node in changed:
        assert owner(node) not in inside, f"line {node.lineno}: {ast.unparse(node)}"
        assert not re.match(r"f?['\"]einstride\.", ast.unparse(node)), node.lineno


KERNELS = [p for p in SOURCES if p.parent.name == "algorithms" and p.name != "__init__.py"]


@pytest.mark.parametrize("path", KERNELS, ids=name)
def test_algorithms_do_not_import_each_other(path):
    others = {f"einstride.algorithms.{other.stem}" for other in KERNELS if other != path}
    assert not others & set(imports(path))
    assert not {
        m
        for m in imports(path)
        if m.startswith(("einstride.api.conv", "einstride.planning.select"))
    }


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name == "backends"], ids=name)
def test_backends_do_not_import_algorithms(path):
    assert not {m for m in imports(path) if m.startswith("einstride.algorithms")}


ROOMS = [ROOT, *(p for p in ROOT.rglob("*") if p.is_dir() and p.name != "__pycache__")]


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_has_few_modules_and_says_what_it_is_for(room):
    modules = [p for p in room.glob("*.py") if not p.name.startswith("__")]
    assert len(modules) <= (0 if room == ROOT else 16)
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text()))


@cache
def import_graph(*, types=False):
    """Return {module: modules that it imports}, also inside functions.

    With `types`, imports for type checkers alone are included.
    """
    return grimp.build_graph("einstride", exclude_type_checking_imports=not types, cache_dir=None)


def cycle(imported):
    """Return the names along one cycle of a graph, or None."""
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other():
    graph = import_graph(types=True)
    assert not cycle({m: graph.find_modules_directly_imported_by(m) for m in graph.modules})


def child(package, module):
    """Return the module or folder directly in `package` that is or contains `module`."""
    depth = package.count(".") + 2
    return ".".join(module.split(".")[:depth]) if module.startswith(f"{package}.") else None


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_folders_of_a_room_import_each_other(room):
    graph, package = import_graph(), ".".join(["einstride", *room.relative_to(ROOT).parts])
    imported = {m: set() for m in graph.find_children(package)}
    for module in graph.find_descendants(package):
        here = child(package, module)
        there = {child(package, m) for m in graph.find_modules_directly_imported_by(module)}
        imported[here] |= there - {here, None}
    assert not cycle(imported)


LIBRARIES = {"numpy", "cupy", "torch", "jax", "dask", "array_api_strict"}


def names_a_library(node):
    """True for the name of a library, for a tuple of such names, and for ``traits.library``."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return any(map(names_a_library, node.elts))
    text = node.value if isinstance(node, ast.Constant) else None
    return text in LIBRARIES or (isinstance(node, ast.Attribute) and node.attr == "library")


@pytest.mark.parametrize("path", [p for p in SOURCES if "backends" not in p.parts], ids=name)
def test_no_library_is_known_by_its_name(path):
    """Code asks for traits of an adapter; the name of a library is used in messages and figures
    only."""
    found = []
    for node in nodes(path):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Attribute):
            parts = [node.slice]
        found += [node.lineno for part in parts if names_a_library(part)]
    assert not found


def test_the_tests_know_every_algorithm():
    table = importlib.import_module("einstride.algorithms").ALGORITHMS
    assert {"strided", "gemm", "implicit_gemm"} <= set(table)
    assert set(ALGORITHMS) - {"auto"} <= set(table)


def test_all_is_the_public_interface():
    assert set(es.__all__) >= PUBLIC
    assert list(es.__all__) == sorted(set(es.__all__), key=es.__all__.index)
    reachable = {
        n for n, value in vars(es).items() if not n.startswith("_") and not inspect.ismodule(value)
    }
    assert reachable <= set(es.__all__) | {"annotations"}
    assert all(hasattr(es, n) for n in es.__all__)


FUNCTIONS = sorted(
    n for n in es.__all__ if callable(getattr(es, n)) and not isinstance(getattr(es, n), type)
)


@pytest.mark.parametrize("public", FUNCTIONS)
def test_docstrings_are_numpydoc(public):
    function = getattr(es, public)
    text = inspect.getdoc(function)
    assert text, public
    sections = ["Returns\n-------"]
    if inspect.signature(function).parameters:
        sections.append("Parameters\n----------")
    for section in sections:
        assert section in text, f"{public} has no section {section.split()[0]}"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert parameter.name in text, f"{public} says nothing of {parameter.name}"


POSITIONAL = {
    "conv": ["x", "f", "bias"],
    "conv_input_grad": ["gy", "f", "input_size"],
    "conv_filter_grad": ["x", "gy", "kernel_size"],
    "conv_bias_grad": ["gy"],
    "conv_transpose": ["x", "f", "bias"],
    "windows": ["x", "kernel_size", "stride", "dilation"],
    "conv4d_forward": ["x", "f", "s"],
    "conv4d_input_gradient": ["x", "f", "gy", "s"],
    "conv4d_filter_gradient": ["x", "f", "gy", "s"],
}
KEYWORDS = {
    "stride": 1,
    "padding": "valid",
    "dilation": 1,
    "groups": 1,
    "padding_mode": "zeros",
    "fill": 0,
    "layout": "channels_last",
    "flip": False,
    "algorithm": "auto",
    "accuracy": "normwise",
    "max_workspace": None,
    "out": None,
}


@pytest.mark.parametrize("public", POSITIONAL)
def test_positional_parameters(public):
    parameters = inspect.signature(getattr(es, public)).parameters.values()
    positional = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    assert positional == POSITIONAL[public]


@pytest.mark.parametrize(
    "public", ["conv", "conv_input_grad", "conv_filter_grad", "conv_transpose"]
)
def test_keywords_and_their_defaults(public):
    parameters = inspect.signature(getattr(es, public)).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert KEYWORDS.items() <= defaults.items()
