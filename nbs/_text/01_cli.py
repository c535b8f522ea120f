# %% [markdown]
# # Command line
#
# > The `fairgrape` command: its options, and what each subcommand calls

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
from dataclasses import fields
from pathlib import Path

from fairgrape.data.archives import DATASETS
from fairgrape.experiment.paths import inside, plain_name, read_yaml, root
from fairgrape.experiment.settings import (
    KNOWN,
    PLACES,
    Places,
    Settings,
    bounds_of,
    from_parameters,
    words_of,
)
from fairgrape.studies.studies import load_study, protocol_rows, study_cells, study_names
from fairgrape.sweep.grid import LISTS, dry_run, numbered, one_cell, plan, read_grid, several

# %%
import contextlib
import io
import subprocess
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import Mock, patch

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from fairgrape.experiment.preparation import is_complete
from fairgrape.experiment.settings import setting
from fairgrape.sweep.kernels import notebook_is_whole
from fairgrape.sweep.local import Local
from fairgrape.sweep.sweep import Interrupted, folders, sweep

# %% [markdown]
# The library's functions in a shell. Apart from a few options of each command, every option is a setting of a run, with the same name as in the notebook. A command imports torch and the other large libraries only after it has checked its settings, so help and errors appear at once. The examples use a tiny data set:

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2])
    for i in range(120)
]
(home / "own").mkdir()
for row in rows:
    Image.fromarray(
        (rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(
            np.uint8
        )
    ).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = dict(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    epochs="1",
    lrs="1e-3",
    batch=16,
    augment="none",
    bootstrap=100,
    data_root=str(home),
    runs_root=str(home / "runs"),
    cache_root=str(home / "cache"),
)
done = folders(sweep([tiny | dict(method="ws", rate=rate) for rate in (0.5, 0.6)], show=False))
[f.name for f in done]

# %%
assert len(done) == 2 and all(is_complete(f) for f in done)


# %% [markdown]
# ## The report
#
# `report` runs the second template on all runs of the runs folder. It writes the executed notebook and a self-contained page to the runs folder, and nothing elsewhere.

# %%
#| export
def report(
    runs_root: Path,  # Folder of run folders
    out: str = "",  # The page; empty: report.html in that folder
) -> Path:  # The page
    """Run the report template; its notebook goes into the runs folder. Raises: ValueError for a
    page outside of it.
    """
    from fairgrape.sweep.jobs import working_on
    from fairgrape.sweep.kernels import run_notebook

    runs_root = Path(runs_root).resolve()
    if not runs_root.is_dir():
        raise FileNotFoundError(f"no runs folder at {runs_root}: give another with --runs_root")
    page = inside(Path(out or runs_root / "report.html"), runs_root)
    with working_on(runs_root / "report", wait=True):
        run_notebook(
            "report", runs_root / "report.ipynb", dict(runs_root=str(runs_root), out=str(page))
        )
    return page


# %%
page = report(home / "runs")
page.name, len(page.read_text())

# %%
assert notebook_is_whole(home / "runs" / "report.ipynb") and "<table" in page.read_text()
try:
    report(home / "runs", str(home / "runs" / ".." / "page.html"))
except ValueError as e:
    print(str(e).replace(str(home), "…"))
else:
    raise AssertionError("a page outside of the runs folder was accepted")


# %% [markdown]
# ## A study
#
# `study` runs the third template: first the runs for a question of the paper, then its page, in `studies/` in the runs folder. Settings that replace those of the study are part of the folder's name, so a study with another network does not overwrite the first.

# %%
#| export
def _study_folder(
    name: str,  # A study
    row: str,  # A data set and task
    fast: bool,  # The form for two cores
    changed: dict,  # Settings that replace the study's
    runs_root: Path,  # Folder of run folders
) -> Path:  # The folder of its notebook and page
    "A folder in `studies/` in the runs folder, named after the study and the changed settings."
    words = [name, row, "fast"] if fast else [name, row]
    words += [str(v) for k, v in changed.items() if k != "data_path"]
    plain = re.sub(r"[^\w.]+", "-", "-".join(words)).strip("-.")[:100]
    return inside(runs_root / "studies" / plain, runs_root)


# %%
def of_rates(fast, **changed):
    return _study_folder("rates", "utkface", fast, changed, home / "runs").name


(
    of_rates(True, rate=[0.5, 0.6], data_path="/elsewhere"),
    of_rates(False, importance_on="race!=White"),
)

# %%
assert (
    of_rates(True, rate=[0.5, 0.6], data_path="/elsewhere") == "rates-utkface-fast-0.5-0.6"
    and of_rates(False) == "rates-utkface"
)
assert of_rates(False, name="../../up") == "rates-utkface-..-..-up"
assert (
    _study_folder("rates", "utkface", False, {}, home / "runs").parent
    == (home / "runs" / "studies").resolve()
    and len(of_rates(False, classes="x" * 200)) == 100
)


# %% [markdown]
# Invalid settings are found before the large libraries are imported.

# %%
#| export
def _parted(given: dict) -> tuple[dict, dict]:
    "Split options into places and settings."
    return (
        {k: v for k, v in given.items() if k in PLACES},
        {k: v for k, v in given.items() if k not in PLACES},
    )


def _cells_of(name: str, row: str, fast: bool, given: dict) -> list[dict]:
    "The runs of a study. Raises: ValueError or TypeError for invalid settings or places."
    places, changed = _parted(given)
    cells = [cell | places for cell in study_cells(load_study(name), row, fast, changed)]
    numbered(cells)
    return cells


# %%
few = _cells_of("rates", "utkface", True, dict(rate=[0.5, 0.6], method="ws", threads=1))
[(cell["rate"], cell["threads"]) for cell in few]

# %%
assert {(cell["rate"], cell["threads"]) for cell in few} == {(0.5, 1), (0.6, 1)}
for wrong in (dict(rate=2), dict(threads=-1)):
    try:
        _cells_of("rates", "utkface", True, wrong)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{wrong} was accepted")


# %% [markdown]
# Finished runs, from this study or another, are not repeated.

# %%
#| export
def study(
    name: str,  # A study, one of `fairgrape.studies.studies.study_names()`
    row: str,  # A data set and task, one of `fairgrape.studies.studies.protocol_rows()`
    fast: bool = False,  # The form for two cores
    overrides: dict | None = None,  # Settings and places that replace the study's
    log: bool = True,  # Show the progress
    # How the runs are made: workers, gpus_per_run, retries, accept_older, engine, command of
    # `fairgrape.sweep.sweep.sweep`
    **how,
) -> tuple[Path, list[str]]:  # The folder of the study's page, and a line for each failure
    """Run a study and build its page. Raises: ValueError before anything starts; RuntimeError
    if no run succeeded.
    """
    cells = _cells_of(name, row, fast, overrides or {})
    places, changed = _parted(overrides or {})

    from fairgrape.sweep.jobs import working_on
    from fairgrape.sweep.kernels import run_notebook
    from fairgrape.sweep.runner import absolute
    from fairgrape.sweep.sweep import failures, folders, sweep

    ended = sweep(cells, show=log, **how)
    done, failed = folders(ended), failures(ended)
    if not done:
        raise RuntimeError("no run of this study succeeded: " + "; ".join(failed))
    folder = _study_folder(name, row, fast, changed, root("runs", places.get("runs_root")))
    where = {k: v for k, v in absolute(places).items() if k in ("data_root", "cache_root")} | {
        k: places[k] for k in ("device", "threads") if k in places
    }
    told = dict(
        study=name,
        row=row,
        fast=fast,
        runs="\n".join(map(str, dict.fromkeys(done))),
        out=str(folder / "study.html"),
        **where,
    )
    with working_on(folder, wait=True):
        run_notebook("study", folder / "study.ipynb", told)
    return folder, failed


# %%
page, failed = study(
    "rates",
    "utkface",
    fast=True,
    overrides={k: v for k, v in tiny.items() if k not in ("method", "rate")}
    | dict(rate=[0.5, 0.6], method="ws", limit=0),
    log=False,
)
sorted(f.name for f in page.iterdir())

# %%
# the changed settings are in its name
assert page.name.startswith("rates-utkface-fast-") and "resnet10" in page.name
assert (
    not failed
    and notebook_is_whole(page / "study.ipynb")
    and "from half of the weights" in (page / "study.html").read_text()
)
try:
    study("rates", "synthetic", overrides=dict(ratio=3))
except (ValueError, TypeError) as e:
    print(e)
else:
    raise AssertionError("an unknown setting was accepted")
with (
    patch("fairgrape.sweep.sweep.sweep"),
    patch("fairgrape.sweep.sweep.folders", return_value=[]),
    patch("fairgrape.sweep.sweep.failures", return_value=["ws-0.5: no space left"]),
):
    try:
        study("rates", "synthetic", fast=True)
    except RuntimeError as e:
        print(e)
    else:
        raise AssertionError("a study without runs has a page")


# %% [markdown]
# ## A sweep
#
# The runs use this machine, or with `--engine ray` a cluster ([Ray](sweep/08_ray.ipynb)). Ray is imported only for that engine.

# %%
#| export
def engine_of(args: argparse.Namespace):
    """The engine for the options. Raises: ValueError for more workers or GPUs than exist,
    ImportError if Ray is not installed.
    """
    if args.engine == "local":
        from fairgrape.sweep.local import Local

        return Local(args.workers, args.gpus_per_run, getattr(args, "device", ""))
    from fairgrape.sweep.ray import OnRay

    return OnRay(
        args.address,
        args.cpus_per_run,
        args.gpus_per_run if args.gpus_per_run > 0 else None,
        args.workers,
        args.fetch,
    )


# %%
asked = argparse.Namespace(engine="local", workers=2, gpus_per_run=0, device="cpu")
with patch("fairgrape.sweep.local.Local") as local:
    engine_of(asked)
local.call_args.args

# %%
assert local.call_args.args == (2, 0, "cpu") and isinstance(engine_of(asked), Local)
cluster = dict(engine="ray", address="", cpus_per_run=2.0, workers=3, fetch="")
with patch.dict(sys.modules, {"fairgrape.sweep.ray": SimpleNamespace(OnRay=lambda *args: args)}):
    assert engine_of(argparse.Namespace(**cluster, gpus_per_run=0)) == (
        "",
        2.0,
        None,
        3,
        "",
    ) and engine_of(argparse.Namespace(**cluster, gpus_per_run=2)) == ("", 2.0, 2, 3, "")


# %% [markdown]
# `run_sweep` takes a grid and returns an exit status. `--dry_run` only prints the plan; `--cell` makes one run of the grid, for a task of a job array. The report covers all runs of the folder if at least one of them is pruned; a task of a job array makes no report.

# %%
#| export
def run_sweep(args: argparse.Namespace) -> int:
    "Run `fairgrape sweep`."
    given = {k: v for k, v in vars(args).items() if k in KNOWN}
    cells, one = read_grid(args.grid, given), args.cell is not None
    chosen = one_cell(cells, args.cell) if one else numbered(cells)
    if args.dry_run:
        print(dry_run(plan(chosen, args.accept_older)))
        return 0

    from fairgrape.report.runs import find_runs
    from fairgrape.sweep.sweep import failures, folders, sweep

    ended = sweep(
        chosen,
        engine_of(args),
        retries=args.retries,
        accept_older=args.accept_older,
        command=args.again,
    )
    failed, done = failures(ended), folders(ended)
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)
    if ended and not any(c.job for c in ended):
        return 2
    if done:
        print(
            "\nexecuted notebooks:",
            *[f"  {f / 'prune.ipynb'}" for f in dict.fromkeys(done)],
            sep="\n",
        )
    runs_root = done[0].parent if done else None
    if (
        not one
        and not args.no_report
        and done
        and any(run.settings["method"] != "dense" for run in find_runs(runs_root))
    ):
        print(f"report:\n  {report(runs_root)}")
    return 1 if failed else 0


# %%
@contextlib.contextmanager
def as_in_a_shell():
    "Capture both output streams of the block; tables are text, not HTML."
    with (
        patch("rich.console._is_jupyter", return_value=False),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(out),
    ):
        yield out


def swept(**more):
    "Exit status and output of `run_sweep` with these options, on the two existing runs."
    options = (
        dict(
            tiny,
            method="ws",
            rate="0.5 0.6",
            grid="",
            dry_run=False,
            accept_older=False,
            cell=None,
            engine="local",
            workers=1,
            gpus_per_run=0,
            retries=0,
            no_report=True,
            again="again",
        )
        | more
    )
    with as_in_a_shell() as out:
        code = run_sweep(argparse.Namespace(**options))
    return code, out.getvalue().replace(str(home), "…")


print(swept(dry_run=True)[1])

# %%
for more, runs in (({}, 2), (dict(cell=1), 1)):
    code, said = swept(**more)
    assert (code, said.count("prune.ipynb")) == (0, runs), said
assert [line[:3] for line in swept(dry_run=True, cell=1)[1].splitlines()] == ["[1]"]
# a dry run makes no folder
assert "prune.ipynb" not in swept(dry_run=True, rate="0.7")[1] and not list(
    (home / "runs").glob("*ws-0.7*")
)
with patch(f"{run_sweep.__module__}.report", return_value="the page") as reported:
    code, said = swept(no_report=False)
assert code == 0 and "the page" in said and reported.call_args.args[0] == done[0].parent
with patch(f"{run_sweep.__module__}.report") as reported:
    swept(no_report=False, cell=0)
assert not reported.called
with patch("fairgrape.sweep.sweep.failures", return_value=["ws-0.5: no space left"]):
    code, said = swept()
assert code == 1 and "failed: ws-0.5: no space left" in said and said.count("prune.ipynb") == 2
assert swept(groups="hue")[0] == 2  # none of them could even be planned

# %% [markdown]
# ## The commands
#
# A separate function adds each command. `--help` shows first the options of the command, then the settings of a run in the chapters of [the record](experiment/02_settings.ipynb), each with its help, bounds and default.

# %%
#| export
_WORDS = {int: "N", float: "X", bool: "True|False", str: "TEXT"}  # a type on the command line


def _settings_options(
    command: argparse.ArgumentParser, leave_out: tuple = (), records: tuple = (Settings, Places)
):
    "Add every setting and place of a run as an option; the result holds only the given ones."
    chapters = {}
    for f in [f for record in records for f in fields(record)]:
        about = f.metadata["about"]
        if f.name in leave_out:
            continue
        if about.chapter not in chapters:
            chapters[about.chapter] = command.add_argument_group(about.chapter)
        said = "; ".join(filter(None, (words_of(about), bounds_of(about))))
        default = "empty" if f.default == "" else f.default
        chapters[about.chapter].add_argument(
            f"--{f.name}",
            default=argparse.SUPPRESS,
            metavar=_WORDS[f.type],
            help=f"{said} (default: {default})".replace("%", "%%"),
        )


def _run_command(commands):
    "`fairgrape run`"
    one = commands.add_parser(
        "run",
        help="one run of the prune notebook",
        usage="fairgrape run [-f FILE] [--accept_older] [--SETTING VALUE ...]",
    )
    one.add_argument("-f", "--file", help="YAML file of parameters; options override it")
    one.add_argument(
        "--accept_older", action="store_true", help="accept a finished run of older code"
    )
    _settings_options(one)


# %%
def parsed(add, *arguments):
    "The options that a command made by `add` parses, or its error."
    parser = argparse.ArgumentParser("fairgrape")
    add(parser.add_subparsers(dest="command"))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return vars(parser.parse_args(list(arguments)))
        except SystemExit:
            return said.getvalue().splitlines()[-1]


def help_of(add, name: str) -> str:
    "The help of a command made by `add`."
    parser = argparse.ArgumentParser("fairgrape")
    commands = parser.add_subparsers()
    add(commands)
    return " ".join(commands.choices[name].format_help().split())


print(
    parsed(_run_command, "run", "-f", "p.yaml", "--rate", "0.5"),
    parsed(_run_command, "run", "--rates", "0.5"),
    sep="\n",
)
assert parsed(_run_command, "run", "--rate", "0.5") == dict(
    command="run", file=None, accept_older=False, rate="0.5"
)
assert parsed(_run_command, "run", "--accept_older", "--keep_on", "host") == dict(
    command="run", file=None, accept_older=True, keep_on="host"
)
assert "unrecognized" in parsed(_run_command, "run", "--rates", "0.5")

# %%
told = help_of(_run_command, "run")
print(told[told.index("method: --method") :][:400])

# %%
for f in [*fields(Settings), *fields(Places)]:
    assert f"--{f.name} " in told and words_of(f.metadata["about"]) in told, f.name
assert (
    "--rate X pruning rate, the fraction of weights removed; above 0 and below 1 (default: 0.99)"
    in told
)
assert "--split TEXT how images are divided: photo (80/10/10 by photograph" in told


@dataclass(frozen=True)
class More(Settings):
    dropout: float = setting(0.0, "share of features dropped, in %", "training", below=1)


wider = argparse.ArgumentParser("fairgrape")
_settings_options(wider, records=(More,))
wider = " ".join(wider.format_help().split())
assert "--dropout X share of features dropped, in %; below 1 (default: 0.0)" in wider


# %% [markdown]
# A sweep and a study use an engine, with the same options.

# %%
#| export
def _engine_options(command: argparse.ArgumentParser):
    "Add the options of an engine: parallel runs, devices, crashes."
    command.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="number of runs at the same time (default: one per GPU, or one)",
    )
    command.add_argument(
        "--gpus_per_run", type=int, default=1, metavar="N", help="GPUs for one run (default: 1)"
    )
    command.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="how often a crashed run is repeated (default: 2)",
    )
    command.add_argument(
        "--accept_older", action="store_true", help="accept finished runs of older code"
    )
    command.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster"
    )
    command.add_argument(
        "--address",
        default="",
        help="Ray: the cluster's address (default: the one on this machine, or a new one)",
    )
    command.add_argument(
        "--cpus_per_run",
        type=float,
        default=1,
        metavar="N",
        help="Ray: CPU cores for one run (default: 1)",
    )
    command.add_argument(
        "--fetch",
        default="",
        metavar="FOLDER",
        help="Ray without shared storage: the runs folder on the nodes, to fetch runs from",
    )


# %%
by_default = parsed(lambda commands: _engine_options(commands.add_parser("x")), "x")
by_default

# %%
assert by_default == dict(
    command="x",
    workers=0,
    gpus_per_run=1,
    retries=2,
    accept_older=False,
    engine="local",
    address="",
    cpus_per_run=1,
    fetch="",
)
assert "invalid choice" in parsed(
    lambda commands: _engine_options(commands.add_parser("x")), "x", "--engine", "cloud"
)
assert "invalid int" in parsed(
    lambda commands: _engine_options(commands.add_parser("x")), "x", "--workers", "two"
)


# %%
#| export
def _sweep_command(commands):
    "Add `fairgrape sweep`."
    many = commands.add_parser(
        "sweep",
        help="all runs of a grid, each once, then the report",
        usage="fairgrape sweep [GRID] [OPTIONS] [--SETTING VALUES ...]",
    )
    many.add_argument(
        "grid",
        nargs="?",
        default="",
        help="a YAML file, or a section of settings.ini; none: only the options",
    )
    many.add_argument("--dry_run", action="store_true", help="print the plan without running it")
    many.add_argument(
        "--cell",
        type=int,
        metavar="N",
        help="only the run of this number, from 0, as in --dry_run; for job arrays",
    )
    many.add_argument("--no_report", action="store_true", help="make no report")
    _engine_options(many)
    _settings_options(many)


def _study_command(commands):
    "Add `fairgrape study`; its data set is a row of the protocol, not a setting."
    epilog = f"studies: {', '.join(study_names())}; data sets: {', '.join(protocol_rows())}"
    ask = commands.add_parser(
        "study",
        help="one of the paper's questions: its runs and its page",
        epilog=epilog,
        usage="fairgrape study NAME --dataset ROW [OPTIONS] [--SETTING VALUES ...]",
    )
    ask.add_argument("study", choices=study_names(), metavar="NAME")
    ask.add_argument(
        "--dataset",
        required=True,
        dest="row",
        metavar="ROW",
        help="a data set and task of the protocol",
    )
    ask.add_argument(
        "--fast", action="store_true", help="the form for two cores, about ten minutes"
    )
    _engine_options(ask)
    _settings_options(ask, leave_out=("dataset",))


# %%
one = parsed(_sweep_command, "sweep", "demo", "--cell", "3", "--seed", "0 1")
question = parsed(_study_command, "study", "rates", "--dataset", "utkface", "--fast")
(
    {k: v for k, v in one.items() if k not in by_default},
    {k: v for k, v in question.items() if k not in by_default},
)

# %%
assert one == by_default | dict(
    command="sweep", grid="demo", dry_run=False, cell=3, no_report=False, seed="0 1"
)
assert question == by_default | dict(command="study", study="rates", row="utkface", fast=True)
assert parsed(_sweep_command, "sweep", "--dry_run", "--no_report") == by_default | dict(
    command="sweep", grid="", dry_run=True, cell=None, no_report=True
)
assert "invalid choice" in parsed(
    _study_command, "study", "ratez", "--dataset", "utkface"
) and "required: --dataset" in parsed(_study_command, "study", "rates")


# %%
#| export
def _data_command(commands):
    "Add `fairgrape data check`."
    data = commands.add_parser("data", help="check a data set before its use")
    check = data.add_subparsers(dest="what", required=True).add_parser(
        "check",
        help=(
            "list present, missing and damaged files, and where to get them; exit status 1 if the"
            " set has errors"
        ),
    )
    check.add_argument("dataset", choices=DATASETS)
    for name in ("data_path", "data_root"):
        check.add_argument(f"--{name}", default="")
    check.add_argument("--quick", action="store_true", help="do not decode the images")
    check.add_argument(
        "--partial",
        nargs="?",
        const="True",
        choices=("True", "False"),
        default="False",
        help="the set is incomplete on purpose: a missing file is not an error",
    )


def _interval_options(command: argparse.ArgumentParser):
    "Add the options of an interval's bootstrap."
    command.add_argument(
        "--level", type=float, default=0.95, metavar="X", help="coverage (default: 0.95)"
    )
    command.add_argument("--resamples", type=int, default=2000, metavar="N", help="default: 2000")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


def _judging_commands(commands):
    "Add `fairgrape audit` and `fairgrape gate`: two models or more, from files or from a run."
    audit = commands.add_parser(
        "audit",
        help="compare two models group by group, from a file of predictions: page, JSON, card",
        usage="fairgrape audit FILE... [OPTIONS]  |  fairgrape audit --from_run FOLDER [OPTIONS]",
    )
    audit.add_argument("--out", default="audit", metavar="FOLDER", help="default: audit")
    audit.add_argument(
        "--points",
        type=float,
        default=2,
        metavar="X",
        help="a change of accuracy that should be found, for 'images needed' (default: 2)",
    )
    audit.add_argument(
        "--small", type=int, default=50, metavar="N", help="mark smaller groups (default: 50)"
    )
    audit.add_argument("--data", default="", metavar="TEXT", help="data statement of the card")
    gate = commands.add_parser(
        "gate",
        help="does any group lose too much? exit status 0 passes, 1 fails, 3 cannot tell",
        usage="fairgrape gate FILE... [OPTIONS]  |  fairgrape gate --from_run FOLDER [OPTIONS]",
    )
    gate.add_argument(
        "--tolerance",
        type=float,
        default=2,
        metavar="X",
        help="points that a group may lose (default: 2)",
    )
    gate.add_argument(
        "--metric",
        default="accuracy",
        dest="measure",
        metavar="NAME",
        help="accuracy, balanced accuracy, or 'TPR of CLASS' (default: accuracy)",
    )
    gate.add_argument("--head", default="", help="the head, for a metric of one head")
    for command in (audit, gate):
        command.add_argument("files", nargs="*", metavar="FILE", help="CSV or parquet")
        command.add_argument(
            "--from_run", "--from-run", default="", metavar="FOLDER", help="a finished run"
        )
        columns = command.add_argument_group("columns", "guessed and reported where not given")
        for name, said in (
            ("id", "names each image"),
            ("label", "true classes; with several heads, what stands before _HEAD"),
            ("cluster", "persons or photographs: their images are resampled together"),
            ("baseline", "the model before"),
        ):
            columns.add_argument(f"--{name}", default="", metavar="COLUMN", help=said)
        for name, said in (("models", "predicted classes"), ("groups", "groups of people")):
            columns.add_argument(f"--{name}", nargs="+", default=[], metavar="COLUMN", help=said)
        columns.add_argument(
            "--drop_missing", action="store_true", help="leave out images with a missing value"
        )
        command.add_argument(
            "--no_intersections",
            action="store_true",
            help="leave out the pairs of group columns",
        )
        _interval_options(command)


def _frontier_command(commands):
    "Add `fairgrape frontier`: the highest rate that passes, for runs that kept their steps."
    ask = commands.add_parser(
        "frontier",
        help="the smallest network that every group survives, of runs with --keep_steps True",
        usage="fairgrape frontier RUN... [OPTIONS]",
    )
    ask.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    ask.add_argument(
        "--tolerance",
        type=float,
        nargs="+",
        default=[2.0],
        metavar="X",
        help="points that a group may lose; several are judged in turn (default: 2)",
    )
    ask.add_argument(
        "--rule",
        choices=("observed", "shown"),
        default="observed",
        help="a rate passes on the validation images if no group was observed to lose more, or if"
        " the simultaneous band shows it (default: observed)",
    )
    ask.add_argument(
        "--bisect", action="store_true", help="judge whole runs, by bisection: slow and thorough"
    )
    ask.add_argument(
        "--ratio",
        type=float,
        default=1.25,
        metavar="X",
        help="--bisect ends when the sizes differ by no more than this factor (default: 1.25)",
    )
    ask.add_argument(
        "--propose_only",
        action="store_true",
        help="train nothing and leave the test images alone",
    )
    ask.add_argument("--out", default="frontier", metavar="FOLDER", help="default: frontier")
    for name, said in (
        ("data_path", "archive or folder of the data set, if it moved"),
        ("data_root", "folder of the data sets"),
        ("cache_root", "folder of decoded images"),
        ("device", "cuda, cuda:1, cpu …"),
    ):
        ask.add_argument(f"--{name}", default="", metavar="TEXT", help=said)
    ask.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads")
    ask.add_argument(
        "--accept_older", action="store_true", help="accept finished runs of older code"
    )
    _interval_options(ask)


def _small_commands(commands):
    "Add `fairgrape report`, `status` and `calibrate`, which have no settings of runs."
    page = commands.add_parser("report", help="one page about all runs of a folder")
    page.add_argument("--out", default="", help="default: report.html in the runs folder")
    state = commands.add_parser(
        "status", help="list done, running, waiting and failed runs of a runs folder"
    )
    state.add_argument("--all", action="store_true", help="with earlier sweeps and finished runs")
    times = commands.add_parser(
        "calibrate", help="time this machine and estimate the duration of the protocol on it"
    )
    times.add_argument(
        "--seconds", type=float, default=120, help="approximate time to measure (default: 120)"
    )
    times.add_argument("--device", default="", help="default: CUDA if available")
    for command in (page, state, times):
        command.add_argument("--runs_root", help="default: settings.ini")


# %%
for add, *words in (
    (_data_command, "data", "check", "utkface", "--quick"),
    (_small_commands, "report"),
    (_small_commands, "status", "--all"),
    (_small_commands, "calibrate"),
):
    print(parsed(add, *words))

# %%
assert parsed(_data_command, "data", "check", "utkface", "--quick") == dict(
    command="data",
    what="check",
    dataset="utkface",
    data_path="",
    data_root="",
    quick=True,
    partial="False",
)
assert (
    parsed(_data_command, "data", "check", "utkface", "--partial")["partial"]
    == parsed(_data_command, "data", "check", "utkface", "--partial", "True")["partial"]
    == "True"
)
assert "invalid choice" in parsed(
    _data_command, "data", "check", "imdb"
) and "required: what" in parsed(_data_command, "data")
assert parsed(_small_commands, "report") == dict(command="report", out="", runs_root=None)
assert parsed(_small_commands, "status", "--all", "--runs_root", "r") == dict(
    command="status", all=True, runs_root="r"
)
assert parsed(_small_commands, "calibrate") == dict(
    command="calibrate", seconds=120, device="", runs_root=None
)


# %%
#| export
def _parser() -> argparse.ArgumentParser:
    "The parser of all commands."
    parser = argparse.ArgumentParser(
        "fairgrape",
        description=(
            "Prune classifiers and see who pays for it. `fairgrape run --help` explains every"
            " setting of a run."
        ),
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (
        _run_command,
        _sweep_command,
        _study_command,
        _judging_commands,
        _frontier_command,
        _small_commands,
        _data_command,
    ):
        add(commands)
    return parser


# %%
helped = _parser().format_help()
print(helped[helped.index("{run,") : helped.index("option")])
assert (
    "{run,sweep,study,audit,gate,frontier,report,status,calibrate,data}" in _parser().format_help()
    and _parser().parse_args(["report"]).command == "report"
)


# %% [markdown]
# ## Running a command
#
# Parameters may come from a file, for example one published with a paper; an option overrides the file. YAML files can name functions to call; this reader builds only plain values.

# %%
#| export
def _parameters(args: argparse.Namespace) -> dict:
    "The parameters of `fairgrape run`: those of a file, overridden by options."
    given = {k: v for k, v in vars(args).items() if k in KNOWN}
    if not args.file:
        return given
    try:
        from_file = read_yaml(args.file)
    except OSError as e:
        raise ValueError(f"{args.file}: not a readable YAML file of parameters ({e})") from e
    if not isinstance(from_file, dict):
        raise ValueError(f"{args.file}: write it as lines of 'name: value'")
    return {**from_file, **given}


# %%
(home / "p.yaml").write_text(yaml.safe_dump(dict(tiny, method="ws", rate=0.25)))
(home / "bad.yaml").write_text("!!python/object/apply:os.system ['echo run']")
(home / "list.yaml").write_text("- method\n- ws")
(home / "twice.yaml").write_text("method: ws\nrate: 0.9\nrate: 0.5")
from_file = _parameters(argparse.Namespace(file=str(home / "p.yaml"), rate="0.5", again="again"))
{k: from_file[k] for k in ("method", "rate", "task")}

# %%
assert from_file == dict(tiny, method="ws", rate="0.5") and _parameters(
    argparse.Namespace(file=None, rate="0.5", accept_older=True)
) == dict(rate="0.5")
for name in ("bad.yaml", "list.yaml", "twice.yaml", "none.yaml"):
    try:
        _parameters(argparse.Namespace(file=str(home / name)))
    except ValueError as e:
        print(str(e).replace(str(home), "…").splitlines()[0])
    else:
        raise AssertionError(f"{name} was read")


# %% [markdown]
# The other commands are short: they take options, print a result and return an exit status.

# %%
#| export
def _run(args: argparse.Namespace) -> int:
    given = _parameters(args)
    _, places = from_parameters(given)  # raises for invalid settings before the large imports
    plain_name(places.get("name", ""))

    from fairgrape.sweep.runner import execute

    print(execute(given, accept_older=args.accept_older))
    return 0


def _report(args: argparse.Namespace) -> int:
    print(report(root("runs", args.runs_root), args.out))
    return 0


def _status(args: argparse.Namespace) -> int:
    from fairgrape.sweep.record import status

    status(args.runs_root, args.all)
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    if not 1 <= args.seconds <= 86_400:
        raise ValueError(f"seconds = {args.seconds:g}: choose 1 to 86,400 seconds (a day)")

    from fairgrape.studies.sizing import calibrate_and_tell

    print(calibrate_and_tell(args.seconds, args.device, args.runs_root))
    return 0


def _data(args: argparse.Namespace) -> int:
    from fairgrape.data.catalog import check_dataset
    from fairgrape.data.findings import set_text

    check = check_dataset(
        args.dataset,
        args.data_path or None,
        root("data", args.data_root),
        not args.quick,
        progress=sys.stderr.isatty(),
        partial=args.partial == "True",
    )
    print(set_text(check))
    return 0 if check.sound else 1


# %%
def told(command, **options):
    "Exit status and output of a command."
    with as_in_a_shell() as out:
        code = command(argparse.Namespace(**options))
    return code, out.getvalue().replace(str(home), "…")


print(
    told(
        _data,
        dataset="folder",
        data_path=str(home / "own"),
        data_root=str(home),
        quick=False,
        partial="False",
    )[1]
)

# %%
assert [
    told(_data, dataset=name, data_path=path, data_root=str(home), quick=True, partial="False")[0]
    for name, path in (("folder", str(home / "own")), ("celeba", ""))
] == [0, 1]
# the run is complete: nothing is computed
assert told(_run, **dict(tiny, method="ws", rate="0.5"), file=None, accept_older=False) == (
    0,
    f"{done[0]}\n".replace(str(home), "…"),
)
with patch(f"{_report.__module__}.report", return_value="the page") as asked:
    assert told(_report, runs_root=str(home / "runs"), out="p.html") == (0, "the page\n")
assert (
    asked.call_args.args == (home / "runs", "p.html")
    and told(_status, runs_root=str(home / "runs"), all=False)[0] == 0
)
with patch("fairgrape.studies.sizing.calibrate_and_tell", return_value="two days") as calibrate:
    assert told(_calibrate, seconds=5.0, device="cpu", runs_root="r") == (0, "two days\n")
assert calibrate.call_args.args == (5.0, "cpu", "r")
for seconds in (0.0, -5.0, float("nan"), 1e9):
    try:
        _calibrate(argparse.Namespace(seconds=seconds, device="cpu", runs_root="r"))
    except ValueError as e:
        print(e)
        assert str(e).endswith("choose 1 to 86,400 seconds (a day)")
    else:
        raise AssertionError(f"{seconds} seconds were accepted")


# %%
#| export
def _study(args: argparse.Namespace) -> int:
    "Run `fairgrape study`."
    given = {k: several(k, v) if k in LISTS else v for k, v in vars(args).items() if k in KNOWN}
    _cells_of(args.study, args.row, args.fast, given)  # raises before the large imports
    how = dict(
        engine=engine_of(args),
        retries=args.retries,
        accept_older=args.accept_older,
        command=args.again,
    )
    folder, failed = study(args.study, args.row, args.fast, given, **how)
    for what in failed:
        print(f"failed: {what}", file=sys.stderr)
    print(f"the study's notebook and page:\n  {folder / 'study.ipynb'}\n  {folder / 'study.html'}")
    return 1 if failed else 0


# %%
question = dict(
    study="rates",
    row="utkface",
    fast=True,
    engine="local",
    workers=1,
    gpus_per_run=0,
    retries=0,
    accept_older=False,
    again="again",
    rate="0.5 0.6",
    name="a b",
)
with patch(f"{_study.__module__}.study", return_value=(home, [])) as asked:
    fine = told(_study, **question)
with patch(f"{_study.__module__}.study", return_value=(home, ["ws-0.5: no space left"])):
    not_fine = told(_study, **question)
print(fine[1])
assert (
    asked.call_args.args == ("rates", "utkface", True, dict(rate=["0.5", "0.6"], name="a b"))
    and asked.call_args.kwargs["command"] == "again"
)
assert (
    fine[0] == 0
    and not_fine[0] == 1
    and "failed: ws-0.5: no space left" in not_fine[1]
    and "study.html" in not_fine[1]
)


# %% [markdown]
# Every error ends in one line on standard error and an exit status for shell scripts, because a traceback does not help a user.

# %% [markdown]
# Both commands that judge read their predictions in the same way.

# %%
#| export
def _check_interval(args: argparse.Namespace):
    "Raise ValueError for options that give no interval."
    if args.resamples < 100:
        raise ValueError(f"--resamples {args.resamples} is too few for an interval: 100 or more")
    if not 0 < args.level < 1:
        raise ValueError(f"--level {args.level:g} must lie between 0 and 1, for example 0.95")


def _judging(args: argparse.Namespace) -> dict:
    "What `fairgrape audit` and `fairgrape gate` have in common."
    columns = ("id", "label", "cluster", "baseline", "models", "groups", "drop_missing")
    reading = {k: getattr(args, k) for k in columns if getattr(args, k)}
    _check_interval(args)
    return dict(
        files=args.files,
        run=args.from_run,
        reading=reading,
        intersections=not args.no_intersections,
        level=args.level,
        B=args.resamples,
        seed=args.seed,
    )


def _audit(args: argparse.Namespace) -> int:
    "Run `fairgrape audit`."
    given = _judging(args)

    from fairgrape.report.judging import audit_command

    audit_command(out=args.out, points=args.points, small=args.small, data=args.data, **given)
    return 0


def _gate(args: argparse.Namespace) -> int:
    "Run `fairgrape gate`: its answer is the exit status."
    given = _judging(args)

    from fairgrape.report.judging import gate_command

    return gate_command(tolerance=args.tolerance, measure=args.measure, head=args.head, **given)


# %%
asked = _parser().parse_args(["gate", "p.csv", "--groups", "tone", "age", "--tolerance", "5"])
with patch("fairgrape.report.judging.gate_command", return_value=3) as gate_command:
    assert _gate(asked) == 3
gate_command.call_args.kwargs

# %%
assert gate_command.call_args.kwargs["reading"] == dict(groups=["tone", "age"])
assert gate_command.call_args.kwargs["tolerance"] == 5
for wrong, part in ((["--level", "2"], "between 0 and 1"), (["--resamples", "9"], "too few")):
    try:
        _gate(_parser().parse_args(["gate", "p.csv", *wrong]))
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{wrong} was accepted")


# %%
#| export
def _frontier(args: argparse.Namespace) -> int:
    "Run `fairgrape frontier`: the worst answer is the exit status."
    _check_interval(args)
    if not args.ratio > 1:
        raise ValueError(f"--ratio {args.ratio:g} must be above 1, for example 1.25")
    places = ("data_path", "data_root", "cache_root", "device", "threads")

    from fairgrape.report.frontier_page import frontier_command

    return frontier_command(
        args.runs,
        args.tolerance,
        args.out,
        args.rule,
        args.bisect,
        args.ratio,
        not args.propose_only,
        {name: getattr(args, name) for name in places if getattr(args, name)},
        dict(level=args.level, B=args.resamples, seed=args.seed),
        accept_older=args.accept_older,
    )


# %%
asked = _parser().parse_args(["frontier", "one", "two", "--tolerance", "2", "5", "--threads", "1"])
with patch("fairgrape.report.frontier_page.frontier_command", return_value=1) as called:
    assert _frontier(asked) == 1
called.call_args.args

# %%
judging = dict(level=0.95, B=2000, seed=0)
assert called.call_args.args == (
    ["one", "two"],
    [2, 5],
    "frontier",
    "observed",
    False,
    1.25,
    True,
    dict(threads=1),
    judging,
)
for wrong, part in ((["--ratio", "1"], "above 1"), (["--level", "0"], "between 0 and 1")):
    try:
        _frontier(_parser().parse_args(["frontier", "one", *wrong]))
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{wrong} was accepted")

# %%
#| export
COMMANDS: dict[str, Callable] = dict(
    run=_run,
    sweep=run_sweep,
    study=_study,
    audit=_audit,
    gate=_gate,
    frontier=_frontier,
    data=_data,
    report=_report,
    status=_status,
    calibrate=_calibrate,
)


def _stopped(
    error: Exception,  # The error of a command
) -> int:  # The exit status
    "Print the error that stopped a run or a sweep. Raises: the error, if it has another cause."
    import papermill

    from fairgrape.sweep.sweep import Interrupted

    if isinstance(error, papermill.PapermillExecutionError):
        print(f"fairgrape: the notebook stopped: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    if not isinstance(error, RuntimeError):
        raise error
    print(f"fairgrape: {error}", file=sys.stderr)
    return 128 + signal.SIGINT if isinstance(error, Interrupted) else 2


def main(
    arguments: list[str] | None = None,  # Default: the command line
) -> int:  # 0 done, 1 a run failed, 2 it could not start, 130 interrupted
    "The `fairgrape` command, after its imports."
    given = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(given)
    args.again = shlex.join(["fairgrape", *given])
    try:
        return COMMANDS[args.command](args)
    except KeyboardInterrupt as e:
        print(f"fairgrape: {str(e) or 'stopped before anything was started'}", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, TypeError, OSError, ImportError) as e:
        print(f"fairgrape: {e}", file=sys.stderr)
        return 2
    except Exception as e:
        return _stopped(e)


# %%
options = [part for k, v in tiny.items() for part in (f"--{k}", str(v))]


def say(*arguments: str) -> tuple[int, str]:
    "Exit status and output of a command, as in a shell."
    with as_in_a_shell() as out:
        code = main(list(arguments))
    return code, out.getvalue().replace(str(home), "…")


print(say("sweep", "--method", "ws", "--rate", "0.5 0.6 0.7", "--dry_run", *options)[1])

# %%
# the command that starts it again
with patch.dict(COMMANDS, run=lambda args: print(args.again) or 0):
    assert say("run", "--name", "a b") == (0, "fairgrape run --name 'a b'\n")
for problem, status_of, said in (
    (KeyboardInterrupt(), 130, "stopped before anything"),
    (Interrupted("two runs wait"), 130, "two runs wait"),
    (OSError("no disk"), 2, "no disk"),
):
    with patch.dict(COMMANDS, run=Mock(side_effect=problem)):
        code, words = say("run")
    print(code, words.strip())
    assert code == status_of and words.startswith("fairgrape: ") and said in words

# %%
for wrong in (
    ["run", "--rate", "1.5"],
    ["run", "--threads", "1000000000"],
    ["run", "--processes", "-1"],
    ["calibrate", "--seconds", "0"],
    ["sweep", "nothing"],
    ["sweep", "--method", "ws snip", "--rate", "0.9 1.5"],
    ["sweep", "demo", "--cell", "99"],
    ["sweep", "demo", "--name", "../up"],
    ["sweep", "demo", "--workers", "-1"],
    ["run", *options, "--method", "ws", "--rate", "0.5", "--name", "a/b"],
):
    code, said = say(*wrong)
    print(said.strip()[:150])
    assert code == 2 and said.startswith("fairgrape: ")
code, said = say(
    "sweep",
    "--method",
    "ws",
    "--data_path",
    "/nowhere",
    *[o for o in options if o not in ("--data_path", tiny["data_path"])],
)
assert code == 2 and "/nowhere" in said  # no cell could be planned

# %% [markdown]
# Help and errors in settings import none of the large libraries. Each command below runs in its own process and lists at its end the large libraries that it has imported.

# %%
LARGE = ("torch", "pandas", "sklearn", "matplotlib", "numba", "papermill")


def imported(*arguments: str) -> tuple[int, str]:
    "Exit status of a command, and the large libraries that it has imported."
    program = (
        "import sys\nfrom fairgrape.start import main\ntry:\n    code = main(sys.argv[1:])\n"
        "except SystemExit as e:\n    code = e.code\n"
        f"print(code, *[m for m in {LARGE} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    code, *found = done.stderr.splitlines()[-1].split()
    return int(code), " ".join(found)


at_once = [
    (["--help"], 0),
    (["run", "--help"], 0),
    (["study", "--help"], 0),
    (["status", "--runs_root", str(home)], 0),
    (["run", "--rate", "1.5"], 2),
    (["run", "--dataset", "imdb"], 2),
    (["run", "--as_released", "True", "--method", "random"], 2),
    (["run", "--rates", "0.5"], 2),
    (["sweep", "demo", "--rate", "2"], 2),
    (["sweep", "nothing"], 2),
    (["study", "rates", "--dataset", "utkface", "--rate", "2"], 2),
    (["calibrate", "--seconds", "0"], 2),
    (["frontier", "--help"], 0),
    (["frontier", "run", "--resamples", "9"], 2),
]
for arguments, code in at_once:
    assert imported(*arguments) == (code, ""), arguments
print(len(at_once), "commands; none imported", ", ".join(LARGE))

# %%
code, said = say("run", "-f", str(home / "p.yaml"), "--rate", "0.5")
print(said)
assert code == 0 and "ws-0.5" in said  # the option overrides the file: this run is complete
# YAML never runs code
assert say("run", "-f", str(home / "bad.yaml"))[0] == say("sweep", str(home / "bad.yaml"))[0] == 2

# %% [markdown]
# A sweep whose runs are complete, as in a restart; a sweep whose second run is impossible; and `status`, as from another terminal.

# %%
code, said = say("sweep", "--method", "ws", "--rate", "0.5 0.6", "--no_report", *options)
print(said)

# %%
assert code == 0 and said.count("prune.ipynb") == 2
code, said = say(
    "sweep",
    "--method",
    "ws",
    "--rate",
    "0.5",
    "--groups",
    "tint hue",
    "--no_report",
    *[o for o in options if o not in ("--groups", "tint")],
)
assert (
    code == 1
    and "no label column 'hue'" in said
    and say("status", "--runs_root", str(home / "runs"))[1].count("there") == 1
)
assert (
    say("sweep", str(home / "p.yaml"), "--rate", "0.5 0.6", "--cell", "1")[1].count("ws-0.6") == 1
)
assert (
    say("data", "check", "folder", "--data_path", str(home / "own"))[0] == 0
    and say("data", "check", "celeba", "--data_root", str(home))[0] == 1
)
assert (
    say("report", "--runs_root", str(home / "runs"), "--out", str(home / "page.html"))[0] == 2
    and not (home / "page.html").exists()
)
