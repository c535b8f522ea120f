"""Every data set and task of the paper × every method, each to a finished run.

The CelebA and ImageNet-person layouts are written here and run in this process. With `make
test-slow` every row, those of real faces too where they are, goes through papermill to an executed
notebook;
FAIRGRAPE_ROWS names a folder to keep those."""

import json
import os
import warnings
from pathlib import Path

import pytest
from fixtures import write_celeba, write_people
from lengths import only_slow
from test_real_faces import find

from fairgrape.experiment.run import run
from fairgrape.experiment.settings import Settings
from fairgrape.methods.registry import METHODS
from fairgrape.report.runs import load_run
from fairgrape.studies.studies import protocol
from fairgrape.sweep.kernels import notebook_is_whole
from fairgrape.sweep.runner import execute

SMALL = dict(
    network="resnet10",
    weights="none",
    image_size=32,
    rate=0.9,
    keep=0.3,
    epochs="1",
    lrs="1e-3",
    retrain_epochs=1,
    retrain_lr=1e-4,
    augment="flip",
    importance_cap=64,
    bootstrap=100,
)
ROWS = {  # a row of the studies' protocol, and what it needs here
    "celeba": dict(limit=0),
    "people": dict(limit=0),
    "synthetic": dict(limit=1200),
    "utkface": dict(limit=1200),
    "utkface-gender": dict(limit=1200),
    "utkface-two-heads": dict(limit=1200),
    "utkface-five": dict(limit=1200),
    "fairface": dict(limit=1200),
    "fairface-gender": dict(limit=1200),
    "fairface-14": dict(limit=4000),
    "fairface, imbalanced": dict(imbalance="race=White:0.2"),
}
FORMS = ("dense", *METHODS)


@pytest.fixture(scope="session")
def kept(tmp_path_factory) -> Path:
    return Path(os.environ.get("FAIRGRAPE_ROWS") or tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("official")
    return dict(
        celeba=write_celeba(home / "celeba", 360, size=32),
        people=write_people(home / "people", 30, size=32),
    )


def settings_of(row: str, official: dict[str, Path]) -> dict:
    "A row's settings, small; the test is skipped, loudly, where its real faces are absent"
    start, _ = protocol(row.split(",")[0])
    real = dict(
        utkface=("FAIRGRAPE_UTKFACE", "UTKFace.tar.gz", "UTKFace"),
        fairface=("FAIRGRAPE_FAIRFACE", "fairface-subset.tar", "FairFace"),
    )
    name = start["dataset"]
    path = official.get(name) or ("" if name == "synthetic" else find(*real[name]))
    return (
        {k: v for k, v in start.items() if k in ("dataset", "task", "groups", "classes", "split")}
        | SMALL
        | ROWS[row]
        | dict(data_path=str(path))
    )


# group shares, none, and gradients of an untrained network; what data they have is nothing to the
# others
AT_ONCE = ("dense", "fairgrape", "importance", "snip")


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("name", ["celeba", "people"])
def test_official_layouts_run_with_every_method(request, official, tmp_path_factory, name, method):
    if method not in AT_ONCE:
        only_slow(request, "the other methods on official layouts")
    home = tmp_path_factory.getbasetemp() / f"inside-{name}"
    folder = run(
        Settings(**settings_of(name, official) | dict(method=method, image_size=16)),
        progress=False,
        data_root=home,
        runs_root=home / "runs",
        cache_root=home / "cache",
    )
    done = load_run(folder)
    assert (
        done.metrics["accuracy_pruned"] >= 0
        and len(done.metrics["table"]) == 3
        and done.settings["method"] == method
    )
    assert len(done.settings["classes_used"]) == (39 if name == "celeba" else 1)
    if method != "dense":
        assert abs(done.metrics["sparsity"] - 0.9) < 2e-3


def test_celeba_says_what_it_cannot_measure(official, tmp_path):
    folder = run(
        Settings(**settings_of("celeba", official) | dict(method="ws", image_size=16)),
        progress=False,
        data_root=tmp_path,
        runs_root=tmp_path / "runs",
        cache_root=tmp_path / "cache",
    )
    notes = " ".join(json.loads((folder / "metrics.json").read_text())["notes"])
    # nobody is blurry, no woman is bald in these pictures
    assert "Blurry" in notes and "Bald" in notes


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("row", ROWS)
def test_every_row_to_an_executed_notebook(request, official, kept, row, method):
    only_slow(request, "every row through papermill")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = execute(
            settings_of(row, official)
            | dict(
                method=method,
                data_root=str(kept / "data"),
                runs_root=str(kept / "runs"),
                cache_root=str(kept / "cache"),
                progress=False,
            ),
            log=False,
        )
    assert notebook_is_whole(folder / "prune.ipynb")
    done = load_run(folder)
    assert done.settings["method"] == method and (
        method == "dense" or abs(done.metrics["sparsity"] - 0.9) < 2e-3
    )
