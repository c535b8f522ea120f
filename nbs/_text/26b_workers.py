# %% [markdown]
# # Workers
#
# > Runs on this machine: who gets which GPU and how many threads, and the processes that do it

# %%
#| default_exp workers

# %%
#| export
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fastcore.basics import patch
from joblib import cpu_count

from fairgrape.jobs import Outcome, outcome_file, read_outcome
from fairgrape.runner import stop_tree
from fairgrape.storage import write_json

if TYPE_CHECKING: from fairgrape.grid import Cell                                  # which imports torch

# %%
import pandas as pd
import psutil

from fairgrape.grid import Cell
from fairgrape.jobs import RunJob, working_on, write_outcome

tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# An engine starts runs and says which ended. To the sweep it is four methods: `free`, `start`, `ended`, `stop`. This one is for the machine that the sweep itself is on; [another](27_ray_sweep.ipynb) is for a cluster.
#
# ## Sharing out
#
# On GPUs each worker sees its own; on the CPU each has its share of the cores. A worker with all cores would be no faster than its neighbours
# allow, and threads that spin while they wait take the cores from those that work: four processes of two threads on four cores became ten times slower that way.
# So threads that wait spin only briefly. How briefly was measured: ResNet-10 at 32 px, two threads on two cores, images per second with the cores to itself and with another process busy on one of them.
#
# | turns | alone | one core shared |
# |---|---|---|
# | 0 | 420 | 360 |
# | 2,000 | 470 | 340 |
# | **7,000** | **545** | **286** |
# | 40,000 | 590 | 134 |
# | OpenMP's own | 660 | 28 |
#
# One thread makes 375 images: two processes of one thread each get more out of two cores than one process of two. On a CPU a sweep of small networks wants as many workers as cores.

# %%
#| export
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")                                 # how many threads a process takes
QUIET = dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="7000", KMP_BLOCKTIME="0")   # threads that wait spin briefly, then sleep

def cores() -> int:
    "The cores that this process, or its container, may use."
    return cpu_count(only_physical_cores=True)


# %% [markdown]
# Two threads of one core share its arithmetic, so physical cores are counted; and of those only the ones that a container, or a binding to some cores, leaves to this process.

# %%
bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
assert 1 <= cores() <= bound
"all" if cores() == os.cpu_count() else "fewer than the machine has threads for"


# %% [markdown]
# torch counts the GPUs; what they are called is up to who gave them out.

# %%
#| export
def visible_gpus() -> list[str]:
    "The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."
    import torch
    given, there = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return [g.strip() for g in given.split(",") if g.strip()][:there] if given else [str(i) for i in range(there)]


# %% [markdown]
# As if torch said that there were two GPUs, one, or none:

# %%
import torch

def names_of(n: int, given: str | None) -> list[str]:
    "The GPUs' names, if torch counted that many and the environment said that"
    count, kept = torch.cuda.device_count, os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    torch.cuda.device_count = lambda: n
    if given is not None: os.environ["CUDA_VISIBLE_DEVICES"] = given
    try: return visible_gpus()
    finally:
        torch.cuda.device_count = count
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if kept is not None: os.environ["CUDA_VISIBLE_DEVICES"] = kept

names_of(2, None), names_of(2, "3, 5"), names_of(1, "GPU-8f,GPU-a1"), names_of(0, "")

# %%
assert (names_of(2, None), names_of(2, "3, 5"), names_of(1, "GPU-8f,GPU-a1"), names_of(0, "")) == (["0", "1"], ["3", "5"], ["GPU-8f"], [])


# %% [markdown]
# More than there is would not be slower but fail, an hour later and with a message about memory. So it is refused.

# %%
#| export
def worker_slots(
    workers: int = 0,          # Processes at once; 0: one per GPU, or one
    gpus: tuple[str, ...] = (),# GPUs to be shared out
    per_run: int = 1,          # GPUs for one run
    cores: int = 1,            # CPU cores to be shared out
) -> list[dict]:               # Environment variables of each worker
    "Who gets which GPU and how many threads. Raises: ValueError for more than there is."
    if workers < 0 or per_run < 0: raise ValueError(f"workers = {workers}, gpus_per_run = {per_run}: they cannot be negative")
    if gpus and per_run > len(gpus): raise ValueError(f"gpus_per_run = {per_run}, but there are only {len(gpus)} GPUs ({', '.join(gpus)}): ask for fewer")
    most = len(gpus) // per_run if gpus and per_run else None
    if most and workers > most: raise ValueError(f"workers = {workers}, but {len(gpus)} GPUs with {per_run} for a run are enough for {most}: ask for fewer")
    n = workers or most or 1
    threads = str(max(1, cores // n))
    mine = lambda i: {"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * per_run:(i + 1) * per_run])} if most else {}
    return [dict.fromkeys(THREADS, threads) | mine(i) for i in range(n)]


# %%
pd.DataFrame(worker_slots(gpus=("0", "1", "2", "3"), per_run=2, cores=32))

# %%
assert worker_slots(gpus=("0", "1", "2", "3"), per_run=2, cores=32) == [dict.fromkeys(THREADS, "16") | dict(CUDA_VISIBLE_DEVICES=g) for g in ("0,1", "2,3")]
assert [s["CUDA_VISIBLE_DEVICES"] for s in worker_slots(gpus=("3", "5"))] == ["3", "5"] and worker_slots(1, ("3", "5")) == [dict.fromkeys(THREADS, "1") | dict(CUDA_VISIBLE_DEVICES="3")]
assert worker_slots(4, cores=8) == [dict.fromkeys(THREADS, "2")] * 4 and worker_slots(9, cores=4)[0] == dict.fromkeys(THREADS, "1") and len(worker_slots()) == 1
for bad in (dict(workers=-1), dict(per_run=-1), dict(gpus=("0",), per_run=2), dict(gpus=("0", "1"), workers=3)):
    try: worker_slots(**bad)
    except ValueError as e: print(e)
    else: raise AssertionError("more than there is was shared out")


# %% [markdown]
# ## The log
#
# What a worker prints goes to a file beside the runs, under the name of its folder: a folder that is set aside or made again keeps its log, and each try is another part of it.

# %%
#| export
def log_file(cell: "Cell") -> Path:
    "The log of a run: `.logs/<folder>.log` in the runs folder."
    logs = cell.job.runs_root / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{cell.name}.log"


# %% [markdown]
# Cells for the examples: each is the job of a run that is there already, so that a worker has next to nothing to do.

# %%
def finished(number: int, **more) -> Cell:
    "A cell whose run is there already"
    folder = tmp / "runs" / f"ws-{number}"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}"); (folder / "prune.ipynb").write_text('{"cells": []}')
    return Cell(number, {}, f"ws seed={number}", RunJob(str(folder), dict(runs_root=str(tmp / "runs")), "", accept_older=True, **more), started=time.time())

cell = finished(0)
assert log_file(cell) == tmp / "runs" / ".logs" / "ws-0.log" and log_file(cell).parent.is_dir()
log_file(cell).relative_to(tmp).parts


# %%
#| export
def log_try(cell: "Cell") -> Path:
    "Begin another part of a run's log, and say where it is."
    with log_file(cell).open("a", encoding="utf-8") as log: print(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {cell.words} (try {cell.tries})", file=log)
    return log_file(cell)


# %%
cell.tries = 1; log_try(cell)
cell.tries = 2; log_try(cell)
print(log_file(cell).read_text())

# %%
assert [line[24:] for line in log_file(cell).read_text().splitlines()] == ["ws seed=0 (try 1)", "ws seed=0 (try 2)"]
assert log_try(cell) == log_file(cell)


# %% [markdown]
# ## The engine
#
# Workers are forked by [a server](25_runner.ipynb) that has imported everything. This module itself imports little: [the command](29a_start.ipynb) has the server started before it imports the rest. A user who has said how many threads a process may take is not overruled.

# %%
#| export
class Local:
    "Workers on this machine, forked by a server that has imported everything"
    def __init__(self,
        workers: int = 0,      # Processes at once; 0: one per GPU, or one
        gpus_per_run: int = 1, # GPUs for one run
        device: str = "",      # "cpu": leave GPUs alone
    ):
        self.asked = workers, gpus_per_run, device
        gpus, own = () if device.startswith("cpu") else tuple(visible_gpus()), os.environ.get("OMP_NUM_THREADS", "")
        self.slots = worker_slots(workers, gpus, gpus_per_run, cores())
        if own.isdigit(): self.slots = [slot | {k: str(min(int(own), int(slot[k]))) for k in THREADS} for slot in self.slots]
        self.processes = gpus_per_run if gpus else 1
        self.server, self.heard, self.errors = None, b"", tempfile.TemporaryFile()
        self.busy: dict[int, dict] = {}                    # slot → cell, job, and its worker's number once it is known
        self.over: list[tuple] = []                        # cells of a server that was replaced, and how they ended

    @property
    def size(self) -> int: return len(self.slots)
    def free(self) -> bool: return len(self.busy) < len(self.slots)


# %%
kept = os.environ.get("OMP_NUM_THREADS")
def threads_of(said: str, **how) -> list[str]:
    "The threads of each worker, where the user said that of OMP_NUM_THREADS"
    os.environ["OMP_NUM_THREADS"] = said
    try: return [slot["OMP_NUM_THREADS"] for slot in Local(device="cpu", **how).slots]
    finally: os.environ.update(OMP_NUM_THREADS=kept) if kept else os.environ.pop("OMP_NUM_THREADS")

threads_of("1", workers=2), threads_of("1000") == [str(cores())]

# %%
assert threads_of("1", workers=2) == ["1", "1"] and threads_of("1000") == threads_of("") == [str(cores())]
engine = Local(workers=2, device="cpu:0")
assert engine.size == 2 and engine.free() and engine.processes == 1 and engine.asked == (2, 1, "cpu:0")
engine.busy = {0: {}}; assert engine.free()
engine.busy = {0: {}, 1: {}}; assert not engine.free()
engine.busy = {}


# %% [markdown]
# The server is started with the first run, and once more if it is gone. It reads orders and answers through pipes; what it says is read without waiting, since a sweep has other things to look at.

# %%
#| export
@patch
def begin(self: Local):
    "Start the server, if it does not run"
    if self.server and self.server.poll() is None: return
    if self.server: self.over, self.heard = self.ended(), b""           # what the old one left: nobody will ask it any more
    env = {**QUIET, **os.environ, **{k: self.slots[0][k] for k in THREADS}}
    self.server = subprocess.Popen([sys.executable, "-c", "from fairgrape.runner import serve; serve()"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=self.errors, start_new_session=True)
    os.set_blocking(self.server.stdout.fileno(), False)


# %%
engine.begin()
first = engine.server
engine.begin()
assert engine.server is first and first.poll() is None and first.stdout.read() is None                  # one server, and nothing is waited for
while not (given := psutil.Process(first.pid).environ()): time.sleep(.01)                               # for a moment after its start it has none
began = {k: v for k, v in given.items() if k in QUIET or k in THREADS}
began

# %%
assert set(began) == {*QUIET, *THREADS} and began["GOMP_SPINCOUNT"] == os.environ.get("GOMP_SPINCOUNT", QUIET["GOMP_SPINCOUNT"]) and began["NUMBA_NUM_THREADS"] == engine.slots[0]["NUMBA_NUM_THREADS"]


# %% [markdown]
# An order is a line. What the slot decides, the threads and the processes, goes into the job, unless the user has chosen it.

# %%
#| export
@patch
def start(self: Local, cell: "Cell", job: Path):
    "Start the worker of a cell; its job is written to that file"
    slot = next(i for i in range(len(self.slots)) if i not in self.busy)
    given = {"threads": int(self.slots[slot]["OMP_NUM_THREADS"]), **({"processes": self.processes} if self.processes > 1 else {})}
    chosen = {k: v for k, v in given.items() if not cell.parameters.get(k)}
    outcome_file(job).unlink(missing_ok=True)
    write_json(job, asdict(replace(cell.job, parameters=cell.job.parameters | chosen)))
    order = dict(id=slot, job=str(job), log=str(log_try(cell)), env=self.slots[slot])
    self.begin()
    self.server.stdin.write((json.dumps(order) + "\n").encode())
    self.server.stdin.flush()
    self.busy[slot] = dict(cell=cell, job=job, pid=None)


# %% [markdown]
# What becomes of an order can be seen where the server is a file. The outcome of an earlier try must not be taken for that of this one.

# %%
class Written:
    "A server that does nothing but keep its orders"
    def __init__(self): self.stdin = (tmp / "orders").open("wb")
    def poll(self): return None

twin = Local(workers=2, device="cpu")
twin.server, twin.processes = Written(), 2
write_outcome(tmp / "1.json", Outcome("crashed"))
for number, chosen in ((1, {}), (2, dict(threads=7))): twin.start(replace(finished(number), parameters=chosen), tmp / f"{number}.json")
orders = [json.loads(line) for line in (tmp / "orders").read_text().splitlines()]
[{k: v for k, v in order.items() if k in ("id", "env")} for order in orders]

# %%
assert [(o["id"], Path(o["job"]).name, Path(o["log"]).name) for o in orders] == [(0, "1.json", "ws-1.log"), (1, "2.json", "ws-2.log")] and orders[1]["env"] == twin.slots[1]
assert not outcome_file(tmp / "1.json").exists() and not twin.free()
jobs = [json.loads((tmp / f"{n}.json").read_text())["parameters"] for n in (1, 2)]
assert [j.get("threads") for j in jobs] == [int(twin.slots[0]["OMP_NUM_THREADS"]), None] and [j["processes"] for j in jobs] == [2, 2]


# %% [markdown]
# If the server is gone, so are its workers. What it wrote to its error stream last is the reason, if it had one.

# %%
#| export
@patch
def last_words(self: Local) -> str:
    "Why the server is gone, as far as it said so"
    self.errors.seek(0)
    said = self.errors.read().decode(errors="replace").strip().splitlines()
    return f"the server of workers died ({said[-1] if said else f'exit status {self.server.returncode}'})"


# %%
twin.server.returncode = -9
assert twin.last_words() == "the server of workers died (exit status -9)"
twin.errors.write(b"Traceback:\nMemoryError\n")
assert twin.last_words() == "the server of workers died (MemoryError)"
twin.last_words()


# %% [markdown]
# It answers with a line for a worker that began and one for a worker that ended; the last line may have come half. Those who were at work when the server died are reported as killed, and the next start brings a new server.

# %%
#| export
@patch
def ended(self: Local) -> list[tuple["Cell", Outcome]]:
    "Cells whose workers ended since last asked, and how"
    if self.server is None: return []
    before, self.over = self.over, []
    over, gone = {}, self.server.poll() is not None
    *lines, self.heard = (self.heard + (self.server.stdout.read() or b"")).split(b"\n")
    for answer in map(json.loads, lines):
        if "pid" in answer: self.busy[answer["id"]]["pid"] = answer["pid"]
        else: over[answer["id"]] = answer["status"]
    found = [(self.busy.pop(slot), status) for slot, status in over.items()]
    done = [(was["cell"], read_outcome(was["job"], status, time.time() - was["cell"].started)) for was, status in found]
    lost = [self.busy.pop(slot)["cell"] for slot in list(self.busy)] if gone else []
    return before + done + [(cell, Outcome("crashed", self.last_words(), time.time() - cell.started)) for cell in lost]


# %% [markdown]
# A real worker first, then one whose worker was killed, and one whose server was killed:

# %%
def gone(process: psutil.Process) -> bool:
    "Whether it ends within ten seconds; a container may leave the dead lying about as zombies"
    for _ in range(200):
        with suppress(psutil.NoSuchProcess):
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE: return True
        time.sleep(.05)
    return False

def until_ended(engine: Local) -> list[tuple["Cell", Outcome]]:
    while not (over := engine.ended()): time.sleep(.05)
    return over

def worker_of(engine: Local) -> psutil.Process:
    "The one worker, once it has begun"
    while not (pid := next(iter(engine.busy.values()))["pid"]): engine.ended(); time.sleep(.05)
    return psutil.Process(pid)

cell.job = replace(cell.job, wait=True)
engine.start(cell, tmp / "0.json")
over = until_ended(engine)
with working_on(Path(cell.job.folder)):                # held here, so its workers wait
    engine.start(cell, tmp / "0.json"); worker_of(engine).kill()
    over += until_ended(engine)
    engine.start(cell, tmp / "0.json"); worker_of(engine); engine.server.kill()
    over += until_ended(engine)
    engine.start(cell, tmp / "0.json"); worker_of(engine); engine.server.kill(); engine.server.wait()
    engine.begin()                                     # a new server before anybody has asked what became of the old one's workers
    over += until_ended(engine)
[(c.words, outcome.state, outcome.reason) for c, outcome in over]

# %%
assert all(c is cell for c, _ in over) and [o.state for _, o in over] == ["complete", "crashed", "crashed", "crashed"] and engine.free() and not engine.busy
assert over[1][1].reason == "the worker was killed (SIGKILL)" and over[2][1].reason.startswith("the server of workers died (") and 0 < over[2][1].seconds < 300
assert "complete after" in log_file(cell).read_text() and Local(device="cpu").ended() == []


# %% [markdown]
# Stopping asks first: a worker that is asked stops its kernel, and a kernel that is left behind would go on writing. Who does not end in time is killed.

# %%
#| export
@patch
def stop(self: Local, patience: float = 10.):
    "Stop all workers and their kernels: ask them, then wait so many seconds, then kill what is left"
    if self.server is None: return
    until, asked = time.time() + patience, set()
    while patience and self.busy and time.time() < until and self.server.poll() is None:
        for pid in {was["pid"] for was in self.busy.values()} - asked - {None}:
            asked.add(pid)
            with suppress(ProcessLookupError): os.kill(pid, signal.SIGTERM)
        time.sleep(.05)
        self.ended()
    stop_tree(self.server.pid)
    self.server.wait(); self.server.stdin.close(); self.server.stdout.close()
    self.server, self.heard, self.over = None, b"", []
    self.busy.clear()


# %%
with working_on(Path(cell.job.folder)):
    engine.start(cell, tmp / "0.json")                 # brings a new server
    worker, server = worker_of(engine), psutil.Process(engine.server.pid)
    begun = time.time(); engine.stop()
took = time.time() - begun
assert engine.server is None and engine.free() and engine.ended() == [] and gone(server) and gone(worker) and took < 10
engine.stop()                                          # nothing to stop
f"stopped after {took:.1f} s"
