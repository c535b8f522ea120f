# %% [markdown]
# # Ray sweep
#
# > The same cells on a cluster, with GPUs per run as a resource and another try when a node dies

# %%
#| default_exp sweep.ray

# %%
#| export
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from fastcore.basics import patch

from fairgrape.experiment.paths import system_path
from fairgrape.sweep.grid import Cell
from fairgrape.sweep.jobs import Outcome, RunJob, read_outcome, working_on
from fairgrape.sweep.local import QUIET, THREADS, log_file, log_try
from fairgrape.training.files import write_json

# %%
import importlib.util
from types import SimpleNamespace
from unittest.mock import patch as instead

import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.sweep.grid import numbered, plan
from fairgrape.sweep.jobs import code_of, state_of
from fairgrape.sweep.sweep import sweep

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# [Ray](https://docs.ray.io) is a scheduler: it knows which machine has a free GPU, which machine has died, and what to start next. For the sweep it is an engine like the [worker processes](05_local.ipynb) on this machine: it starts
# cells and reports how they ended. The grid, the record, the table and the retries are those of [Sweep](06_sweep.ipynb).
#
# Ray is an optional extra. If it is missing, an error appears before anything starts.

# %%
#| export
def _need_ray():
    "The `ray` package. Raises: ImportError with the command that installs it."
    try:
        import ray
    except ImportError as e:
        raise ImportError(
            "engine = ray needs Ray, which is not installed: pip install 'fairgrape[ray]', on every"
            " node"
        ) from e
    return ray


# %%
there = importlib.util.find_spec("ray") is not None
print(
    "ray",
    (
        _need_ray().__version__
        if there
        else "is not installed: the examples with a cluster are left out"
    ),
)

# %%
hidden = sys.modules.get("ray")
sys.modules["ray"] = None  # as if it were not installed
try:
    said = _need_ray()
except ImportError as e:
    print(said := str(e))
finally:
    sys.modules.pop("ray")
    if hidden is not None:
        sys.modules["ray"] = hidden
assert "pip install 'fairgrape[ray]'" in said


# %% [markdown]
# ## A task
#
# The task that Ray runs on a node is small: it starts a [worker](03_runner.ipynb) with the job and waits for it. With shared storage nothing else is needed: checkpoints, locks and progress are in the runs folder, so a run whose node died resumes from its last epoch on another node.
# Without shared storage each node has its own runs folder, and the finished run comes back as files.

# %%
#| export
def here(
    job: RunJob,  # A job on the sweep's runs folder
    runs_root: str,  # A runs folder of this node; "": this node shares that of the sweep
) -> RunJob:  # The job in that folder
    "A job, moved to the runs folder of a node without shared storage."
    if not runs_root:
        return job
    there = Path(runs_root).expanduser().resolve()
    there.mkdir(parents=True, exist_ok=True)

    def move(folder):
        return str(there / Path(folder).name) if folder else ""

    return replace(
        job,
        folder=move(job.folder),
        dense=move(job.dense),
        parameters=job.parameters | dict(runs_root=str(there)),
    )


# %%
toy = RunJob(
    str(tmp / "runs" / "ws-1"),
    dict(rate=0.5, runs_root=str(tmp / "runs")),
    "now",
    str(tmp / "runs" / "dense-1"),
)
moved = here(toy, str(tmp / "node"))
[str(Path(f).relative_to(tmp)) for f in (moved.folder, moved.dense, moved.parameters["runs_root"])]

# %%
assert here(toy, "") is toy and here(replace(toy, dense=""), str(tmp / "node")).dense == ""
assert (
    moved
    == replace(
        toy,
        folder=str(tmp / "node" / "ws-1"),
        dense=str(tmp / "node" / "dense-1"),
        parameters=dict(rate=0.5, runs_root=str(tmp / "node")),
    )
    and (tmp / "node").is_dir()
)


# %% [markdown]
# The files that come back are those that a report reads. Checkpoints are large, and only an unfinished run needs them.

# %%
#| export
def _files_of(folder: Path) -> dict[str, bytes]:
    "The files of a finished run, without its checkpoints."
    return {
        f.name: f.read_bytes()
        for f in sorted(folder.iterdir())
        if f.is_file() and not f.name.startswith(".")
    }


def _brought(job: RunJob) -> dict[str, dict[str, bytes]]:
    "The files of a job's run and of its dense network, by folder."
    return {
        Path(f).name: _files_of(Path(f))
        for f in {job.folder, job.dense}
        if f and Path(f, "metrics.json").is_file()
    }


# %%
for name in ("ws-1", "dense-1"):
    (tmp / "node" / name / "checkpoints").mkdir(parents=True)
    (tmp / "node" / name / ".part").write_text("")
(tmp / "node" / "ws-1" / "metrics.json").write_text("{}")
(tmp / "node" / "dense-1" / "steps.csv").write_text("")
_brought(moved)

# %%
# the dense network is not finished
assert _brought(moved) == {"ws-1": {"metrics.json": b"{}"}} and _files_of(
    tmp / "node" / "dense-1"
) == {"steps.csv": b""}


# %% [markdown]
# The worker watches the process that started it, so it stops with its kernel when Ray stops the task or Ray ends on the node. Without shared storage the log is written to a folder of the task, and its text comes back.

# %%
#| export
def _node_work(job: RunJob, text: Path, threads: int, folder: Path, cwd: str = "") -> Outcome:
    "Make one run with a worker on this node; the job and its outcome are files in `folder`."
    path, start = folder / "job.json", time.time()
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    env = {**os.environ, **QUIET, **dict.fromkeys(THREADS, str(threads))}
    with text.open("a", encoding="utf-8") as out:
        print(f"on {os.uname().nodename}", file=out, flush=True)
        worker = subprocess.run(
            [sys.executable, "-m", "fairgrape.sweep.runner", str(path), str(os.getpid())],
            env=env,
            cwd=cwd if cwd and Path(cwd).is_dir() else None,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    return read_outcome(path, worker.returncode, time.time() - start)


# %% [markdown]
# In the smallest example another process works on the run, so the worker has nothing to do.

# %%
with working_on(Path(moved.folder)):
    busy = _node_work(moved, tmp / "log", 1, tmp)
busy.state, busy.reason, (tmp / "log").read_text().splitlines()[1][9:21]

# %%
assert (
    (busy.state, busy.reason) == ("busy", "another process works on ws-1")
    and (tmp / "log").read_text().startswith(f"on {os.uname().nodename}\n")
    and "busy after" in (tmp / "log").read_text()
)
assert json.loads((tmp / "job.json").read_text()) == asdict(moved)
# the run is free, but the code here is not "now"
other = _node_work(moved, tmp / "log", 1, tmp, str(tmp))
assert other.state == "failed" and "has other code" in other.reason


# %%
#| export
def ray_task(
    job: dict,  # A RunJob's fields
    log: str,  # The log's file, if it is on shared storage; else ""
    runs_root: str,  # See `here`
    threads: int,  # CPU threads of the run
    # The sweep's working folder, for relative paths; used if the node has it
    cwd: str = "",
) -> dict:  # outcome, host, log (text) and files, by folder
    "One run, on the node that Ray chose."
    mine = here(RunJob(**job), runs_root)
    with tempfile.TemporaryDirectory(prefix="fairgrape-") as folder:
        text = Path(log or Path(folder) / "log")
        outcome = _node_work(mine, text, threads, Path(folder), cwd)
        done = _brought(mine) if runs_root and outcome.state in ("done", "complete") else {}
        return dict(
            outcome=asdict(outcome),
            host=os.uname().nodename,
            log="" if log else text.read_text(encoding="utf-8"),
            files=done,
        )


# %% [markdown]
# A node without shared storage on which the run exists already, and one on which another process works on it:

# %%
(tmp / "node" / "ws-1" / "environment.json").write_text('{"code": "1a2b"}')
(tmp / "node" / "ws-1" / "prune.ipynb").write_text('{"cells": []}')
task = asdict(replace(toy, code="1a2b"))
came = ray_task(task, "", str(tmp / "node"), threads=1)
with working_on(Path(moved.folder)):
    waits = ray_task(task, str(tmp / "log"), str(tmp / "node"), threads=1)
[
    (
        c["outcome"]["state"],
        {name: sorted(files) for name, files in c["files"].items()},
        len(c["log"].splitlines()),
    )
    for c in (came, waits)
]

# %%
assert (
    came["outcome"]["state"] == "complete"
    and came["files"] == {"ws-1": _files_of(tmp / "node" / "ws-1")}
    and "complete after" in came["log"]
    and came["host"] == os.uname().nodename
)
assert (
    waits["outcome"]["state"] == "busy"
    and waits["files"] == {}
    and waits["log"] == ""
    and (tmp / "log").read_text().count("busy after") == 2
)


# %% [markdown]
# Files that come back are written to a temporary folder, which is renamed in one step. A dense network that came with another run is kept.

# %%
#| export
def unpack(
    files: dict[str, dict[str, bytes]],  # Folder → file → content, from `ray_task`
    runs_root: Path,  # The sweep's runs folder
):
    "Put fetched runs into the runs folder."
    for name, contents in files.items():
        folder = runs_root / name
        with working_on(folder, wait=True):
            # a dense network that exists here
            if (folder / "metrics.json").is_file() and "prune.ipynb" not in contents:
                continue
            part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=runs_root))
            for file, content in contents.items():
                (part / file).write_bytes(content)
            part.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)


# %%
(tmp / "home").mkdir()
unpack({"dense-1": {"metrics.json": b"first"}}, tmp / "home")
unpack(
    {"dense-1": {"metrics.json": b"second"}, "ws-1": {"metrics.json": b"{}", "prune.ipynb": b"{}"}},
    tmp / "home",
)
sorted(str(f.relative_to(tmp / "home")) for f in (tmp / "home").glob("[!.]*/*"))

# %%
assert (
    (tmp / "home" / "dense-1" / "metrics.json").read_bytes() == b"first"
    and not list((tmp / "home").glob(".ws*"))
    and (tmp / "home" / "ws-1").stat().st_mode & 0o777 == 0o755
)
unpack({"ws-1": {"metrics.json": b"new", "prune.ipynb": b"{}"}}, tmp / "home")
assert (tmp / "home" / "ws-1" / "metrics.json").read_bytes() == b"new"


# %% [markdown]
# ## Finding a cluster
#
# Ray looks for a cluster at the given address, in the variable `RAY_ADDRESS`, and in a file of the last `ray start` on this machine. If none answers, Ray retries for minutes and reports it in log lines only. The
# address is therefore tested first, for ten seconds, because the nodes of a job often start together.

# %%
#| export
def _asked_cluster(
    address: str = "",  # As given: host:port, ray://host:port, "auto", "local" or ""
) -> tuple[str, str]:  # The address that Ray will try, "" for none; and its source
    "The address at which Ray will look for a cluster."
    if address not in ("", "auto"):
        return address, "--address"
    if named := os.environ.get("RAY_ADDRESS"):
        return named, "the variable RAY_ADDRESS"
    left = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    if left.is_file():
        return left.read_text(encoding="utf-8").strip(), str(left)
    return "", ""


# %%
(tmp / "ray").mkdir()
here_alone = dict(RAY_TMPDIR=str(tmp), RAY_ADDRESS="")
with instead.dict(os.environ, here_alone):
    found = [_asked_cluster(a) for a in ("head:6379", "local", "auto", "")]
    os.environ["RAY_ADDRESS"] = "10.0.0.7:6379"
    found += [_asked_cluster("auto"), _asked_cluster("head:6379")]
    os.environ["RAY_ADDRESS"] = ""
    (tmp / "ray" / "ray_current_cluster").write_text("10.0.0.8:6379\n")
    found.append(_asked_cluster())
found

# %%
assert found == [
    ("head:6379", "--address"),
    ("local", "--address"),
    ("", ""),
    ("", ""),
    ("10.0.0.7:6379", "the variable RAY_ADDRESS"),
    ("head:6379", "--address"),
    ("10.0.0.8:6379", str(tmp / "ray" / "ray_current_cluster")),
]


# %%
#| export
def _check_cluster(
    address: str = "",  # As for `_asked_cluster`
    patience: float = 10.0,  # How long to try (s)
):
    "Raise ConnectionError if no cluster answers at the address that Ray will use."
    asked, source = _asked_cluster(address)
    place = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", asked)
    if not place:  # none, or a keyword of Ray
        return
    until = time.time() + patience
    while True:
        try:
            return socket.create_connection((place[1], int(place[2])), timeout=5).close()
        except (OSError, OverflowError) as e:
            if time.time() >= until:
                raise ConnectionError(
                    f"no Ray cluster answers at {asked} ({e}), which {source} names: start it with"
                    " 'ray start --head', or give the address that this command printed; without"
                    " any address, Ray starts on this machine alone"
                ) from e
            time.sleep(min(1.0, patience))


# %%
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "local"):
    assert _check_cluster(address) is None
server.close()
with instead.dict(os.environ, here_alone):
    (tmp / "ray" / "ray_current_cluster").unlink()
    assert _check_cluster("auto", patience=0) is None  # Ray itself reports the missing cluster
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    for address in (f"127.0.0.1:{port}", f"ray://[::1]:{port}", "nowhere.invalid:6379", ""):
        try:
            _check_cluster(address, patience=0)
        except ConnectionError as e:
            print(e)
            assert str(e).startswith(f"no Ray cluster answers at {_asked_cluster(address)[0]} (")
            assert f"which {_asked_cluster(address)[1]} names" in str(e)
        else:
            raise AssertionError("a missing cluster was found")


# %% [markdown]
# ## The engine
#
# Each run needs a number of cores and GPUs. Ray puts it on a node where they are free and gives each task its own CUDA_VISIBLE_DEVICES. Ray does not retry a run: the sweep counts the tries and knows which failures are worth one.

# %%
#| export
class OnRay:
    "Runs as tasks of a Ray cluster."

    def __init__(
        self,
        # The cluster; "": the one on this machine, else a new one
        address: str = "",
        cpus: float = 1,  # CPU cores for one run
        gpus: float | None = None,  # GPUs for one run; None: none
        workers: int = 0,  # Maximum number of runs at once; 0: as many as fit
        # The nodes' own runs folder, without shared storage; finished runs are fetched
        fetch: str = "",
    ):
        self.ray = _need_ray()
        system_path("fetch", fetch)
        if not self.ray.is_initialized():
            _check_cluster(address)
            self.ray.init(
                address=address or None,
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if not address else None,
            )
        there = self.ray.cluster_resources().get("GPU", 0)
        self.cpus = cpus
        self.gpus = (gpus or 0) if there else 0
        self.most = workers
        self.fetch = fetch
        self.check_room()
        self.task = self.ray.remote(ray_task).options(
            num_cpus=cpus, num_gpus=self.gpus, max_retries=0
        )
        self.busy, self.looked, self.room = {}, 0.0, 1  # busy: Ray's reference → cell


# %% [markdown]
# A run is on one node. A run too large for every node would wait forever in the state of starting. (A cluster that starts nodes on demand may have none yet; the check is then skipped.)

# %%
#| export
@patch
def check_room(self: OnRay):
    "Raise ValueError if no node of the cluster is large enough for a run."
    nodes = [
        node["Resources"]
        for node in self.ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")
    ]
    if not nodes or any(
        node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes
    ):
        return
    there = "; ".join(
        sorted({f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes})
    )
    raise ValueError(
        f"cpus_per_run = {self.cpus:g}, gpus_per_run = {self.gpus:g}, but the cluster's nodes have"
        f" {there}: ask for fewer"
    )


# %% [markdown]
# Most of the engine can be shown without a cluster. A stand-in for Ray has eight cores and four GPUs, returns numbers as references and records the calls:

# %%
class RayLike:
    "The part of Ray that the engine uses"

    resources, asked, over = dict(CPU=8.0, GPU=4.0), [], {}
    exceptions = SimpleNamespace(
        RayTaskError=type("RayTaskError", (Exception,), dict(cause=None)),
        RayError=type("RayError", (Exception,), {}),
    )

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return self.resources

    def nodes(self):
        return [
            dict(Alive=alive, Resources=has)
            for alive, has in ((True, self.resources), (False, dict(CPU=64.0)))
        ]

    def remote(self, *given):
        self.asked.append(given)
        return self if callable(given[0]) else f"task {len(self.asked)}"

    def options(self, **how):
        self.asked.append(how)
        return self

    def wait(self, refs, num_returns, timeout):
        return [r for r in refs if r in self.over], [r for r in refs if r not in self.over]

    def get(self, ref):
        if isinstance(self.over[ref], Exception):
            raise self.over[ref]
        return self.over[ref]

    def cancel(self, ref, force):
        self.asked.append(("cancel", ref, force))


def on_cluster(**how) -> OnRay:
    "An engine on the stand-in"
    global _need_ray
    real, _need_ray = _need_ray, RayLike
    try:
        return OnRay(**how)
    finally:
        _need_ray = real


engine = on_cluster(cpus=2, gpus=1)
engine.ray.asked

# %%
assert (
    engine.ray.asked == [(ray_task,), dict(num_cpus=2, num_gpus=1, max_retries=0)]
    and engine.busy == {}
)
for many in (dict(gpus=5), dict(cpus=64)):
    try:
        on_cluster(**many)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("more than any node has was accepted")
try:
    on_cluster(fetch="s3://bucket/runs")
except ValueError as e:
    print(e)
else:
    raise AssertionError("an address was taken for a folder")
RayLike.resources = dict(CPU=8.0)
assert on_cluster(gpus=1).gpus == 0  # no GPU anywhere: the runs compute on the CPU
RayLike.resources = {}
assert on_cluster(cpus=64).cpus == 64  # no node yet: the first run may bring one
RayLike.resources = dict(CPU=8.0, GPU=4.0)


# %% [markdown]
# The engine submits only as many runs as the cluster has room for, so the sweep decides which cell is next. Nodes come and go, but asking the cluster takes time, so its answer is used for two seconds.

# %%
#| export
@patch(as_prop=True)
def size(self: OnRay) -> int:
    "How many runs the cluster has room for at present."
    if time.time() - self.looked > 2:
        has = self.ray.cluster_resources()
        shares = [
            has.get(kind, 0) // need
            for kind, need in (("CPU", self.cpus), ("GPU", self.gpus))
            if need
        ]
        self.looked, self.room = time.time(), max(1, int(min(shares, default=1)))
    return min(self.room, self.most) if self.most else self.room


@patch
def free(self: OnRay) -> bool:
    return len(self.busy) < self.size


# %% [markdown]
# By hand: eight cores are enough for four runs of two, or two of three; four GPUs for two runs of two.

# %%
sizes = [
    on_cluster(**how).size
    for how in (
        dict(cpus=2),
        dict(cpus=3),
        dict(cpus=1, gpus=2),
        dict(cpus=1, gpus=0.5),
        dict(workers=3),
    )
]
engine = on_cluster(cpus=2, gpus=1)
before = engine.size
RayLike.resources = dict(CPU=2.0, GPU=1.0)  # three of four nodes have gone
at_once, engine.looked = engine.size, 0.0
sizes, (before, at_once, engine.size)

# %%
assert sizes == [4, 2, 2, 8, 3] and (before, at_once, engine.size) == (4, 4, 1) and engine.free()
engine.busy = {"task 1": None}
assert not engine.free()
RayLike.resources = {}
assert on_cluster(cpus=64).size == 1  # one run waits for the first node
RayLike.resources = dict(CPU=8.0, GPU=4.0)


# %% [markdown]
# The threads and processes that the engine gives a run go into the job, unless the user has set them.

# %%
#| export
@patch
def start(self: OnRay, cell: Cell, job: Path):
    "Submit a cell to Ray."
    given = dict(threads=max(1, int(self.cpus))) | (
        dict(processes=int(self.gpus)) if self.gpus > 1 else {}
    )
    made = replace(
        cell.job,
        parameters=cell.job.parameters
        | {k: v for k, v in given.items() if not cell.parameters.get(k)},
    )
    write_json(job, asdict(made))
    log = str(log_try(cell))
    self.busy[
        self.task.remote(
            asdict(made),
            "" if self.fetch else log,
            self.fetch,
            made.parameters["threads"],
            str(Path.cwd()),
        )
    ] = cell


# %%
cell = Cell(7, {}, "ws 0.5", toy, tries=1, started=time.time())
engine, fetching = on_cluster(cpus=2, gpus=2), on_cluster(cpus=0.5, fetch="/node/runs")
engine.start(cell, tmp / "7.json")
made, log, place, threads, cwd = engine.ray.asked[-1]
fetching.start(
    replace(
        cell,
        parameters=dict(threads=3),
        job=replace(toy, parameters=toy.parameters | dict(threads=3)),
    ),
    tmp / "8.json",
)
{k: made["parameters"][k] for k in ("threads", "processes")}, threads, fetching.ray.asked[-1][1:]

# %%
assert (
    (made["parameters"]["threads"], made["parameters"]["processes"], threads, place)
    == (2, 2, 2, "")
    and Path(log) == log_file(cell)
    and fetching.ray.asked[-1][1:] == ("", "/node/runs", 3, cwd)
    and cwd == str(Path.cwd())
)
assert (
    json.loads((tmp / "7.json").read_text()) == made
    and list(engine.busy.values()) == [cell]
    and log_file(cell).read_text().count("ws 0.5 (try 1)") == 2
)


# %% [markdown]
# Ray reports when a node dies. For the sweep this is a crash like any other: the cell returns to the queue. An error in the task itself is an error of the program, and another try would end the same way.

# %%
#| export
@patch
def outcome(self: OnRay, ref, cell: Cell) -> Outcome:
    "The outcome of a task; unpacks the files that it returned."
    try:
        came = self.ray.get(ref)
    except self.ray.exceptions.RayTaskError as e:
        return Outcome(
            "failed",
            f"{type(e.cause or e).__name__}: {str(e.cause or e).strip().splitlines()[-1]}",
            time.time() - cell.started,
        )
    except self.ray.exceptions.RayError as e:
        return Outcome(
            "crashed",
            f"the node or its worker died ({type(e).__name__})",
            time.time() - cell.started,
        )
    if self.fetch:
        with log_file(cell).open("a", encoding="utf-8") as out:
            out.write(came["log"])
        unpack(came["files"], cell.job.runs_root)
    return Outcome(**came["outcome"] | dict(extra=dict(host=came["host"])))


@patch
def ended(self: OnRay) -> list[tuple[Cell, Outcome]]:
    "Cells whose tasks ended after the last call, with their outcomes."
    if not self.busy:
        return []
    done, _ = self.ray.wait(list(self.busy), num_returns=len(self.busy), timeout=0)
    return [(cell, self.outcome(ref, cell)) for ref in done for cell in [self.busy.pop(ref)]]


# %% [markdown]
# Four tasks: one returned its run, one lost its node, one had an error, and one is still running.

# %%
error = RayLike.exceptions.RayTaskError("in the task")
error.cause = TypeError("first\nno such field")
RayLike.over = dict(a=came, b=RayLike.exceptions.RayError("gone"), c=error)
fetching.busy = dict.fromkeys("abcd", cell)
over = [outcome for _, outcome in fetching.ended()]
[(o.state, o.reason) for o in over], list(fetching.busy)

# %%
assert [(o.state, o.reason) for o in over] == [
    ("complete", ""),
    ("crashed", "the node or its worker died (RayError)"),
    ("failed", "TypeError: no such field"),
] and list(fetching.busy) == ["d"]
assert (
    _files_of(tmp / "runs" / "ws-1") == came["files"]["ws-1"]
    and "complete after" in log_file(cell).read_text()
    and over[0].extra == dict(host=os.uname().nodename)
)
assert on_cluster().ended() == [] and all(0 <= o.seconds < 300 for o in over)


# %% [markdown]
# To stop, Ray ends the tasks, and their workers and kernels notice within a second that their parent is gone. `stop` waits two seconds for them, unless the patience is 0.

# %%
#| export
@patch
def stop(self: OnRay, patience: float = 10.0):
    "Stop all tasks; their workers and kernels notice within a second."
    for ref in self.busy:
        self.ray.cancel(ref, force=True)
    if self.busy and patience:
        time.sleep(2)
    self.busy.clear()


# %%
with instead("time.sleep") as slept:
    fetching.stop(patience=0)
assert fetching.ray.asked[-1] == ("cancel", "d", True) and fetching.busy == {} and not slept.called
fetching.ray.asked[-1]

# %% [markdown]
# Now Ray itself: a cluster of one node on this machine without shared storage, and a sweep of one real run on it, with a minimal data set. The run comes back with its dense network.

# %%
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2])
    for i in range(120)
]
(tmp / "own").mkdir()
for row in rows:
    Image.fromarray(
        (rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(
            np.uint8
        )
    ).save(tmp / "own" / row["file"])
pd.DataFrame(rows).to_csv(tmp / "own" / "labels.csv", index=False)
tiny = dict(
    dataset="folder",
    data_path=str(tmp / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="ws",
    rate=0.5,
    epochs="1",
    lrs="1e-3",
    batch=16,
    augment="none",
    bootstrap=100,
    data_root=str(tmp),
    runs_root=str(tmp / "runs"),
    cache_root=str(tmp / "cache"),
)
(cell,) = plan(numbered([tiny]))
if there:
    _need_ray().init(
        "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    engine = OnRay(fetch=str(tmp / "node"))
    cells = sweep([tiny], engine)
    print([(c.words, c.state, c.reason) for c in cells], "room for", engine.size)

# %%
if there:
    assert (
        [c.state for c in cells] == ["done"]
        and state_of(Path(cell.job.folder), code_of(Path(cell.job.folder))) == "complete"
        and (Path(cell.job.dense) / "metrics.json").is_file()
    )
    assert engine.free() and engine.ended() == [] and "done after" in log_file(cell).read_text()
    book = nbformat.read(Path(cell.job.folder) / "prune.ipynb", 4)  # as returned by the node
    outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
    shown = [
        "image/png" in o.data
        for o in outputs
        if o.output_type == "display_data" and "text/html" not in o.data
    ]
    assert (
        len(shown) == 5
        and all(shown)
        and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    )
    broken = replace(cell, tries=1, started=time.time())
    print(engine.outcome(engine.task.remote(dict(folder=3), "", "", 1), broken))
    ref = engine.task.remote(asdict(cell.job), "", str(tmp / "node"), 1)
    engine.busy[ref] = broken
    engine.stop()
    assert engine.free() and engine.outcome(ref, broken).state in ("crashed", "complete")
    _need_ray().shutdown()
