# %% [markdown]
# # Command line
#
# > `fairgrape run`, `grid`, `study`, `report` and `data check`: papermill over the notebooks in nbs/templates

# %%
#| default_exp cli

# %%
#| export
import argparse
import itertools
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import nbformat
import papermill
import yaml
from traitlets.config import Config

from fairgrape.datasets import DATASETS, check_dataset, set_text
from fairgrape.experiment import KNOWN, PLACES, check_images, device_of, from_parameters, is_complete, prepare, run_folder, starting_network
from fairgrape.report import find_runs
from fairgrape.settings import read_settings, root
from fairgrape.studies import load_study, protocol_rows, study_cells, study_names

# %%
from dataclasses import fields

import pandas as pd
from PIL import Image
import numpy as np

from fairgrape.experiment import Settings


# %% [markdown]
# A run is a notebook: the same one that a person opens to go through the method. papermill fills in the parameters and executes it; what is left behind is at once the log, the figures and the proof that they came from this code.
#
# ## The template

# %%
#| export
def template(
    name: str = "prune", # "prune", "report" or "study"
) -> Path:               # The notebook
    "The parameterized notebook of that name: from the checkout, or from the installed package."
    package = Path(str(files("fairgrape")))
    found = [f for f in (package.parent / "nbs" / "templates" / f"{name}.ipynb", package / "templates" / f"{name}.ipynb") if f.is_file()]
    if not found: raise FileNotFoundError(f"no template {name!r}: there are prune, report and study")
    return found[0]


# %%
template().name

# %%
assert template("report").is_file()
try: template("sweep")
except FileNotFoundError as e: print(e)
else: raise AssertionError("an unknown template was accepted")

# %% [markdown]
# The template's parameters and the library's settings are the same names with the same defaults:

# %%
parameters = papermill.inspect_notebook(template())
{k: parameters[k]["default"] for k in ("dataset", "network", "method", "rate", "keep")}

# %%
defaults = {f.name: f.default for f in fields(Settings)}
assert tuple(parameters) == tuple(defaults) + PLACES == KNOWN
assert all(eval(parameters[k]["default"]) == v for k, v in defaults.items())


# %% [markdown]
# ## When a run is done
#
# papermill's own status cannot be trusted: after a kernel that was killed, every cell says `completed`. A run is done when no cell of its notebook has an exception *and* `metrics.json`, which the
# run writes last, is there.

# %%
#| export
def notebook_is_whole(
    path: Path, # An executed notebook
) -> bool:      # Whether every code cell ran without an exception
    "Whether papermill went through the whole notebook."
    if not path.is_file(): return False
    try: cells = nbformat.read(path, 4).cells
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError): return False
    return all(c.metadata.get("papermill", {}).get("exception") is False for c in cells if c.cell_type == "code")


# %%
notebook_is_whole(template())

# %%
assert not notebook_is_whole(template())          # never executed
half = Path(tempfile.mkdtemp()) / "half.ipynb"; half.write_text('{"cells": [')
assert not notebook_is_whole(half) and not notebook_is_whole(half.with_name("none.ipynb"))


# %% [markdown]
# ## One run
#
# Everything that can be wrong with the settings or the data is found before papermill starts. Progress bars write thousands of half lines into a notebook's error stream; once the run is through they are taken out.

# %%
#| export
def execute(
    parameters: dict, # Settings and places by name, see `fairgrape.experiment.Settings`
    log: bool = True, # Show the notebook's output while it runs
) -> Path:            # The run folder
    """Run the prune template into its run folder, unless it is done.

    Raises: ValueError, FileNotFoundError or OSError before anything starts; papermill's error, with the cell, if the run fails."""
    settings, places = from_parameters(parameters)
    device_of(places.get("device", ""))
    job = prepare(settings, progress=log, **{k: v for k, v in places.items() if k not in ("device", "threads", "progress")})
    check_images(job)
    folder = run_folder(job)
    if is_complete(folder) and notebook_is_whole(folder / "prune.ipynb"): return folder
    if not is_complete(folder): starting_network(job)
    folder.mkdir(parents=True, exist_ok=True)
    run_notebook("prune", folder / "prune.ipynb", {**asdict(settings), **_absolute(places)}, log)
    return folder

def _absolute(places: dict) -> dict:
    "Folders as absolute paths, since the notebook may run elsewhere"
    given = {kind: places.get(f"{kind}_root") for kind in ("data", "runs", "cache")}
    return {"progress": sys.stderr.isatty()} | places | {f"{kind}_root": str(root(kind, folder)) for kind, folder in given.items()}

def run_notebook(name: str, out: Path, parameters: dict, log: bool):
    "Execute a template into `out`"
    shown = dict(log_output=log, stdout_file=sys.stdout, stderr_file=sys.stderr) if log else {}
    with tempfile.TemporaryDirectory(prefix="fairgrape-") as sockets:       # a folder of its own: kernels beside this one must not share a socket
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        papermill.execute_notebook(template(name), out, parameters, progress_bar=False, kernel_name="python3", config=config, **shown)
    book = nbformat.read(out, 4)
    for cell in book.cells:
        if cell.cell_type == "code": cell.outputs = [o for o in cell.outputs if not (o.get("name") == "stderr" and "\r" in o.text)]
    nbformat.write(book, out)


# %% [markdown]
# A set of one's own once more, as small as it can be:

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2]) for i in range(120)]
(home / "own").mkdir()
for row in rows: Image.fromarray((rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(np.uint8)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = dict(dataset="folder", data_path=str(home / "own"), task="shade", groups="tint", network="resnet10", weights="none", image_size=16, method="ws", rate=0.5,
            epochs="1", lrs="1e-3", batch=16, augment="none", bootstrap=100, data_root=str(home), runs_root=str(home / "runs"), cache_root=str(home / "cache"))
folder = execute(tiny, log=False)
sorted(f.name for f in folder.iterdir())

# %%
assert is_complete(folder) and notebook_is_whole(folder / "prune.ipynb")
changed = (folder / "prune.ipynb").stat().st_mtime_ns
assert execute(tiny, log=False) == folder and (folder / "prune.ipynb").stat().st_mtime_ns == changed       # done is done
for bad in (dict(tiny, rates=0.9), dict(tiny, rate=1.5), dict(tiny, task="colour")):
    try: execute(bad, log=False)
    except ValueError as e: print(e)
    else: raise AssertionError("bad parameters were accepted")
assert len(list((home / "runs").iterdir())) == 2                                                        # the run, and the dense network it needed

# %% [markdown]
# ## Many runs
#
# A section of settings.ini is a grid: a setting with several values, separated by spaces, multiplies. `[demo]` is what `make demo` runs. (Retries, several processes and several machines are not the business of this small loop.)

# %%
#| export
LISTS = ("dataset", "task", "groups", "network", "image_size", "method", "rate", "keep", "scope", "seed")   # settings that may have several values

def grid_cells(
    section: dict, # Setting → value, or several values with spaces between them
) -> Iterator[dict]:
    "The cells of a grid, as dictionaries of parameters, the first setting slowest."
    values = {k: str(v).split() if k in LISTS else [v] for k, v in section.items()}
    for combination in itertools.product(*values.values()): yield dict(zip(values, combination))


# %%
list(grid_cells(dict(method="ws fairgrape", rate="0.9 0.99", epochs="5,2")))[:2]

# %%
cells = list(grid_cells(dict(method="ws fairgrape", rate="0.9 0.99", epochs="5,2")))
assert len(cells) == 4 and cells[1] == dict(method="ws", rate="0.99", epochs="5,2")


# %%
#| export
def run_cells(
    cells: list[dict], # Parameters of each run
    log: bool = True,  # Show the notebooks' output
) -> tuple[list[Path], list[str]]: # The run folders, and what failed, in words
    "Run all cells; one failure does not stop the others. Settings that cannot be are found before the first cell starts."
    for cell in cells: from_parameters(cell)
    done, failed = [], []
    for i, cell in enumerate(cells, 1):
        what = " ".join(f"{cell[k]}" if k in SAID else f"{k}={cell[k]}" for k in (*SAID, *VARIED) if cell.get(k) not in (None, "", False))
        if log: print(f"[{i}/{len(cells)}] {what}", flush=True)
        try: done.append(execute(cell, log))
        except Exception as e: failed.append(f"{what}: {type(e).__name__}: {(str(e).strip().splitlines() or [''])[-1]}")
    return done, failed

SAID, VARIED = ("dataset", "task", "network", "method", "rate", "scope"), ("keep", "steps", "as_released", "importance_on", "importance_groups", "imbalance", "seed")  # what a line of the log names

def grid(
    section: dict,         # Setting → values, see `grid_cells`
    overrides: dict | None = None, # Settings that replace the section's
    log: bool = True,      # Show the notebooks' output
) -> tuple[list[Path], list[str]]: # The run folders, and what failed, in words
    "Run all cells of a grid."
    return run_cells(list(grid_cells({**section, **(overrides or {})})), log)


# %%
done, failed = grid(dict(method="dense ws", rate="0.5 0.6"), {k: v for k, v in tiny.items() if k not in ("method", "rate")}, log=False)
[f.name.rsplit("-", 1)[0] for f in done], failed

# %%
assert len(done) == 4 and len(set(done)) == 3 and not failed        # both dense cells are one network
done, failed = grid(dict(method="ws"), tiny | dict(method="ws", data_path="/nowhere"), log=False)
assert not done and "/nowhere" in failed[0]


# %% [markdown]
# ## The report
#
# The second template, over whatever the runs folder holds. It leaves the executed notebook and a page that can be sent to someone.

# %%
#| export
def report(
    runs_root: Path, # Folder of run folders
    out: str = "",   # The page; empty: report.html in that folder
) -> Path:           # The page
    "Run the report template; its notebook lies in the runs folder."
    run_notebook("report", runs_root / "report.ipynb", dict(runs_root=str(runs_root), out=out), log=False)
    return Path(out) if out else runs_root / "report.html"


# %%
page = report(home / "runs")
page.name, len(page.read_text())

# %%
assert notebook_is_whole(home / "runs" / "report.ipynb") and "<table" in page.read_text()


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
    log: bool = True,       # Show the notebooks' output
) -> tuple[Path, list[str]]:# The folder of the study's page, and what failed, in words
    "Run a study and build its page. Raises: ValueError before anything starts; RuntimeError if no run succeeded."
    given = dict(overrides or {})
    places = {k: v for k, v in given.items() if k in PLACES}
    changed = {k: v for k, v in given.items() if k not in PLACES}
    cells = study_cells(load_study(name), row, fast, changed)
    done, failed = run_cells([cell | places for cell in cells], log)
    if not done: raise RuntimeError("no run of this study succeeded: " + "; ".join(failed))
    words = [name, row, *["fast"] * fast, *(f"{v}" for k, v in changed.items() if k != "data_path")]
    folder = root("runs", places.get("runs_root")) / "studies" / re.sub(r"[^\w.]+", "-", "-".join(words)).strip("-")[:100]
    folder.mkdir(parents=True, exist_ok=True)
    where = {k: v for k, v in _absolute(places).items() if k in ("data_root", "cache_root")} | {k: places[k] for k in ("device", "threads") if k in places}
    run_notebook("study", folder / "study.ipynb", dict(study=name, row=row, fast=fast, runs="\n".join(map(str, dict.fromkeys(done))), out=str(folder / "study.html"), **where), log=False)
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
# ## The commands

# %%
#| export
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fairgrape", description="Prune classifiers and see who pays for it. Every option is a parameter of nbs/templates/prune.ipynb.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="one run of the prune notebook")
    one.add_argument("-f", "--file", help="YAML file of parameters; options override it")
    many = commands.add_parser("grid", help="the runs of a section of settings.ini, then the report")
    many.add_argument("section", help="a section of settings.ini, e.g. demo")
    page = commands.add_parser("report", help="one page about all runs of a folder")
    page.add_argument("--out", help="default: report.html in the runs folder")
    page.add_argument("--runs_root", help="default: settings.ini")
    ask = commands.add_parser("study", help="one of the paper's questions: its runs and its page", epilog=f"studies: {', '.join(study_names())}; data sets: {', '.join(protocol_rows())}")
    ask.add_argument("study", choices=study_names(), metavar="NAME")
    ask.add_argument("--dataset", required=True, dest="row", metavar="ROW", help="a data set and task of the protocol")
    ask.add_argument("--fast", action="store_true", help="the form for two cores, about ten minutes")
    data = commands.add_parser("data", help="look at a data set before it is used").add_subparsers(dest="what", required=True)
    check = data.add_parser("check", help="what is there, what is missing or damaged, and where to get it; exit status 1 if the set is not sound")
    check.add_argument("dataset", choices=DATASETS)
    for name in ("data_path", "data_root"): check.add_argument(f"--{name}", default="")
    check.add_argument("--quick", action="store_true", help="do not decode the images")
    for command in (one, many, ask):
        for name in KNOWN:
            if command is not ask or name != "dataset": command.add_argument(f"--{name}", default=argparse.SUPPRESS)
    return parser

def _parameters(args: argparse.Namespace) -> dict:
    "The parameters of `fairgrape run`: a file's, overridden by options"
    given = {k: v for k, v in vars(args).items() if k in KNOWN}
    if not args.file: return given
    try: from_file = yaml.safe_load(Path(args.file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as e: raise ValueError(f"{args.file}: not a readable YAML file of parameters ({e})") from e
    if not isinstance(from_file, dict): raise ValueError(f"{args.file}: write it as lines of 'name: value'")
    return {**from_file, **given}


# %%
#| export
def main(
    arguments: list[str] | None = None, # Default: the command line
) -> int:                               # 0 done, 1 a run failed, 2 it could not start
    "The `fairgrape` command."
    args = _parser().parse_args(arguments)
    try:
        if args.command == "run": print(execute(_parameters(args))); return 0
        if args.command == "grid": return _grid(args)
        if args.command == "study": return _study(args)
        if args.command == "data": return _check(args)
        print(report(root("runs", args.runs_root), args.out or "")); return 0
    except (ValueError, TypeError, OSError, RuntimeError) as e: print(f"fairgrape: {e}", file=sys.stderr); return 2
    except papermill.PapermillExecutionError as e: print(f"fairgrape: the notebook stopped: {e.ename}: {e.evalue}", file=sys.stderr); return 1

def _check(args: argparse.Namespace) -> int:
    check = check_dataset(args.dataset, args.data_path or None, root("data", args.data_root), not args.quick, progress=sys.stderr.isatty())
    print(set_text(check))
    return 0 if check.sound else 1

def _study(args: argparse.Namespace) -> int:
    folder, failed = study(args.study, args.row, args.fast, {k: v.split() if k in LISTS else v for k, v in vars(args).items() if k in KNOWN})
    for what in failed: print(f"failed: {what}", file=sys.stderr)
    print(f"the study's notebook and page:\n  {folder / 'study.ipynb'}\n  {folder / 'study.html'}")
    return 1 if failed else 0

def _grid(args: argparse.Namespace) -> int:
    sections = read_settings()
    if args.section not in sections: raise ValueError(f"settings.ini has no section {args.section!r}: choose one of {', '.join(s for s in sections.sections() if s != 'paths')}")
    given = {k: v for k, v in vars(args).items() if k in KNOWN}
    done, failed = grid(dict(sections[args.section]), given)
    for what in failed: print(f"failed: {what}", file=sys.stderr)
    if done: print("\nexecuted notebooks:", *[f"  {f / 'prune.ipynb'}" for f in dict.fromkeys(done)], sep="\n")
    runs_root = root("runs", given.get("runs_root"))
    if any(run.settings["method"] != "dense" for run in (find_runs(runs_root) if done else [])): print(f"report:\n  {report(runs_root)}")
    return 1 if failed else 0


# %%
code = main(["run", "--rate", "1.5"])

# %%
assert code == 2 and main(["grid", "nothing"]) == 2
assert main(["data", "check", "folder", "--data_path", str(home / "own")]) == 0 and main(["data", "check", "celeba", "--data_root", str(home)]) == 1
(home / "p.yaml").write_text(yaml.safe_dump(dict(tiny, rate=0.25)))
assert main(["run", "-f", str(home / "p.yaml"), "--rate", "0.5"]) == 0                 # the option wins: this run is done already
(home / "bad.yaml").write_text("!!python/object/apply:os.system ['echo run']")
assert main(["run", "-f", str(home / "bad.yaml")]) == 2                                # YAML never runs code
assert main(["report", "--runs_root", str(home / "runs"), "--out", str(home / "page.html")]) == 0 and (home / "page.html").is_file()
