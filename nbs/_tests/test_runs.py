"""Whole runs through papermill and the command: what they leave, what they refuse, and that the
same settings give the same bits.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from fixtures import BY_GROUP, COMPARED, PRUNED, looks_right
from PIL import Image

from fairgrape.cli import main, report
from fairgrape.experiment.run import run
from fairgrape.experiment.settings import from_parameters
from fairgrape.report.runs import load_run
from fairgrape.sweep.kernels import template
from fairgrape.training.journal import Journal

FAIRGRAPE = Path(sys.executable).with_name("fairgrape")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    "A set of 160 little pictures: brightness is the task, tint the group"
    home, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    rows = [
        dict(
            file=f"{i}.png",
            shade=("dark", "light")[i % 2],
            tint=("red", "blue", "blue")[i % 3],
            place="here",
        )
        for i in range(160)
    ]
    for row in rows:
        pixels = rng.integers(0, 160, (20, 20, 3)) + (60 if row["shade"] == "light" else 0)
        pixels[..., 0 if row["tint"] == "red" else 2] += 30
        Image.fromarray(pixels.astype(np.uint8)).save(home / row["file"])
    pd.DataFrame(rows).to_csv(home / "labels.csv", index=False)
    return home


def tiny(own: Path, home: Path, **changed) -> dict:
    "Parameters of a run of a few seconds, with its own empty caches under `home`"
    return (
        dict(
            dataset="folder",
            data_path=str(own),
            task="shade",
            groups="tint",
            network="resnet10",
            weights="none",
            image_size=16,
            method="fairgrape",
            rate=0.9,
            keep=0.4,
            epochs="2",
            lrs="1e-3",
            retrain_epochs=1,
            retrain_lr=1e-4,
            batch=16,
            augment="paper",
            bootstrap=100,
            threads=1,
            data_root=str(home),
            runs_root=str(home / "runs"),
            cache_root=str(home / "cache"),
        )
        | changed
    )


def command(parameters: dict, *extra: str, name: str = "run") -> subprocess.CompletedProcess:
    options = [part for k, v in parameters.items() for part in (f"--{k}", str(v))]
    return subprocess.run(
        [FAIRGRAPE, name, *options, *extra],
        capture_output=True,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )


def folder_of(done: subprocess.CompletedProcess) -> Path:
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def first(own, tmp_path_factory) -> Path:
    return folder_of(command(tiny(own, tmp_path_factory.mktemp("first"))))


def test_a_run_leaves_everything(first):
    run = load_run(first)
    book = nbformat.read(first / "prune.ipynb", 4)
    assert all(
        c.metadata["papermill"]["exception"] is False for c in book.cells if c.cell_type == "code"
    )
    # images of each group, steps, accuracies, disparities
    looks_right(first / "prune.ipynb", *BY_GROUP, tables=4)
    assert (
        set(run.metrics["disparities"]) == {"rho", "psi", "range"}
        and abs(run.metrics["sparsity"] - 0.9) < 1e-3
    )
    assert (
        len(run.steps) == 3
        and run.steps["kept"].is_monotonic_decreasing
        and set(run.history["label"]) == {"dense", "step 1", "step 2", "step 3", "final"}
    )
    assert all(
        (run.weights[f"{name}.weight"][~mask] == 0).all() for name, mask in run.masks.items()
    )
    assert run.environment["threads"] == 1 and run.settings["scope"] == "layer"


def test_the_template_is_four_calls_and_shows_what_they_left():
    "Each call in a cell of its own; nothing else in the notebook computes a result"
    calls = ("prepare", "dense", "pruned", "save")
    cells = [c.source for c in nbformat.read(template(), 4).cells if c.cell_type == "code"]
    alone = [
        "job = prepare(settings, **places)",
        "first = dense(job)",
        "last = pruned(job, first)",
    ]
    assert [c for c in cells if c in alone] == alone
    called = [
        node.func.id
        for cell in cells
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert [name for name in called if name in calls] == list(calls)
    imported = {
        name.name
        for cell in cells
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fairgrape.experiment")
        for name in node.names
    }
    assert imported == {
        *calls,
        "from_parameters",
        "group_counts",
        "clusters_table",
        "load_clusters",
    }


def test_a_run_says_what_each_step_did_to_each_group(first):
    run, steps = load_run(first), pd.read_csv(first / "steps.csv")
    assert steps["step"].tolist() == [0, 1, 2, 3] and np.allclose(
        steps["rate"], [0, 0.6, 0.84, 0.9]
    )
    assert steps["kept"][0] == steps["total"][0] and run.steps["step"].tolist() == [1, 2, 3]
    # the network that is measured is the one that its training kept
    best = run.history[run.history["kept"]].set_index("label")["val_accuracy"]
    assert np.allclose(steps["val:all"], best[["dense", "step 1", "step 2", "step 3"]])
    assert run.paid[["all", "blue", "red"]].iloc[0].tolist() == [0, 0, 0] and len(run.paid) == 4


class Cut(Exception):
    pass


@pytest.mark.parametrize("label", ["step 2: masks are set", "step 3: masks are set"])
def test_a_run_that_is_killed_between_steps_measures_the_same(own, first, tmp_path, label):
    settings, places = from_parameters(
        {k: v for k, v in tiny(own, tmp_path).items() if k != "threads"}
    )
    write = Journal.write

    def and_stop(self, model, where="", *more):
        write(self, model, where, *more)
        if where == label:
            raise Cut

    with patch.object(Journal, "write", and_stop), pytest.raises(Cut):
        run(settings, "cpu", 1, False, **places)
    again = run(settings, "cpu", 1, False, **places)
    assert again.name == first.name and load_run(again).environment["resumed"] == 1
    seconds = ["score_s", "select_s", "retrain_s"]
    tables = [pd.read_csv(f / "steps.csv").drop(columns=seconds) for f in (again, first)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for name in ("masks.safetensors", "model.safetensors"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


def test_two_processes_with_empty_caches_agree_bit_for_bit(own, first, tmp_path):
    """`fairgrape run`, and one cell of a sweep, on a machine where MPLBACKEND is set, as it is
    on many servers
    """
    with patch.dict(os.environ, MPLBACKEND="Agg"):
        done = command(tiny(own, tmp_path), "--cell", "0", name="sweep")
    (again,) = tmp_path.glob("runs/*-fairgrape-*")
    assert done.returncode == 0 and f"{again / 'prune.ipynb'}" in done.stdout, done.stderr
    looks_right(again / "prune.ipynb", *BY_GROUP, tables=4)
    assert again.name == first.name and again != first
    for name in ("masks.safetensors", "model.safetensors"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    metrics = [
        json.loads((f / "metrics.json").read_text()) | dict(seconds=0) for f in (again, first)
    ]
    assert metrics[0] == metrics[1]


def test_another_seed_gives_another_network(own, first, tmp_path):
    settings, places = from_parameters(
        {k: v for k, v in tiny(own, tmp_path, seed=1).items() if k != "threads"}
    )
    other = run(settings, "cpu", 1, False, **places)
    assert (
        other.name != first.name
        and (other / "masks.safetensors").read_bytes() != (first / "masks.safetensors").read_bytes()
    )


def test_papermill_by_itself(own, tmp_path):
    parameters = tiny(own, tmp_path, method="ws", scope="global", epochs="1")
    papermill.execute_notebook(
        template(), tmp_path / "out.ipynb", parameters, progress_bar=False, kernel_name="python3"
    )
    assert [
        load_run(f).settings["scope"] for f in (tmp_path / "runs").iterdir() if "-ws-" in f.name
    ] == ["global"]
    looks_right(tmp_path / "out.ipynb", *PRUNED, tables=4)


def test_the_report_shows_its_pictures(first):
    page = report(first.parent)
    looks_right(page.with_suffix(".ipynb"), *COMPARED, tables=1)
    assert page.read_text(encoding="utf-8").count("data:image/png;base64,") == len(COMPARED) + len(
        BY_GROUP
    )


def test_an_unknown_parameter_stops_papermill_before_anything_starts(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter rates"):
        papermill.execute_notebook(
            template(),
            tmp_path / "out.ipynb",
            dict(rates=0.9, runs_root=str(tmp_path / "runs")),
            progress_bar=False,
            kernel_name="python3",
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(dataset="imdb"), "unknown dataset 'imdb'"),
        (dict(task="age"), "no label column 'age'"),
        (dict(groups="race"), "no label column 'race'"),
        (dict(network="resnet35"), "resnet35"),
        (dict(network="timm:resnet10x"), "resnet10x"),
        (dict(method="grape"), "method = 'grape'"),
        (dict(rate=1.0), "rate = 1.0"),
        (dict(rate=-0.1), "rate = -0.1"),
        (dict(keep=1.0), "keep = 1.0"),
        (dict(keep=0), "keep = 0.0"),
        (dict(data_path="/nowhere/faces"), "/nowhere/faces"),
        (dict(runs_root="/dev/null/runs"), "/dev/null/runs"),
        (dict(weights="/nowhere/w.safetensors"), "/nowhere/w.safetensors"),
        (dict(scope="all"), "scope = 'all'"),
        (dict(device="abacus"), "device = 'abacus'"),
        (dict(groups="place"), "a disparity compares groups, but there is only ['here']"),
        (dict(importance_groups="place"), "importance_groups = 'place' has only one group"),
        (
            dict(groups="clusters", clusters=200),
            "clusters = 200, but there are only 128 training images",
        ),
        (dict(scope="global", rate=0.999999), "which would empty a layer"),
        (dict(importance_on="tint=green"), "tint has no class 'green'"),
        (dict(imbalance="tint=red"), "tint=red"),
        (dict(method="random", as_released=True), "Random raises"),
        (dict(method="snip", weights="own.safetensors"), "needs the weights before training"),
        (dict(split="person"), "person"),
    ],
    ids=lambda x: (
        "" if isinstance(x, str) else "-".join(f"{k}={v}" for k, v in x.items()).replace("/", "_")
    ),
)
def test_bad_settings_are_named_before_work_starts(own, tmp_path, capsys, changed, said):
    options = [
        part for k, v in tiny(own, tmp_path, **changed).items() for part in (f"--{k}", str(v))
    ]
    assert main(["run", *options]) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*")) and not list((tmp_path / "cache").glob("*"))
