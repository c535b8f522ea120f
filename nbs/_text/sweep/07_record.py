# %% [markdown]
# # Sweep record
#
# > The record of a sweep on the disk, and the table made from it, live or in another terminal

# %%
#| default_exp sweep.record

# %%
#| export
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from fastcore.basics import patch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fairgrape.experiment.paths import root
from fairgrape.sweep.grid import Cell
from fairgrape.sweep.jobs import progress_text, read_progress
from fairgrape.training.files import held

# %%
import io
import subprocess
import tempfile
from contextlib import redirect_stdout
from functools import partial

from fairgrape.sweep.jobs import RunJob
from fairgrape.training.files import lock, write_json

tmp = Path(tempfile.mkdtemp())
# plain text, rather than HTML in a notebook or colours on a terminal
Console = partial(Console, force_jupyter=False, force_terminal=False)

# %% [markdown]
# A sweep writes its state to `.sweeps/<id>/sweep.json` at every change, and each run writes its progress to its own folder. The live table and `fairgrape status`, in any terminal, are one function of these files, so both are correct even after a process was killed.
#
# ## The record

# %%
#| export
KEPT = ("index", "words", "state", "reason", "tries", "started", "seconds", "plan")


def record_of(
    cells: list[Cell],  # All cells
    **about,  # command, started, host, pid, workers, ended
) -> dict:  # Plain values
    "The record of a sweep."
    return about | dict(
        cells=[
            {k: getattr(c, k) for k in KEPT}
            | dict(folder=c.job.folder if c.job else "", dense=c.job.dense if c.job else "")
            for c in cells
        ]
    )


# %% [markdown]
# Four cells: one done in a minute, one that has been running for 75 seconds, one that waits, and one that could not be planned and has no folder.

# %%
def a_cell(number: int, **more) -> Cell:
    "A cell with a folder"
    return Cell(
        number,
        {},
        f"ws 0.{number + 5}",
        RunJob(str(tmp / "runs" / f"ws-{number}"), {}, "", str(tmp / "runs" / "dense-0")),
        **more,
    )


NOW = 1_000_000.0
cells = [
    a_cell(0, state="done", tries=1, seconds=61.0),
    a_cell(1, state="running", tries=1, started=NOW - 75),
    a_cell(2),
    Cell(3, {}, "ws hue", state="failed", reason="ValueError: no label column 'hue'"),
]
record = record_of(cells, started=NOW - 200, command="fairgrape sweep grid.yaml", workers=2)
record["cells"][0] | {k: Path(record["cells"][0][k]).name for k in ("folder", "dense")}

# %%
assert (
    json.loads(json.dumps(record)) == record
    and record["workers"] == 2
    and [c["state"] for c in record["cells"]] == ["done", "running", "waiting", "failed"]
)
assert (
    record["cells"][1]["dense"] == cells[1].job.dense
    and record["cells"][3]["folder"] == record["cells"][3]["dense"] == ""
)


# %% [markdown]
# ## A line for each run
#
# Times have the form of a clock.

# %%
#| export
def clock(seconds: float) -> str:
    "`1:02:03`, or `2:03` under an hour."
    minutes, s = divmod(int(max(0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}" if minutes >= 60 else f"{minutes}:{s:02}"


# %%
assert [clock(s) for s in (59.9, 60, 3599, 3723, 360_000, -5)] == [
    "0:59",
    "1:00",
    "59:59",
    "1:02:03",
    "100:00:00",
    "0:00",
]
clock(3723)


# %% [markdown]
# The remaining time of a run follows from its epochs: 3 of 8 in a minute are 20 seconds each, so the other 5 take 100 seconds. This is an estimate, because importance and intervals are not epochs.

# %%
#| export
def remaining(progress: Mapping) -> float | None:
    "Estimated remaining seconds of a run, from its epochs so far; None if unknown."
    done, total = progress.get("done", 0), progress.get("total", 0)
    return progress["seconds"] / done * (total - done) if done and total else None


# %%
assert (
    remaining(dict(done=3, total=8, seconds=60.0)) == 100
    and remaining(dict(done=8, total=8, seconds=60.0)) == 0
)
assert remaining({}) is None and remaining(dict(done=0, total=8, seconds=1.0)) is None
remaining(dict(done=3, total=8, seconds=60.0))


# %%
#| export
def _run_row(cell: Mapping, now: float) -> tuple[str, str, str, str, str]:
    "Number, words, state, time and a remark of one cell."
    progress = read_progress(cell["folder"], cell["dense"]) if cell["state"] == "running" else {}
    left = remaining(progress)
    passed = now - cell["started"] if cell["state"] == "running" else cell["seconds"]
    remark = progress_text(progress) or (
        "starting" if cell["state"] == "running" else cell["reason"]
    )
    return (
        str(cell["index"]),
        cell["words"],
        cell["state"],
        clock(passed) if passed else "",
        remark + (f", {clock(left)} to go" if left is not None else ""),
    )


# %%
before = _run_row(record["cells"][1], NOW)  # without progress so far
Path(cells[1].job.folder).mkdir(parents=True)
write_json(
    Path(cells[1].job.folder) / "progress.json",
    dict(label="final", epoch="3 of 4", done=3, total=8, seconds=60.0, updated=""),
)
for row in record["cells"]:
    print(_run_row(row, NOW))

# %%
assert before == ("1", "ws 0.6", "running", "1:15", "starting")
assert _run_row(record["cells"][1], NOW) == (
    "1",
    "ws 0.6",
    "running",
    "1:15",
    "final, epoch 3 of 4 (3 of 8 epochs), 1:40 to go",
)
assert _run_row(record["cells"][0], NOW) == ("0", "ws 0.5", "done", "1:01", "") and _run_row(
    record["cells"][3], NOW
)[3:] == ("", "ValueError: no label column 'hue'")


# %% [markdown]
# ## The headline
#
# The headline estimates the remaining time of a sweep. A waiting run counts with the average time of the runs that are done; a running one with its own estimate, or else the rest of that average. The workers share the sum, but a sweep cannot end before its longest run.

# %%
#| export
def _left(record: Mapping, now: float) -> float:
    "Estimated remaining seconds of a sweep; 0 if unknown, or if it has ended."

    def of(state):
        return [c for c in record["cells"] if c["state"] == state]

    if not of("done") or record.get("ended"):
        return 0
    mean = sum(c["seconds"] for c in of("done")) / len(of("done"))
    running = [
        remaining(read_progress(c["folder"], c["dense"])) or max(0.0, mean - now + c["started"])
        for c in of("running")
    ]
    return max(
        max(running, default=0.0),
        (sum(running) + len(of("waiting")) * mean) / max(1, record.get("workers", 1)),
    )


# %% [markdown]
# By hand: 100 seconds for the running cell and 61 for the waiting one. One worker needs both, 161; two workers need the longer one; three need no less. A run without progress after 21 seconds has 40 left.

# %%
assert [_left(record | dict(workers=n), NOW) for n in (1, 2, 3)] == [161, 100, 100] and _left(
    record | dict(workers=0), NOW
) == 161
assert (
    _left(record | dict(ended=NOW), NOW)
    == 0
    == _left(record | dict(cells=record["cells"][1:]), NOW)
)
silent = record["cells"][1] | dict(folder="", started=NOW - 21)
assert _left(record | dict(cells=[record["cells"][0], silent]), NOW) == 40
_left(record | dict(workers=1), NOW)


# %%
#| export
def headline(record: Mapping, now: float) -> str:
    "`6 of 24 there, 2 running, 15 waiting, 1 failed; about 1:02:03 to go`"
    states = [c["state"] for c in record["cells"]]
    there = sum(s in ("done", "complete") for s in states)
    counts = [
        f"{states.count(s)} {word}"
        for s, word in (
            ("running", "running"),
            ("waiting", "waiting"),
            ("elsewhere", "in another sweep"),
            ("failed", "failed"),
        )
        if s in states
    ]
    left = _left(record, now)
    return (
        f"{there} of {len(states)} there"
        + "".join(f", {part}" for part in counts)
        + (f"; about {clock(left)} to go" if left else "")
    )


# %%
assert headline(record, NOW) == "1 of 4 there, 1 running, 1 waiting, 1 failed; about 1:40 to go"
assert (
    headline(
        dict(cells=[dict(state=s, seconds=1.0) for s in ("complete", "done", "elsewhere")]), NOW
    )
    == "2 of 3 there, 1 in another sweep"
)
headline(record, NOW)

# %% [markdown]
# ## The table
#
# The table shows the runs that are running, have failed or wait for another sweep, and the last three that are done.

# %%
#| export
SHOWN = ("running", "failed", "elsewhere")  # states in which each cell has a line


def _shown(record: Mapping, every: bool) -> list[Mapping]:
    "The cells with a line in the table."
    rows = [c for c in record["cells"] if every or c["state"] in SHOWN]
    return rows + [c for c in record["cells"] if c["state"] == "done" and not every][-3:]


# %%
five = dict(
    cells=[dict(index=i, state="done") for i in range(5)]
    + [dict(index=5, state="running"), dict(index=6, state="waiting")]
)
assert [c["index"] for c in _shown(five, False)] == [5, 2, 3, 4] and [
    c["index"] for c in _shown(five, True)
] == list(range(7))
[c["index"] for c in _shown(five, False)]


# %%
#| export
def sweep_table(
    record: Mapping,  # From `record_of`, or read from the disk
    now: float,  # Seconds since 1970
    most: int = 40,  # Maximum number of lines
    every: bool = False,  # A line for each cell, not only those that run or failed
) -> Group:  # For rich to print
    "A sweep as a headline and a table."
    rows = _shown(record, every)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(rows))
    for name in ("#", "run", "state", "time", ""):
        table.add_column(
            name,
            justify="right" if name in ("#", "time") else "left",
            overflow="fold" if not name else "ellipsis",
            no_wrap=bool(name),
        )
    colours = dict(running="cyan", failed="red", done="green", complete="green")
    for cell in rows[:most]:
        table.add_row(*map(Text, _run_row(cell, now)), style=colours.get(cell["state"], ""))
    more = [Text(f"… and {len(rows) - most} more")] if len(rows) > most else []
    return Group(Text(headline(record, now), style="bold"), table, *more)


# %%
Console(width=140).print(sweep_table(record, NOW))


# %%
def printed(**how) -> list[str]:
    console = Console(width=140, file=io.StringIO())
    console.print(sweep_table(record, NOW, **how))
    return console.file.getvalue().splitlines()


assert (
    printed()[0] == headline(record, NOW)
    and printed()[1].split() == ["#", "run", "state", "time"]
    and len(printed()) == 5
)
assert (
    len(printed(every=True)) == 6
    and len(printed(every=True, most=3)) == 6
    and printed(every=True, most=3)[-1].strip() == "… and 1 more"
)
record["cells"][3]["words"] = "ws [bold]"  # not interpreted as markup
assert "ws [bold]" in printed()[3]


# %% [markdown]
# On a terminal the table is at the bottom and refreshes. In a file there is a line for each event, and the headline once a minute.

# %%
#| export
class Show:
    "Show the progress of a sweep: a live table on a terminal, else lines."

    def __init__(self, on: bool = True, every: float = 60.0):
        self.console = Console(stderr=False)
        self.on = on
        self.every = every
        self.said = {}
        self.last = time.time()
        # independent of FORCE_COLOR, which notebooks set
        self.live = (
            Live(console=self.console, auto_refresh=False, transient=True)
            if on and sys.stdout.isatty()
            else None
        )

    def __enter__(self):
        self.live and self.live.start()
        return self

    def line(self, text: str):
        print(f"{datetime.now():%H:%M:%S} {text}", flush=True)

    def __exit__(self, *_):
        with suppress(OSError):
            self.live and self.live.stop()

    def __call__(self, record: Mapping, now: float):
        "Show the changes after the last call; nothing more once the output is closed."
        try:
            if self.live:
                self.live.update(
                    sweep_table(record, now, max(4, self.console.height - 6)), refresh=True
                )
            elif self.on:
                self.tell(record, now)
        except OSError:
            self.mute()


# %%
class Stage:
    "Stands for rich's live display: the contents of the terminal"

    def __init__(self):
        self.done = []

    def start(self):
        self.done.append("start")

    def stop(self):
        self.done.append("stop")

    def update(self, table, refresh):
        self.done.append(table.renderables[0].plain)


show = Show()
show.live = stage = Stage()
with show:
    show(record, NOW)
stage.done

# %%
assert stage.done == ["start", headline(record, NOW), "stop"]
with Show(False) as silent, redirect_stdout(io.StringIO()) as told:
    silent(record, NOW)
assert silent.live is None and told.getvalue() == ""


# %% [markdown]
# A terminal may close, the reader of a pipe may stop, the disk of the log may be full. The sweep continues in each case, and `fairgrape status` still shows it.

# %%
#| export
@patch
def mute(self: Show):
    "Stop all output, and discard that of others so it cannot fail."
    self.live, self.on = None, False
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


# %%
code = (
    "import sys, time; from fairgrape.sweep.record import Show\nshow = Show(every=0)\nfor _ in"
    " range(3): show(dict(cells=[]), time.time()); time.sleep(.2)\nprint('more'); print(show.on,"
    " file=sys.stderr)"
)
reader = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
)
reader.stdout.readline()
reader.stdout.close()  # as `| head -1` does
said = reader.stderr.read(), reader.wait()
assert said == ("False\n", 0)
said


# %% [markdown]
# In a file, a line appears when a cell differs from its last line. A cell that waits for its first try gets none, and neither does one that was complete before the sweep began.

# %%
#| export
@patch
def tell(self: Show, record: Mapping, now: float):
    "A line for each cell that changed, and the headline at intervals."
    for cell in record["cells"]:
        state = (cell["state"], cell["tries"], cell["reason"])
        if (
            self.said.get(cell["index"], ("waiting", 0, "")) != state
            and cell["state"] != "complete"
        ):
            self.line(" ".join(filter(None, (f"[{cell['index']}]", *_run_row(cell, now)[1:]))))
        self.said[cell["index"]] = state
    if now - self.last >= self.every:
        self.last = now
        self.line(headline(record, now))


# %% [markdown]
# Three calls. At the second nothing has changed, but a minute has passed; at the third the waiting cell has started.

# %%
show, lines = Show(), []
show.live, show.line, show.last = None, lines.append, NOW
begun = json.loads(json.dumps(record))
begun["cells"][2] |= dict(state="running", tries=1, started=NOW + 60)
show(record, NOW), show(record, NOW + 60), show(begun, NOW + 60)
lines

# %%
assert (
    [line.split(" ", 1)[0] for line in lines] == ["[0]", "[1]", "[3]", "1", "[2]"]
    and lines[0] == "[0] ws 0.5 done 1:01"
    and lines[4] == "[2] ws 0.7 running starting"
)
with redirect_stdout(io.StringIO()) as told:
    Show().line("3 of 4 there")
assert told.getvalue()[8:] == " 3 of 4 there\n" and show.last == NOW + 60


# %% [markdown]
# ## From any terminal
#
# A killed sweep cannot record its end. Whether a sweep is under way is therefore not in the record: a running sweep holds a lock, which the system releases.

# %%
#| export
def sweeps(
    runs_root: Path,  # The runs folder
) -> list[dict]:  # Their records, the latest last, with `alive`
    "The sweeps that were started on a runs folder."
    found = []
    for file in sorted(Path(runs_root).glob(".sweeps/*/sweep.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and "cells" in record:
            found.append(record | dict(id=file.parent.name, alive=held(file.with_name("lock"))))
    for record in found:
        for cell in record["cells"]:
            if cell["state"] == "running" and not record["alive"]:
                cell["state"], cell["reason"] = "waiting", "its sweep was killed"
    return found


# %% [markdown]
# One sweep that ended, one that was killed and left its record, one with a truncated record, and one file that is no record:

# %%
home = tmp / "home"
about = dict(host="server", pid=4711, started=NOW, workers=2, command="fairgrape sweep grid.yaml")
for name, what in (
    ("1", record | about | dict(ended=NOW + 99, cells=record["cells"][:1])),
    ("2", record | about | dict(ended=0.0)),
):
    (home / ".sweeps" / name).mkdir(parents=True)
    write_json(home / ".sweeps" / name / "sweep.json", what)
for name, text in (("3", '{"cells": ['), ("4", "{}")):
    (home / ".sweeps" / name).mkdir()
    (home / ".sweeps" / name / "sweep.json").write_text(text)
[(r["id"], r["alive"], [c["state"] for c in r["cells"]]) for r in sweeps(home)]

# %%
assert [(r["id"], r["alive"], [c["state"] for c in r["cells"]]) for r in sweeps(home)] == [
    ("1", False, ["done"]),
    ("2", False, ["done", "waiting", "waiting", "failed"]),
]
assert (
    sweeps(home)[1]["cells"][1]["reason"] == "its sweep was killed" and sweeps(tmp / "none") == []
)
with lock(home / ".sweeps" / "2" / "lock"):
    assert sweeps(home)[1]["alive"] and sweeps(home)[1]["cells"][1]["state"] == "running"


# %%
#| export
def _fate(record: Mapping) -> str:
    "The state of a sweep, in words."
    if record["alive"]:
        return "under way"
    if not record["ended"]:
        return "was killed"
    return "stopped" if any(c["state"] == "waiting" for c in record["cells"]) else "ended"


# %%
fates = [
    _fate(dict(alive=alive, ended=ended, cells=[dict(state=state)]))
    for alive, ended, state in (
        (True, 0.0, "running"),
        (False, 0.0, "waiting"),
        (False, NOW, "waiting"),
        (False, NOW, "failed"),
    )
]
assert fates == ["under way", "was killed", "stopped", "ended"]
fates


# %% [markdown]
# A run started alone is in no sweep's record, but its folder has a progress file until it is complete. Again, its lock shows whether a process computes it.

# %%
#| export
def _single_runs(
    runs_root: Path,  # The runs folder
    records: Sequence[Mapping] = (),  # From `sweeps`; the runs of a living one are left out
) -> list[dict]:  # name, progress, held, updated (seconds since 1970); the latest last
    "The runs that were started, are not complete, and belong to no sweep under way."
    swept = {
        Path(cell[kind]).name
        for record in records
        if record["alive"]
        for cell in record["cells"]
        for kind in ("folder", "dense")
        if cell[kind]
    }
    found = []
    for file in Path(runs_root).glob("*/progress.json"):
        folder = file.parent
        if folder.name in swept or (folder / "metrics.json").is_file():
            continue
        with suppress(OSError):  # it may be complete by now
            found.append(
                dict(
                    name=folder.name,
                    progress=read_progress(folder),
                    held=held(folder.parent / ".locks" / f"{folder.name}.lock"),
                    updated=file.stat().st_mtime,
                )
            )
    return sorted(found, key=lambda one: one["updated"])


def _single_line(
    one: Mapping,  # From `_single_runs`
    now: float,  # Seconds since 1970
) -> str:
    "The progress of a single run, its age, and whether a process computes the run."
    left, age = remaining(one["progress"]), clock(now - one["updated"])
    ahead = f", {clock(left)} to go" if left is not None else ""
    fate = "under way" if one["held"] else "not running; start it again and it goes on from there"
    return f"{one['name']}: {progress_text(one['progress'])}{ahead} ({fate}; {age} ago)"


# %%
alone = tmp / "alone"
for name, age in (("ws-1", 60), ("fairgrape-2", 5), ("done-3", 1)):
    (alone / name).mkdir(parents=True)
    what = dict(label="step 3", epoch="2 of 3", done=10, total=40, seconds=100.0)
    write_json(alone / name / "progress.json", what)
    os.utime(alone / name / "progress.json", (NOW - age, NOW - age))
(alone / "done-3" / "metrics.json").write_text("{}")
(alone / ".locks").mkdir()
with lock(alone / ".locks" / "fairgrape-2.lock"):
    both = _single_runs(alone)
for one in both:
    print(_single_line(one, NOW))

# %%
assert [(one["name"], one["held"]) for one in both] == [("ws-1", False), ("fairgrape-2", True)]
# 10 of 40 epochs took 100 seconds: 30 more take 300
assert _single_line(both[1], NOW) == (
    "fairgrape-2: step 3, epoch 2 of 3 (10 of 40 epochs), 5:00 to go (under way; 0:05 ago)"
)
assert "not running" in _single_line(both[0], NOW) and "1:00 ago" in _single_line(both[0], NOW)
swept = dict(alive=True, cells=[dict(folder=str(alone / "x"), dense=str(alone / "ws-1"))])
assert [one["name"] for one in _single_runs(alone, [swept])] == ["fairgrape-2"]
assert len(_single_runs(alone, [swept | dict(alive=False)])) == 2 and _single_runs(tmp / "no") == []


# %%
#| export
def status(
    runs_root: str | Path | None = None,  # The runs folder; default: settings.ini
    every: bool = False,  # All sweeps and all cells
    width: int | None = None,  # Characters in a line; None: the terminal's
) -> int:  # Sweeps under way
    "Print the sweeps under way, or else the last one, and the incomplete single runs."
    home, console, now = root("runs", runs_root), Console(width=width), time.time()
    found = sweeps(home)
    alive, single = [r for r in found if r["alive"]], _single_runs(home, found)
    if not found and not single:
        console.print(f"no sweep was started on {home}, and no run is under way", soft_wrap=True)
    for record in found if every else alive or found[-1:]:
        about = (
            f"{_fate(record)}; {record['host']}, process {record['pid']}, started"
            f" {datetime.fromtimestamp(record['started']):%Y-%m-%d %H:%M}"
        )
        console.print(Text(f"\n{record['command'] or record['id']} ({about})"), soft_wrap=True)
        console.print(sweep_table(record, now, 10**6 if every else 40, every))
    for one in single:
        console.print(Text(_single_line(one, now)), soft_wrap=True)
    return len(alive)


# %%
status(home, width=140)


# %%
def said(*where, **how) -> tuple[int, str]:
    with redirect_stdout(io.StringIO()) as told:
        alive = status(*where, width=140, **how)
    return alive, told.getvalue()


assert (
    said(home)[0] == 0
    and said(home)[1].count("grid.yaml (") == 1
    and "grid.yaml (was killed; server, process 4711, started 1970-01-1" in said(home)[1]
)
assert (
    said(home, every=True)[1].count("grid.yaml (") == 2
    and "ws 0.7" not in said(home)[1]
    and "ws 0.7" in said(home, every=True)[1]
)
with lock(home / ".sweeps" / "1" / "lock"):
    assert (
        said(home)[0] == 1
        and "grid.yaml (under way" in said(home)[1]
        and "was killed" not in said(home)[1]
    )
none = f"no sweep was started on {(tmp / 'none').resolve()}, and no run is under way\n"
assert said(tmp / "none") == (0, none)
lines = said(alone)[1].splitlines()
assert len(lines) == 2 and lines[1].startswith("fairgrape-2: step 3") and "sweep" not in lines[0]
