"""CONTRIBUTING.md does what it says: its blocks are applied to a copy of the repository,
brought together, and used.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures import COMPARED, looks_right, pictures_of
from lengths import only_long
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
FILE = re.compile(r"# (nbs/\S+)\n")
# how it begins, what is new; `...` is what is there
ENTRY = re.compile(r"^(\w[^\n]*?(?:dict\(|[(:]\n))(.*?) *\.\.\.", re.M | re.S)


def shell_lines() -> list[str]:
    "The page's commands, each once, without those that say they are not run"
    lines = [
        line
        for kind, body in BLOCKS
        if kind == "bash"
        for line in body.splitlines()
        if "# not run" not in line
    ]
    return list(dict.fromkeys(re.sub(r"\s+# .*", "", line) for line in lines))


def call(copy: Path, command: str, *more: str) -> str:
    "Run a command of the page in the copy"
    own = dict(
        PYTHONPATH=str(copy),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        OMP_NUM_THREADS="1",
        NUMBA_NUM_THREADS="1",
    )
    done = subprocess.run(
        ["bash", "-c", " ".join([command, *more])],
        cwd=copy,
        capture_output=True,
        text=True,
        env=os.environ | own,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def put(copy: Path, body: str):
    "Do to a file what a block asks for: make it, add to it, or fill in entries and imports"
    name, body = FILE.match(body)[1], FILE.sub("", body, count=1)
    path = copy / name
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    entries = ENTRY.findall(body)
    for line in re.findall(r"^from fairgrape.*\n", body, re.M) if entries else ():
        assert "\nfrom fairgrape." in old, f"{name} imports nothing of the package"
        old = old.replace("\nfrom fairgrape.", f"\n{line}from fairgrape.", 1)
    for begins, new in entries:
        assert old.count(begins) == 1, (
            f"CONTRIBUTING.md adds to {begins.strip()!r} in {name}, which is there"
            f" {old.count(begins)} times"
        )
        old = old.replace(begins, begins + new)
    path.write_text(old if entries else f"{old.rstrip()}\n\n\n{body}".lstrip(), encoding="utf-8")


def draw_portraits(root: Path):
    "160 little pictures in the layout that the page describes"
    rng = np.random.default_rng(0)
    for i in range(160):
        expression, tone = ("happy", "sad")[i % 2], ("dark", "light")[i // 2 % 2]
        (root / expression / tone).mkdir(parents=True, exist_ok=True)
        pixels = (
            rng.integers(0, 120, (20, 20, 3))
            + 60 * (expression == "happy")
            + 40 * (tone == "light")
        )
        Image.fromarray(pixels.astype(np.uint8)).save(
            root / expression / tone / f"{i // 4:03}-{'ab'[i % 2]}{i // 2 % 2}.png"
        )


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The repository with every change of the page, synchronized"
    copy = tmp_path_factory.mktemp("contributing") / "fairgrape"
    for name in ("fairgrape", "nbs", "pyproject.toml", "settings.ini", "Makefile", "README.md"):
        if (REPO / name).is_dir():
            shutil.copytree(
                REPO / name,
                copy / name,
                ignore=shutil.ignore_patterns(
                    "__pycache__", ".ipynb_checkpoints", "node_modules", "_proc"
                ),
            )
        else:
            shutil.copy2(REPO / name, copy / name)
    draw_portraits(copy / "data" / "Portraits")
    for line in shell_lines():
        if line.startswith("sed"):
            call(copy, line)
    for kind, body in BLOCKS:
        if kind in ("python", "yaml") and FILE.match(body):
            put(copy, body)
    assert "make sync" in shell_lines() and "nbs/_tools/sync.py" in (REPO / "Makefile").read_text(
        encoding="utf-8"
    )
    call(copy, "python nbs/_tools/sync.py")  # what `make sync` does once set-up is there
    return copy


def test_a_change_reaches_notebook_and_package(copy):
    new = re.search(r'sed -i \'s/"(.*?)"/"(.*?)"/\'', PAGE)[2]
    for name in (
        "nbs/_text/methods/02_scores.py",
        "nbs/methods/02_scores.ipynb",
        "fairgrape/methods/scores.py",
    ):
        assert new in (copy / name).read_text(encoding="utf-8") and new not in (
            REPO / name
        ).read_text(encoding="utf-8")


def test_the_notebooks_that_were_written_pass(copy):
    tests = [line for line in shell_lines() if "pytest" in line]
    assert len(tests) == 2
    named = " ".join(line.split()[-1] for line in tests)
    assert "2 passed" in call(copy, f"python -m pytest -q -p no:cacheprovider -n 0 {named}")


def test_a_data_set_is_found_by_its_name(copy):
    said = call(
        copy, next(line for line in shell_lines() if line.startswith("fairgrape data check"))
    )
    assert "portraits: 160 images" in said and "Nothing is missing" in said
    shutil.move(copy / "data" / "Portraits", copy / "elsewhere")
    try:
        assert "a folder for each expression" in call(copy, "! fairgrape data check portraits")
    finally:
        shutil.move(copy / "elsewhere", copy / "data" / "Portraits")


def test_the_toy_method_prunes():
    (toy,) = [body for kind, body in BLOCKS if kind == "python" and not FILE.match(body)]
    exec(compile(toy, "CONTRIBUTING.md", "exec"), {})


def test_the_study_runs_the_method_on_the_data_set(copy, request):
    only_long(request, "a study of two runs")
    (study,) = [line for line in shell_lines() if line.startswith("fairgrape study")]
    call(copy, study, "--image_size 16 --epochs 1 --lrs 1e-3 --bootstrap 100")
    (page,) = (copy / "runs" / "studies").glob("neediest-portraits-fast-*/study.html")
    table = pd.read_csv(page.with_suffix(".csv"))
    assert (
        sorted(table.method) == ["neediest", "ws"]
        and set(table.dataset) == {"portraits"}
        and {"delta:dark", "delta:light"} <= set(table)
    )
    assert "What some group needs most" in page.read_text(encoding="utf-8")
    looks_right(page.with_suffix(".ipynb"), *COMPARED, tables=1)
    books = list((copy / "runs").glob("portraits-*/prune.ipynb"))
    for book in books:
        looks_right(book, *pictures_of(book.parent), tables=4)
    assert len(books) == 2


def test_the_page_names_what_exists():
    targets = set(re.findall(r"make ([a-z-]+)", PAGE))
    known = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.M))
    assert targets >= {"setup", "sync", "test", "lint"} and targets <= known
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert links and all((REPO / link).exists() for link in links), [
        link for link in links if not (REPO / link).exists()
    ]
