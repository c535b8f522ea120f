# %% [markdown]
# # Batches of runs
#
# > A small grid is planned, run by two workers, interrupted and taken up again; then the same on GPU servers, Slurm and Ray

# %% [markdown]
# One run says little. A comparison needs methods × rates × seeds, dozens or hundreds of runs. They run overnight, unattended, on machines that restart. `fairgrape sweep` makes each run of a grid once, whatever fails in between. This page goes through
# such a night on a small scale: four runs on rendered faces, two workers, and a Ctrl-C in the middle. The last part says what changes on GPUs and clusters; the commands there were *not* run on this page, and each says so.

# %%
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from IPython.utils.capture import capture_output
from matplotlib.patches import Patch

from fairgrape.cli import main
from fairgrape.report.comparison import display_table, report_table, verdicts
from fairgrape.report.figures import html_figure
from fairgrape.report.runs import find_runs
from fairgrape.sweep.grid import one_cell, read_grid
from fairgrape.sweep.local import worker_slots
from fairgrape.sweep.record import sweeps

home = Path(tempfile.mkdtemp())
RUNS = home / "runs"


def show(fig, caption, description):
    "The figure as HTML, with a description for whoever cannot see it"
    fig.set_label(description)
    plt.close(fig)
    return HTML(html_figure(fig, caption))


# %% [markdown]
# Shell commands stand after a `$`. The function below passes them to `main`, which the command `fairgrape` calls, and shows the output without the names of temporary folders.

# %%
def shell(command):
    "Run a `fairgrape` command, print what it says, give back its exit status"
    with capture_output() as seen:
        status = main(shlex.split(command)[1:])
    # tables are displayed, not printed, in Jupyter
    said = "".join(out.data["text/plain"] for out in seen.outputs) + seen.stdout + seen.stderr
    print(clean(f"$ {command}\n{said}"))
    return status, said


def clean(said):
    "Without colours, folders and the machine's name"
    plain = re.sub(r"\x1b\[[\d;]*m| +$", "", said, flags=re.M)
    return plain.replace(f"{home}/", "").replace(socket.gethostname(), "server").rstrip()


# %% [markdown]
# ## The grid
#
# A YAML file. A line is a setting; a list multiplies; `cells` is for what does not multiply. The small numbers make each run a matter of seconds. The last line has a mistake, as most first grids do: rendered faces have no column `hair`.

# %%
grid = home / "grid.yaml"
grid.write_text(f"""
dataset: synthetic
task: expression
groups: tone
split: official
limit: 800              # images
network: resnet10
weights: none
image_size: 16
epochs: "1"             # a toy: nothing is learnt in one epoch
lrs: "4e-3"
rate: 0.9
keep: 0.3
retrain_epochs: 1
importance_cap: 40
augment: none
bootstrap: 200
data_root: {home}
cache_root: {home}/cache
runs_root: {RUNS}
cells:
  - {{method: ws, seed: [0, 1]}}
  - {{method: fairgrape, seed: 0}}
  - {{method: ws, groups: hair}}
""")
pd.DataFrame(read_grid(str(grid)))[
    ["dataset", "method", "rate", "seed", "groups", "network", "image_size"]
].fillna("")

# %%
assert len(read_grid(str(grid))) == 2 + 1 + 1

# %% [markdown]
# An impossible setting stops the grid at once, before anything is read or trained.

# %%
status, said = shell(f"fairgrape sweep {grid} --rate '0.9 1.5'")

# %%
assert status == 2 and "rate" in said and not RUNS.exists()

# %% [markdown]
# ## The plan
#
# `--dry_run` reads the labels and says for each run where it would lie and what would be done. The folder's name ends in a hash of every setting that changes the result, so equal settings find the equal folder, today and in a year. Here the mistake shows: one run cannot be planned, which does not stop the others.

# %%
status, said = shell(f"fairgrape sweep {grid} --dry_run")

# %%
assert (
    status == 0
    and said.count(": run (") == 3
    and said.count("cannot:") == 1
    and "no label column 'hair'" in said
)


# %% [markdown]
# ## Two workers, and a Ctrl-C
#
# Pruned networks start from a dense one. Two seeds are two dense networks, so both workers can begin at once, each with its share of the cores. The third run starts from the same network as the first. It starts only when that network is trained, since it would have to wait for it.
#
# This sweep is a process of its own, as in a terminal. When a run is done and others are under way we look at `fairgrape status`, as one would from another terminal, and then send what Ctrl-C sends.

# %%
#| slow
def states():
    return [cell["state"] for record in sweeps(RUNS)[-1:] for cell in record["cells"]]


command = f"fairgrape sweep {grid} --workers 2 --no_report"
words = [Path(sys.executable).with_name("fairgrape"), *shlex.split(command)[1:]]
# lines rather than a live table
plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
# in the background of a script, and so would the sweep
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
with (home / "sweep.log").open("w") as log:
    process = subprocess.Popen(words, stdout=log, stderr=log, env=plain)
while process.poll() is None and not (
    set(states()) >= {"done", "running"} and list(RUNS.glob("*/progress.json"))
):
    time.sleep(0.05)
status, said = shell(f"fairgrape status --runs_root {RUNS}")

# %%
#| slow
assert (
    status == 0
    and "under way" in said
    and "1 failed" in said
    and {"done", "running"} <= set(states())
)

# %%
#| slow
process.send_signal(signal.SIGINT)  # Ctrl-C
process.wait(900)
said = (home / "sweep.log").read_text()
print(clean(said))

# %% [markdown]
# The sweep prints a line for each event (on a terminal it is a table that refreshes), then what is there, what is left, and the command that goes on. The exit status is 130, as after any Ctrl-C. Workers and their kernels are gone with the sweep.

# %%
#| slow
(first,) = sweeps(RUNS)
assert process.returncode == 130 and "To go on: fairgrape sweep" in said and not first["alive"]
assert (
    states().count("failed") == 1
    and "done" in states()
    and "waiting" in states()
    and "running" not in states()
)

# %% [markdown]
# From now on, and from any terminal, `status` says the same: it reads files, and asks nobody.

# %%
#| slow
status, said = shell(f"fairgrape status --runs_root {RUNS}")

# %%
#| slow
assert status == 0 and "stopped" in said and "1 failed" in said
assert "running" not in said.replace("not running", "")  # a run that was stopped is named, too

# %% [markdown]
# ## Going on
#
# The same command. What is done is left alone, and interrupted runs go on from their last checkpoint; there is one after each epoch and each selection. A power cut is no different.

# %%
#| slow
when = {
    c["folder"]: Path(c["folder"], "prune.ipynb").stat().st_mtime_ns
    for c in first["cells"]
    if c["state"] == "done"
}
status, said = shell(f"fairgrape sweep {grid} --workers 2 --no_report")

# %%
#| slow
second = sweeps(RUNS)[-1]
assert status == 1 and "3 of 4 there, 1 failed" in said  # 1: something failed
# not touched again
assert all(Path(folder, "prune.ipynb").stat().st_mtime_ns == t for folder, t in when.items())
assert all(cell["tries"] == 0 for cell in second["cells"] if cell["folder"] in when)


# %%
#| slow
def draw(records):
    "What was worked on when, a row a run; each sweep has its colour and hatching"
    begun = min(r["started"] for r in records)
    styles = (
        dict(facecolor="#0072B2"),
        dict(facecolor="#E69F00", hatch="///", edgecolor="white", linewidth=0),
    )
    names = {c["index"]: c["words"].replace("groups=", "") for c in records[0]["cells"]}
    fig, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
    for record, style in zip(records, styles):
        for cell in (c for c in record["cells"] if c["tries"]):
            stop = (
                Path(cell["folder"], "prune.ipynb").stat().st_mtime
                if cell["state"] == "done"
                else record["ended"]
            )
            ax.barh(cell["index"], stop - cell["started"], 0.6, cell["started"] - begun, **style)
            if cell["state"] == "done":
                ax.annotate(" done", (stop - begun, cell["index"]), va="center", fontsize=9)
        ax.axvline(record["ended"] - begun, color="black", linestyle="--", linewidth=1)
    impossible = [c["index"] for c in records[0]["cells"] if c["state"] == "failed"]
    for row in impossible:
        ax.annotate(" cannot be planned", (0, row), va="center", fontsize=9)
    ax.set_yticks(list(names), names.values())
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=0.08)
    ax.set_xlabel("seconds since the first sweep began; dashed: a sweep ends")
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(
        [Patch(**s) for s in styles],
        ["first sweep, interrupted", "second sweep"],
        loc="outside lower center",
        ncols=2,
        fontsize=9,
    )
    return fig


def told(record):
    return "; ".join(
        f"{c['words']}: {'done' if c['state'] == 'done' else 'broken off'}"
        for c in record["cells"]
        if c["tries"]
    )


show(
    draw([first, second]),
    "Which run was worked on when, its start-up included",
    f"Bars on a time line, a row for each of four runs. First sweep, until Ctrl-C: {told(first)}. "
    f"Second sweep: {told(second)}. The run with groups hair has no bar: it cannot be planned.",
)

# %% [markdown]
# ## What failed
#
# A failure is a line with its reason, and if the run was started at all, with its log. Two kinds are told apart. What is wrong with the settings or the data fails at once and is not tried again, since it would fail again. A *crash* (a killed process, a full disk, no memory, a CUDA error) is
# tried twice more (`--retries`), and goes on from the last checkpoint each time. Either way the other runs go on.

# %%
#| slow
(failed,) = [c for c in second["cells"] if c["state"] == "failed"]
print(failed["words"], "→", failed["reason"])
logs = {
    file.name: file.read_text().count("--- ") for file in sorted((RUNS / ".logs").glob("*.log"))
}
pd.Series(logs, name="times started").rename_axis("log in runs/.logs").to_frame()

# %%
#| slow
assert (
    failed["tries"] == 0
    and "no label column 'hair'" in failed["reason"]
    and len(logs) == 3
    and 3 < sum(logs.values()) <= 5
)

# %% [markdown]
# With the mistake corrected the last run is the same as the first, and nothing is left to do. More seeds or methods are added in the same way: write them in and start the command again.

# %%
#| slow
grid.write_text(grid.read_text().replace("groups: hair", "groups: tone"))
status, said = shell(f"fairgrape sweep {grid} --dry_run")

# %%
#| slow
# the fourth is the first now, counted once
assert status == 0 and said.count("nothing, it is there") == 3

# %% [markdown]
# ## The report
#
# Unless interrupted, a sweep ends with [the report](reading_the_report.ipynb) over its runs folder: a page to send to someone (`runs/report.html`) and the notebook that made it. `fairgrape report` makes it at any time. The same as a table, here:

# %%
#| slow
runs = [run for run in find_runs(RUNS) if run.settings["method"] != "dense"]
table = report_table(runs)
display_table(table)[
    [
        "Method",
        "Rate",
        "Scope",
        "Seed",
        "Accuracy dense",
        "Accuracy",
        "ρ [95 %]",
        "Floor of ρ: mean, 95 %",
        "Test images",
    ]
]

# %%
#| slow
for sentence in verdicts(table, baseline="ws"):
    print(sentence)
assert (
    len(runs) == 3
    and sorted(table.label) == ["fairgrape", "ws", "ws"]
    and len(verdicts(table, "ws")) == 1
)
assert len(list(RUNS.glob("*-dense-*"))) == 2  # a dense network for each seed, trained once

# %% [markdown]
# One epoch on a few hundred faces of 16 pixels teaches nothing (guessing gives 20 %), and so neither do these figures. They only show that sweeps work, interruptions included.
#
# ## On a server with GPUs
#
# The same command. One run has one GPU, and as many runs go at once as there are GPUs:
#
# ```bash
# fairgrape sweep grid.yaml                        # not run here
# fairgrape sweep grid.yaml --gpus_per_run 2       # not run here
# ```
#
# You can ask, without such a machine, which worker gets what on four GPUs and 32 cores:

# %%
#| slow
pd.DataFrame(worker_slots(gpus=("0", "1", "2", "3"), cores=32)).rename_axis("worker")

# %%
#| slow
pd.DataFrame(worker_slots(gpus=("0", "1", "2", "3"), per_run=2, cores=32)).rename_axis("worker")

# %%
#| slow
assert [
    s["CUDA_VISIBLE_DEVICES"] for s in worker_slots(gpus=("0", "1", "2", "3"), per_run=2, cores=32)
] == ["0,1", "2,3"]
try:
    worker_slots(workers=5, gpus=("0", "1", "2", "3"))
except ValueError as e:
    print(e)
else:
    raise AssertionError("five workers were given four GPUs")

# %% [markdown]
# Leave out GPUs that are in use in the usual way, `CUDA_VISIBLE_DEVICES=2,3 fairgrape sweep …`. On a GPU the paper's protocol is the default: leave out of the grid everything that made it small here. `fairgrape calibrate` times a machine for two minutes and says how many hours the protocol would take on it
# ([sizing](../studies/05_sizing.ipynb)).
#
# ## Several GPUs for one run
#
# With `--gpus_per_run 2` a run starts two processes through accelerate: training shares each batch among them, importance shares whole batches and adds up sums and counts, evaluation is gathered. On one's own, without a sweep:
#
# ```bash
# fairgrape run --dataset utkface --task race --groups race --rate 0.99 --processes 2        # not run here
# ```
#
# In float64 the importance agrees with that of one process to nine digits and the masks are the same ones; augmentation draws differ, so a whole run is alike, not equal. [Parallel](../training/07_parallel.ipynb) shows it with two processes on a CPU.
#
# ## Slurm
#
# A job array has a scheduler of its own. Each task makes one run, by its number in the dry run, from 0:
#
# ```bash
# sbatch --array=0-23 --gres=gpu:1 --wrap 'fairgrape sweep grid.yaml --cell $SLURM_ARRAY_TASK_ID'        # not run here
# ```

# %%
#| slow
for number in (0, 2):
    (cell,) = one_cell(read_grid(str(grid)), number)
    print(number, "→", {k: cell.parameters[k] for k in ("method", "seed", "groups")})
status, said = shell(f"fairgrape sweep {grid} --cell 3")

# %%
#| slow
assert status == 2 and "choose 0 to 2" in said
assert [one_cell(read_grid(str(grid)), n)[0].parameters["method"] for n in (0, 2)] == [
    "ws",
    "fairgrape",
]

# %% [markdown]
# Tasks that need the same dense network wait for the one that trains it. A task that ran into its time limit is submitted again, and goes on from its checkpoint. The runs folder must be shared storage, and the report is made once, at the end: `fairgrape report`.
#
# ## Ray
#
# ```bash
# pip install 'fairgrape[ray]'                                                    # not run here
# fairgrape sweep grid.yaml --engine ray --address auto                           # not run here
# fairgrape sweep grid.yaml --engine ray --address auto --fetch /scratch/runs     # nodes without shared storage; not run here
# ```
#
# The same cells as tasks of a Ray cluster. A node that dies takes its runs with it; they are started on another one, and where the runs folder is shared they go on from their checkpoints. With `--fetch` each node has a runs folder of its own, and finished runs come back as files.
# [Ray sweep](../sweep/08_ray.ipynb) runs on two nodes on one machine, and its test takes one of them away in the middle.
#
# ## What a run survives
#
# After each epoch and each selection a run writes a checkpoint: weights, masks, optimizer, random states, number of threads and history. It is one file, renamed into place, with a checksum; safetensors and JSON, never a pickle. Started again on the same machine, a run ends with the same masks and metrics, bit for bit, as if it had never been killed, and repeats at most one epoch.
# `make faults` kills it a hundred times to see ([checkpoints](../training/04_journal.ipynb); a report of such a campaign is [faults.md](../../runs/showcase/faults.md)).
#
# A run counts as done when every cell of its notebook went through, `metrics.json`, which is written last, is there, and both came from the code that is installed now. A finished run of older code is made again and the old one kept in `runs/.older/`, unless `--accept_older` lets it count. A sweep computes with the code and the data that it was planned with: a run that would meet others fails and says so.
# Under `nohup` a sweep goes on when the connection is lost. Each run is a process of its own with a kernel of its own, so each imports torch and the rest, which takes some ten seconds on a slow core.
#
# ## Larger runs
#
# `--precision bf16`, `--accumulate 4` and `--compiled True` are settings as well. The importance of G groups for every weight lies where there is room: on the device, on the host or in mapped files (`--keep_on`). With several processes, batch norm is SyncBatchNorm on CUDA and local to each process on a CPU.
# None of the CUDA paths has run on a GPU yet: they were written for one and tested on a CPU, with two gloo processes and bf16 autocast.
#
# A grid does not need a file. The options are the grid, and with small networks on a CPU there may be as many workers as cores:
#
# ```bash
# fairgrape sweep --method "ws snip" --rate "0.9 0.99" --dataset synthetic --workers 4        # not run here
# ```
#
# In a YAML grid a text is one value (`groups: skin tone` is one column) and a list multiplies. In settings.ini and on the command line blanks separate values; "double quotes" keep a name together.
#
# ## In short
#
# | what happens | what to do |
# |---|---|
# | Ctrl-C, a reboot, a time limit | start the same command again |
# | a run crashed | nothing: it is tried twice more; then read its log in `runs/.logs` |
# | a run failed with a reason | correct the grid or the data, start the command again |
# | started twice by mistake | nothing: two sweeps on one runs folder never do a run twice |
# | the code changed in between | finished runs are made again and the old ones kept in `runs/.older`; `--accept_older` lets them count |
# | exit status | 0 all there, 1 some failed, 2 nothing could start, 130 Ctrl-C |

# %%
#| slow
assert not any(record["alive"] for record in sweeps(RUNS)) and not (RUNS / ".older").exists()
