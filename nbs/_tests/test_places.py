"""Places that differ from machine to machine, and names that people write: folders that cannot
be written, other locales, start-up files, odd columns.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from PIL import Image

import fairgrape
from fairgrape.cli import main
from fairgrape.data.celeba_labels import CELEBA_ATTRIBUTES
from fairgrape.experiment.preparation import group_counts, prepare, run_folder
from fairgrape.experiment.settings import Settings
from fairgrape.report.runs import find_runs
from fairgrape.sweep.grid import planner
from fairgrape.sweep.kernels import run_notebook, template

PACKAGE = Path(fairgrape.__file__).parent
FAIRGRAPE = Path(sys.executable).with_name("fairgrape")
SELECTS = """
import torch
from fairgrape.method.selection import select_fair
importance = torch.tensor([[4., 1, 2, 3], [1, 4, 2, 3]])
print(select_fair(importance, torch.ones(4, dtype=torch.bool), 2).tolist())
"""


def as_user(*command: str) -> list[str]:
    "The command without root's right to write everywhere"
    if os.geteuid() != 0:
        return list(command)
    if not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv here to take that away")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]


def test_package_and_home_that_cannot_be_written(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "fairgrape", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "home").mkdir()
    (tmp_path / "fairgrape").chmod(0o555)
    (tmp_path / "home").chmod(0o555)
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | dict(
        HOME=str(tmp_path / "home"), PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1"
    )
    env.pop("XDG_CACHE_HOME", None)
    cannot = subprocess.run(
        as_user("touch", str(tmp_path / "home" / "x")), env=env, capture_output=True
    )
    assert cannot.returncode != 0  # or the test would show nothing
    done = subprocess.run(
        as_user(sys.executable, "-c", SELECTS),
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[True, True, False, False]"


@pytest.fixture
def opening(tmp_path, monkeypatch) -> Path:
    """The template up to its settings, which are read twice; IPython has a start-up file that
    defines names
    """
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-mine.py").write_text("favourite, rates = 7, [0.5]\n", encoding="utf-8")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(template("prune"), 4)
    last = next(i for i, cell in enumerate(book.cells) if "from_parameters" in cell.source)
    again = nbformat.v4.new_code_cell(book.cells[last].source)
    book.cells = [
        *book.cells[: last + 1],
        again,
        nbformat.v4.new_code_cell("print(favourite, settings.weights)"),
    ]
    nbformat.write(book, tmp_path / "opening.ipynb")
    return tmp_path / "opening.ipynb"


def test_start_up_names_are_no_parameters_and_a_null_is_none(opening, tmp_path):
    book = nbformat.read(run_notebook(opening, tmp_path / "out.ipynb", dict(weights=None)), 4)
    assert book.cells[-1].outputs[0].text == "7 none\n"
    # though start-up has that name as well
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter rates"):
        run_notebook(opening, tmp_path / "out.ipynb", dict(rates=0.9))


def odd_set(home: Path) -> Path:
    "160 little pictures with labels whose columns have odd names; no f is Bald"
    home.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(160):
        rows.append(
            {"file": f"é{i}.png", "gender/sex": "fm"[i % 2], "Bald": ("no", "yes")[i % 4 == 1]}
        )
        pixels = rng.integers(0, 160, (20, 20, 3)) + 60 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(home / rows[-1]["file"])
    pd.DataFrame(rows).to_csv(home / "labels.csv", index=False)
    return home


def test_a_run_with_odd_names_in_a_locale_without_them(tmp_path):
    """One run for many names: it is one folder that the report finds, its tables say of what a
    group is yes, and a cell without images is left out
    """
    (tmp_path / "ü").mkdir()
    parameters = dict(
        dataset="folder",
        data_path=str(odd_set(tmp_path / "übergröße")),
        task="gender/sex",
        groups="gender/sex*Bald",
        classes="gender/sex*Bald!=f*yes",
        network="resnet10",
        weights=None,
        image_size=16,
        method="fairgrape",
        rate=0.5,
        keep=0.5,
        epochs="1",
        lrs="1e-3",
        retrain_epochs=1,
        batch=16,
        augment="none",
        bootstrap=100,
        threads=1,
        data_root=str(tmp_path),
        runs_root=str(tmp_path / "ü" / "läufe"),
        cache_root=str(tmp_path / "cache"),
    )
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump(parameters, allow_unicode=True), encoding="utf-8"
    )
    env = os.environ | dict(
        LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", OMP_NUM_THREADS="1"
    )
    done = subprocess.run(
        [FAIRGRAPE, "run", "-f", str(tmp_path / "run.yaml")],
        env=env,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert folder.parent == tmp_path / "ü" / "läufe" and folder.name.startswith(
        "folder-gender-sex-resnet10-fairgrape-0.5-layer-s0-"
    )
    assert {run.path.name.rsplit("-", 1)[0] for run in find_runs(folder.parent)} == {
        "folder-gender-sex-resnet10-fairgrape-0.5-layer-s0",
        "folder-gender-sex-resnet10-dense-s0",
    }
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert [row["group"] for row in metrics["table"]] == [
        "f × Bald: no",
        "m × Bald: no",
        "m × Bald: yes",
        "all",
    ]
    assert pd.read_csv(folder / "layers.csv").filter(like="Bald").notna().all().all()
    assert json.loads((folder / "settings.json").read_text(encoding="utf-8"))["weights"] == "none"


@pytest.fixture(scope="module")
def celeba(tmp_path_factory) -> dict:
    "CelebA's layout with 200 images, where no woman is bald; arguments of `prepare`"
    home = tmp_path_factory.mktemp("celeba")
    (home / "img_align_celeba").mkdir()
    rng, lines = np.random.default_rng(0), ["200", " ".join(CELEBA_ATTRIBUTES)]
    for i in range(200):
        answers = dict(zip(CELEBA_ATTRIBUTES, rng.choice([-1, 1], 40))) | dict(
            Male=1 - 2 * (i % 2), Bald=1 if i % 4 == 0 else -1
        )
        lines.append(" ".join([f"{i:06}.jpg", *map(str, answers.values())]))
        Image.new("RGB", (8, 8), (i, 0, 0)).save(home / "img_align_celeba" / f"{i:06}.jpg")
    (home / "list_attr_celeba.txt").write_text("\n".join(lines), encoding="utf-8")
    return dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)


def celeba_job(celeba: dict, **more):
    settings = dict(
        dataset="celeba",
        data_path=str(celeba["data_root"]),
        task="Smiling",
        network="resnet10",
        weights="none",
        image_size=16,
        batch=16,
    )
    return prepare(Settings(**settings | more), **celeba)


def test_celebas_own_name_of_gender(celeba):
    mine, theirs = (celeba_job(celeba, groups=groups) for groups in ("gender", "Male"))
    assert run_folder(mine) == run_folder(theirs) and theirs.group_names == ["Female", "Male"]
    planned = planner()(
        dict(
            dataset="celeba",
            data_path=str(celeba["data_root"]),
            task="Smiling",
            groups="Male",
            network="resnet10",
            weights="none",
            image_size=16,
            batch=16,
        )
        | celeba
    )[0]
    assert run_folder(planned) == run_folder(mine)
    with pytest.raises(ValueError, match="classes = 'gender\\*Bald!=Female × yes'"):
        celeba_job(celeba, groups="Male*Bald")
    # as the error has it
    job = celeba_job(celeba, groups="Male*Bald", classes="gender*Bald!=Female × yes")
    assert (
        job.group_names == ["Female × Bald: no", "Male × Bald: no", "Male × Bald: yes"]
        and len(job.table) == 200
    )
    assert group_counts(job).sum(axis=1).tolist() == [100, 50, 50]


def test_words_of_a_study_on_the_command_line():
    with (
        patch("fairgrape.cli.study", return_value=(Path("x"), [])) as asked,
        patch("fairgrape.cli.engine_of"),
    ):
        assert (
            main(
                [
                    "study",
                    "rates",
                    "--dataset",
                    "utkface",
                    "--groups",
                    '"skin tone" gender',
                    "--data_path",
                    "my faces",
                ]
            )
            == 0
        )
    assert asked.call_args.args[3] == dict(groups=["skin tone", "gender"], data_path="my faces")


OTHER_OPENS = {"os", "Image", "tarfile", "zipfile", "nbformat"}  # their `open` is another


def unnamed(file: Path) -> list[int]:
    "Lines of a module that open a text file without its encoding"
    found = []
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(getattr(call.func, "value", None), "id", "")
        modes = [
            a.value
            for a in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
            if isinstance(a, ast.Constant) and isinstance(a.value, str)
        ]
        text = name in ("read_text", "write_text") or (
            name == "open" and owner not in OTHER_OPENS and bool(modes) and "b" not in modes[-1]
        )
        if (
            text
            and "encoding" not in {k.arg for k in call.keywords}
            and not {"/proc", "devnull"} & set(re.findall(r"/proc|devnull", ast.unparse(call)))
        ):
            found.append(call.lineno)
    return found


def test_text_files_are_opened_with_an_encoding():
    assert {f.stem: lines for f in PACKAGE.rglob("*.py") if (lines := unnamed(f))} == {}


def test_an_encoding_that_is_missing_is_found(tmp_path):
    (tmp_path / "m.py").write_text(
        "open('a', 'w')\nopen('a', 'rb')\nPath('a').read_text()\nPath('a').open('w',"
        " encoding='utf-8')\nPath('a').write_text('ü', 'utf-8')\n",
        encoding="utf-8",
    )
    assert unnamed(tmp_path / "m.py") == [1, 3, 5]
