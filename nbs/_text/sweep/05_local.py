# %% [markdown]
# # Workers
#
# > Runs on this machine: worker processes, their GPUs and their threads

# %%
#| default_exp sweep.local

# %%
#| export
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fastcore.basics import patch

from fairgrape.sweep.jobs import Outcome, outcome_file, read_outcome
from fairgrape.sweep.runner import stop_tree
from fairgrape.training.files import cores, write_json

if TYPE_CHECKING:
    from fairgrape.sweep.grid import Cell  # which imports torch

# %%
import json
import tempfile
from unittest.mock import patch as instead

import pandas as pd

from fairgrape.sweep.grid import Cell
from fairgrape.sweep.jobs import RunJob, working_on, write_outcome

tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# An engine starts runs and reports those that ended. It has four methods for the sweep: `free`, `start`, `ended`, `stop`. This engine uses the machine of the sweep; [another](08_ray.ipynb) uses a cluster.
#
# ## Sharing GPUs and cores
#
# Each worker sees its own GPUs; on the CPU each has its share of the cores. With all cores for every worker, threads that spin while they
# wait take the cores from threads that work: four processes of two threads on four cores became ten times slower.
# Waiting threads therefore spin only briefly. The number of turns was measured: ResNet-10 at 32 px, two threads on two cores, images per second alone and with another process busy on one core.
#
# | turns | alone | one core shared |
# |---|---|---|
# | 0 | 420 | 360 |
# | 2,000 | 470 | 340 |
# | **7,000** | **545** | **286** |
# | 40,000 | 590 | 134 |
# | OpenMP's own | 660 | 28 |
#
# One thread trains 375 images per second, so two processes of one thread each use two cores better than one process of two. On a CPU, start as many workers as cores for a sweep of small networks.

# %%
#| export
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")  # number of threads of a process
# waiting threads spin briefly, then sleep
QUIET = dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="7000", KMP_BLOCKTIME="0")


# %% [markdown]
# torch counts the GPUs; `CUDA_VISIBLE_DEVICES` may give them other names.

# %%
#| export
def _visible_gpus() -> list[str]:
    "The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."
    import torch

    given, there = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return (
        [g.strip() for g in given.split(",") if g.strip()][:there]
        if given
        else [str(i) for i in range(there)]
    )


# %% [markdown]
# The examples replace torch's count with two GPUs, one, or none:

# %%
import torch


def names_of(n: int, given: str | None) -> list[str]:
    "The names of n GPUs with this value in the environment"
    count, kept = torch.cuda.device_count, os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    torch.cuda.device_count = lambda: n
    if given is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = given
    try:
        return _visible_gpus()
    finally:
        torch.cuda.device_count = count
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if kept is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = kept


names_of(2, None), names_of(2, "3, 5"), names_of(1, "GPU-8f,GPU-a1"), names_of(0, "")

# %%
assert (names_of(2, None), names_of(2, "3, 5"), names_of(1, "GPU-8f,GPU-a1"), names_of(0, "")) == (
    ["0", "1"],
    ["3", "5"],
    ["GPU-8f"],
    [],
)


# %% [markdown]
# Too many workers would fail an hour later with an out-of-memory error, so asking for more than the machine has raises an error at once.

# %%
#| export
def worker_slots(
    workers: int = 0,  # Processes at once; 0: one per GPU, or one
    gpus: tuple[str, ...] = (),  # GPUs to share
    per_run: int = 1,  # GPUs for one run
    cores: int = 1,  # CPU cores to share
) -> list[dict]:  # Environment variables of each worker
    "The GPUs and threads of each worker. Raises: ValueError for more than the machine has."
    if workers < 0 or per_run < 0:
        raise ValueError(f"workers = {workers}, gpus_per_run = {per_run}: they cannot be negative")
    if gpus and per_run > len(gpus):
        raise ValueError(
            f"gpus_per_run = {per_run}, but there are only {len(gpus)} GPUs ({', '.join(gpus)}):"
            " ask for fewer"
        )
    most = len(gpus) // per_run if gpus and per_run else None
    if most and workers > most:
        raise ValueError(
            f"workers = {workers}, but {len(gpus)} GPUs with {per_run} for a run are enough for"
            f" {most}: ask for fewer"
        )
    n = workers or most or 1
    threads = str(max(1, cores // n))

    def mine(i):
        return (
            {"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * per_run : (i + 1) * per_run])}
            if most
            else {}
        )

    return [dict.fromkeys(THREADS, threads) | mine(i) for i in range(n)]


# %%
pd.DataFrame(worker_slots(gpus=("0", "1", "2", "3"), per_run=2, cores=32))

# %%
assert worker_slots(gpus=("0", "1", "2", "3"), per_run=2, cores=32) == [
    dict.fromkeys(THREADS, "16") | dict(CUDA_VISIBLE_DEVICES=g) for g in ("0,1", "2,3")
]
assert [s["CUDA_VISIBLE_DEVICES"] for s in worker_slots(gpus=("3", "5"))] == [
    "3",
    "5",
] and worker_slots(1, ("3", "5")) == [dict.fromkeys(THREADS, "1") | dict(CUDA_VISIBLE_DEVICES="3")]
assert (
    worker_slots(4, cores=8) == [dict.fromkeys(THREADS, "2")] * 4
    and worker_slots(9, cores=4)[0] == dict.fromkeys(THREADS, "1")
    and len(worker_slots()) == 1
)
for bad in (
    dict(workers=-1),
    dict(per_run=-1),
    dict(gpus=("0",), per_run=2),
    dict(gpus=("0", "1"), workers=3),
):
    try:
        worker_slots(**bad)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("more than the machine has was shared")


# %% [markdown]
# ## The log
#
# The output of a worker goes to a file beside the runs, under the name of its folder. The log remains when the folder is set aside or made again, and each try adds a part to it.

# %%
#| export
def log_file(cell: "Cell") -> Path:
    "The log of a run: `.logs/<folder>.log` in the runs folder."
    logs = cell.job.runs_root / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{cell.name}.log"


# %% [markdown]
# The cells of the examples are jobs of runs that already exist, so a worker has almost nothing to do.

# %%
def finished(number: int, **more) -> Cell:
    "A cell whose run already exists"
    folder = tmp / "runs" / f"ws-{number}"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    (folder / "prune.ipynb").write_text('{"cells": []}')
    return Cell(
        number,
        {},
        f"ws seed={number}",
        RunJob(str(folder), dict(runs_root=str(tmp / "runs")), "", accept_older=True, **more),
        started=time.time(),
    )


cell = finished(0)
assert log_file(cell) == tmp / "runs" / ".logs" / "ws-0.log" and log_file(cell).parent.is_dir()
log_file(cell).relative_to(tmp).parts


# %%
#| export
def log_try(cell: "Cell") -> Path:
    "Begin another part of a run's log, and return its path."
    with log_file(cell).open("a", encoding="utf-8") as log:
        print(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {cell.words} (try {cell.tries})", file=log)
    return log_file(cell)


# %%
cell.tries = 1
log_try(cell)
cell.tries = 2
log_try(cell)
print(log_file(cell).read_text())

# %%
assert [line[24:] for line in log_file(cell).read_text().splitlines()] == [
    "ws seed=0 (try 1)",
    "ws seed=0 (try 2)",
]
assert log_try(cell) == log_file(cell)


# %% [markdown]
# ## The engine
#
# Each run has its own [worker](03_runner.ipynb), a process that starts a kernel and waits for it. A number of threads set by the user is kept.

# %%
#| export
class Local:
    "Workers on this machine, each in its own process."

    def __init__(
        self,
        workers: int = 0,  # Processes at once; 0: one per GPU, or one
        gpus_per_run: int = 1,  # GPUs for one run
        device: str = "",  # "cpu": use no GPU
    ):
        gpus = () if device.startswith("cpu") else tuple(_visible_gpus())
        own = os.environ.get("OMP_NUM_THREADS", "")
        self.slots = worker_slots(workers, gpus, gpus_per_run, cores(physical=True))
        if own.isdigit():
            self.slots = [
                slot | {k: str(min(int(own), int(slot[k]))) for k in THREADS} for slot in self.slots
            ]
        self.processes = gpus_per_run if gpus else 1
        self.busy: dict[int, dict] = {}  # slot → its cell, the job's file, and the worker's process

    @property
    def size(self) -> int:
        return len(self.slots)

    def free(self) -> bool:
        return len(self.busy) < len(self.slots)


# %%
kept = os.environ.get("OMP_NUM_THREADS")


def threads_of(said: str, **how) -> list[str]:
    "The threads of each worker, with this OMP_NUM_THREADS of the user"
    os.environ["OMP_NUM_THREADS"] = said
    try:
        return [slot["OMP_NUM_THREADS"] for slot in Local(device="cpu", **how).slots]
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if kept:
            os.environ["OMP_NUM_THREADS"] = kept


threads_of("1", workers=2), threads_of("1000") == [str(cores())]

# %%
assert threads_of("1", workers=2) == ["1", "1"] and threads_of("1000") == threads_of("") == [
    str(cores())
]
engine = Local(workers=2, device="cpu:0")
assert engine.size == 2 and engine.free() and engine.processes == 1
engine.busy = {0: {}}
assert engine.free()
engine.busy = {0: {}, 1: {}}
assert not engine.free()
engine.busy = {}


# %% [markdown]
# A worker has its own session, so Ctrl-C at a terminal reaches the sweep only. Its output goes to its log, and it has no input. The slot's numbers of threads and processes go into the job, unless the user has set them.

# %%
#| export
@patch
def start(self: Local, cell: "Cell", job: Path):
    "Start the worker of a cell, and write its job to this file."
    slot = next(i for i in range(len(self.slots)) if i not in self.busy)
    given = {
        "threads": int(self.slots[slot]["OMP_NUM_THREADS"]),
        **({"processes": self.processes} if self.processes > 1 else {}),
    }
    chosen = {k: v for k, v in given.items() if not cell.parameters.get(k)}
    outcome_file(job).unlink(missing_ok=True)
    write_json(job, asdict(replace(cell.job, parameters=cell.job.parameters | chosen)))
    command = [sys.executable, "-m", "fairgrape.sweep.runner", str(job), str(os.getpid())]
    with log_try(cell).open("a", encoding="utf-8") as log:
        worker = subprocess.Popen(
            command,
            env={**QUIET, **os.environ, **self.slots[slot]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    self.busy[slot] = dict(cell=cell, job=job, worker=worker)


# %% [markdown]
# The example shows the environment of two workers with two GPUs each. The outcome of an earlier try is removed first.

# %%
twin = Local(workers=2, device="cpu")
twin.processes = 2
write_outcome(tmp / "1.json", Outcome("crashed"))
with instead("subprocess.Popen") as begun:
    for number, chosen in ((1, {}), (2, dict(threads=7))):
        twin.start(replace(finished(number), parameters=chosen), tmp / f"{number}.json")
orders = [(call.args[0], call.kwargs) for call in begun.call_args_list]
[(Path(command[3]).name, Path(how["stdout"].name).name) for command, how in orders]

# %%
assert [(Path(command[3]).name, Path(how["stdout"].name).name) for command, how in orders] == [
    ("1.json", "ws-1.log"),
    ("2.json", "ws-2.log"),
]
for (command, how), slot in zip(orders, twin.slots, strict=True):
    assert command[:3] == [sys.executable, "-m", "fairgrape.sweep.runner"] and command[4] == str(
        os.getpid()
    )
    assert {**QUIET, **os.environ, **slot} == how["env"] and how["start_new_session"]
assert not outcome_file(tmp / "1.json").exists() and not twin.free()
jobs = [json.loads((tmp / f"{n}.json").read_text())["parameters"] for n in (1, 2)]
assert [j.get("threads") for j in jobs] == [int(twin.slots[0]["OMP_NUM_THREADS"]), None]
assert [j["processes"] for j in jobs] == [2, 2]


# %%
#| export
@patch
def ended(self: Local) -> list[tuple["Cell", Outcome]]:
    "Cells whose workers ended after the last call, with their outcomes."
    over = [slot for slot, was in self.busy.items() if was["worker"].poll() is not None]
    done = [self.busy.pop(slot) for slot in over]
    return [
        (
            was["cell"],
            read_outcome(was["job"], was["worker"].returncode, time.time() - was["cell"].started),
        )
        for was in done
    ]


# %% [markdown]
# One worker that finishes, and one that is killed:

# %%
def until_ended(engine: Local) -> list[tuple["Cell", Outcome]]:
    while not (over := engine.ended()):
        time.sleep(0.05)
    return over


cell.job = replace(cell.job, wait=True)
engine.start(cell, tmp / "0.json")
over = until_ended(engine)
with working_on(Path(cell.job.folder)):  # held here, so its worker waits
    engine.start(cell, tmp / "0.json")
    engine.busy[0]["worker"].kill()
    over += until_ended(engine)
[(c.words, outcome.state, outcome.reason) for c, outcome in over]

# %%
assert (
    all(c is cell for c, _ in over)
    and [o.state for _, o in over] == ["complete", "crashed"]
    and engine.free()
    and not engine.busy
)
assert over[1][1].reason == "the worker was killed (SIGKILL)" and 0 < over[1][1].seconds < 300
assert "complete after" in log_file(cell).read_text() and Local(device="cpu").ended() == []


# %% [markdown]
# `stop` first sends a signal: a worker then stops its kernel, which would otherwise continue to write. A worker that does not end in time is killed. (With a patience of 0, as in a signal handler, `stop` does not wait for killed workers.)

# %%
#| export
@patch
def stop(self: Local, patience: float = 10.0):
    "Stop all workers and their kernels: send a signal, wait so many seconds, kill the rest."
    workers, until = [was["worker"] for was in self.busy.values()], time.time() + patience
    if patience:
        for worker in workers:
            worker.terminate()
    while time.time() < until and any(worker.poll() is None for worker in workers):
        time.sleep(0.05)
    for worker in workers:
        if worker.poll() is None:
            stop_tree(worker.pid)
        if patience:
            worker.wait()
    self.busy.clear()


# %% [markdown]
# Two workers that wait. The first gets a signal and ends by itself; the second is killed with a patience of 0.

# %%
def waiting_worker() -> subprocess.Popen:
    "A worker that waits because its run is locked here"
    engine.start(cell, tmp / "0.json")
    return engine.busy[0]["worker"]


with working_on(Path(cell.job.folder)):
    asked = waiting_worker()
    begun = time.time()
    engine.stop()
    took = time.time() - begun
    killed = waiting_worker()
    engine.stop(0)
# -15: the signal came during the imports
assert asked.returncode in (-15, 128 + 15) and took < 10 and killed.wait() == -9
assert engine.free() and engine.ended() == []
engine.stop()  # nothing to stop
f"stopped after {took:.1f} s"
