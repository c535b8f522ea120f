# %% [markdown]
# # Command line
#
# > `fairgrape run`, `sweep`, `status`, `study`, `report`, `calibrate` and `data check`

# %%
#| default_exp cli

# %%
#| export
import argparse
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import papermill
import yaml

from fairgrape.datasets import DATASETS, check_dataset, set_text
from fairgrape.experiment import KNOWN, PLACES
from fairgrape.report import find_runs
from fairgrape.runner import absolute, execute, inside, run_notebook, working_on
from fairgrape.settings import root
from fairgrape.studies import load_study, protocol_rows, study_cells, study_names
from fairgrape.sweep import LISTS, Interrupted, Local, dry_run, failures, folders, numbered, one_cell, plan, read_grid, status, sweep

# %%
import contextlib
import io
import tempfile

import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.experiment import is_complete
from fairgrape.runner import notebook_is_whole

# %% [markdown]
# What the library can do, said in a shell. Every option that is not about the command itself is a setting of a run, with the name it has in the notebook. A set of one's own, as small as it can be, for the examples:

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2]) for i in range(120)]
(home / "own").mkdir()
for row in rows: Image.fromarray((rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(np.uint8)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = dict(dataset="folder", data_path=str(home / "own"), task="shade", groups="tint", network="resnet10", weights="none", image_size=16, epochs="1", lrs="1e-3", batch=16,
            augment="none", bootstrap=100, data_root=str(home), runs_root=str(home / "runs"), cache_root=str(home / "cache"))
done = folders(sweep([tiny | dict(method="ws", rate=rate) for rate in (0.5, 0.6)], show=False))
[f.name for f in done]

# %%
assert len(done) == 2 and all(is_complete(f) for f in done)


# %% [markdown]
# ## The report
#
# The second template, over whatever the runs folder holds. It leaves the executed notebook and a page that can be sent to someone. Both lie in the runs folder; nothing is written elsewhere.

# %%
#| export
def report(
    runs_root: Path, # Folder of run folders
    out: str = "",   # The page; empty: report.html in that folder
) -> Path:           # The page
    "Run the report template; its notebook lies in the runs folder. Raises: ValueError for a page outside of it."
    runs_root = Path(runs_root).resolve()
    page = inside(Path(out or runs_root / "report.html"), runs_root)
    with working_on(runs_root / "report", wait=True): run_notebook("report", runs_root / "report.ipynb", dict(runs_root=str(runs_root), out=str(page)))
    return page


# %%
page = report(home / "runs")
page.name, len(page.read_text())

# %%
assert notebook_is_whole(home / "runs" / "report.ipynb") and "<table" in page.read_text()
try: report(home / "runs", str(home / "runs" / ".." / "page.html"))
except ValueError as e: print(str(e).replace(str(home), "…"))
else: raise AssertionError("a page outside of the runs folder was accepted")


# %% [markdown]
# ## A study
#
# The third template: the runs of a question of the paper, then its page, in `studies/` below the runs folder. Settings that replace the study's own are in the folder's name. Runs that are there already, from this study or another, are not run again.

# %%
#| export
def study(
    name: str,              # A study, one of `fairgrape.studies.study_names()`
    row: str,               # A data set and task, one of `fairgrape.studies.protocol_rows()`
    fast: bool = False,     # The form for two cores
    overrides: dict | None = None, # Settings and places that replace the study's
    log: bool = True,       # Say what happens
    **how,                  # How the runs are made: workers, gpus_per_run, retries, accept_older, engine, command of `fairgrape.sweep.sweep`
) -> tuple[Path, list[str]]:# The folder of the study's page, and what failed, in words
    "Run a study and build its page. Raises: ValueError before anything starts; RuntimeError if no run succeeded."
    given = dict(overrides or {})
    places = {k: v for k, v in given.items() if k in PLACES}
    changed = {k: v for k, v in given.items() if k not in PLACES}
    cells = study_cells(load_study(name), row, fast, changed)
    ended = sweep([cell | places for cell in cells], show=log, **how)
    done, failed = folders(ended), failures(ended)
    if not done: raise RuntimeError("no run of this study succeeded: " + "; ".join(failed))
    words = [name, row, *["fast"] * fast, *(f"{v}" for k, v in changed.items() if k != "data_path")]
    runs_root = root("runs", places.get("runs_root"))
    folder = inside(runs_root / "studies" / re.sub(r"[^\w.]+", "-", "-".join(words)).strip("-.")[:100], runs_root)
    where = {k: v for k, v in absolute(places).items() if k in ("data_root", "cache_root")} | {k: places[k] for k in ("device", "threads") if k in places}
    with working_on(folder, wait=True): run_notebook("study", folder / "study.ipynb", dict(study=name, row=row, fast=fast, runs="\n".join(map(str, dict.fromkeys(done))), out=str(folder / "study.html"), **where))
    return folder, failed


# %%
page, failed = study("rates", "utkface", fast=True, overrides={k: v for k, v in tiny.items() if k not in ("method", "rate")} | dict(rate=[0.5, 0.6], method="ws", limit=0), log=False)
sorted(f.name for f in page.iterdir())

# %%
assert page.name.startswith("rates-utkface-fast-") and "resnet10" in page.name                              # what was changed is in its name
assert not failed and notebook_is_whole(page / "study.ipynb") and "from half of the weights" in (page / "study.html").read_text()
try: study("rates", "synthetic", overrides=dict(ratio=3))
except (ValueError, TypeError) as e: print(e)
else: raise AssertionError("an unknown setting was accepted")


# %% [markdown]
# ## A sweep
#
# Grid in, exit status out. With `--dry_run` nothing is done but to say what would be; with `--cell` one run of the grid is made, as a task of a job array does; `--engine ray` spreads the runs over a cluster ([27 ray sweep](27_ray_sweep.ipynb)).

# %%
#| export
def engine_of(args: argparse.Namespace):
    "The engine that the options ask for. Raises: ValueError for more than there is, ImportError where Ray is asked for and not installed."
    if args.engine == "local": return Local(args.workers, args.gpus_per_run, getattr(args, "device", ""))
    from fairgrape.ray_sweep import OnRay
    return OnRay(args.address, args.cpus_per_run, args.gpus_per_run if args.gpus_per_run > 0 else None, args.workers, args.fetch)

def run_sweep(args: argparse.Namespace) -> int:
    "`fairgrape sweep`"
    given = {k: v for k, v in vars(args).items() if k in KNOWN}
    cells = read_grid(args.grid, given)
    if args.dry_run: print(dry_run(plan(numbered(cells), args.accept_older))); return 0
    one = args.cell is not None
    ended = sweep(one_cell(cells, args.cell) if one else cells, engine_of(args), retries=args.retries, accept_older=args.accept_older, command=args.again)
    failed, done = failures(ended), folders(ended)
    for what in failed: print(f"failed: {what}", file=sys.stderr)
    if ended and not any(c.job for c in ended): return 2
    if done: print("\nexecuted notebooks:", *[f"  {f / 'prune.ipynb'}" for f in dict.fromkeys(done)], sep="\n")
    runs_root = done[0].parent if done else None
    if not one and not args.no_report and done and any(run.settings["method"] != "dense" for run in find_runs(runs_root)): print(f"report:\n  {report(runs_root)}")
    return 1 if failed else 0


# %% [markdown]
# ## The commands

# %%
#| export
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fairgrape", description="Prune classifiers and see who pays for it. Options without a help text are parameters of nbs/templates/prune.ipynb.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="one run of the prune notebook")
    one.add_argument("-f", "--file", help="YAML file of parameters; options override it")
    one.add_argument("--accept_older", action="store_true", help="let a finished run of older code count")
    many = commands.add_parser("sweep", help="all runs of a grid, each once, then the report")
    many.add_argument("grid", nargs="?", default="", help="a YAML file, or a section of settings.ini; none: the options alone")
    ask = commands.add_parser("study", help="one of the paper's questions: its runs and its page", epilog=f"studies: {', '.join(study_names())}; data sets: {', '.join(protocol_rows())}")
    ask.add_argument("study", choices=study_names(), metavar="NAME")
    ask.add_argument("--dataset", required=True, dest="row", metavar="ROW", help="a data set and task of the protocol")
    ask.add_argument("--fast", action="store_true", help="the form for two cores, about ten minutes")
    _sweep_options(many), _engine_options(many), _engine_options(ask), _small_commands(commands)
    for command in (one, many, ask):
        for name in KNOWN:
            if command is not ask or name != "dataset": command.add_argument(f"--{name}", default=argparse.SUPPRESS)
    return parser

def _sweep_options(many: argparse.ArgumentParser):
    many.add_argument("--dry_run", action="store_true", help="say what would be done, and do nothing")
    many.add_argument("--cell", type=int, metavar="N", help="only the run of this number, from 0, as --dry_run counts; for job arrays")
    many.add_argument("--no_report", action="store_true", help="leave the report out")

def _engine_options(command: argparse.ArgumentParser):
    command.add_argument("--workers", type=int, default=0, metavar="N", help="runs at once (default: one per GPU, or one)")
    command.add_argument("--gpus_per_run", type=int, default=1, metavar="N", help="GPUs for one run (default: 1)")
    command.add_argument("--retries", type=int, default=2, metavar="N", help="how often a crash is tried again (default: 2)")
    command.add_argument("--accept_older", action="store_true", help="let finished runs of older code count")
    command.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    command.add_argument("--address", default="", help="Ray: the cluster (default: the one that runs here, else a new one)")
    command.add_argument("--cpus_per_run", type=float, default=1, metavar="N", help="Ray: CPU cores for one run (default: 1)")
    command.add_argument("--fetch", default="", metavar="FOLDER", help="Ray without shared storage: the nodes' own runs folder, from which finished runs are fetched")

def _small_commands(commands):
    page = commands.add_parser("report", help="one page about all runs of a folder")
    page.add_argument("--out", default="", help="default: report.html in the runs folder")
    state = commands.add_parser("status", help="the sweeps of a runs folder: what is done, runs, waits, failed")
    state.add_argument("--all", action="store_true", help="earlier sweeps and finished runs too")
    times = commands.add_parser("calibrate", help="time this machine and say how long the protocol takes on it")
    times.add_argument("--seconds", type=float, default=120, help="about how long to measure (default: 120)")
    times.add_argument("--device", default="", help="default: CUDA where there is one")
    for command in (page, state, times): command.add_argument("--runs_root", help="default: settings.ini")
    data = commands.add_parser("data", help="look at a data set before it is used").add_subparsers(dest="what", required=True)
    check = data.add_parser("check", help="what is there, what is missing or damaged, and where to get it; exit status 1 if the set is not sound")
    check.add_argument("dataset", choices=DATASETS)
    for name in ("data_path", "data_root"): check.add_argument(f"--{name}", default="")
    check.add_argument("--quick", action="store_true", help="do not decode the images")


# %%
#| export
def _parameters(args: argparse.Namespace) -> dict:
    "The parameters of `fairgrape run`: a file's, overridden by options"
    given = {k: v for k, v in vars(args).items() if k in KNOWN}
    if not args.file: return given
    try: from_file = yaml.safe_load(Path(args.file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as e: raise ValueError(f"{args.file}: not a readable YAML file of parameters ({e})") from e
    if not isinstance(from_file, dict): raise ValueError(f"{args.file}: write it as lines of 'name: value'")
    return {**from_file, **given}

def _run(args: argparse.Namespace) -> int: print(execute(_parameters(args), accept_older=args.accept_older)); return 0

def _study(args: argparse.Namespace) -> int:
    how = dict(engine=engine_of(args), retries=args.retries, accept_older=args.accept_older, command=args.again)
    folder, failed = study(args.study, args.row, args.fast, {k: v.split() if k in LISTS else v for k, v in vars(args).items() if k in KNOWN}, **how)
    for what in failed: print(f"failed: {what}", file=sys.stderr)
    print(f"the study's notebook and page:\n  {folder / 'study.ipynb'}\n  {folder / 'study.html'}")
    return 1 if failed else 0

def _data(args: argparse.Namespace) -> int:
    check = check_dataset(args.dataset, args.data_path or None, root("data", args.data_root), not args.quick, progress=sys.stderr.isatty())
    print(set_text(check))
    return 0 if check.sound else 1

def _report(args: argparse.Namespace) -> int: print(report(root("runs", args.runs_root), args.out)); return 0

def _status(args: argparse.Namespace) -> int: status(args.runs_root, args.all); return 0

def _calibrate(args: argparse.Namespace) -> int:
    from fairgrape.sizing import calibrate_and_tell
    print(calibrate_and_tell(args.seconds, args.device, args.runs_root)); return 0


# %%
#| export
COMMANDS: dict[str, Callable] = dict(run=_run, sweep=run_sweep, study=_study, data=_data, report=_report, status=_status, calibrate=_calibrate)

def main(
    arguments: list[str] | None = None, # Default: the command line
) -> int:                               # 0 done, 1 a run failed, 2 it could not start, 130 interrupted
    "The `fairgrape` command."
    given = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(given)
    args.again = shlex.join(["fairgrape", *given])
    try: return COMMANDS[args.command](args)
    except (KeyboardInterrupt, Interrupted) as e: print(f"fairgrape: {e or 'stopped before anything was started'}", file=sys.stderr); return 128 + signal.SIGINT
    except papermill.PapermillExecutionError as e: print(f"fairgrape: the notebook stopped: {e.ename}: {e.evalue}", file=sys.stderr); return 1
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as e: print(f"fairgrape: {e}", file=sys.stderr); return 2


# %%
options = [part for k, v in tiny.items() for part in (f"--{k}", str(v))]
main(["sweep", "--method", "ws", "--rate", "0.5 0.6 0.7", "--dry_run", *options])


# %%
def say(*arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out): code = main(list(arguments))
    return code, out.getvalue().replace(str(home), "…")

for wrong in (["run", "--rate", "1.5"], ["sweep", "nothing"], ["sweep", "--method", "ws snip", "--rate", "0.9 1.5"], ["sweep", "demo", "--cell", "99"], ["sweep", "demo", "--name", "../up"],
              ["sweep", "demo", "--workers", "-1"], ["run", *options, "--method", "ws", "--rate", "0.5", "--name", "a/b"]):
    code, said = say(*wrong); print(said.strip()[:150])
    assert code == 2 and said.startswith("fairgrape: ")
code, said = say("sweep", "--method", "ws", "--data_path", "/nowhere", *[o for o in options if o not in ("--data_path", tiny["data_path"])])
assert code == 2 and "/nowhere" in said                                              # no cell could be planned

# %%
(home / "p.yaml").write_text(yaml.safe_dump(dict(tiny, method="ws", rate=0.25)))
assert main(["run", "-f", str(home / "p.yaml"), "--rate", "0.5"]) == 0                 # the option wins: this run is done already
(home / "bad.yaml").write_text("!!python/object/apply:os.system ['echo run']")
assert main(["run", "-f", str(home / "bad.yaml")]) == 2 and main(["sweep", str(home / "bad.yaml")]) == 2          # YAML never runs code

# %% [markdown]
# A sweep whose runs are there, as one would start it again in the morning; one whose second half cannot be; and what `status` says from another terminal.

# %%
code, said = say("sweep", "--method", "ws", "--rate", "0.5 0.6", "--no_report", *options)
print(said)

# %%
assert code == 0 and said.count("prune.ipynb") == 2
code, said = say("sweep", "--method", "ws", "--rate", "0.5", "--groups", "tint hue", "--no_report", *[o for o in options if o not in ("--groups", "tint")])
assert code == 1 and "no label column 'hue'" in said and say("status", "--runs_root", str(home / "runs"))[1].count("there") == 1
assert say("sweep", str(home / "p.yaml"), "--rate", "0.5 0.6", "--cell", "1")[1].count("ws-0.6") == 1
assert main(["data", "check", "folder", "--data_path", str(home / "own")]) == 0 and main(["data", "check", "celeba", "--data_root", str(home)]) == 1
assert say("report", "--runs_root", str(home / "runs"), "--out", str(home / "page.html"))[0] == 2 and not (home / "page.html").exists()
