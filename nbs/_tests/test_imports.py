"""What the package imports is declared in pyproject.toml, and what is declared as optional is
imported only where it is needed.
"""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWNERS = packages_distributions()  # top-level module → distributions

# what is within is run later, or may fail
LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try)


def plain(name: str) -> str:
    "A distribution's name as PyPI compares them"
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    "The distributions of some requirements"
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in requirements}


def imported(source: str) -> dict[str, bool]:
    "Top-level modules that some code imports → whether as soon as it is imported itself"
    found: dict[str, bool] = {}

    def visit(node: ast.AST, at_once: bool):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                modules = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.level == 0:
                modules = [child.module]
            else:
                modules = []
            for module in modules:
                top = module.partition(".")[0]
                found[top] = found.get(top, False) or at_once
            visit(child, at_once and not isinstance(child, LATER))

    visit(ast.parse(source), True)
    return {m: v for m, v in found.items() if m not in sys.stdlib_module_names and m != "fairgrape"}


DECLARED = names(PROJECT["dependencies"])
EXTRAS = {n for extra in ("timm", "ray") for n in names(PROJECT["optional-dependencies"][extra])}


def undeclared(source: str) -> list[str]:
    "What some code imports and pyproject.toml does not allow it"
    wrong = []
    for module, at_once in imported(source).items():
        dists = {plain(d) for d in OWNERS.get(module, [module])}
        if not dists & DECLARED and (at_once or not dists & EXTRAS):
            wrong.append(module)
    return sorted(wrong)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import os, numpy.linalg\nfrom . import x\nfrom PIL import Image", []),
        ("import sklearn, yaml", []),
        ("import nobody_has_this", ["nobody_has_this"]),
        ("def f():\n    import pytest", ["pytest"]),
        ("import timm", ["timm"]),
        ("if True:\n    from ray import get", ["ray"]),
        ("def f():\n    import timm", []),
        ("try:\n    import timm\nexcept ImportError:\n    pass", []),
    ],
)
def test_the_check_itself(source, wrong):
    assert undeclared(source) == wrong


def test_what_is_imported_is_declared():
    files = sorted((REPO / "fairgrape").rglob("*.py"))
    assert len(files) > 50
    wrong = {str(f.relative_to(REPO)): undeclared(f.read_text(encoding="utf-8")) for f in files}
    assert not {f: modules for f, modules in wrong.items() if modules}


def test_what_is_declared_is_imported():
    sources = [f.read_text(encoding="utf-8") for f in (REPO / "fairgrape").rglob("*.py")]
    used = {plain(d) for s in sources for m in imported(s) for d in OWNERS.get(m, [])}
    started = {"ipykernel"}  # papermill starts it; nothing imports it
    assert DECLARED - used - started == set()


def imported_here(module: str) -> set[str]:
    "The package's modules that one of them imports, such as training.files"
    home, found = REPO / "fairgrape", set()
    for node in ast.walk(ast.parse((home / f"{module.replace('.', '/')}.py").read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = module.split(".")[: -node.level] if node.level else []
        if not node.level and not (node.module or "").startswith("fairgrape."):
            continue
        name = ".".join([*base, (node.module or "").removeprefix("fairgrape.")]).strip(".")
        names = [name, *(f"{name}.{alias.name}".strip(".") for alias in node.names)]
        found |= {n for n in names if (home / f"{n.replace('.', '/')}.py").is_file()}
    return found


def test_the_code_that_decides_a_run_is_what_a_run_imports():
    from fairgrape.training.files import DECIDING

    found, todo = set(), {"experiment.run"}
    while todo:
        found |= todo
        todo = set().union(*map(imported_here, todo)) - found
    assert len(found) > 40
    left_out = {m for m in found if m not in DECIDING and m.partition(".")[0] not in DECIDING}
    assert not left_out, "a run imports it, but its changes would not be noticed"
    assert {part for part in DECIDING if "." in part} <= found
