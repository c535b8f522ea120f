"""Each notebook and its text in nbs/_text hold the same cells, and the package is what the
notebooks export.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

REPO = Path(__file__).resolve().parents[2]
NBS, TEXT = REPO / "nbs", REPO / "nbs" / "_text"
NOTEBOOKS = sorted(
    p
    for p in NBS.rglob("*.ipynb")
    if not any(part.startswith(("_", ".")) for part in p.relative_to(NBS).parts)
)


def text_of(notebook: Path) -> Path:
    return (TEXT / notebook.relative_to(NBS)).with_suffix(".py")


def cells(path: Path):
    return [(c.cell_type, c.source, c.metadata.get("tags")) for c in jupytext.read(path).cells]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(NBS)))
def test_notebook_and_text_hold_the_same_cells(notebook):
    assert cells(notebook) == cells(text_of(notebook))


def test_no_orphans():
    assert {text_of(p) for p in NOTEBOOKS} == set(TEXT.rglob("*.py"))


def test_the_package_is_what_the_notebooks_export(tmp_path):
    "On a copy, the package is deleted and exported anew: not a byte differs"
    for name in ("nbs", "pyproject.toml", "settings.ini"):
        source = REPO / name
        if source.is_dir():
            shutil.copytree(
                source,
                tmp_path / name,
                ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
            )
        else:
            shutil.copy(source, tmp_path / name)
    (tmp_path / "fairgrape").mkdir()
    shutil.copy(REPO / "fairgrape" / "__init__.py", tmp_path / "fairgrape")
    subprocess.run([Path(sys.executable).with_name("nbdev-export")], cwd=tmp_path, check=True)

    def files(root):
        home = root / "fairgrape"
        return {p.relative_to(home): p.read_text() for p in home.rglob("*.py")}

    assert files(tmp_path) == files(REPO)


def test_ruff_is_content():
    done = subprocess.run(
        [Path(sys.executable).with_name("ruff"), "check"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_notebooks_are_clean():
    "nbdev-clean would change nothing, and papermill's parameter cells keep their tag"
    for notebook in NOTEBOOKS:
        book = jupytext.read(notebook)
        assert all(
            c.get("execution_count") is None and not set(c.metadata) - {"tags"}
            for c in book.cells
            if c.cell_type == "code"
        ), notebook
        assert "jupytext" not in json.loads(notebook.read_text(encoding="utf-8"))["metadata"], (
            f"{notebook}: make sync"
        )
        if "templates" in notebook.parts:
            assert sum("parameters" in (c.metadata.get("tags") or []) for c in book.cells) == 1, (
                notebook
            )
