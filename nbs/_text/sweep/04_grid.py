# %% [markdown]
# # Grid
#
# > From a few lines of settings to a list of runs, each with its folder and its state

# %%
#| default_exp sweep.grid

# %%
#| export
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fairgrape.experiment.paths import plain_name, read_settings, read_yaml
from fairgrape.experiment.settings import KNOWN, Settings, abouts, from_parameters, identity
from fairgrape.training.files import code_version

if TYPE_CHECKING:
    from fairgrape.experiment.preparation import Job
    from fairgrape.sweep.jobs import RunJob

# %%
import tempfile
from unittest.mock import patch

import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.sweep.jobs import RunJob
from fairgrape.sweep.runner import job_of, prepared

tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# A user lists data sets, methods, rates and seeds, starts one command in the evening and goes home. Errors in the grid must appear while the user is still there. This module therefore checks everything that needs no computation, for all runs, before the first one starts.
#
# ## Values
#
# In a YAML file several values are a list, and a text is one value, including its spaces. On a command line, and in a section of settings.ini, they are words separated by spaces, but only for settings that can have several values, because a
# path may contain a space. A word with a space, such as the name of a column, is put in double quotes.

# %%
#| export
# settings that may have several values in one line of text
LISTS = tuple(name for name, about in abouts(Settings).items() if about.several)


def several(name: str, value) -> list:
    "The values of a setting: those of a list, or the words of a text if it is one of LISTS."
    if isinstance(value, list | tuple):
        values = list(value)
    elif name in LISTS and value is not None:
        values = [
            quoted or word for quoted, word in re.findall(r'"([^"]+)"|(\S+)', str(value))
        ] or [""]
    else:
        values = [value]
    if not values:
        raise ValueError(
            f"{name} = []: a grid with no value for a setting has no runs; give one, or leave the"
            " line out"
        )
    return values


# %%
several("rate", "0.9 0.99"), several("rate", [0.9, 0.99]), several("data_path", "/my faces")

# %%
assert (
    several("rate", "0.9 0.99") == ["0.9", "0.99"]
    and several("rate", [0.9]) == [0.9]
    and several("seed", 3) == ["3"]
    and several("task", "") == [""]
)
assert several("data_path", "/my faces") == ["/my faces"] and several("epochs", (1, 2)) == [1, 2]
assert several("groups", '"skin tone" gender') == ["skin tone", "gender"] and several(
    "rate", None
) == several("weights", None) == [None]
try:
    several("method", [])
except ValueError as e:
    print(e)
else:
    raise AssertionError("an empty list was accepted")


# %% [markdown]
# `epochs` and `lrs` are schedules: "13,3,3" is one value with three stages. As lists, `epochs: [13, 3, 3]` and `lrs: [1e-4, 1e-5, 1e-6]` would be nine runs with one stage each, and so short a training looks like a bad method. So two lists of single
# numbers raise an error, and so does one list beside a schedule of several stages. For a grid, write the epochs as text.

# %%
#| export
def _single(values: list) -> bool:
    "Whether values are several schedules of one stage each, or one schedule split into a list."
    return len(values) > 1 and all("," not in str(value) for value in values)


def _check_stage_lists(block: Mapping):
    "Raise ValueError for a training schedule written as a list, which would multiply the runs."
    given = {k: several(k, block[k]) for k in ("epochs", "lrs") if k in block}
    quoted = all(isinstance(value, str) for value in given.get("epochs", [0]))
    for name, values in given.items():
        # the default has three stages
        beside = next((v for k, v in given.items() if k != name), ["13,3,3"])
        staged = any("," in str(value) for value in beside)
        if _single(values) and (staged or (_single(beside) and not quoted)):
            raise ValueError(
                f"{name} = {values}: a list is a grid, here of {len(values) * len(beside)} runs"
                " with one training stage each; write one schedule as text,"
                f' {name}: "{",".join(map(str, values))}"'
                " (for a grid of one-stage schedules give both settings, the epochs in quotes)"
            )


# %%
def refused(check, *given) -> str:
    "The error of a check for these arguments"
    try:
        check(*given)
    except ValueError as e:
        return str(e)
    raise AssertionError(f"{given} was accepted")


for wrong in (
    dict(epochs=[13, 3, 3], lrs=["1e-4", "1e-5", "1e-6"]),
    dict(epochs=[13, 3, 3]),
    dict(epochs="13,3,3", lrs=[1e-4, 1e-5, 1e-6]),
):
    print(refused(_check_stage_lists, wrong))

# %%
assert 'epochs: "13,3,3"' in refused(_check_stage_lists, dict(epochs=[13, 3, 3], lrs=[1, 2, 3]))
assert "a grid, here of 9 runs" in refused(
    _check_stage_lists, dict(epochs=[13, 3, 3], lrs=[1, 2, 3])
)
assert refused(_check_stage_lists, dict(lrs=[0.1, 0.2])).startswith("lrs = [0.1, 0.2]: ")
for right in (
    {},
    dict(epochs="13,3,3"),
    dict(epochs=["13,3,3", "5,2,1"], lrs="1e-4,1e-5,1e-6"),
    dict(epochs=[5, 10], lrs=1e-3),
    dict(epochs=[5, 10], lrs=[1e-3]),
    dict(epochs=["5", "10"], lrs=[1e-3, 1e-4]),
    dict(epochs=[3], lrs=[1e-3, 1e-4]),
):
    _check_stage_lists(right)


# %% [markdown]
# ## The grid
#
# A grid maps settings to values; a list of values multiplies the runs. `cells` is for combinations that do not multiply: a list of mappings, each of which is combined with all other settings. A list holds several such blocks.

# %%
#| export
def grid_cells(
    grid: Mapping | list,  # Setting → value or values, with `cells`; or a list of those
    overrides: Mapping | None = None,  # Settings that replace the grid's
) -> list[dict]:  # Parameters of each run, the first setting slowest
    "The cells of a grid. Raises: ValueError for a setting without a value."
    if isinstance(grid, list):
        return [cell for block in grid for cell in grid_cells(block, overrides)]
    common = {k: v for k, v in grid.items() if k != "cells"}
    blocks = [{**common, **own, **(overrides or {})} for own in grid.get("cells", [{}])]
    if not blocks:
        raise ValueError(
            "cells = []: a grid without cells has no runs; give some, or leave the line out"
        )
    for block in blocks:
        _check_stage_lists(block)
    return [
        dict(zip(block, values))
        for block in blocks
        for values in itertools.product(*(several(k, v) for k, v in block.items()))
    ]


# %%
grid_cells(dict(epochs="5,2", cells=[dict(method="ws", rate=[0.9, 0.99]), dict(method="dense")]))

# %%
assert grid_cells(
    dict(
        epochs="5,2", cells=[dict(method="ws", rate=[0.9, 0.99]), dict(method="dense", epochs="9")]
    )
) == [
    dict(epochs="5,2", method="ws", rate=0.9),
    dict(epochs="5,2", method="ws", rate=0.99),
    dict(epochs="9", method="dense"),
]
assert grid_cells(dict(method="ws fairgrape", rate="0.9 0.99"), dict(rate="0.5")) == [
    dict(method="ws", rate="0.5"),
    dict(method="fairgrape", rate="0.5"),
]
assert grid_cells([dict(method="ws"), dict(method=["snip", "grasp"])], dict(seed="1 2"))[:3] == [
    dict(method="ws", seed="1"),
    dict(method="ws", seed="2"),
    dict(method="snip", seed="1"),
]


# %% [markdown]
# ## Reading one
#
# A grid is in a YAML file or in a section of settings.ini. [One reader](../experiment/01_paths.ipynb) for all YAML keeps seeds with leading zeros decimal, and rejects a repeated setting and a tag like `!!python/object`.

# %%
#| export
def _yaml(path: Path):
    "The contents of a YAML file. Raises: FileNotFoundError or ValueError that names the file."
    try:
        return read_yaml(path)
    except OSError as e:
        raise FileNotFoundError(
            f"{path}: no such grid can be read ({e.strerror}): name a YAML file, or a section of"
            " settings.ini"
        ) from e


# %%
def written(text: str, name="grid.yaml") -> Path:
    (tmp / name).write_text(text)
    return tmp / name


assert _yaml(written("rate: [0.9, 0.99]")) == dict(rate=[0.9, 0.99])
for path in (
    written("!!python/object/apply:os.system ['echo run']"),
    written("method: [ws", "open.yaml"),
    written("seed: [0, 1]\nrate: 0.9\nseed: 3", "twice.yaml"),
    tmp / "none.yaml",
):
    try:
        _yaml(path)
    except (ValueError, FileNotFoundError) as e:
        print(str(e).replace(str(tmp), "…")[:160])
    else:
        raise AssertionError(f"{path} was read")


# %% [markdown]
# A text of YAML is one value. `grid_cells` splits text at its spaces, so each text becomes a list of one.

# %%
#| export
def _whole(block: Mapping) -> dict:
    "A block of a YAML grid whose texts are not split."
    whole = {k: [v] if isinstance(v, str) else v for k, v in block.items()}
    if "cells" in block:
        whole["cells"] = [_whole(own) for own in block["cells"]]
    return whole


# %%
assert _whole(dict(groups="skin tone", rate=[0.5, 0.9], cells=[dict(task="eye colour")])) == dict(
    groups=["skin tone"], rate=[0.5, 0.9], cells=[dict(task=["eye colour"])]
)
_whole(dict(groups="skin tone", rate=0.9))


# %% [markdown]
# A misspelt setting would leave a default in a thousand runs. All names are therefore checked, and before them the structure: YAML silently reads a line with a forgotten colon as text.

# %%
#| export
def _blocks(grid, source: str) -> Iterator[Mapping]:
    "All mappings of a grid, including those in `cells`. Raises: ValueError for other contents."
    for block in grid if isinstance(grid, list) else [grid]:
        if not isinstance(block, Mapping):
            raise ValueError(
                f"{source}: {block!r} is no mapping: write a grid as lines of 'setting: value', or"
                " as a list of such blocks"
            )
        yield block
        if not isinstance(block.get("cells", []), list):
            raise ValueError(f"{source}: cells = {block['cells']!r}: it must be a list of mappings")
        if "cells" in block:
            yield from _blocks(block["cells"], source)


# %%
assert [
    sorted(b)
    for b in _blocks(
        [dict(seed=0, cells=[dict(method="ws"), dict(rate=0.9)]), dict(task="race")], "x"
    )
] == [["cells", "seed"], ["method"], ["rate"], ["task"]]
for text in ("just words", "cells: 3", "- 3", "cells: [3]"):
    try:
        list(_blocks(_yaml(written(text)), "grid.yaml"))
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{text!r} was read")


# %%
#| export
def read_grid(
    source: str,  # A YAML file, or a section of settings.ini; "": no grid, only the options
    overrides: Mapping | None = None,  # Settings that replace the grid's
) -> list[dict]:  # Parameters of each run
    "Read a grid. Raises: ValueError or FileNotFoundError that name the file and the error in it."
    sections = read_settings()
    names = [name for name in sections.sections() if name != "paths"]
    is_file = source.endswith((".yaml", ".yml")) or Path(source).is_file()
    if source and not is_file and source not in names:
        raise ValueError(
            f"{source!r} is no YAML file, and settings.ini has no section of that name: its grids"
            f" are {', '.join(names)}"
        )
    grid = {}
    if source:
        grid = _yaml(Path(source)) if is_file else dict(sections[source])
    for block in _blocks(grid, source):
        unknown = sorted(set(map(str, block)) - {*KNOWN, "cells"})
        if unknown:
            raise ValueError(
                f"{source}: unknown setting {', '.join(unknown)}: the known ones are"
                f" {', '.join(KNOWN)}, and cells"
            )
    if source and is_file:
        grid = [_whole(block) for block in grid] if isinstance(grid, list) else _whole(grid)
    try:
        return grid_cells(grid, overrides)
    except ValueError as e:
        raise ValueError(f"{source}: {e}" if source else str(e)) from e


# %%
file = written("""
dataset: synthetic
seed: [0, 1]
cells:
  - {method: ws, rate: [0.9, 0.99]}
  - {method: fairgrape, rate: 0.9, keep: 0.5}
""")
pd.DataFrame(read_grid(str(file), dict(network="resnet10")))

# %%
assert len(read_grid(str(file))) == 6 and all(
    c["network"] == "resnet10" for c in read_grid(str(file), dict(network="resnet10"))
)
spaced = str(
    written(
        "groups: skin tone\ncells: [{task: eye colour, weights: null}, {task: [a, b c]}]",
        "spaced.yaml",
    )
)
assert read_grid(spaced) == [
    dict(groups="skin tone", task="eye colour", weights=None),
    *(dict(groups="skin tone", task=task) for task in ("a", "b c")),
]
told = refused(read_grid, str(written("epochs: [13, 3, 3]\nlrs: [1e-4, 1e-5, 1e-6]", "list.yaml")))
print(told.replace(str(tmp), "…"))
assert "list.yaml: epochs = [13, 3, 3]: a list is a grid, here of 9 runs" in told
# options are split into words
assert [c["groups"] for c in read_grid(spaced, dict(groups='"eye colour" tone', task="a"))] == [
    "eye colour",
    "tone",
] * 2
assert (
    len(read_grid("demo")) == 6
    and {c["method"] for c in read_grid("demo", dict(method="ws"))} == {"ws"}
    and read_grid("", dict(method="ws snip")) == [dict(method="ws"), dict(method="snip")]
)
for source in ("nothing", str(tmp / "none.yaml"), "paths", str(written("ratio: 3", "bad.yaml"))):
    try:
        read_grid(source)
    except (ValueError, FileNotFoundError) as e:
        print(str(e).replace(str(tmp), "…")[:130])
    else:
        raise AssertionError("an unknown grid was read")


# %% [markdown]
# ## Cells
#
# A cell is a run with its place in the sweep and everything that the sweep records about it.

# %%
#| export
@dataclass
class Cell:
    "One run of a sweep."

    index: int  # Its number in the grid, from 0
    parameters: dict  # Settings and places
    words: str  # The settings that distinguish it from the others
    job: "RunJob | None" = None  # The job of its worker, once it is planned
    # waiting, running, elsewhere (another sweep makes it), done, complete (it existed already),
    # or failed
    state: str = "waiting"
    reason: str = ""  # Why it failed or waits
    tries: int = 0  # How often it was started
    started: float = 0.0  # Time of the last start, in seconds since 1970
    seconds: float = 0.0  # How long it took
    after: float = 0.0  # Earliest time of the next start
    plan: str = ""  # State of its folder at first: complete, older, broken or absent

    @property
    def name(self) -> str:
        return Path(self.job.folder).name if self.job else ""


# %%
cell = Cell(0, dict(method="ws"), "ws")
assert cell.name == "" and Cell(0, {}, "", RunJob("/runs/ws-1", {}, "")).name == "ws-1"
cell.state, cell.tries

# %% [markdown]
# A table of a hundred runs shows only the settings that differ. The usual settings appear as values, `ws 0.9`; others with their name. Settings that are empty or off are left out, and so is the rate of a dense network.

# %%
#| export
# settings shown without their name
SAID = tuple(name for name, about in abouts(Settings).items() if about.bare)


def _words(cell: Mapping, names) -> str:
    "A run in a few words: the values of these settings."
    shown = [
        str(cell[k]) if k in SAID else f"{k}={cell[k]}"
        for k in names
        if cell.get(k) not in (None, "", False)
    ]
    return " ".join(
        word for word in shown if cell.get("method") != "dense" or word != str(cell.get("rate"))
    )


# %%
said = _words(
    dict(method="ws", rate=0.9, seed=1, task="", as_released=False),
    ("method", "rate", "seed", "task", "as_released", "keep"),
)
assert (
    said == "ws 0.9 seed=1"
    and _words(dict(method="dense", rate=0.9, seed=1), ("method", "rate", "seed")) == "dense seed=1"
)
said


# %% [markdown]
# Cells that give the same run are merged (the dense network has no rate). The number of a cell depends on the grid alone, and the first is 0. Invalid settings raise an error for any cell.

# %%
#| export
def numbered(
    cells: list[dict],  # Parameters of each run
) -> list[Cell]:  # Each run once
    "The cells of a sweep. Raises: ValueError or TypeError, with the cell, for invalid settings."
    found = {}
    for given in cells:
        try:
            settings, places = from_parameters(given)
            plain_name(places.get("name", ""))
        except (ValueError, TypeError) as e:
            raise type(e)(f"{_words(given, SAID)}: {e}") from e
        where = [str(places.get(k, "")) for k in ("name", "runs_root", "data_root")]
        run = json.dumps([identity(settings), settings.data_path, where], sort_keys=True)
        found.setdefault(run, given)  # a repeated run is made once
    given = list(found.values())
    varied = [
        k for k in KNOWN if len({str(cell.get(k, "")) for cell in given}) > 1 or k == "method"
    ]
    return [Cell(i, cell, _words(cell, varied)) for i, cell in enumerate(given)]


# %%
grid = grid_cells(dict(dataset="synthetic", method="dense ws", rate="0.9 0.99", seed="0 1"))
[(c.index, c.words) for c in numbered(grid)]

# %%
assert [(c.index, c.words) for c in numbered(grid)] == [
    (0, "dense seed=0"),
    (1, "dense seed=1"),
    (2, "ws 0.9 seed=0"),
    (3, "ws 0.9 seed=1"),
    (4, "ws 0.99 seed=0"),
    (5, "ws 0.99 seed=1"),
]
# decimal, although YAML 1.1 reads 010 as octal
padded = read_grid(str(written("method: ws\nseed: [008, 009, 010, 011]", "padded.yaml")))
assert [from_parameters(c.parameters)[0].seed for c in numbered(padded)] == [8, 9, 10, 11]
# needs the data, which are not read yet
assert (
    len(numbered([dict(method="ws", name=n) for n in ("a", "b", "a")]))
    == len(numbered([dict(method="ws", data_path=p) for p in ("a", "b", "a")]))
    == 2
)
for bad in (dict(method="ws snip", rate="0.9 1.5"), dict(method="ws", name="../up")):
    try:
        numbered(grid_cells(bad))
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{bad} was accepted")


# %% [markdown]
# A Slurm job array has its own scheduler. Each task makes the cell of its number: `sbatch --array=0-23 --gres=gpu:1 --wrap 'fairgrape sweep GRID --cell $SLURM_ARRAY_TASK_ID'`. Tasks that
# need the same dense network wait for the task that trains it.

# %%
#| export
def one_cell(
    cells: list[dict],  # Parameters of each run of the grid
    number: int,  # Which one, from 0
) -> list[Cell]:  # This cell alone, with its number
    "A cell by its number. Raises: ValueError if there is none."
    found = numbered(cells)
    if not 0 <= number < len(found):
        raise ValueError(
            f"cell = {number}: the grid has {len(found)} runs, so choose 0 to {len(found) - 1}"
        )
    return [found[number]]


# %%
three = grid_cells(dict(method="dense ws", rate="0.9 0.99"))
assert [(c.index, c.words) for i in range(3) for c in one_cell(three, i)] == [
    (0, "dense"),
    (1, "ws 0.9"),
    (2, "ws 0.99"),
]
for number in (-1, 3):
    try:
        one_cell(three, number)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a cell that does not exist was found")
one_cell(three, 2)

# %% [markdown]
# ## The plan
#
# Before anything starts, the plan finds the folder of each cell and of its dense network. This needs the labels, which take seconds to read, so they are read once for all cells on the same data. One function defines the same data:

# %%
#| export
# settings that determine the rows of the table
DATA = tuple(name for name, about in abouts(Settings).items() if about.rows)


def _same_data(settings, where: Mapping) -> tuple:
    """The values that two runs with shared labels have in common; a dense network does not use
    the clusters that are found with it."""
    clusters = settings.groups == "clusters" and settings.method == "dense"
    return (
        *(getattr(settings, k) for k in DATA),
        clusters,
        *(where.get(f"{k}_root") for k in ("data", "runs", "cache")),
    )


# %%
def same(**changes) -> bool:
    "Whether a run with these changes shares the labels of the first"
    return (
        len(
            {
                _same_data(*from_parameters(p))
                for p in (dict(method="ws", rate=0.9), dict(method="ws", rate=0.9) | changes)
            }
        )
        == 1
    )


assert (
    same(rate=0.5)
    and same(method="fairgrape")
    and same(seed=3)
    and not same(task="gender")
    and not same(limit=100)
    and not same(data_root="/elsewhere")
)
assert (
    len(
        {
            _same_data(*from_parameters(dict(groups="clusters", method=m)))
            for m in ("dense", "ws", "snip")
        }
    )
    == 2
)
dict(
    rate=same(rate=0.5),
    seed=same(seed=3),
    task=same(task="gender"),
    data_root=same(data_root="/elsewhere"),
)


# %%
#| export
def planner() -> "Callable[[dict], tuple[Job, dict]]":
    "`prepared`, which reads the labels once for all settings on the same data."
    # imported here because a grid is read and checked without torch
    from fairgrape.experiment.dense import device_of, starting_network
    from fairgrape.experiment.preparation import check_images, check_job, own_names
    from fairgrape.sweep.runner import check_keep_on, prepared

    read, weights = {}, set()

    def prepare(parameters: dict) -> "tuple[Job, dict]":
        settings, where = from_parameters(parameters)
        if (key := _same_data(settings, where)) not in read:
            read[key] = prepared(parameters)[0]
        first = read[key]
        settings = own_names(settings, first.data.notes.get("aliases", {}))
        job = replace(
            first,
            settings=replace(settings, groups=first.settings.groups),
            name=where.get("name", ""),
        )
        device_of(where.get("device", "")), check_keep_on(where), check_job(job), check_images(job)
        start = (settings.network, settings.weights, settings.image_size, tuple(job.sizes))
        if start not in weights and starting_network(job) is not None:
            weights.add(start)
        return job, where

    return prepare


# %% [markdown]
# A minimal data set. For three rates on two data sets, labels are read twice, and each run has the same folder as if prepared alone.

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
    groups="tint",
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
)
reads = []


def counted(parameters):
    reads.append(parameters["task"])
    return prepared(parameters)


with patch("fairgrape.sweep.runner.prepared", counted):
    prepare = planner()
planned = [
    prepare(tiny | dict(method="ws", rate=rate, task=task))
    for task in ("shade", "tint")
    for rate in (0.5, 0.6, 0.7)
]
reads

# %%
assert reads == ["shade", "tint"]
assert [job_of(*p, "") for p in planned[:2]] == [
    job_of(*prepared(tiny | dict(method="ws", rate=rate)), "") for rate in (0.5, 0.6)
] and not list((tmp / "runs").glob("*"))
for bad in (dict(device="abacus"), dict(method="ws", weights="imagenet")):
    try:
        prepare(tiny | bad)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{bad} was planned")


# %% [markdown]
# A cell that cannot be planned has failed, with its reason; the others continue. A run that exists is complete before the sweep begins.

# %%
#| export
def plan(
    cells: list[Cell],  # From `numbered`
    accept_older: bool = False,  # Let finished runs of other code count
) -> list[Cell]:  # The same, with their jobs and states
    "Find the folder and the state of each cell."
    from fairgrape.sweep.jobs import state_of
    from fairgrape.sweep.runner import job_of

    prepare, code = planner(), code_version()
    for cell in cells:
        try:
            cell.job = job_of(*prepare(cell.parameters), code, accept_older)
            cell.plan = state_of(Path(cell.job.folder), code, accept_older)
            if cell.plan == "complete":
                cell.state = "complete"
        except (ValueError, TypeError, OSError, RuntimeError) as e:
            cell.state = "failed"
            cell.reason = f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0]}"
    return cells


# %%
def planned(accept_older=False) -> list[Cell]:
    "Four cells; the labels of the second and the last are missing from the table"
    return plan(
        numbered(
            grid_cells(
                dict(method="ws", rate=[0.5, 0.6], task=["shade", "colour"]),
                {k: v for k, v in tiny.items() if k != "task"},
            )
        ),
        accept_older,
    )


cells = planned()
[(c.words, c.plan, c.reason[:50]) for c in cells]

# %%
assert (
    [c.state for c in cells] == ["waiting", "failed"] * 2
    and "no label column 'colour'" in cells[1].reason
    and cells[1].job is None
)
assert (
    cells[0].job.dense == cells[2].job.dense
    and cells[0].job.folder != cells[2].job.folder
    and cells[0].name.startswith("folder-shade-resnet10-ws-0.5-")
)
there = Path(cells[0].job.folder)
there.mkdir(parents=True)
for name, what in (
    ("environment.json", dict(code="before")),
    ("metrics.json", {}),
    ("settings.json", {}),
    ("prune.ipynb", dict(cells=[])),
):
    (there / name).write_text(json.dumps(what))
assert [(c.plan, c.state) for c in planned()[::2]] == [
    ("older", "waiting"),
    ("absent", "waiting"),
] and planned(accept_older=True)[0].state == "complete"

# %% [markdown]
# A dry run lists the action for each cell. Its numbers are those of `one_cell`.

# %%
#| export
TODO = dict(
    absent="run",
    broken="go on",
    older="again, its code was another",
    complete="nothing, it is there",
)


def dry_run(
    cells: list[Cell],  # From `plan`
) -> str:  # A line per cell
    "The actions of a sweep of these cells."
    return "\n".join(
        f"[{c.index}] {c.words}: "
        + (f"{TODO[c.plan]} ({c.name})" if c.job else f"cannot: {c.reason}")
        for c in cells
    )


# %%
print(dry_run(planned()))

# %%
lines = dry_run(planned(accept_older=True)).splitlines()
assert lines[0] == f"[0] shade ws 0.5: nothing, it is there ({there.name})"
assert (
    lines[1].startswith("[1] colour ws 0.5: cannot: ValueError: ")
    and dry_run(planned()).splitlines()[2] == f"[2] shade ws 0.6: run ({cells[2].name})"
)
