"""Sweeps through the command: killed, interrupted, started twice at once; what is left, what is
said, and that the bits are those of a run by itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml
from fixtures import PRUNED, looks_right, pictures_of
from lengths import only_long
from signals import heard
from test_runs import FAIRGRAPE, own, tiny  # noqa: F401  (own is a fixture)

from fairgrape.experiment.settings import from_parameters
from fairgrape.sweep.jobs import code_of, state_of
from fairgrape.sweep.kernels import notebook_is_whole
from fairgrape.sweep.record import sweeps
from fairgrape.sweep.sweep import failures, folders, sweep
from fairgrape.training.files import code_version


def start(home: Path, *more: str) -> subprocess.Popen:
    with (home / "out.log").open("a") as out, heard():  # also under nohup: the tests send Ctrl-C
        return subprocess.Popen(
            [FAIRGRAPE, "sweep", home / "grid.yaml", "--no_report", *more],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | dict(OMP_NUM_THREADS="1"),
        )


def started_as(module: str, above: psutil.Process) -> list[psutil.Process]:
    "The processes of `python -m module` below a process"
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in above.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if module in process.cmdline():
                    found.append(process)
    return found


def kernels(above: psutil.Process) -> list[psutil.Process]:
    return started_as("ipykernel_launcher", above)


def until(what, of: subprocess.Popen | None = None, seconds: float = 900.0):
    """The first true value of a function. A process that ended without it, or a quarter of an
    hour, ends the test.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        over = of is not None and of.poll() is not None
        if found := what():
            return found
        assert not over, f"it ended before, with status {of.returncode}"
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def gone(processes: list[psutil.Process]) -> bool:
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


def test_a_sweep_survives_a_killed_kernel_an_interruption_and_a_double_start(
    own,  # noqa: F811
    tmp_path,
    request,
):
    only_long(request, "a sweep that is killed and started twice")
    cells = [
        dict(method="ws", rate=[0.5, 0.9]),
        dict(method="fairgrape", rate=0.9),
        dict(method="ws", rate=0.5, groups="place"),
    ]
    common = {
        k: v for k, v in tiny(own, tmp_path, epochs="3").items() if k not in ("method", "rate")
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(common | dict(cells=cells)))
    first = start(tmp_path)
    above = psutil.Process(first.pid)
    kernel = until(lambda: list(tmp_path.glob("runs/*/progress.json")) and kernels(above), first)[0]
    kernel.kill()  # as the system does when memory is short
    until(
        lambda: [
            c
            for r in sweeps(tmp_path / "runs")
            for c in r["cells"]
            if c["tries"] == 2 and c["state"] in ("running", "done")
        ],
        first,
    )
    until(
        lambda: (
            any(c["state"] == "done" for c in sweeps(tmp_path / "runs")[0]["cells"])
            and kernels(above)
        ),
        first,
    )
    family = above.children(recursive=True)
    assert started_as("fairgrape.sweep.runner", above) and kernels(above)
    first.send_signal(signal.SIGINT)
    assert first.wait(900) == 130
    until(lambda: gone(family))
    said = (tmp_path / "out.log").read_text()
    assert (
        "DeadKernelError" in said
        and "To go on: fairgrape sweep" in said
        and "grid.yaml --no_report" in said
    )
    (record,) = sweeps(tmp_path / "runs")
    assert (
        not record["alive"]
        and "done" in [c["state"] for c in record["cells"]]
        and record["cells"][3]["state"] == "failed"
        and "only ['here']" in record["cells"][3]["reason"]
    )
    there = {
        c["folder"]: Path(c["folder"], "prune.ipynb").stat().st_mtime_ns
        for c in record["cells"]
        if c["state"] == "done"
    }

    both = [start(tmp_path, "--workers", "2"), start(tmp_path)]
    assert [p.wait(1800) for p in both] == [1, 1]  # one cell cannot be
    records = sweeps(tmp_path / "runs")
    # each once, in all three sweeps together
    assert len(records) == 3 and sum(c["state"] == "done" for r in records for c in r["cells"]) == 3
    assert all(Path(f, "prune.ipynb").stat().st_mtime_ns == when for f, when in there.items())
    for cell in records[-1]["cells"][:3]:
        folder = Path(cell["folder"])
        assert (
            state_of(folder, code_version()) == "complete"
            and (tmp_path / "runs" / ".logs" / f"{folder.name}.log").read_text().count("--- ") >= 1
        )
        looks_right(folder / "prune.ipynb", *pictures_of(folder), tables=4)

    settings, _ = from_parameters(tiny(own, tmp_path, epochs="3"))
    alone = [
        sys.executable,
        "-c",
        (
            "from fairgrape import Settings, run;"
            f" print(run(Settings(**{dict(vars(settings))!r}), threads=1, progress=False,"
            f" data_root={str(tmp_path)!r}, runs_root={str(tmp_path / 'alone')!r},"
            f" cache_root={str(tmp_path / 'cache')!r}))"
        ),
    ]
    done = subprocess.run(
        alone,
        capture_output=True,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        check=True,
    )
    by_itself, swept = Path(done.stdout.split()[-1]), Path(records[-1]["cells"][2]["folder"])
    assert by_itself.name == swept.name
    for name in ("masks.safetensors", "model.safetensors"):
        assert (by_itself / name).read_bytes() == (swept / name).read_bytes(), name
    assert json.loads((by_itself / "metrics.json").read_text()) | dict(seconds=0) == json.loads(
        (swept / "metrics.json").read_text()
    ) | dict(seconds=0)


def test_runs_of_other_code_are_made_again_or_accepted(own, tmp_path):  # noqa: F811
    given = [tiny(own, tmp_path, method="ws", epochs="1")]
    (folder,) = folders(sweep(given, show=False))
    environment = json.loads((folder / "environment.json").read_text())
    for made in (folder, *tmp_path.glob("runs/*-dense-*")):
        (made / "environment.json").write_text(json.dumps(environment | dict(code="before")))
    assert [c.state for c in sweep(given, show=False, accept_older=True)] == ["complete"]
    assert [c.state for c in sweep(given, show=False)] == ["done"]
    looks_right(folder / "prune.ipynb", *PRUNED, tables=4)
    assert (
        code_of(folder) == environment["code"]
        and {f.name[-7:] for f in (tmp_path / "runs" / ".older").iterdir()} == {"-before"}
        and len(list((tmp_path / "runs" / ".older").iterdir())) == 2
    )
    assert notebook_is_whole(tmp_path / "runs" / ".older" / f"{folder.name}-before" / "prune.ipynb")


def test_a_run_whose_worker_dies_is_made_again(own, tmp_path):  # noqa: F811
    from fairgrape.sweep.local import Local

    engine, struck = Local(), []
    start = engine.start

    def strike(cell, job):
        start(cell, job)
        if not struck:
            struck.append(cell.index)
            engine.busy[0]["worker"].kill()

    engine.start = strike
    (ended,) = sweep([tiny(own, tmp_path, method="dense", epochs="1")], engine, show=False)
    assert ended.state == "done" and ended.tries == 2 and not failures([ended])
    # a dense run has its learning curves only
    looks_right(Path(ended.job.folder) / "prune.ipynb", PRUNED[1], tables=2)


def test_what_is_wrong_with_the_data_fails_alone_and_is_not_tried_again(own, tmp_path):  # noqa: F811
    cells = sweep(
        [tiny(own, tmp_path, method="ws", groups=g, epochs="1") for g in ("hue", "place")],
        show=False,
    )
    assert (
        [c.state for c in cells] == ["failed"] * 2
        and [c.tries for c in cells] == [0, 0]
        and not folders(cells)
    )


def test_hundreds_of_cells_are_planned_in_seconds(own, tmp_path):  # noqa: F811
    from fairgrape.sweep.grid import grid_cells, numbered, plan

    common = {k: v for k, v in tiny(own, tmp_path).items() if k not in ("method", "rate", "seed")}
    begun = time.process_time()  # the processor's seconds: other work does not count
    cells = plan(
        numbered(
            grid_cells(
                dict(
                    method=["ws", "fairgrape", "snip"], rate=[0.5, 0.7, 0.9], seed=list(range(30))
                ),
                common,
            )
        )
    )
    assert len(cells) == 270 and all(c.job for c in cells) and time.process_time() - begun < 60
