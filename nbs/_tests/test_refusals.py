"""Nothing that is read executes code or leads out of its folder, tried from outside: through the
command line and a whole run.

The first case of each kind starts the command in a process of its own, as a shell does; the others
call it here, which spares the ten seconds of a start.
"""

import contextlib
import io
import json
import os
import pickle
import subprocess

import pytest
from test_runs import FAIRGRAPE, own, tiny  # noqa: F401  (a fixture)

from fairgrape.cli import main
from fairgrape.experiment.run import run
from fairgrape.experiment.settings import Settings
from fairgrape.training.files import checksum


class Malicious:
    "If it is unpickled, it makes a file"

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def shell(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [FAIRGRAPE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )


def here(*arguments) -> subprocess.CompletedProcess:
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess, *words: str):
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert all(word in done.stderr for word in words) and "Traceback" not in done.stderr, (
        done.stderr
    )


def test_a_pickle_in_a_checkpoints_place(own, tmp_path):  # noqa: F811
    """With a checkpoint's name and even its checksum: it is named, passed over and not run, and
    the run goes as if it were not there
    """
    mark, parameters = tmp_path / "mark", tiny(own, tmp_path, method="ws", epochs="1", lrs="1e-3")
    places = {k: parameters.pop(k) for k in ("data_root", "runs_root", "cache_root")}
    del parameters["threads"]
    folder = run(Settings(**parameters), "cpu", 1, False, **places)
    untouched = (folder / "masks.safetensors").read_bytes()
    (folder / "metrics.json").unlink()  # so that it is not finished
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    evil = checkpoints / "x"
    evil.write_bytes(pickle.dumps(Malicious(mark)))
    evil.rename(checkpoints / f"000099-{checksum(evil)}.safetensors")
    with pytest.warns(UserWarning, match="000099"):
        again = run(Settings(**parameters), "cpu", 1, False, **places)
    assert (
        again == folder
        and (folder / "masks.safetensors").read_bytes() == untouched
        and not mark.exists()
    )
    assert json.loads((folder / "metrics.json").read_text())["n"] > 0


@pytest.mark.parametrize(
    "fairgrape, text",
    [
        (shell, "!!python/object/apply:os.mkdir ['{mark}']"),
        (here, "seed: !!python/object/apply:os.mkdir ['{mark}']"),
        (here, "cells: [!!python/object/new:os.mkdir ['{mark}']]"),
    ],
)
def test_yaml_with_a_python_tag(tmp_path, fairgrape, text):
    mark, grid = tmp_path / "mark", tmp_path / "grid.yaml"
    grid.write_text(text.format(mark=mark))
    refused(fairgrape("sweep", grid, "--dry_run", "--runs_root", tmp_path / "runs"), "grid.yaml")
    refused(fairgrape("run", "-f", grid, "--runs_root", tmp_path / "runs"), "grid.yaml")
    assert not mark.exists() and not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    "fairgrape, name",
    [(shell, "../out"), (here, "/tmp/fairgrape-out"), (here, "a/../../out"), (here, "..")],
)
def test_a_notebook_that_would_leave_the_runs_folder(own, tmp_path, fairgrape, name):  # noqa: F811
    refused(
        fairgrape(
            "run",
            *[
                part
                for k, v in (tiny(own, tmp_path) | dict(name=name)).items()
                for part in (f"--{k}", v)
            ],
        ),
        "name",
    )
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps(tiny(own, tmp_path) | dict(name=name)))
    refused(fairgrape("sweep", grid), "name")
    assert not list((tmp_path / "runs").glob("*/*")) and not (tmp_path / "out").exists()


def test_a_page_outside(tmp_path):
    (tmp_path / "runs").mkdir()
    refused(
        shell("report", "--runs_root", tmp_path / "runs", "--out", tmp_path / "page.html"),
        "page.html",
    )
    assert not (tmp_path / "page.html").exists()
