# %% [markdown]
# # Ray sweep
#
# > The same cells over a cluster: GPUs per run as a resource, another try when a node dies

# %%
#| default_exp ray_sweep

# %%
#| export
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from fairgrape.checkpoints import write_json
from fairgrape.runner import Outcome, RunJob, code_of, read_outcome, working_on
from fairgrape.sweep import QUIET, THREADS, Cell, log_file

# %%
import importlib.util

import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.runner import state_of
from fairgrape.sweep import numbered, plan, sweep

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# Which machine has a GPU free, which machine has died, what to start next: all that is a scheduler's business, and [Ray](https://docs.ray.io) is one. To the sweep it is an engine like the worker processes on this machine: it starts
# cells and says how they ended. The grid, the record, the table and the retries are those of [26 sweep](26_sweep.ipynb).
#
# Ray is an optional extra. Where it is missing that is said before anything starts.

# %%
#| export
def need_ray():
    "The `ray` package. Raises: ImportError that says how to get it."
    try: import ray
    except ImportError as e: raise ImportError("engine = ray needs Ray, which is not installed: pip install 'fairgrape[ray]', on every node") from e
    return ray


# %%
there = importlib.util.find_spec("ray") is not None
print("ray", need_ray().__version__ if there else "is not installed: the examples of this notebook are left out")

# %%
hidden = sys.modules.get("ray")
sys.modules["ray"] = None                                         # as if it were not installed
try: need_ray()
except ImportError as e: print(e)
else: raise AssertionError("a missing Ray was not noticed")
finally: sys.modules.pop("ray") if hidden is None else sys.modules.update(ray=hidden)


# %% [markdown]
# ## A task
#
# What Ray runs on a node is small: it starts a [worker](25_runner.ipynb) with the job and waits for it. The worker watches the process that started it, so that it stops with its kernel when Ray stops the task, or when the node's Ray is gone.
#
# Where all nodes see the runs folder, that is all: checkpoints, locks and progress lie there, so a run whose node died goes on from its last epoch on another node. Without shared storage each node has a runs folder of its own, and the finished run
# comes back as files.

# %%
#| export
def here(
    job: RunJob,      # A job on the sweep's runs folder
    runs_root: str,   # A runs folder of this node; "": the sweep's own is seen from here
) -> RunJob:          # The job on that folder
    "A job as a node without shared storage does it."
    if not runs_root: return job
    there = Path(runs_root).expanduser().resolve()
    there.mkdir(parents=True, exist_ok=True)
    move = lambda folder: str(there / Path(folder).name) if folder else ""
    return replace(job, folder=move(job.folder), dense=move(job.dense), parameters=job.parameters | dict(runs_root=str(there)))

def files_of(folder: Path) -> dict[str, bytes]:
    "A finished run's files, its checkpoints left out"
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith(".")}

def ray_task(
    job: dict,         # A RunJob's fields
    log: str,          # The log's file, if it can be seen from here; else ""
    runs_root: str,    # See `here`
    threads: int,      # CPU threads of the run
) -> dict:             # outcome, host, log (text) and files, by folder
    "One run, on the node where Ray put it."
    mine, start = here(RunJob(**job), runs_root), time.time()
    with tempfile.TemporaryDirectory(prefix="fairgrape-") as folder:
        path, text = Path(folder) / "job.json", Path(log or Path(folder) / "log")
        path.write_text(json.dumps(asdict(mine)), encoding="utf-8")
        env = {**os.environ, **QUIET, **dict.fromkeys(THREADS, str(threads))}
        with text.open("a", encoding="utf-8") as out:
            print(f"on {os.uname().nodename}", file=out, flush=True)
            worker = subprocess.run([sys.executable, "-m", "fairgrape.runner", str(path), str(os.getpid())], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        outcome, done = read_outcome(path, worker.returncode, time.time() - start), {}
        if outcome.state in ("done", "complete") and not mine.accept_older and code_of(Path(mine.folder)) != mine.code:
            outcome = Outcome("failed", f"{os.uname().nodename} has other code ({code_of(Path(mine.folder))}, here {mine.code}): install the same fairgrape on all nodes", outcome.seconds)
        if runs_root and outcome.state in ("done", "complete"): done = {Path(f).name: files_of(Path(f)) for f in {mine.folder, mine.dense} if f and Path(f, "metrics.json").is_file()}
        return dict(outcome=asdict(outcome), host=os.uname().nodename, log="" if log else text.read_text(encoding="utf-8"), files=done)


# %% [markdown]
# The smallest set that can be. Another process works on its run, so the task has nothing to bring; its folders are those of the node:

# %%
rng = np.random.default_rng(0)
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2]) for i in range(120)]
(tmp / "own").mkdir()
for row in rows: Image.fromarray((rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(np.uint8)).save(tmp / "own" / row["file"])
pd.DataFrame(rows).to_csv(tmp / "own" / "labels.csv", index=False)
tiny = dict(dataset="folder", data_path=str(tmp / "own"), task="shade", groups="tint", network="resnet10", weights="none", image_size=16, method="ws", rate=0.5, epochs="1", lrs="1e-3", batch=16,
            augment="none", bootstrap=100, data_root=str(tmp), runs_root=str(tmp / "runs"), cache_root=str(tmp / "cache"))
cell, = plan(numbered([tiny]))
there_job = here(cell.job, str(tmp / "node"))
with working_on(Path(there_job.folder)): came = ray_task(asdict(cell.job), "", str(tmp / "node"), threads=1)
came["outcome"]["state"], came["files"], Path(there_job.dense).parent.name, came["log"].splitlines()[1:]

# %%
assert came["outcome"]["state"] == "busy" and came["files"] == {} and "busy after" in came["log"]
assert here(cell.job, "") == cell.job and there_job.parameters["runs_root"] == str(tmp / "node") and Path(there_job.folder).name == cell.name
(tmp / "a" / "checkpoints").mkdir(parents=True); (tmp / "a" / "x.json").write_text("{}"); (tmp / "a" / ".part").write_text("")
assert files_of(tmp / "a") == {"x.json": b"{}"}


# %% [markdown]
# Files that come back are written beside their folder, and the folder appears in one step. A dense network that has come with another run already stays as it is.

# %%
#| export
def unpack(
    files: dict[str, dict[str, bytes]], # Folder → file → content, from `ray_task`
    runs_root: Path,                    # The sweep's runs folder
):
    "Put fetched runs into the runs folder."
    for name, contents in files.items():
        folder = runs_root / name
        with working_on(folder, wait=True):
            if (folder / "metrics.json").is_file() and "prune.ipynb" not in contents: continue        # a dense network that is here
            part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=runs_root))
            for file, content in contents.items(): (part / file).write_bytes(content)
            part.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)


# %%
(tmp / "home").mkdir()
unpack({"dense-1": {"metrics.json": b"first"}}, tmp / "home")
unpack({"dense-1": {"metrics.json": b"second"}, "ws-1": {"metrics.json": b"{}", "prune.ipynb": b"{}"}}, tmp / "home")
sorted(str(f.relative_to(tmp / "home")) for f in (tmp / "home").glob("[!.]*/*"))

# %%
assert (tmp / "home" / "dense-1" / "metrics.json").read_bytes() == b"first" and not list((tmp / "home").glob(".ws*"))
unpack({"ws-1": {"metrics.json": b"new", "prune.ipynb": b"{}"}}, tmp / "home")
assert (tmp / "home" / "ws-1" / "metrics.json").read_bytes() == b"new"


# %% [markdown]
# ## The engine
#
# A run takes so many cores and GPUs; Ray puts it where they are free and gives each task its own CUDA_VISIBLE_DEVICES. As many runs are handed over as the cluster has room for, so that the sweep decides which cell is next. When a node dies, Ray says so;
# for the sweep it is a crash like any other: the cell goes back into the queue.

# %%
#| export
class OnRay:
    "Runs as tasks of a Ray cluster"
    def __init__(self,
        address: str = "",         # The cluster; "": the one that runs here, else a new one on this machine
        cpus: float = 1,           # CPU cores for one run
        gpus: float | None = None, # GPUs for one run; None: none
        workers: int = 0,          # Most runs at once; 0: as many as there is room for
        fetch: str = "",           # The nodes' own runs folder, where they do not see the sweep's; finished runs are fetched
    ):
        self.ray = need_ray()
        if not self.ray.is_initialized(): self.ray.init(address=address or None, log_to_driver=False, logging_level="ERROR", include_dashboard=False if not address else None)
        there = self.ray.cluster_resources().get("GPU", 0)
        self.cpus, self.gpus, self.most, self.fetch = cpus, (gpus or 0) if there else 0, workers, fetch
        if gpus and there and gpus > there: raise ValueError(f"gpus_per_run = {gpus}, but the cluster has {there:g} GPUs: ask for fewer")
        self.task = self.ray.remote(ray_task).options(num_cpus=cpus, num_gpus=self.gpus, max_retries=0)
        self.busy: dict = {}                               # Ray's reference → cell
        self.looked, self.room = 0., 1

    @property
    def size(self) -> int:
        "How many runs the cluster has room for just now"
        if time.time() - self.looked > 2:
            has = self.ray.cluster_resources()
            shares = [has.get(kind, 0) // need for kind, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need]
            self.looked, self.room = time.time(), max(1, int(min(shares, default=1)))
        return min(self.room, self.most) if self.most else self.room

    def free(self) -> bool: return len(self.busy) < self.size

    def start(self, cell: Cell, job: Path):
        "Hand a cell to Ray"
        given = dict(threads=max(1, int(self.cpus))) | (dict(processes=int(self.gpus)) if self.gpus > 1 else {})
        made = replace(cell.job, parameters=cell.job.parameters | {k: v for k, v in given.items() if not cell.parameters.get(k)})
        write_json(job, asdict(made))
        log = "" if self.fetch else str(log_file(cell))
        with log_file(cell).open("a", encoding="utf-8") as out: print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {cell.words} (try {cell.tries})", file=out)
        self.busy[self.task.remote(asdict(made), log, self.fetch, made.parameters["threads"])] = cell

    def ended(self) -> list[tuple[Cell, Outcome]]:
        "Cells whose tasks ended since last asked, and how"
        if not self.busy: return []
        done, _ = self.ray.wait(list(self.busy), num_returns=len(self.busy), timeout=0)
        return [(cell, self.outcome(ref, cell)) for ref in done for cell in [self.busy.pop(ref)]]

    def outcome(self, ref, cell: Cell) -> Outcome:
        "How a task ended; what it brought is unpacked"
        try: came = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as e: return Outcome("failed", f"{type(e.cause or e).__name__}: {str(e.cause or e).strip().splitlines()[-1]}", time.time() - cell.started)
        except self.ray.exceptions.RayError as e: return Outcome("crashed", f"the node or its worker died ({type(e).__name__})", time.time() - cell.started)
        if self.fetch:
            with log_file(cell).open("a", encoding="utf-8") as out: out.write(came["log"])
            unpack(came["files"], cell.job.runs_root)
        return Outcome(**came["outcome"] | dict(extra=dict(host=came["host"])))

    def stop(self, patience: float = 10.):
        "Stop all tasks; their workers and kernels notice within a second"
        for ref in self.busy: self.ray.cancel(ref, force=True)
        if self.busy and patience: time.sleep(2)
        self.busy.clear()


# %% [markdown]
# A cluster of one node on this machine that keeps its runs to itself, and a sweep of one run on it. The run comes back with its dense network.

# %%
if there:
    need_ray().init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    engine = OnRay(fetch=str(tmp / "node"))
    cells = sweep([tiny], engine)
    print([(c.words, c.state, c.reason) for c in cells], "room for", engine.size)

# %%
if there:
    assert [c.state for c in cells] == ["done"] and state_of(Path(cell.job.folder), code_of(Path(cell.job.folder))) == "complete" and (Path(cell.job.dense) / "metrics.json").is_file()
    assert engine.free() and engine.ended() == [] and "done after" in log_file(cell).read_text()
    broken = replace(cell, tries=1, started=time.time())
    print(engine.outcome(engine.task.remote(dict(folder=3), "", "", 1), broken))
    ref = engine.task.remote(asdict(cell.job), "", str(tmp / "node"), 1)
    engine.busy[ref] = broken
    engine.stop()
    assert engine.free() and engine.outcome(ref, broken).state in ("crashed", "complete")
    need_ray().shutdown()
