# %% [markdown]
# # The frontier of a run
#
# > Judge every pruning step on validation images, finish the proposed network, test it once

# %%
#| default_exp report.frontier_runs

# %%
#| export
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from fairgrape.experiment.dense import opened, placed, ready, right_on, saved_network
from fairgrape.experiment.from_step import begin_from
from fairgrape.experiment.preparation import Job, dense_job, prepare, run_folder
from fairgrape.experiment.settings import Settings, form
from fairgrape.judge.frontier import Frontier, bisect, frontier
from fairgrape.judge.gate import Verdict
from fairgrape.judge.verdicts import verdicts
from fairgrape.networks.builders import plain_model
from fairgrape.report.judging import run_predictions
from fairgrape.report.runs import Run, load_run, settings_of
from fairgrape.training.files import writing
from fairgrape.training.journal import Journal
from fairgrape.training.kept_steps import kept_steps, read_step

# %%
import json
import shutil
import tempfile
from contextlib import redirect_stdout
from unittest.mock import patch

from PIL import Image

from fairgrape.experiment.run import run
from fairgrape.judge.audit import groupings_of
from fairgrape.judge.gate import gate

home = Path(tempfile.mkdtemp())


# %% [markdown]
# A run that [kept its steps](../training/09_kept_steps.ipynb) has a network for each rate on its way. `fairgrape frontier RUN` asks which of them is the smallest that every group survives, in three parts:
#
# 1. Every step's network is judged on the *validation* images, and the highest rate that keeps the tolerance is proposed.
# 2. The proposed network has its final training ([from a kept step](../experiment/09_from_step.ipynb)) and becomes a run of its own.
# 3. That run is judged on the *test* images, once.
#
# ## A run and its job

# %%
#| export
@dataclass(frozen=True)
class Visited:
    "A finished iterative run, and where its data are."

    run: Run
    # data_path, data_root, cache_root, device, threads: where they are on this machine
    places: dict

    @cached_property
    def settings(self) -> Settings:
        path = self.places.get("data_path") or self.run.settings.get("data_path", "")
        return replace(settings_of(self.run), data_path=path)

    @cached_property
    def job(self) -> Job:
        "The run's job: its images and labels. Raises: as `prepare`."
        where = {k: v for k, v in self.places.items() if k != "data_path"}
        return prepare(self.settings, runs_root=self.run.path.parent, progress=None, **where)


def visited(
    folder: str | Path,  # The folder of a finished run
    steps: bool = True,  # It must have pruned in steps
    **places,  # data_path, data_root, cache_root, device, threads
) -> Visited:
    """A finished run and its data. Raises: FileNotFoundError for a folder without a run,
    ValueError for a run that did not prune in steps, or whose data are not those it was made of.
    """
    found = Visited(load_run(folder), places)
    s = found.settings
    if s.method == "dense":
        raise ValueError(f"{folder} pruned nothing (method dense): there is no rate to choose")
    if s.groups == "clusters":
        raise ValueError(
            f"{folder} compares clusters of its dense network's features, which the validation"
            " images are not divided by: use a run whose groups are a label column"
        )
    if steps and form(s).steps != "iterative":
        raise ValueError(
            f"{folder}: {s.method} pruned in one step, so it has no networks of lower rates: use"
            " a method in steps, or --bisect, which makes whole runs"
        )
    if run_folder(found.job).name.rpartition("-")[2] != found.run.path.name.rpartition("-")[2]:
        raise ValueError(
            f"{folder} was made from other images or labels than those found now"
            f" ({found.job.data.name}): give its own with --data_path or --data_root"
        )
    return found


# %% [markdown]
# The example: 200 small images, whose brightness is the task and whose tint is the group, and a run of three steps.

# %%
rng = np.random.default_rng(0)
(home / "own").mkdir()
rows = []
for i in range(200):
    light, red = i % 2, i % 3 > 0
    pixels = rng.integers(0, 120, (16, 16, 3)) + light * (6 + 30 * red)
    pixels[..., 0 if red else 2] += 15
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(home / "own" / f"{i}.png")
    rows.append(dict(file=f"{i}.png", shade=("dark", "light")[light], tint=("blue", "red")[red]))
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="magnitude",
    rate=0.999,
    keep=0.1,
    epochs="2",
    lrs="1e-3",
    retrain_epochs=1,
    retrain_lr=1e-4,
    batch=16,
    augment="none",
    bootstrap=100,
)
there = dict(data_root=home, cache_root=home / "cache", device="cpu")
made = dict(runs_root=home / "runs", progress=None, **there)
whole = run(tiny, keep_steps=True, **made)
found = visited(whole, **there)
found.settings.rate, found.job.group_names

# %%
unpruned = next(f for f in (home / "runs").glob("*-dense-*"))
at_once = run(replace(tiny, method="ws", rate=0.5), **made)
in_clusters = shutil.copytree(at_once, home / "in-clusters")
clustered = json.loads((at_once / "settings.json").read_text()) | dict(groups="clusters")
(in_clusters / "settings.json").write_text(json.dumps(clustered))
for folder, hint in [
    (home / "none", "no run folder"),
    (unpruned, "pruned nothing"),
    (in_clusters, "compares clusters"),
    (at_once, "in one step"),
]:
    try:
        visited(folder, **there)
    except (ValueError, FileNotFoundError) as e:
        print(str(e).replace(str(home), "…"))
        assert hint in str(e)
    else:
        raise AssertionError("a run without steps was accepted")
(home / "fewer").mkdir()
for row in rows[:100]:
    (home / "fewer" / row["file"]).write_bytes((home / "own" / row["file"]).read_bytes())
pd.DataFrame(rows[:100]).to_csv(home / "fewer" / "labels.csv", index=False)
try:
    visited(whole, **there, data_path=str(home / "fewer"))
except ValueError as e:
    print(str(e).replace(str(home), "…"))
    assert "other images or labels" in str(e)
else:
    raise AssertionError("a run was judged on other images")


# %% [markdown]
# ## Right or not, on every validation image

# %%
#| export
def _step_network(
    job: Job,  # Settings and data
    file: Path,  # A kept step
) -> nn.Module:
    "The network of a kept step, with its masks."
    model = plain_model(job.settings.network, sum(job.sizes), image_size=job.settings.image_size)
    tensors = read_step(file).tensors
    part = "network:"
    state = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
    return Journal(network=state).restore(model)


def _right(
    job: Job,  # Settings and data
    model: nn.Module,  # A network
) -> np.ndarray:  # 0 or 1, or the mean over heads, shape `(validation images,)`
    "Whether a network is right on each validation image."
    device = ready(job)
    return right_on(job, opened(job), placed(model, device), "val", device).numpy()


# %% [markdown]
# The rates of the steps are exact fractions. A setting is a number of finitely many digits, and it is rounded down, so that a run at this rate does not need one step more.

# %%
#| export
def rate_of_step(
    keep: float,  # Fraction kept at each step
    step: int,  # The step's number, from 1
    most: float = 1.0,  # The run's own rate
) -> float:  # The rate, as a setting
    "The rate of a step, rounded down to a number."
    exact = 1 - Fraction(str(keep)) ** step
    if exact >= Fraction(str(most)):
        return most
    rate = float(exact)
    return rate if Fraction(str(rate)) <= exact else math.nextafter(rate, 0)


# %%
[rate_of_step(0.5, i, 0.9) for i in (1, 2, 3, 4)], rate_of_step(0.9, 40)

# %%
assert [rate_of_step(0.5, i, 0.9) for i in (1, 2, 3, 4)] == [0.5, 0.75, 0.875, 0.9]
for i in range(1, 60):
    assert 0 <= (1 - Fraction("0.9") ** i) - Fraction(str(rate_of_step(0.9, i))) < 1e-15

# %% [markdown]
# The table stays in the run's folder, so the judgement can be repeated, and published, without the networks.

# %%
#| export
_TABLE = "validation.parquet"


def validation_table(
    found: Visited,  # A run with kept steps, or with this table
) -> pd.DataFrame:  # A row per validation image: row, group, person or photo, dense, each rate
    """Whether the dense network and that of each step are right on each validation image.

    Raises: ValueError for a run that kept no steps, or a damaged step.
    """
    file, steps, job = found.run.path / _TABLE, kept_steps(found.run.path), found.job
    if file.is_file():
        return pd.read_parquet(file)
    if not steps:
        raise ValueError(
            f"{found.run.path} kept no steps: make it again with --keep_steps True in another"
            " runs folder, or use --bisect, which makes whole runs"
        )
    own = (job.table["split"] == "val").to_numpy()
    table = pd.DataFrame(
        dict(row=job.table.index[own], group=np.array(job.group_names)[job.group[own]])
    )
    for unit in ("person", "photo"):
        if unit in job.table and job.table[unit][own].duplicated().any():
            table[unit] = job.table[unit][own].astype(str).to_numpy()
            break
    table["dense"] = _right(job, saved_network(job, run_folder(dense_job(job))))
    s = job.settings
    for step, path in steps.items():
        table[str(rate_of_step(s.keep, step, s.rate))] = _right(job, _step_network(job, path))
    with writing(file) as part:
        table.to_parquet(part, index=False)
    return table


# %%
table = validation_table(found)
table.head(3)

# %%
# the accuracies of the run itself, which it measured after each step
own = table.drop(columns=["row", "group"])
steps = found.run.by_step
np.testing.assert_allclose(100 * own.mean().to_numpy(), steps["val:all"].to_numpy())
red = 100 * own[table.group == "red"].mean().to_numpy()
np.testing.assert_allclose(red, steps["val:red"].to_numpy())
assert (
    list(own) == ["dense", "0.9", "0.99", "0.999"]
    and len(own) == (found.job.table.split == "val").sum()
)
pd.testing.assert_frame_equal(validation_table(found), table)  # from the file
try:
    validation_table(replace(found, run=replace(found.run, path=at_once)))
except ValueError as e:
    print(str(e).replace(str(home), "…"))
    assert "--keep_steps True" in str(e)
else:
    raise AssertionError("a run without kept steps was judged")


# %% [markdown]
# ## Judge the steps
#
# With several training seeds of one method, the mean over the seeds is judged: the band says what the *method* does to a group, not one network.

# %%
#| export
def steps_frontier(
    tables: Sequence[pd.DataFrame],  # `validation_table` of each seed
    groups: list[str],  # Names of the groups
    **how,  # level, B, seed: see `frontier`
) -> Frontier:
    """Judge the steps of a run, or of several seeds together. Raises: ValueError for tables of
    different images or rates.
    """
    first = tables[0]
    about = [c for c in ("row", "group", "person", "photo") if c in first]
    for other in tables[1:]:
        if list(other) != list(first) or not other[about].equals(first[about]):
            raise ValueError("runs of other images or rates cannot be judged together")
    unit = next((c for c in ("person", "photo") if c in first), None)
    mean = sum(t.drop(columns=about) for t in tables) / len(tables)
    return frontier(
        mean["dense"].to_numpy(),
        {float(c): mean[c].to_numpy() for c in mean if c != "dense"},
        first["group"].to_numpy(),
        groups,
        None if unit is None else first[unit].to_numpy(),
        **how,
    )


# %%
judged = steps_frontier([table], found.job.group_names)
judged.worst.round(1)

# %%
by_hand = frontier(
    table["dense"],
    {0.9: table["0.9"], 0.99: table["0.99"], 0.999: table["0.999"]},
    table["group"].to_numpy(),
    ["blue", "red"],
)
pd.testing.assert_frame_equal(judged.table, by_hand.table)
# a second seed that lost nothing: half of the loss is left
second = table.assign(**{c: table["dense"] for c in ("0.9", "0.99", "0.999")})
half = steps_frontier([table, second], ["blue", "red"])
np.testing.assert_allclose(half.table.delta, judged.table.delta / 2)
for other in (table.rename(columns={"0.9": "0.8"}), table.assign(row=table.row[::-1].to_numpy())):
    try:
        steps_frontier([table, other], ["blue", "red"])
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("different runs were judged together")
persons = table.assign(person=np.arange(len(table)) // 2)
assert steps_frontier([persons], ["blue", "red"]).per == "persons"


# %% [markdown]
# ## Finish the proposed network
#
# The proposed rate becomes a run like any other, in the same runs folder and with its executed notebook. The last step of the run that was given is that run itself.

# %%
#| export
def finish(
    found: Visited,  # The run that was given
    rate: float,  # The proposed rate
    **how,  # For the sweep: workers, retries, accept_older, show
) -> Path:  # The folder of the finished run at that rate
    "The run at a rate, continued from the kept steps if they are there. Raises: RuntimeError."
    from fairgrape.sweep.sweep import failures, folders, sweep

    if rate == found.settings.rate:
        return found.run.path
    settings = replace(found.settings, rate=rate)
    job = replace(found.job, settings=settings, name="")
    begin_from(job, found.run.path, found.settings.rate)
    where = {k: str(v) for k, v in found.places.items() if v and k != "data_path"}
    cell = asdict(settings) | where | dict(runs_root=str(found.run.path.parent))
    ended = sweep([cell], **how)
    if failed := failures(ended):
        raise RuntimeError(f"the run at rate {rate} failed: {failed[0]}")
    return folders(ended)[0]


# %%
#| slow
with redirect_stdout(None):
    lower = finish(found, 0.99, show=False)
alone = run(replace(tiny, rate=0.99), **(made | dict(runs_root=home / "alone")))
assert (lower / "prune.ipynb").is_file() and lower.parent == home / "runs"
assert (lower / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()

# %%
assert finish(found, tiny.rate) == whole


# %% [markdown]
# The thorough form judges whole runs on the validation images. Their final training can bring back what a step's short training could not, so it can pass a higher rate; and it visits rates between the steps.

# %%
#| export
def by_bisection(
    found: Visited,  # The run that was given
    tolerance: float,  # Points that a group may lose
    rule: str = "observed",  # See `Frontier.highest`
    ratio: float = 1.25,  # See `bisect`
    judging: dict | None = None,  # level, B, seed: see `frontier`
    **how,  # See `finish`
) -> float | None:  # The highest rate that passes; None: none
    "The highest rate whose finished network passes on the validation images, by whole runs."
    job = found.job
    own = (job.table["split"] == "val").to_numpy()
    group = np.array(job.group_names)[job.group[own]]
    dense = _right(job, saved_network(job, run_folder(dense_job(job))))

    def passes(rate: float) -> bool:
        right = _right(job, saved_network(job, finish(found, rate, **how)))
        judged = frontier(dense, {rate: right}, group, job.group_names, **(judging or {}))
        return judged.highest(tolerance, rule) is not None

    if passes(found.settings.rate):
        return found.settings.rate
    return bisect(passes, 0, found.settings.rate, ratio) or None


# %% [markdown]
# Here the runs are made in this process. The search tries the run itself, then rates between 0 and it.

# %%
#| slow
def in_this_process(found, rate, **how):
    tried.append(rate)
    return whole if rate == tiny.rate else run(replace(tiny, rate=rate), **made)


tried = []
with patch(f"{by_bisection.__module__}.finish", in_this_process):
    best = by_bisection(found, 100, ratio=100)  # every loss is tolerated
    highest = by_bisection(found, 0, ratio=30)  # none is
best, tried, highest

# %%
#| slow
# kept 1 … 0.001: √0.001 = 0.0316; from there to either end is a factor of 31.6, so once more
assert best == tiny.rate and tried[:3] == [tiny.rate, tiny.rate, 0.9684] and len(tried) == 4


# %% [markdown]
# ## One look at the test images

# %%
#| export
@dataclass(frozen=True)
class Proposal:
    "What was proposed for a run and a tolerance, and how it ended."

    run: Path  # The run that was given
    tolerance: float  # Points that a group may lose
    rate: float | None  # The highest rate that passed on the validation images; None: none
    breaks: tuple | None  # Rate, group and certainty of the first break on the validation images
    folder: Path | None = None  # The finished network's run
    verdict: Verdict | None = None  # By the groups of the run, on the test images

    @property
    def status(self) -> str:
        "'passes', 'fails', 'cannot tell', 'not finished', or 'no rate'."
        if self.rate is None:
            return "no rate"
        return self.verdict.status if self.verdict else "not finished"


def look_once(
    proposal: Proposal,  # With its folder
    level: float = 0.95,  # Coverage of all groups' intervals together
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
) -> Proposal:  # With its verdict
    "Judge a finished network on the test images."
    given, _ = run_predictions(proposal.folder)
    rulings = verdicts(
        given, tolerance=proposal.tolerance, intersections=False, level=level, B=B, seed=seed
    )
    return replace(proposal, verdict=rulings[0].verdict)


# %%
proposal = look_once(Proposal(whole, 5, 0.999, None, whole))
print(proposal.verdict)
proposal.verdict.table.round(1)

# %%
given, _ = run_predictions(whole)
right = [(given.predicted[m] == given.labels).mean(axis=1) for m in ("dense", "pruned")]
codes, names = groupings_of(given.groups)["group"]
by_hand = gate(*right, codes, names, 5)
pd.testing.assert_frame_equal(proposal.verdict.table, by_hand.table)
assert proposal.status == by_hand.status
assert Proposal(whole, 5, None, None).status == "no rate"
assert Proposal(whole, 5, 0.9, None).status == "not finished"
