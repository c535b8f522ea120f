# %% [markdown]
# # Sweep
#
# > Hundreds of runs from one grid: each once, over all workers and GPUs, whatever fails or interrupts

# %%
#| default_exp sweep

# %%
#| export
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml
from fastcore.basics import patch
from filelock import FileLock, Timeout
from joblib import cpu_count
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fairgrape.checkpoints import code_version, write_json
from fairgrape.experiment import KNOWN, Job, check_images, check_job, device_of, from_parameters, identity, starting_network
from fairgrape.runner import Outcome, RunJob, code_of, job_of, outcome_file, plain_name, prepared, outcome_of, progress_text, read_outcome, read_progress, state_of, stop_tree, stoppable
from fairgrape.settings import read_settings, root

# %%
import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.runner import set_aside, working_on

tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# A user writes down which data sets, methods, rates and seeds, starts one command in the evening and goes home. In the morning every run is there that could be made, and what could not says why. Starting the command again goes on where it
# stopped, and starting it twice does nothing twice.
#
# ## The grid
#
# A mapping of settings to values; a list of values multiplies. `cells` is for what does not multiply: a list of mappings, each of which is taken with everything else. Several such blocks are a list.

# %%
#| export
LISTS = ("dataset", "task", "groups", "network", "image_size", "method", "rate", "keep", "scope", "seed")   # settings that may have several values in one line of text

def several(name: str, value) -> list:
    "A setting's values: a list's, or words of a text where the setting is one of LISTS"
    values = list(value) if isinstance(value, list | tuple) else str(value).split() or [""] if name in LISTS else [value]
    if not values: raise ValueError(f"{name} = []: a grid with no value for a setting has no runs; give one, or leave the line out")
    return values

def grid_cells(
    grid: Mapping | list,           # Setting → value or values, with `cells`; or a list of those
    overrides: Mapping | None = None, # Settings that replace the grid's
) -> list[dict]:                    # Parameters of each run, the first setting slowest
    "The cells of a grid. Raises: ValueError for a setting without a value."
    if isinstance(grid, list): return [cell for block in grid for cell in grid_cells(block, overrides)]
    common = {k: v for k, v in grid.items() if k != "cells"}
    blocks = [{**common, **own, **(overrides or {})} for own in grid.get("cells", [{}])]
    return [dict(zip(block, values)) for block in blocks for values in itertools.product(*(several(k, v) for k, v in block.items()))]


# %%
grid_cells(dict(epochs="5,2", cells=[dict(method="ws", rate=[0.9, 0.99]), dict(method="dense")]))

# %%
cells = grid_cells(dict(method="ws fairgrape", rate="0.9 0.99", epochs="5,2"))
assert len(cells) == 4 and cells[1] == dict(method="ws", rate="0.99", epochs="5,2")
assert grid_cells([dict(method="ws"), dict(method=["snip", "grasp"])], dict(seed="1 2"))[:3] == [dict(method="ws", seed="1"), dict(method="ws", seed="2"), dict(method="snip", seed="1")]
assert grid_cells(dict(data_path="/my faces", steps="one shot")) == [dict(data_path="/my faces", steps="one shot")]     # these have no several values
try: grid_cells(dict(method=[]))
except ValueError as e: print(e)
else: raise AssertionError("an empty list was accepted")


# %% [markdown]
# A grid lies in a YAML file or in a section of settings.ini. YAML can name objects to be made while it is read; here it names numbers and words only, and a tag like `!!python/object` is an error.

# %%
#| export
def read_grid(
    source: str,                      # A YAML file, or a section of settings.ini; "": no grid, only the options
    overrides: Mapping | None = None, # Settings that replace the grid's
) -> list[dict]:                      # Parameters of each run
    "Read a grid. Raises: ValueError or FileNotFoundError that name the file and what is wrong with it."
    sections = read_settings()
    names = [name for name in sections.sections() if name != "paths"]
    is_file = source.endswith((".yaml", ".yml")) or Path(source).is_file()
    if source and not is_file and source not in names: raise ValueError(f"{source!r} is no YAML file, and settings.ini has no section of that name: its grids are {', '.join(names)}")
    grid = {} if not source else _yaml(Path(source)) if is_file else dict(sections[source])
    for block in _blocks(grid, source):
        unknown = sorted(set(map(str, block)) - {*KNOWN, "cells"})
        if unknown: raise ValueError(f"{source}: unknown setting {', '.join(unknown)}: the known ones are {', '.join(KNOWN)}, and cells")
    return grid_cells(grid, overrides)

def _yaml(path: Path):
    try: return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e: raise FileNotFoundError(f"{path}: no such grid can be read ({e.strerror}): name a YAML file, or a section of settings.ini") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e: raise ValueError(f"{path}: not a readable YAML file ({' '.join(str(e).split())})") from e

def _blocks(grid, source: str) -> Iterator[Mapping]:
    "All mappings of a grid, those in `cells` as well"
    for block in grid if isinstance(grid, list) else [grid]:
        if not isinstance(block, Mapping): raise ValueError(f"{source}: {block!r} is no mapping: write a grid as lines of 'setting: value', or as a list of such blocks")
        yield block
        if not isinstance(block.get("cells", []), list): raise ValueError(f"{source}: cells = {block['cells']!r}: it must be a list of mappings")
        if "cells" in block: yield from _blocks(block["cells"], source)


# %%
(tmp / "grid.yaml").write_text("""
dataset: synthetic
seed: [0, 1]
cells:
  - {method: ws, rate: [0.9, 0.99]}
  - {method: fairgrape, rate: 0.9, keep: 0.5}
""")
pd.DataFrame(read_grid(str(tmp / "grid.yaml"), dict(network="resnet10")))

# %%
assert len(read_grid("demo")) == 6 and {c["method"] for c in read_grid("demo", dict(method="ws"))} == {"ws"} and read_grid("", dict(method="ws snip")) == [dict(method="ws"), dict(method="snip")]
for text in ("!!python/object/apply:os.system ['echo run']", "method: [ws", "ratio: 3", "just words", "cells: 3", "- 3", "cells: [3]"):
    (tmp / "bad.yaml").write_text(text)
    try: read_grid(str(tmp / "bad.yaml"))
    except ValueError as e: print(str(e).replace(str(tmp), "…")[:160])
    else: raise AssertionError(f"{text!r} was read")
for source in ("nothing", str(tmp / "none.yaml"), "paths"):
    try: read_grid(source)
    except (ValueError, FileNotFoundError) as e: print(str(e).replace(str(tmp), "…"))
    else: raise AssertionError("an unknown grid was read")


# %% [markdown]
# ## Cells
#
# A cell is a run with its place in the sweep. Cells that come to the same run are one (the dense network has no rate), and each has a number that depends on the grid alone: the first is 0. Whatever no run can have is found for all cells before the first one starts.

# %%
#| export
@dataclass
class Cell:
    "One run of a sweep"
    index: int                 # Its number in the grid, from 0
    parameters: dict           # Settings and places
    words: str                 # What tells it from the others
    job: RunJob | None = None  # What its worker gets, once it is planned
    state: str = "waiting"     # waiting, running, elsewhere (another sweep does it), done, complete (it was there already), or failed
    reason: str = ""           # Why it failed, or waits
    tries: int = 0             # How often it was started
    started: float = 0.        # When, in seconds since 1970
    seconds: float = 0.        # How long it took
    after: float = 0.          # Not to be started before
    plan: str = ""             # What its folder held at first: complete, older, broken or absent

    @property
    def name(self) -> str: return Path(self.job.folder).name if self.job else ""

SAID = ("dataset", "task", "network", "method", "rate", "scope")         # settings that need no name in a line

def numbered(
    cells: list[dict], # Parameters of each run
) -> list[Cell]:       # Each run once
    "The cells of a sweep. Raises: ValueError or TypeError, with the cell, for settings that cannot be."
    found = {}
    for given in cells:
        try: settings, places = from_parameters(given); plain_name(str(places.get("name", "")))
        except (ValueError, TypeError) as e: raise type(e)(f"{_words(given, SAID)}: {e}") from e
        found.setdefault(json.dumps([identity(settings), places.get("name", ""), places.get("runs_root", "")], sort_keys=True), given)
    given = list(found.values())
    varied = [k for k in KNOWN if len({str(cell.get(k, "")) for cell in given}) > 1 or k == "method"]
    return [Cell(i, cell, _words(cell, varied)) for i, cell in enumerate(given)]

def _words(cell: Mapping, names) -> str:
    shown = [str(cell[k]) if k in SAID else f"{k}={cell[k]}" for k in names if cell.get(k) not in (None, "", False)]
    return " ".join(word for word in shown if cell.get("method") != "dense" or word != str(cell.get("rate")))


# %%
[(c.index, c.words) for c in numbered(grid_cells(dict(dataset="synthetic", method="dense ws", rate="0.9 0.99", seed="0 1")))]

# %%
assert len(numbered(grid_cells(dict(method="dense ws", rate="0.9 0.99", seed="0 1")))) == 6            # two dense networks and four runs
try: numbered(grid_cells(dict(method="ws snip", rate="0.9 1.5")))
except ValueError as e: print(e)
else: raise AssertionError("a bad rate was accepted")

# %% [markdown]
# ## The plan
#
# Before anything starts the labels are read, once for all cells on the same data, and every cell learns its folder and that of the dense network it starts from. A cell that cannot be planned has failed, with its reason; the others go on.

# %%
#| export
DATA = ("dataset", "data_path", "task", "groups", "classes", "imbalance", "split", "limit")   # settings that decide which rows of which table

def planner() -> Callable[[dict], tuple[Job, dict]]:
    "`prepared`, which reads the labels once for all settings on the same data"
    read, weights = {}, set()
    def prepare(parameters: dict) -> tuple[Job, dict]:
        settings, where = from_parameters(parameters)
        clusters = settings.groups == "clusters" and settings.method == "dense"
        key = (*(getattr(settings, k) for k in DATA), clusters, *(where.get(f"{k}_root") for k in ("data", "runs", "cache")))
        if key not in read: read[key] = prepared(parameters)[0]
        first = read[key]
        job = replace(first, settings=replace(settings, groups=first.settings.groups), name=where.get("name", ""))
        device_of(where.get("device", "")), check_job(job), check_images(job)
        start = (settings.network, settings.weights, settings.image_size, tuple(job.sizes))
        if start not in weights and starting_network(job) is not None: weights.add(start)
        return job, where
    return prepare

def plan(
    cells: list[Cell],          # From `numbered`
    accept_older: bool = False, # Let finished runs of other code count
) -> list[Cell]:                # The same, with their jobs and states
    "Find out for each cell where it lies and whether it is there already."
    prepare, code = planner(), code_version()
    for cell in cells:
        try:
            cell.job = job_of(*prepare(cell.parameters), code, accept_older)
            cell.plan = state_of(Path(cell.job.folder), code, accept_older)
            if cell.plan == "complete": cell.state = "complete"
        except (ValueError, TypeError, OSError, RuntimeError) as e: cell.state, cell.reason = "failed", f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0]}"
    return cells


# %% [markdown]
# A set of one's own, as small as it can be, for the examples:

# %%
rng = np.random.default_rng(0)
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2]) for i in range(120)]
(tmp / "own").mkdir()
for row in rows: Image.fromarray((rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(np.uint8)).save(tmp / "own" / row["file"])
pd.DataFrame(rows).to_csv(tmp / "own" / "labels.csv", index=False)
tiny = dict(dataset="folder", data_path=str(tmp / "own"), task="shade", groups="tint", network="resnet10", weights="none", image_size=16, epochs="1", lrs="1e-3", batch=16,
            augment="none", bootstrap=100, data_root=str(tmp), runs_root=str(tmp / "runs"), cache_root=str(tmp / "cache"))
cells = plan(numbered(grid_cells(dict(method="ws", rate=[0.5, 0.6], task=["shade", "colour"]), {k: v for k, v in tiny.items() if k != "task"})))
[(c.words, c.plan, c.reason[:50]) for c in cells]

# %%
assert [c.state for c in cells] == ["waiting", "failed"] * 2 and "no label column 'colour'" in cells[1].reason
assert cells[0].job.dense == cells[2].job.dense and cells[0].job.folder != cells[2].job.folder and cells[0].name.startswith("folder-shade-resnet10-ws-0.5-")
job, _ = planner()(dict(tiny, method="ws", rate=0.5))
again, _ = prepared(dict(tiny, method="ws", rate=0.5))
assert job_of(job, {}, "") == job_of(again, {}, "") and not list((tmp / "runs").glob("*"))             # the same folder as a run by itself, and nothing written

# %% [markdown]
# ## Where runs run
#
# An engine starts runs and says which ended. This one starts worker processes on this machine. On GPUs each worker sees its own; on the CPU each has its share of the cores. A worker with all cores would be no faster than its neighbours
# allow, and threads that spin while they wait would take the cores from those that work: four processes of two threads on four cores became ten times slower that way. So they sleep.

# %%
#| export
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")                                 # how many threads a process takes
QUIET = dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", KMP_BLOCKTIME="0")      # threads that wait must not spin

def cores() -> int: return cpu_count(only_physical_cores=True)                     # those that this process, or its container, may use

def visible_gpus() -> list[str]:
    "The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them"
    import torch
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [g.strip() for g in given.split(",") if g.strip()][:torch.cuda.device_count()] if given else [str(i) for i in range(torch.cuda.device_count())]

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
assert [s["OMP_NUM_THREADS"] for s in worker_slots(4, cores=8)] == ["2"] * 4 and len(worker_slots()) == 1 and worker_slots(9, cores=4)[0]["OMP_NUM_THREADS"] == "1"
assert [s["CUDA_VISIBLE_DEVICES"] for s in worker_slots(gpus=("3", "5"))] == ["3", "5"] and cores() >= 1 and isinstance(visible_gpus(), list)
for bad in (dict(workers=-1), dict(gpus=("0",), per_run=2), dict(gpus=("0", "1"), workers=3)):
    try: worker_slots(**bad)
    except ValueError as e: print(e)
    else: raise AssertionError("more than there is was shared out")


# %%
#| export
class Local:
    "Workers on this machine, forked by a server that has imported everything"
    def __init__(self,
        workers: int = 0,      # Processes at once; 0: one per GPU, or one
        gpus_per_run: int = 1, # GPUs for one run
        device: str = "",      # "cpu": leave GPUs alone
    ):
        gpus, own = () if device.startswith("cpu") else tuple(visible_gpus()), os.environ.get("OMP_NUM_THREADS", "")
        self.slots = worker_slots(workers, gpus, gpus_per_run, cores())
        if own.isdigit(): self.slots = [slot | {k: str(min(int(own), int(slot[k]))) for k in THREADS} for slot in self.slots]
        self.processes = gpus_per_run if gpus else 1
        self.server, self.heard, self.errors = None, b"", tempfile.TemporaryFile()
        self.busy: dict[int, dict] = {}                    # slot → cell, job, and its worker's number once it is known

    @property
    def size(self) -> int: return len(self.slots)
    def free(self) -> bool: return len(self.busy) < len(self.slots)

    def begin(self):
        "Start the server, if it does not run"
        if self.server and self.server.poll() is None: return
        env = {**QUIET, **os.environ, **{k: self.slots[0][k] for k in THREADS}}
        self.server = subprocess.Popen([sys.executable, "-c", "from fairgrape.runner import serve; serve()"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=self.errors, start_new_session=True)
        os.set_blocking(self.server.stdout.fileno(), False)

    def start(self, cell: Cell, job: Path):
        "Start the worker of a cell; its job is written to that file"
        slot = next(i for i in range(len(self.slots)) if i not in self.busy)
        given = {"threads": int(self.slots[slot]["OMP_NUM_THREADS"]), **({"processes": self.processes} if self.processes > 1 else {})}
        chosen = {k: v for k, v in given.items() if not cell.parameters.get(k)}
        outcome_file(job).unlink(missing_ok=True)
        write_json(job, asdict(replace(cell.job, parameters=cell.job.parameters | chosen)))
        with log_file(cell).open("a", encoding="utf-8") as log: print(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {cell.words} (try {cell.tries})", file=log)
        self.begin()
        self.busy[slot] = dict(cell=cell, job=job, pid=None)
        self.server.stdin.write((json.dumps(dict(id=slot, job=str(job), log=str(log_file(cell)), env=self.slots[slot])) + "\n").encode())
        self.server.stdin.flush()


# %% [markdown]
# What the server says is a line for a worker that began and one for a worker that ended. If the server itself is gone, so are its workers; they are reported as killed, and the next start brings a new server.

# %%
#| export
@patch
def ended(self: Local) -> list[tuple[Cell, Outcome]]:
    "Cells whose workers ended since last asked, and how"
    if self.server is None: return []
    over, gone = {}, self.server.poll() is not None
    *lines, self.heard = (self.heard + (self.server.stdout.read() or b"")).split(b"\n")
    for answer in map(json.loads, lines):
        if "pid" in answer: self.busy[answer["id"]]["pid"] = answer["pid"]
        else: over[answer["id"]] = answer["status"]
    found = [(self.busy.pop(slot), status) for slot, status in over.items()]
    done = [(was["cell"], read_outcome(was["job"], status, time.time() - was["cell"].started)) for was, status in found]
    lost = [self.busy.pop(slot)["cell"] for slot in list(self.busy)] if gone else []
    return done + [(cell, Outcome("crashed", self.last_words(), time.time() - cell.started)) for cell in lost]

@patch
def last_words(self: Local) -> str:
    "Why the server is gone, as far as it said so"
    self.errors.seek(0)
    said = self.errors.read().decode(errors="replace").strip().splitlines()
    return f"the server of workers died ({said[-1] if said else f'exit status {self.server.returncode}'})"

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
    self.server, self.heard = None, b""
    self.busy.clear()

def log_file(cell: Cell) -> Path:
    "The log of a run: `.logs/<folder>.log` in the runs folder"
    logs = cell.job.runs_root / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{cell.name}.log"


# %%
engine = Local(device="cpu")
cell = cells[0]
cell.tries, cell.started = 1, time.time()
engine.start(cell, tmp / "0.json")
while not (over := engine.ended()): time.sleep(.1)
print(over[0][1].state, log_file(cell).read_text(), sep="\n")

# %%
assert over[0][0] is cell and over[0][1].state == "done" and engine.free() and state_of(Path(cell.job.folder), code_version()) == "complete"
engine.start(cells[2], tmp / "2.json")
assert not engine.free()
begun = time.time(); engine.stop()
assert engine.free() and not engine.ended() and time.time() - begun < 10 and state_of(Path(cells[2].job.folder), code_version()) in ("absent", "broken")


# %% [markdown]
# ## Which next
#
# Runs that start from one dense network cannot all start at once: the first trains it, and the others would sit in their slots and wait for it. So a cell is preferred whose dense network is there, or which nobody trains; the rest stays in the queue.

# %%
#| export
def held(lock: Path) -> bool:
    "Whether someone holds this lock"
    if not lock.exists(): return False
    try:
        with FileLock(lock, timeout=0): return False
    except Timeout: return True

def dense_ready(job: RunJob) -> bool:
    "Whether the dense network is there and will be used"
    dense = Path(job.dense)
    return (dense / "metrics.json").is_file() and (job.accept_older or code_of(dense) == job.code)

def next_cell(
    cells: list[Cell], # All cells
    now: float,        # Seconds since 1970
) -> Cell | None:      # The one to start; None: nothing can be started now
    "The first cell that would not have to wait for its dense network."
    trained = {c.job.dense: True for c in cells if c.state == "running" and not dense_ready(c.job)}     # dense network → whether someone trains it
    for cell in (c for c in cells if c.state == "waiting" and c.after <= now):
        dense = cell.job.dense
        if dense_ready(cell.job): return cell
        if dense not in trained: trained[dense] = held(cell.job.runs_root / ".locks" / f"{Path(dense).name}.lock")
        if not trained[dense]: return cell
    return None


# %%
other = plan(numbered(grid_cells(dict(method="ws", rate=[0.5, 0.6], seed=[1, 2]), tiny)))
order = []
for _ in range(4):
    if chosen := next_cell(other, 0): chosen.state = "running"; order.append(chosen.words)
order

# %% [markdown]
# Two seeds are two dense networks; the second cells of both wait until those are trained. A rate of 0.7 at seed 0 could start at once, its dense network is there.

# %%
assert order == ["ws 0.5 seed=1", "ws 0.5 seed=2"] and next_cell(other, 0) is None
more = plan(numbered(grid_cells(dict(method="ws", rate=[0.7]), tiny)))
assert next_cell(other + more, 0) is more[0] and not held(tmp / "none.lock")
more[0].after = 5
assert next_cell(more, 4) is None and next_cell(more, 6) is more[0]

# %% [markdown]
# ## How a run ended
#
# Done is done. A crash goes back into the queue, a few times and after a pause that doubles. What another sweep works on goes back too, and is not counted. The rest has failed.

# %%
#| export
PAUSE, LOOK = 2., 5.    # Seconds: before the first new try; before looking again at what another sweep does

def settle(
    cell: Cell,        # A cell whose worker ended
    outcome: Outcome,  # How
    retries: int = 2,  # How often a crash is tried again
    now: float = 0.,   # Seconds since 1970
):
    "Set a cell's state by how its run ended."
    cell.seconds, cell.reason = outcome.seconds, outcome.reason
    again = outcome.state == "crashed" and cell.tries <= retries
    cell.state = "elsewhere" if outcome.state == "busy" else "waiting" if again else "failed" if outcome.state in ("crashed", "failed") else outcome.state
    if again: cell.after = now + PAUSE * 2 ** (cell.tries - 1)
    if cell.state == "elsewhere": cell.tries, cell.after = cell.tries - 1, now + LOOK
    if cell.state == "failed" and cell.tries > 1: cell.reason += f" (tried {cell.tries} times)"

def look_again(cells: list[Cell], now: float):
    "Put cells back into the queue that another sweep worked on and works on no more"
    for cell in cells:
        if cell.state == "elsewhere" and cell.after <= now and not held(cell.job.runs_root / ".locks" / f"{cell.name}.run.lock"): cell.state, cell.reason = "waiting", ""
        elif cell.state == "elsewhere" and cell.after <= now: cell.after = now + LOOK


# %%
trial = replace(cells[0], tries=1)
for ended in (Outcome("crashed", "DeadKernelError"), Outcome("busy"), Outcome("failed", "ValueError: rate"), Outcome("done")):
    settle(trial, ended, now=100.); print(f"{ended.state:8} → {trial.state:9} after {trial.after}, tries {trial.tries}"); trial.tries = 1

# %%
trial.tries = 3
settle(trial, Outcome("crashed", "DeadKernelError"), retries=2)
assert trial.state == "failed" and trial.reason == "DeadKernelError (tried 3 times)"
settle(trial, Outcome("busy"), now=0.)
with working_on(Path(trial.job.folder)): look_again([trial], 10.); assert trial.state == "elsewhere"
look_again([trial], 20.)
assert trial.state == "waiting"

# %% [markdown]
# ## The table
#
# What a sweep knows goes to `.sweeps/<id>/sweep.json` whenever a state changes, and how far a run is lies in its own folder. So the live table and `fairgrape status`, from any terminal, are one function of what is on the disk.

# %%
#| export
KEPT = ("index", "words", "state", "reason", "tries", "started", "seconds", "plan")

def record_of(
    cells: list[Cell],   # All cells
    **about,             # command, started, host, pid, workers, ended
) -> dict:               # Plain values
    "What is kept of a sweep."
    return about | dict(cells=[{k: getattr(c, k) for k in KEPT} | dict(folder=c.job.folder if c.job else "", dense=c.job.dense if c.job else "") for c in cells])

def clock(seconds: float) -> str:
    "`1:02:03`, or `2:03` under an hour"
    minutes, s = divmod(int(max(0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}" if minutes >= 60 else f"{minutes}:{s:02}"

def remaining(progress: Mapping) -> float | None:
    "Seconds that a run still needs, by its epochs so far; None if nobody knows"
    done, total = progress.get("done", 0), progress.get("total", 0)
    return progress["seconds"] / done * (total - done) if done and total else None

def run_row(cell: Mapping, now: float) -> tuple[str, str, str, str, str]:
    "Number, words, state, time and a remark of one cell"
    progress = read_progress(cell["folder"], cell["dense"]) if cell["state"] == "running" else {}
    left = remaining(progress)
    passed = now - cell["started"] if cell["state"] == "running" else cell["seconds"]
    remark = progress_text(progress) or ("starting" if cell["state"] == "running" else cell["reason"])
    return str(cell["index"]), cell["words"], cell["state"], clock(passed) if passed else "", remark + (f", {clock(left)} to go" if left is not None else "")


# %%
now = time.time()
cells[2].state, cells[2].started = "running", now - 75
Path(cells[2].job.folder).mkdir(exist_ok=True)
write_json(Path(cells[2].job.folder) / "progress.json", dict(label="final", epoch="3 of 4", done=3, total=8, seconds=60., updated=""))
cells[0].state, cells[0].seconds = "done", 61.
record = record_of(cells, started=now - 200, command="fairgrape sweep grid.yaml", workers=2)
for row in record["cells"]: print(run_row(row, now))

# %%
assert run_row(record["cells"][2], now)[3:] == ("1:15", "final, epoch 3 of 4 (3 of 8 epochs), 1:40 to go") and remaining({}) is None and clock(3723) == "1:02:03" and clock(59) == "0:59"

# %%
#| export
SHOWN = ("running", "failed", "elsewhere")    # states of which each cell has a line

def headline(record: Mapping, now: float) -> str:
    "`6 of 24 there, 2 running, 15 waiting, 1 failed; about 1:02:03 to go`"
    states = [c["state"] for c in record["cells"]]
    there, took = sum(s in ("done", "complete") for s in states), [c["seconds"] for c in record["cells"] if c["state"] == "done"]
    counts = [f"{states.count(s)} {word}" for s, word in (("running", "running"), ("waiting", "waiting"), ("elsewhere", "in another sweep"), ("failed", "failed")) if s in states]
    mean = sum(took) / len(took) if took else 0.
    running = [remaining(read_progress(c["folder"], c["dense"])) or max(0., mean - now + c["started"]) for c in record["cells"] if c["state"] == "running"]
    left = max(max(running, default=0.), (sum(running) + states.count("waiting") * mean) / max(1, record.get("workers", 1))) if took and not record.get("ended") else 0
    return f"{there} of {len(states)} there" + "".join(f", {part}" for part in counts) + (f"; about {clock(left)} to go" if left else "")

def sweep_table(
    record: Mapping,   # From `record_of`, or read from the disk
    now: float,        # Seconds since 1970
    most: int = 40,    # Lines at most
    every: bool = False, # A line for each cell, not only those that run or failed
) -> Group:            # To be printed by rich
    "A sweep as a headline and a table."
    rows = [c for c in record["cells"] if every or c["state"] in SHOWN]
    rows = rows + [c for c in record["cells"] if c["state"] == "done" and not every][-3:]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(rows))
    for name in ("#", "run", "state", "time", ""): table.add_column(name, justify="right" if name in ("#", "time") else "left", overflow="fold" if not name else "ellipsis", no_wrap=bool(name))
    colours = dict(running="cyan", failed="red", done="green", complete="green")
    for cell in rows[:most]: table.add_row(*map(Text, run_row(cell, now)), style=colours.get(cell["state"], ""))
    more = [Text(f"… and {len(rows) - most} more")] if len(rows) > most else []
    return Group(Text(headline(record, now), style="bold"), table, *more)


# %%
Console(width=140).print(sweep_table(record, now))

# %%
assert headline(record, now) == "1 of 4 there, 1 running, 2 failed; about 1:40 to go" and headline(record | dict(workers=1, cells=record["cells"] + [dict(state="waiting")]), now).endswith("; about 2:41 to go")
printed = Console(width=140, file=open(os.devnull, "w"), record=True); printed.print(sweep_table(record, now, every=True, most=3))
assert "… and 1 more" in printed.export_text()


# %% [markdown]
# On a terminal the table lives at the bottom and refreshes. Where the output goes into a file, a line for each thing that happens is better.

# %%
#| export
class Show:
    "Tell a sweep's user what happens: a live table on a terminal, else lines"
    def __init__(self, on: bool = True, every: float = 60.):
        self.console, self.on, self.every, self.said, self.last = Console(stderr=False), on, every, {}, time.time()
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if on and self.console.is_terminal else None

    def __enter__(self): self.live and self.live.start(); return self
    def __exit__(self, *_): self.live and self.live.stop()

    def __call__(self, record: Mapping, now: float):
        "What changed since the last call"
        if self.live: return self.live.update(sweep_table(record, now, max(4, self.console.height - 6)), refresh=True)
        for cell in record["cells"] if self.on else []:
            state = (cell["state"], cell["tries"], cell["reason"])
            if self.said.get(cell["index"], ("waiting", 0, "")) != state and cell["state"] != "complete": self.line(" ".join(filter(None, (f"[{cell['index']}]", *run_row(cell, now)[1:]))))
            self.said[cell["index"]] = state
        if self.on and now - self.last >= self.every: self.last = now; self.line(headline(record, now))

    def line(self, text: str): print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


# %%
with Show() as show: show(record, now)

# %%
assert show.said[2][0] == "running" and Show(False).live is None


# %% [markdown]
# ## The sweep
#
# One loop, whatever the engine: settle what ended, start what can start, tell, wait a little. After Ctrl-C, or the SIGTERM of a queue, the workers are stopped with their kernels, and what is left is said together with the command that
# goes on; a run that was stopped goes on from its last checkpoint. A second Ctrl-C waits for nothing.

# %%
#| export
class Interrupted(RuntimeError): "The sweep was asked to stop"

@dataclass
class Sweep:
    "The loop over the cells, and its record on the disk"
    cells: list[Cell]              # From `plan`
    engine: object                 # Local, or one with the same methods
    retries: int = 2               # How often a crash is tried again
    show: Show = field(default_factory=lambda: Show(False)) # Told the record
    command: str = ""              # How to go on
    folder: Path | None = None     # Where its record lies
    kept: dict | None = None       # The record as last written

    def __post_init__(self):
        home = next((c.job.runs_root for c in self.cells if c.job), None)
        if home is None: return
        self.about = dict(command=self.command, started=time.time(), host=socket.gethostname(), pid=os.getpid(), workers=self.engine.size, ended=0.)
        self.folder = home / ".sweeps" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def open(self) -> bool: return any(c.state in ("waiting", "running", "elsewhere") for c in self.cells)

    def turn(self, now: float):
        "Settle what ended, start what can start, tell"
        for cell, outcome in self.engine.ended(): settle(cell, outcome, self.retries, now)
        look_again(self.cells, now)
        while self.engine.free() and (cell := next_cell(self.cells, now)):
            job = self.folder / f"{cell.index}.json"
            cell.state, cell.tries, cell.started, cell.reason = "running", cell.tries + 1, now, ""
            try: self.engine.start(cell, job)
            except OSError as e: settle(cell, outcome_of(e), self.retries, now)     # a full disk, say: for this cell a crash like any other
        self.tell(now)

    def tell(self, now: float, **more):
        "Write the record if it has changed, and show it"
        record = record_of(self.cells, **(self.about | more))
        if record != self.kept:
            with suppress(OSError): write_json(self.folder / "sweep.json", record)     # a full disk does not end a sweep
            self.kept = record
        self.show(record, now)

    def run(self, every: float = .25) -> list[Cell]:
        "Go on until nothing is left. Raises: Interrupted, after the workers were stopped."
        if self.folder is None: return self.cells
        with stoppable(lambda: self.engine.stop(0)) as asked, FileLock(self.folder / "lock"), self.show:
            try:
                while self.open and not asked.is_set(): self.turn(time.time()); asked.wait(every)
            finally:
                self.engine.stop()
                for cell in self.cells:
                    if cell.state == "running": cell.state, cell.reason = "waiting", "stopped"
                self.tell(time.time(), ended=time.time())
        if self.show.on: print(headline(self.kept, time.time()), flush=True)
        if asked.is_set(): raise Interrupted(f"stopped; {headline(self.kept, time.time())}. To go on: {self.command or 'start it again'}")
        return self.cells

def sweep(
    cells: list[dict],          # Parameters of each run
    engine=None,                # Where they run; None: worker processes on this machine
    workers: int = 0,           # Processes at once; 0: one per GPU, or one
    gpus_per_run: int = 1,      # GPUs for one run
    retries: int = 2,           # How often a crash is tried again
    accept_older: bool = False, # Let finished runs of other code count
    show: bool = True,          # Say what happens
    command: str = "",          # How to go on, for the message after an interruption
) -> list[Cell]:                # How each ended
    """Make all runs that are not there yet. One failure does not stop the others.

    Raises: ValueError or TypeError for settings that cannot be, before anything starts; Interrupted after Ctrl-C."""
    found = numbered(cells)
    engine = engine or Local(workers, gpus_per_run, str(found[0].parameters.get("device", "")) if found else "")
    return Sweep(plan(found, accept_older), engine, retries, Show(show), command).run()


# %% [markdown]
# Three cells, of which one is there already and one cannot be:

# %%
ended = sweep(grid_cells(dict(cells=[dict(rate=[0.5, 0.6], groups="tint"), dict(rate=0.5, groups="hue")]), {k: v for k, v in tiny.items() if k != "groups"} | dict(method="ws")), workers=2)
[(c.words, c.state, c.reason[:40]) for c in ended]

# %%
assert [c.state for c in ended] == ["complete", "done", "failed"] and ended[1].tries == 1 and state_of(Path(ended[1].job.folder), code_version()) == "complete"
assert [c.state for c in sweep(grid_cells(dict(method="ws", rate=[0.5, 0.6]), tiny), show=False)] == ["complete"] * 2


# %% [markdown]
# What went wrong and where the runs are, for those who call this:

# %%
#| export
def folders(cells: list[Cell]) -> list[Path]:
    "The folders of the runs that are there"
    return [Path(c.job.folder) for c in cells if c.state in ("done", "complete")]

def failures(cells: list[Cell]) -> list[str]:
    "What failed, a line each, with the log to look at"
    return [f"[{c.index}] {c.words}: {c.reason}" + (f" (log: {log_file(c)})" if c.job and c.tries else "") for c in cells if c.state == "failed"]


# %%
print(*failures(ended), *[f.name for f in folders(ended)], sep="\n")

# %%
assert len(folders(ended)) == 2 and len(failures(ended)) == 1 and "no label column 'hue'" in failures(ended)[0]

# %% [markdown]
# ## Before and while
#
# A dry run says for each cell what would be done. `status` shows the sweeps of a runs folder from any terminal: those under way hold a lock, so nothing that is gone is called running.

# %%
#| export
TODO = dict(absent="run", broken="go on", older="again, its code was another", complete="nothing, it is there")

def dry_run(
    cells: list[Cell], # From `plan`
) -> str:              # A line a cell
    "What a sweep of these cells would do."
    return "\n".join(f"[{c.index}] {c.words}: " + (f"{TODO[c.plan]} ({c.name})" if c.job else f"cannot: {c.reason}") for c in cells)

def sweeps(
    runs_root: Path,    # The runs folder
) -> list[dict]:        # Their records, the latest last, with `alive`
    "The sweeps that were started on a runs folder."
    found = []
    for file in sorted(Path(runs_root).glob(".sweeps/*/sweep.json")):
        try: found.append(json.loads(file.read_text(encoding="utf-8")) | dict(id=file.parent.name, alive=held(file.with_name("lock"))))
        except (OSError, ValueError): pass
    for record in found:
        for cell in record["cells"]:
            if cell["state"] == "running" and not record["alive"]: cell["state"], cell["reason"] = "waiting", "its sweep was killed"
    return found

def status(
    runs_root: str | Path | None = None, # The runs folder; default: settings.ini
    every: bool = False,                 # All sweeps and all cells
    width: int | None = None,            # Characters in a line; None: the terminal's
) -> int:                                # Sweeps under way
    "Print the sweeps under way, or else the last one."
    home, console, now = root("runs", runs_root), Console(width=width), time.time()
    found = sweeps(home)
    alive = [r for r in found if r["alive"]]
    if not found: console.print(f"no sweep was started on {home}", soft_wrap=True)
    for record in found if every else alive or found[-1:]:
        said = "under way" if record["alive"] else "was killed" if not record["ended"] else "stopped" if any(c["state"] == "waiting" for c in record["cells"]) else "ended"
        console.print(Text(f"\n{record['command'] or record['id']} ({said}; {record['host']}, process {record['pid']}, started {datetime.fromtimestamp(record['started']):%Y-%m-%d %H:%M})"), soft_wrap=True)
        console.print(sweep_table(record, now, 10 ** 6 if every else 40, every))
    return len(alive)


# %%
for record in sweeps(tmp / "runs"): write_json(tmp / "runs" / ".sweeps" / record["id"] / "sweep.json", record | dict(host="server", command="fairgrape sweep grid.yaml"))
status(tmp / "runs", width=140)

# %%
print(dry_run(plan(numbered(grid_cells(dict(method="ws", rate=[0.5, 0.7]), tiny)))))

# %%
assert dry_run(plan(numbered(grid_cells(dict(method="ws", rate=[0.5, 0.7]), tiny)))).splitlines()[0].startswith("[0] ws 0.5: nothing, it is there (folder-shade-resnet10-ws-0.5-")
assert len(sweeps(tmp / "runs")) == 2 and not any(r["alive"] for r in sweeps(tmp / "runs")) and status(tmp / "none") == 0
last = sorted((tmp / "runs" / ".sweeps").iterdir())[-1]
left = json.loads((last / "sweep.json").read_text()); left["cells"][0]["state"] = "running"; write_json(last / "sweep.json", left)
assert sweeps(tmp / "runs")[-1]["cells"][0]["state"] == "waiting"
with FileLock(last / "lock"): assert sweeps(tmp / "runs")[-1]["alive"] and status(tmp / "runs", width=100) == 1


# %% [markdown]
# ## One cell
#
# A Slurm job array has a scheduler of its own. Each of its tasks makes the one cell of its number, the number being that of the dry run: `sbatch --array=0-23 --gres=gpu:1 --wrap 'fairgrape sweep GRID --cell $SLURM_ARRAY_TASK_ID'`. Tasks that
# need the same dense network wait for the one that trains it.

# %%
#| export
def one_cell(
    cells: list[dict], # Parameters of each run of the grid
    number: int,       # Which one, from 0
) -> list[dict]:       # Its parameters, alone
    "A cell by its number. Raises: ValueError if there is none."
    found = numbered(cells)
    if not 0 <= number < len(found): raise ValueError(f"cell = {number}: the grid has {len(found)} runs, so choose 0 to {len(found) - 1}")
    return [found[number].parameters]


# %%
one_cell(grid_cells(dict(method="dense ws", rate="0.9 0.99")), 2)

# %%
assert one_cell(grid_cells(dict(method="dense ws", rate="0.9 0.99")), 0)[0]["method"] == "dense"
for number in (-1, 3):
    try: one_cell(grid_cells(dict(method="dense ws", rate="0.9 0.99")), number)
    except ValueError as e: print(e)
    else: raise AssertionError("a cell that is not there was found")
