# %% [markdown]
# # Sweep
#
# > Hundreds of runs from one grid, each made once, on all workers, despite failures

# %%
#| default_exp sweep.sweep

# %%
#| export
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fastcore.basics import patch

from fairgrape.sweep.grid import Cell, numbered, plan
from fairgrape.sweep.jobs import Outcome, RunJob, code_of, outcome_of
from fairgrape.sweep.local import Local, log_file
from fairgrape.sweep.record import Show, headline, record_of
from fairgrape.sweep.runner import stoppable
from fairgrape.training.files import held, lock, write_json

# %%
import json
import tempfile
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.sweep.grid import grid_cells, one_cell
from fairgrape.sweep.jobs import state_of, working_on
from fairgrape.sweep.record import sweeps
from fairgrape.training.files import code_version

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# A user starts one command in the evening and goes home. In the morning every possible run is complete, and every other has a reason. The same command again resumes where it
# stopped; a second start at the same time repeats nothing.
#
# [The grid](04_grid.ipynb) defines the runs, [the workers](05_local.ipynb) make them, and [the record](07_record.ipynb) shows them. This module has the decisions: the next cell, the meaning of an outcome, and the loop.
#
# ## The next cell
#
# Runs that start from the same dense network cannot all start together: the first trains it, and the others would occupy their slots while they wait. A dense network of other code does not count, because it will be made again.

# %%
#| export
def _dense_ready(job: RunJob) -> bool:
    "Whether the dense network exists and will be used."
    dense = Path(job.dense)
    return (dense / "metrics.json").is_file() and (job.accept_older or code_of(dense) == job.code)


# %%
def made(folder: Path, code: str = "now") -> Path:
    "The files of a finished run that a sweep reads"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text(json.dumps(dict(code=code)))
    (folder / "metrics.json").write_text("{}")
    return folder


def a_cell(number: int, dense: int = 0, **more) -> Cell:
    "A cell that starts from the dense network of this number"
    return Cell(
        number,
        {},
        f"ws {number}",
        RunJob(str(tmp / "toy" / f"ws-{number}"), {}, "now", str(tmp / "toy" / f"dense-{dense}")),
        **more,
    )


ready = [_dense_ready(a_cell(0).job)]
for code in ("before", "now"):
    made(tmp / "toy" / "dense-0", code)
    ready.append(_dense_ready(a_cell(0).job))
made(tmp / "toy" / "dense-0", "before")
ready.append(_dense_ready(replace(a_cell(0).job, accept_older=True)))
ready

# %%
assert ready == [False, False, True, True]


# %% [markdown]
# A cell can start if its dense network exists, or if no process trains it, in this sweep or another. The rest stay in the queue.

# %%
#| export
def _next_cell(
    cells: list[Cell],  # All cells
    now: float,  # Seconds since 1970
) -> Cell | None:  # The cell to start; None: no cell can start now
    "The first cell that would not have to wait for its dense network."
    # dense network → whether a process trains it
    trained = {c.job.dense: True for c in cells if c.state == "running" and not _dense_ready(c.job)}
    for cell in (c for c in cells if c.state == "waiting" and c.after <= now):
        dense = cell.job.dense
        if _dense_ready(cell.job):
            return cell
        if dense not in trained:
            trained[dense] = held(cell.job.runs_root / ".locks" / f"{Path(dense).name}.lock")
        if not trained[dense]:
            return cell
    return None


# %% [markdown]
# Four cells with two dense networks, neither of which exists. The first of each pair can start; the second must wait for the dense network.

# %%
four = [a_cell(i, dense=1 + i // 2) for i in range(4)]
order = []
while chosen := _next_cell(four, now=0.0):
    chosen.state = "running"
    order.append(chosen.index)
made(tmp / "toy" / "dense-1")
while chosen := _next_cell(four, now=0.0):
    chosen.state = "running"
    order.append(chosen.index)
order

# %%
assert order == [0, 2, 1] and four[3].state == "waiting"
# another sweep trains the first
with lock(tmp / "toy" / ".locks" / "dense-3.lock"):
    assert _next_cell([a_cell(7, dense=3), a_cell(8, dense=4)], 0.0).index == 8
assert (
    _next_cell([a_cell(7, dense=3)], 0.0).index == 7
    and _next_cell([a_cell(9, after=5.0)], 4.0) is None
    and _next_cell([a_cell(9, after=5.0)], 5.0).index == 9
)

# %% [markdown]
# ## How a run ended
#
# A run that is done stays done. A crashed run returns to the queue a few times, after a pause that doubles each time: a full disk or memory may have space by then. A run that another sweep makes returns too, without counting as a try. All other runs have failed.

# %%
#| export
# Seconds: before the first new try; before checking a run of another sweep again
PAUSE, LOOK = 2.0, 5.0


def settle(
    cell: Cell,  # A cell whose worker ended
    outcome: Outcome,  # Its outcome
    retries: int = 2,  # How often a crash is tried again
    now: float = 0.0,  # Seconds since 1970
):
    "Set the state of a cell from the outcome of its run."
    cell.seconds, cell.reason = outcome.seconds, outcome.reason
    again = outcome.state == "crashed" and cell.tries <= retries
    if outcome.state == "busy":
        cell.state, cell.tries, cell.after = "elsewhere", cell.tries - 1, now + LOOK
    elif again:
        cell.state, cell.after = "waiting", now + PAUSE * 2 ** (cell.tries - 1)
    elif outcome.state == "crashed":
        cell.state = "failed"
    else:
        cell.state = outcome.state
    if cell.state == "failed" and cell.tries > 1:
        cell.reason += f" (tried {cell.tries} times)"


# %%
def settled(tries: int, *outcome) -> tuple:
    "State, tries, pause and reason of a cell after this try with this outcome"
    settle(cell := a_cell(0, tries=tries), Outcome(*outcome), retries=2, now=100.0)
    return cell.state, cell.tries, max(0, cell.after - 100), cell.reason


for tries, *outcome in (
    (1, "done"),
    (1, "busy"),
    (1, "failed", "ValueError: rate"),
    (1, "crashed", "Killed"),
    (2, "crashed", "Killed"),
    (3, "crashed", "Killed"),
):
    print(tries, outcome[0], "→", settled(tries, *outcome))

# %%
assert [settled(n, "crashed", "Killed") for n in (1, 2, 3)] == [
    ("waiting", 1, 2, "Killed"),
    ("waiting", 2, 4, "Killed"),
    ("failed", 3, 0, "Killed (tried 3 times)"),
]
assert (
    settled(1, "busy") == ("elsewhere", 0, 5, "")
    and settled(1, "failed", "x") == ("failed", 1, 0, "x")
    and (settled(1, "done")[0], settled(1, "complete")[0]) == ("done", "complete")
)


# %% [markdown]
# The runs of another sweep are checked every few seconds. When such a run is released, the cell returns to the queue; the worker will see whether the run is complete.

# %%
#| export
def _look_again(cells: list[Cell], now: float):
    "Return cells to the queue that another sweep no longer works on."
    for cell in cells:
        if cell.state != "elsewhere" or cell.after > now:
            continue
        if held(cell.job.runs_root / ".locks" / f"{cell.name}.run.lock"):
            cell.after = now + LOOK
        else:
            cell.state, cell.reason = "waiting", ""


# %%
away, said = a_cell(5, state="elsewhere", reason="another process works on ws-5", after=10.0), []
with working_on(Path(away.job.folder)):
    for now in (9.0, 10.0):
        _look_again([away, a_cell(6)], now)
        said.append((now, away.state, away.after))
for now in (14.0, 15.0):
    _look_again([away], now)
    said.append((now, away.state, away.after))
said

# %%
assert (
    said
    == [
        (9.0, "elsewhere", 10.0),
        (10.0, "elsewhere", 15.0),
        (14.0, "elsewhere", 15.0),
        (15.0, "waiting", 15.0),
    ]
    and away.reason == ""
)


# %% [markdown]
# ## The sweep
#
# One loop serves every engine: settle the runs that ended, start those that can start, report, wait briefly.

# %%
#| export
class Interrupted(RuntimeError):
    "The sweep was stopped by the user or a signal."


@dataclass
class Sweep:
    "The loop over the cells, and its record on the disk."

    cells: list[Cell]  # From `plan`
    engine: object  # Local, or one with the same methods
    retries: int = 2  # How often a crash is tried again
    show: Show = field(default_factory=lambda: Show(False))  # Shows the record
    command: str = ""  # The command that resumes the sweep
    folder: Path | None = None  # Folder of its record
    kept: dict | None = None  # The record as last written

    def __post_init__(self):
        home = next((c.job.runs_root for c in self.cells if c.job), None)
        if home is None:
            return
        self.about = dict(
            command=self.command,
            started=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            workers=self.engine.size,
            ended=0.0,
        )
        self.folder = home / ".sweeps" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{os.getpid()}"
        self.folder.mkdir(parents=True)

    @property
    def open(self) -> bool:
        return any(c.state in ("waiting", "running", "elsewhere") for c in self.cells)


# %% [markdown]
# The engine of the examples makes one run at a time, which ends at the next call with an outcome from a script. A sweep without a planned cell has no runs folder and needs none.

# %%
class Scripted:
    "An engine whose runs end with the outcomes of a script, one after another"

    size = 1

    def __init__(self, *outcomes):
        self.outcomes, self.busy, self.stopped = list(outcomes), [], []

    def free(self):
        return not self.busy

    def start(self, cell, job):
        self.busy.append(cell)

    def ended(self):
        over, self.busy = self.busy, []
        return [(cell, Outcome(self.outcomes.pop(0), "said so", 1.0)) for cell in over]

    def stop(self, patience=10.0):
        self.stopped.append(patience)
        self.busy = []


three = [a_cell(0, 5), a_cell(1, 5), Cell(2, {}, "ws hue", state="failed", reason="no such column")]
toy = Sweep(three, Scripted("done", "crashed", "done"), command="fairgrape sweep grid.yaml")
toy.folder.relative_to(tmp).parts[:2], toy.open, Sweep(three[2:], Scripted()).folder

# %%
assert (
    toy.folder.is_dir()
    and toy.folder.parent == tmp / "toy" / ".sweeps"
    and toy.open
    and toy.about["workers"] == 1
)
# each has its own record, even if started at the same moment
assert len({Sweep(three, Scripted()).folder for _ in range(9)}) == 9
assert Sweep(three[2:], Scripted()).folder is None and not Sweep(three[2:], Scripted()).open
assert all(
    Sweep([a_cell(0, state=s)], Scripted()).open == (s in ("waiting", "running", "elsewhere"))
    for s in ("waiting", "running", "elsewhere", "done", "complete", "failed")
)


# %% [markdown]
# The record is written only after a change, not four times a second. A full disk does not end a sweep, because files may be removed while it runs.

# %%
#| export
@patch
def tell(self: Sweep, now: float, **more):
    "Write the record if it has changed, and show it."
    record = record_of(self.cells, **(self.about | more))
    if record != self.kept:
        with suppress(OSError):
            write_json(self.folder / "sweep.json", record)
        self.kept = record
    self.show(record, now)


# %%
shown = []
toy.show = lambda record, now: shown.append(now)
toy.tell(1.0)
first = (toy.folder / "sweep.json").stat().st_mtime_ns
toy.tell(2.0)
unchanged = (toy.folder / "sweep.json").stat().st_mtime_ns == first
toy.tell(3.0, ended=3.0)
shown, unchanged, json.loads((toy.folder / "sweep.json").read_text())["ended"]

# %%
assert (
    shown == [1.0, 2.0, 3.0]
    and unchanged
    and json.loads((toy.folder / "sweep.json").read_text()) == toy.kept
    and toy.kept["ended"] == 3.0
    and len(toy.kept["cells"]) == 3
)
whole, toy.folder = toy.folder, tmp / "no such folder"
toy.tell(4.0, ended=4.0)  # cannot be written; the sweep continues
toy.folder = whole


# %% [markdown]
# A turn of the loop. A cell that cannot be started, for example because the disk is full, counts as crashed.

# %%
#| export
@patch
def turn(self: Sweep, now: float):
    "Settle the runs that ended, start those that can start, report."
    for cell, outcome in self.engine.ended():
        settle(cell, outcome, self.retries, now)
    _look_again(self.cells, now)
    while self.engine.free() and (cell := _next_cell(self.cells, now)):
        job = self.folder / f"{cell.index}.json"
        cell.state, cell.tries, cell.started, cell.reason = "running", cell.tries + 1, now, ""
        try:
            self.engine.start(cell, job)
        except OSError as e:
            settle(cell, outcome_of(e), self.retries, now)
    self.tell(now)


# %% [markdown]
# In the script the first run succeeds and the second crashes once; two seconds after the crash it is tried again.

# %%
turns = []
for now in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0):
    toy.turn(now)
    turns.append([c.state for c in three])
for now, states in enumerate(turns):
    print(now, *states)

# %%
assert [t[:2] for t in turns] == [
    ["running", "waiting"],
    ["done", "running"],
    ["done", "waiting"],
    ["done", "waiting"],
    ["done", "running"],
    ["done", "done"],
] and three[1].tries == 2
assert [c["state"] for c in toy.kept["cells"]] == ["done", "done", "failed"] and not toy.open


class Full(Scripted):
    def start(self, cell, job):
        raise OSError(28, "No space left on device")


(full := Sweep([a_cell(0, 6)], Full())).turn(0.0)
assert (
    full.cells[0].state == "waiting"
    and full.cells[0].after == PAUSE
    and "No space left" in full.cells[0].reason
)


# %% [markdown]
# After Ctrl-C, or the SIGTERM of a queue, the workers and their kernels are stopped, and a message gives the remaining runs and the command that
# resumes the sweep. A stopped run resumes from its last checkpoint. A second Ctrl-C stops at once.

# %%
#| export
@patch
def run(self: Sweep, every: float = 0.25) -> list[Cell]:
    "Run until no cell is left. Raises: Interrupted, after the workers were stopped."
    if self.folder is None:
        return self.cells
    with stoppable(lambda: self.engine.stop(0)) as asked, lock(self.folder / "lock"), self.show:
        try:
            while self.open and not asked.is_set():
                self.turn(time.time())
                asked.wait(every)
        finally:
            self.engine.stop()
            for cell in self.cells:
                if cell.state == "running":
                    cell.state, cell.reason = "waiting", "stopped"
            self.tell(time.time(), ended=time.time())
    if self.show.on:
        print(headline(self.kept, time.time()), flush=True)
    if asked.is_set():
        raise Interrupted(
            f"stopped; {headline(self.kept, time.time())}. To go on:"
            f" {self.command or 'start it again'}"
        )
    return self.cells


# %% [markdown]
# Python receives signals in the main thread of a process only, where a notebook may not run. In the example the engine sets the event in place of a signal: the first run is done, and the user stops during the second.

# %%
class Asked(Scripted):
    def start(self, cell, job):
        super().start(cell, job)
        if cell.index:
            enough.set()


enough, signals = threading.Event(), stoppable


def stoppable(at_once):
    return nullcontext(enough)


cut = Sweep([a_cell(i, i) for i in range(3)], Asked("done"), command="fairgrape sweep grid.yaml")
try:
    cut.run(0.01)
except Interrupted as e:
    print(e)
else:
    raise AssertionError("it was not stopped")
finally:
    stoppable = signals

# %%
assert (
    [(c.state, c.reason) for c in cut.cells]
    == [("done", "said so"), ("waiting", "stopped"), ("waiting", "")]
    and cut.engine.stopped == [10.0]
    and cut.kept["ended"] > 0
)
two = Sweep([a_cell(0, 0), a_cell(1, 1)], Scripted("done", "failed"))
assert (
    [c.state for c in two.run(0.01)] == ["done", "failed"]
    and two.engine.stopped == [10.0]
    and not held(two.folder / "lock")
)
assert Sweep(three[2:], None).run() == three[2:]


# %% [markdown]
# The command calls one function for all of this.

# %%
#| export
def sweep(
    cells: list[dict] | list[Cell],  # Parameters of each run, or cells that are numbered already
    engine=None,  # Makes the runs; None: worker processes on this machine
    workers: int = 0,  # Processes at once; 0: one per GPU, or one
    gpus_per_run: int = 1,  # GPUs for one run
    retries: int = 2,  # How often a crash is tried again
    accept_older: bool = False,  # Let finished runs of other code count
    show: bool = True,  # Show the progress
    command: str = "",  # The command that resumes, for the message after an interruption
) -> list[Cell]:  # The cells with their final states
    """Make all runs that do not exist yet. One failure does not stop the others.

    Raises: ValueError or TypeError for invalid settings, before anything starts; Interrupted after
    Ctrl-C."""
    found = cells if all(isinstance(c, Cell) for c in cells) else numbered(cells)
    engine = engine or Local(
        workers, gpus_per_run, str(found[0].parameters.get("device", "")) if found else ""
    )
    return Sweep(plan(found, accept_older), engine, retries, Show(show), command).run()


# %% [markdown]
# One example with real runs, on a minimal data set. One of three cells is impossible; the two others need the same dense network, so the second waits until the first has trained it.

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
    network="resnet10",
    weights="none",
    image_size=16,
    epochs="1",
    lrs="1e-3",
    batch=16,
    augment="none",
    bootstrap=100,
    data_root=str(tmp),
    runs_root=str(tmp / "runs"),
    cache_root=str(tmp / "cache"),
    method="ws",
)
grid = grid_cells(
    dict(cells=[dict(rate=[0.5, 0.6], groups="tint"), dict(rate=0.5, groups="hue")]), tiny
)
ended = sweep(grid, workers=2)
[(c.words, c.state, c.reason[:40]) for c in ended]

# %%
assert [c.state for c in ended] == ["done", "done", "failed"] and ended[0].tries == ended[
    1
].tries == 1
assert (
    all(state_of(Path(c.job.folder), code_version()) == "complete" for c in ended[:2])
    and ended[0].job.dense == ended[1].job.dense
    and _dense_ready(ended[0].job)
)
# a second start does nothing
assert [c.state for c in sweep(grid[:2], Scripted(), show=False)] == ["complete"] * 2
record, again = sweeps(tmp / "runs")
assert [(c.index, c.state) for c in sweep(one_cell(grid, 1), Scripted(), show=False)] == [
    (1, "complete")
]
assert (
    [c["state"] for c in record["cells"]] == ["done", "done", "failed"]
    and not record["alive"]
    and [c["state"] for c in again["cells"]] == ["complete"] * 2
)


# %% [markdown]
# The folders of the runs, for a report:

# %%
#| export
def folders(cells: list[Cell]) -> list[Path]:
    "The folders of the complete runs."
    return [Path(c.job.folder) for c in cells if c.state in ("done", "complete")]


# %%
assert folders(ended) == [Path(c.job.folder) for c in ended[:2]] and folders(
    [replace(ended[0], state="complete"), replace(ended[1], state="waiting")]
) == [Path(ended[0].job.folder)]
[f.name for f in folders(ended)]


# %% [markdown]
# The failures, with their logs. A cell that could not be planned was never tried and has no log.

# %%
#| export
def failures(cells: list[Cell]) -> list[str]:
    "A line for each failed cell, with the path of its log."
    return [
        f"[{c.index}] {c.words}: {c.reason}"
        + (f" (log: {log_file(c)})" if c.job and c.tries else "")
        for c in cells
        if c.state == "failed"
    ]


# %%
print(*failures(ended), sep="\n")

# %%
assert (
    len(failures(ended)) == 1
    and "no label column 'hue'" in failures(ended)[0]
    and "log" not in failures(ended)[0]
)
crashed = replace(ended[0], state="failed", reason="Killed")
assert failures([crashed]) == [f"[0] {crashed.words}: Killed (log: {log_file(crashed)})"]
