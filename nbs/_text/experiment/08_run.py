# %% [markdown]
# # Experiment
#
# > From settings to a run folder: dense, pruned, judged, saved

# %%
#| default_exp experiment.run

# %%
#| export
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from fairgrape.data.loaders import Images, group_batches
from fairgrape.experiment.dense import (
    dense_network,
    fit,
    initial_network,
    opened,
    placed,
    ready,
    right_on,
    test_classes,
    validation_accuracy,
)
from fairgrape.experiment.importance_data import (
    Shown,
    find_clusters,
    importance_images,
    score_batches,
)
from fairgrape.experiment.preparation import (
    Job,
    check_images,
    is_complete,
    made_of,
    prepare,
    run_folder,
)
from fairgrape.experiment.results import ALL_LAYERS, Trained, at_work, journal_of, save_run
from fairgrape.experiment.settings import (
    Settings,
    epochs_of,
    final_plan,
    form,
    from_parameters,
    step_plan,
    steps_of,
)
from fairgrape.method.importance import group_importance
from fairgrape.method.masks import get_masks, plain_state
from fairgrape.method.pruning import Step, prune
from fairgrape.method.selectors import target_share
from fairgrape.methods.recoveries import Recovery, Reference
from fairgrape.methods.recovery import rewind
from fairgrape.methods.registry import RECOVERIES
from fairgrape.networks.models import task_loss
from fairgrape.training.files import code_version
from fairgrape.training.journal import Journal
from fairgrape.training.kept_steps import keep_step
from fairgrape.training.out_of_memory import memory_errors
from fairgrape.training.parallel import ALONE, Team, launch

# %% [markdown]
# A run uses these notebooks in order: [settings](02_settings.ipynb) are combined with [their data](03_preparation.ipynb), a [dense network](05_dense.ipynb) is trained or loaded, the method's score uses [its images](06_importance_data.ipynb),
# and the results go into [a folder](07_results.ipynb).

# %% [markdown]
# A run records the version of its code. That must be the code in memory, not the code on disk: if somebody edits a module during a sweep, old results must not carry the new code's version. So the version is computed when this module is loaded.

# %%
#| export
_loaded = code_version()

# %%
import json
import tempfile
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from PIL import Image

from fairgrape.experiment.dense import images_of
from fairgrape.experiment.preparation import dense_job
from fairgrape.experiment.results import choice_table, step_table
from fairgrape.method.masks import apply_masks
from fairgrape.networks.models import build_model
from fairgrape.networks.weights import load_weights
from fairgrape.training.epochs import predict
from fairgrape.training.files import Busy, lock

# %% [markdown]
# The example: 160 small images, whose brightness is the task and whose tint is the group.

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
(home / "own").mkdir()
for i, row in enumerate(rows):
    pixels = rng.integers(0, 120, (24, 24, 3)) + (90 if row["shade"] == "light" else 0)
    pixels[..., 0 if row["tint"] == "red" else 2] += 40
    Image.fromarray(pixels.astype(np.uint8)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)

tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="fairgrape",
    rate=0.9,
    keep=0.5,
    epochs="2,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    retrain_lr=1e-4,
    batch=16,
    augment="flip",
    bootstrap=200,
)
places = dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
job = prepare(tiny, **places)
images = images_of(job, progress=False)
unpruned = dense_network(job, images, progress=False)


# the same data, other settings
def asking(**more):
    return replace(job, settings=replace(tiny, **more))


[(row["label"], row["epoch"], round(row["val_accuracy"], 1)) for row in unpruned.history]


# %% [markdown]
# ## After a pruning step
#
# What is trained after each step and at the end is a matter of the [settings](02_settings.ipynb). A group's accuracy is measured after the training that follows a step.

# %%
#| export
def measured_after(
    s: Settings,  # A run's settings
    step: int,  # 1, 2, …
) -> str:  # "step", "final", or "" if no training follows the step
    "The training that follows a pruning step, after which the groups' accuracy is measured."
    if step_plan(s) and not (form(s).rewind and step == steps_of(s)):
        return "step"
    return "final" if step == steps_of(s) else ""


# %%
def trainings(**more):
    s = replace(tiny, **more)
    return [measured_after(s, i) for i in range(1, steps_of(s) + 1)]


{m: trainings(method=m) for m in ("fairgrape", "lottery", "ws", "snip")}

# %%
assert trainings() == ["step"] * 4 and trainings(method="ws") == ["final"]
# the last round of the lottery is the final training; SNIP prunes before any training
assert trainings(method="lottery") == ["step"] * 3 + ["final"]
assert trainings(method="snip", steps="iterative") == ["", "", "", "final"]


# %%
#| export
def _between_steps(
    job: Job,  # Settings and data
    model: nn.Module,  # The network before pruning
    fit: Callable,  # (network, label, stages): trains
    journal: Journal | None = None,  # The work of an earlier process
) -> Callable | None:  # (network, step), called after each step; None: nothing to do
    "The rewinding and training after a pruning step."
    journal = journal or Journal()
    s, how, plan = job.settings, form(job.settings), step_plan(job.settings)
    if not plan:
        return None
    last, back = steps_of(s), None
    if how.rewind:
        source = model if how.rewind_to == "trained" else initial_network(job)
        back = {k: v.clone() for k, v in plain_state(source).items()}

    def after(net, i):
        if back is not None and not journal.begun(f"step {i}"):
            rewind(net, back)
        if back is None or i < last:
            fit(net, f"step {i}", plan)

    return after


# %%
said = []


def note(net, label, plan):
    said.append((label, sum(stage.epochs for stage in plan)))


again = dense_network(job, images, progress=False)  # from its folder: a copy that may be changed
after = _between_steps(asking(method="lottery"), again.model, note)
for step in (1, 2, 3, 4):
    after(again.model, step)
said

# %% [markdown]
# Four steps to 0.9, and three trainings on the full schedule of three epochs: after the fourth step the final training is the round. The weights are the initial ones again. A run that resumes within a round does not rewind again.

# %%
initial = initial_network(job).state_dict()
assert said == [("step 1", 3), ("step 2", 3), ("step 3", 3)] and all(
    torch.equal(v, again.model.state_dict()[k]) for k, v in initial.items()
)
assert _between_steps(asking(method="ws"), unpruned.model, None) is None
said.clear()
[_between_steps(job, unpruned.model, note)(unpruned.model, step) for step in (3, 4)]
assert said == [("step 3", 1), ("step 4", 1)]
# FairGRAPE trains after the last step too, and never rewinds
assert not torch.equal(unpruned.model.fc.weight, initial["fc.weight"])
with patch.object(Journal, "begun", lambda self, label: label == "step 2"):
    half = dense_network(job, images, progress=False).model
    after = _between_steps(asking(method="lottery"), half, note)
    after(half, 2)
    assert not torch.equal(half.fc.weight, initial["fc.weight"])
    after(half, 3)
    assert torch.equal(half.fc.weight, initial["fc.weight"])


# %% [markdown]
# ## Pruning
#
# `prune_network` combines the parts: the method's starting network, its score over its batches, its selector, the training after each step, and the full schedule at the end. The score comes first: `_scorer` binds a method's function to the job's
# batches and loss, so the loop of `prune` only passes the network. If memory runs out, the error names the settings that help.

# %%
#| export
def _scorer(
    job: Job,  # Settings and data
    images: Images,  # The job's images
    # Number of passes of earlier processes: mixed batches continue with their next order
    passes: int = 0,
    device: str | torch.device = "cpu",  # Where to compute
    progress: bool = True,  # Show a progress bar
    keep_on: str = "auto",  # Where the importance is stored: auto, device, host, or a folder
    team: Team = ALONE,  # The processes that share the run
) -> Callable[[nn.Module], dict]:  # network → layer name → score, shape `(G, *weight)`
    "The method's score of a network, over the images that the settings choose."
    s, how, seen = job.settings, form(job.settings), importance_images(job, images)
    found = score_batches(job, seen, device)
    more = dict(team=team, keep_on=keep_on) if how.shared else {}
    if how.mixed:
        found.passes = passes  # one pass per step, each in another order
    autocast = torch.bfloat16 if s.precision == "bf16" else None

    def loss(out, y):
        return task_loss(out, y, job.sizes)

    def score(net):
        with memory_errors(
            "the importance",
            f"lower importance_batch (now {s.importance_batch}) or image_size, or set keep_on ="
            f" 'host' (now {keep_on!r})",
        ):
            return how.score(
                net,
                Shown(found, progress),
                loss,
                len(seen.names),
                autocast=autocast,
                seed=s.seed,
                **more,
            )

    return score


# %%
def scored(passes=0, **more):
    return _scorer(asking(**more), images, passes, progress=False)(unpruned.model)["fc"]


{
    what: tuple(scored(**more).shape)
    for what, more in dict(
        fairgrape={},
        importance=dict(method="importance"),
        red=dict(importance_on="tint=red"),
        ws=dict(method="ws"),
    ).items()
}

# %%
assert len(scored()) == 2 and len(scored(importance_on="tint=red")) == len(scored(method="ws")) == 1
assert torch.equal(scored(method="ws")[0], unpruned.model.fc.weight.detach().abs())
by_hand = group_importance(
    unpruned.model,
    group_batches(images, "train", 64, 0, 0),
    lambda out, y: task_loss(out, y, [2]),
    2,
)["fc"]
assert torch.equal(scored(), by_hand) and not torch.equal(scored(precision="bf16"), by_hand)
released = dict(as_released=True, method="importance", batch=64)
assert torch.equal(scored(passes=1, **released), scored(passes=1, **released))
# another order, another augmentation
assert not torch.equal(scored(passes=1, **released), scored(**released))


def short(*args, **kw):
    raise torch.OutOfMemoryError("out of memory")


with patch(f"{_scorer.__module__}.form", return_value=replace(form(tiny), score=short)):
    full = _scorer(job, images, progress=False)
try:
    full(unpruned.model)
except MemoryError as e:
    print(str(e)[:150])
else:
    raise AssertionError("no MemoryError was raised")


# %% [markdown]
# An interrupted run reads its finished steps from its journal. A step whose masks are set but whose retraining is unfinished is in the journal too; its masks need not be selected again.

# %%
#| export
def _note_steps(journal: Journal, model: nn.Module, on_step: Callable | None, choices=None) -> dict:
    """Arguments for `prune`: the earlier steps, and the callbacks for new ones; `choices` (see
    `Choices`) records the shares that each keeps.
    """

    def selected(step):
        if choices is not None:
            choices.note(step.step, model)
        journal.selected = asdict(step)
        journal.write(model, f"step {step.step}: masks are set")

    def finished(step):
        journal.steps.append(asdict(step))
        journal.selected = None
        if on_step is not None:
            on_step(step)

    return dict(
        done=[Step(**step) for step in (*journal.steps, *filter(None, [journal.selected]))],
        on_select=selected,
        on_step=finished,
    )


# %%
journal, first = Journal(), Step(1, 0.5, 50, 100, 0.1, 0.1, None)
told = _note_steps(journal, unpruned.model, print)
told["on_select"](first)
half = _note_steps(journal, unpruned.model, None)["done"]
told["on_step"](replace(first, retrain_s=3.0))
half, journal.steps

# %%
assert (
    told["done"] == []
    and half == [first]
    and journal.selected is None
    and journal.steps == [asdict(replace(first, retrain_s=3.0))]
)
assert _note_steps(journal, unpruned.model, None)["done"] == [replace(first, retrain_s=3.0)]
with patch.object(Journal, "write") as write:
    _note_steps(journal, unpruned.model, None)["on_select"](first)
assert write.call_args.args == (unpruned.model, "step 1: masks are set")


# %% [markdown]
# Who pays, and when: the accuracy of each group on the validation images, for the dense network and after the training that follows each step. The journal stores it, so an interrupted run does not measure twice. The cost is one pass over
# the validation images per step, as much as in every epoch of training.

# %%
#| export
def _note_validation(
    journal: Journal,  # Its `facts` store the rows
    groups: list[str],  # The compared groups
    step: int,  # Which pruning step; 0: the dense network
    measure: Callable[[], list],  # Returns the accuracy, overall and of each group
):
    "Measure the accuracies of a step, unless an earlier process did."
    found = journal.facts.setdefault("validation", dict(groups=list(groups), rows=[]))
    if step not in [row[0] for row in found["rows"]]:
        found["rows"].append([step, measure()])


# %%
seen = Journal()
for step, values in ((0, [90.0, 92.0, 86.0]), (1, [80.0, 88.0, None]), (1, [0.0, 0.0, 0.0])):
    _note_validation(seen, ["blue", "red"], step, lambda: values)
seen.facts

# %%
assert seen.facts["validation"] == dict(
    groups=["blue", "red"], rows=[[0, [90.0, 92.0, 86.0]], [1, [80.0, 88.0, None]]]
)
assert json.loads(json.dumps(seen.facts)) == seen.facts  # as a checkpoint stores it


# %% [markdown]
# The shares that a step keeps must be recorded at the selection, because training changes the importance. The record holds, for each layer, each group's share of the importance before
# the selection, which is its target, and its share of the importance kept. With scope `global` the target is that of all layers together, so they have a row too. The rows are part of the journal's facts, so they survive a kill.
# A score with one group has no shares, and neither has a layer without importance, which is pruned by magnitude.

# %%
#| export
def _importance_in(importance: Tensor, mask: Tensor) -> Tensor:
    "Each group's importance summed over a mask's weights: shape `(G,)`, float64, on the CPU."
    mask = mask.to(importance.device)
    return torch.stack(
        [torch.where(mask, row, 0).sum(dtype=torch.float64) for row in importance]
    ).cpu()


class Choices:
    "A score that records each group's share of the importance before and after a selection."

    def __init__(self, score: Callable, groups: Sequence[str], scope: str, journal: Journal):
        self.score, self.groups, self.scope, self.journal = score, list(groups), scope, journal

    def __call__(self, model: nn.Module) -> dict[str, Tensor]:
        self.importance, self.before = self.score(model), get_masks(model)
        return self.importance

    def note(self, step: int, model: nn.Module):
        "Record the shares; call it after the step's masks are set."
        importance, after = self.importance, get_masks(model)
        self.importance = None  # it may be large
        if any(len(rows) == 1 for rows in importance.values()):
            return
        sums = {
            n: [_importance_in(rows, mask[n]) for mask in (self.before, after)]
            for n, rows in importance.items()
        }
        sums = {
            n: two for n, two in sums.items() if all(0 < float(s.sum()) < torch.inf for s in two)
        }
        if self.scope == "global" and sums:
            sums[ALL_LAYERS] = [sum(two[i] for two in sums.values()) for i in (0, 1)]
        shares = {n: [(s / s.sum()).tolist() for s in two] for n, two in sums.items()}
        found = self.journal.facts.setdefault("choices", dict(groups=self.groups, rows=[]))
        found["rows"] += [[step, n, *two] for n, two in shares.items()]


# %% [markdown]
# Six weights and two groups, the example of *By hand*: the importance of all weights divides as 90 to 30, that of w0, w1 and w5 as 61 to 20.

# %%
six = nn.Sequential(nn.Linear(6, 1, bias=False), nn.Linear(1, 1, bias=False))
by_group = {
    "0": torch.tensor([[[36.0, 25, 16, 9, 4, 0]], [[0.0, 4, 1, 0, 9, 16]]]),
    "1": torch.zeros(2, 1, 1),
}


def choose(kept, scope, journal, step, score=by_group):
    watched = Choices(lambda model: score, ["x", "y"], scope, journal)
    assert watched(six) is score
    apply_masks(six, {"0": torch.tensor([[i in kept for i in range(6)]])})
    watched.note(step, six)
    return watched


noted = Journal()
choose({0, 1, 5}, "layer", noted, 1), choose({0, 5}, "global", noted, 2)
choice_table(**noted.facts["choices"]).round(3)

# %%
table = choice_table(**noted.facts["choices"])
# layer "1" has no importance
assert (
    table.layer.tolist() == ["0", "0", "0", "0", ALL_LAYERS, ALL_LAYERS]
    and table.group.tolist() == ["x", "y"] * 3
)
assert np.allclose(
    table.target, [0.75, 0.25, 61 / 81, 20 / 81, 61 / 81, 20 / 81]
) and table.step.tolist() == [1, 1, 2, 2, 2, 2]
# shares of the weights left by step 1
assert np.allclose(table.kept, [61 / 81, 20 / 81, 36 / 52, 16 / 52, 36 / 52, 16 / 52])
nobody = Journal()
assert (
    choose(
        {0}, "layer", nobody, 1, {n: i.sum(0, keepdim=True) for n, i in by_group.items()}
    ).importance
    is None
    and "choices" not in nobody.facts
)
assert json.loads(json.dumps(noted.facts)) == noted.facts  # as a checkpoint stores it


# %% [markdown]
# ## Recovery
#
# A [recovery](../methods/06_recoveries.ipynb) may need the dense network, its accuracy on the training images, or the groups. It is made before the first weight is removed, so a recovery that cannot work raises an error before any pruning. Plain training has none.

# %%
#| export
def recovery_of(
    job: Job,  # Settings and data, with clusters if they are compared
    images: Images,  # The job's images
    dense: nn.Module,  # The dense network
    device: str | torch.device = "cpu",  # Where to compute
    team: Team = ALONE,  # The processes that share the run
) -> Recovery | None:  # None: plain training
    "The recovery of a run. Raises: ValueError if it needs groups that do not exist."
    s, rows = job.settings, images.rows["train"].cpu()
    if s.recover == "plain":
        return None
    how, groups = RECOVERIES[s.recover], images.groups.cpu()[rows]
    if how.grouped and s.groups == "clusters" and job.clusters is None:
        raise ValueError(
            f"recover = {s.recover!r} needs groups, but the clusters have not been found yet: call"
            " find_clusters first, as `pruned` does"
        )

    def right():
        return right_on(job, images, dense, "train", device, team)

    known = Reference(placed(dense, device), groups, tuple(images.names), right, s.tolerance)
    found = how.kind.of(known)
    found.check(groups, s.accumulate)
    return found


# %%
made = {name: recovery_of(asking(recover=name), images, unpruned.model) for name in RECOVERIES}
{name: type(recovery).__name__ for name, recovery in made.items()}

# %%
bound = made["constrained"]
assert made.pop("plain") is None and all(type(made[name]) is RECOVERIES[name].kind for name in made)
rows = images.rows["train"]
classes = predict(unpruned.model, images, "train", [2]).argmax(1)
right = (classes == images.labels[rows, 0]).double()
assert bound.dense.tolist() == [
    right[images.groups[rows] == g].mean().item() for g in (0, 1)
] and bound.shares.tolist() == [(images.groups[rows] == g).double().mean() for g in (0, 1)]
assert bound.tolerance == 0.02 and made["worst-group"].groups == 2
for j, some, said in (
    (asking(recover="worst-group", groups="clusters"), images, "have not been found"),
    (
        asking(recover="balanced"),
        replace(images, groups=torch.zeros_like(images.groups)),
        "at least 2 groups",
    ),
):
    try:
        recovery_of(j, some, unpruned.model)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("a recovery without groups was made")


# %% [markdown]
# A constraint binds the training images. Whether it holds for others is seen on the validation images, at the end: what each group lost beyond what all images lost. If that is more than the tolerance, a warning says for which group and by how much. The run goes on: each stage keeps its best epoch by validation loss, as always, and the result is that network. `metrics.json` has the gaps as `validation_excess`.

# %%
#| export
def _excess(
    before: list[float],  # Accuracy of the dense network: of all images, then of each group
    now: list[float],  # That of the pruned network
    groups: list[str],  # Names of the groups
) -> dict[str, float]:  # Group → percentage points; a group without images is left out
    "The drop of each group's accuracy beyond that of all images."
    lost = [b - n if None not in (b, n) else None for b, n in zip(before, now)]
    return {g: x - lost[0] for g, x in zip(groups, lost[1:], strict=True) if x is not None}


def _warn_of_excess(excess: dict[str, float], tolerance: float):
    "Warn of the group that lost most, if it lost more than is tolerated."
    worst = max(excess, key=excess.get)
    if excess[worst] > tolerance:
        warnings.warn(
            f"recover = 'constrained': on the validation images group {worst!r} lost"
            f" {excess[worst]:.1f} points more than all images, {excess[worst] - tolerance:.1f}"
            f" beyond the tolerance of {tolerance:g}. The network with the lowest validation loss"
            " is kept; train for more epochs, prune less, or raise the tolerance",
            stacklevel=3,
        )


# %%
lost = _excess([90.0, 92.0, 86.0, None], [80.0, 88.0, 71.0, None], ["blue", "red", "none"])
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    _warn_of_excess(lost, 2.0)
    _warn_of_excess(lost, 5.0)
lost, str(said[0].message)

# %%
# all lose 10, blue loses 4, red 15
assert lost == dict(blue=-6, red=5) and len(said) == 1
assert "group 'red' lost 5.0 points more than all images, 3.0 beyond" in str(said[0].message)


# %% [markdown]
# ## All of it

# %%
#| export
def prune_network(
    job: Job,  # Settings and data
    images: Images,  # The job's images
    dense: Trained,  # The network to start from; pruned in place
    device: str | torch.device = "cpu",  # Where to train
    progress: bool = True,  # Show progress bars
    on_step: Callable[[Step], None] | None = print,  # Called after each pruning step
    keep_on: str = "auto",  # Where the importance is stored: auto, device, host, or a folder
    team: Team = ALONE,  # The processes that share the run
) -> tuple[Trained, list[Step]]:  # The pruned network, and the result of each step
    "Prune and retrain with the job's settings. Source: paper, Algorithm 1 and section 4."
    s, how = job.settings, form(job.settings)
    model = dense.model if how.start == "trained" else placed(initial_network(job), device)
    journal = journal_of(
        run_folder(job),
        epochs_of(s),
        dense.history if how.start == "trained" else [],
        team,
        made_of(job),
    )
    score = _scorer(
        job,
        images,
        len(journal.steps) + (journal.selected is not None),
        device,
        progress is True,
        keep_on,
        team,
    )

    # before the network is pruned, which may be the dense one
    recovery = recovery_of(job, images, dense.model, device, team)

    def trains(net, label, plan):
        fit(job, images, net, label, plan, journal, device, progress, team, recovery)

    journal.facts["steps_in_all"] = steps_of(s)  # for the progress line

    def measure(step, net):
        _note_validation(
            journal,
            job.group_names,
            step,
            lambda: validation_accuracy(job, images, net, device, team),
        )

    def finished(step):
        if measured_after(s, step.step) == "step":
            measure(step.step, model)
        if job.machine.keep_steps:
            keep_step(journal, model, step.step)
        if on_step is not None:
            on_step(step)

    measure(0, dense.model)
    # before the checkpoint is restored: a lottery may rewind to these weights
    after = _between_steps(job, model, trains, journal)
    watched = Choices(score, importance_images(job, images).names, how.scope, journal)
    told = _note_steps(journal, model, finished, watched)
    steps = prune(
        journal.restore(model),
        s.rate,
        watched,
        how.select,
        s.keep if how.steps == "iterative" else None,
        how.scope,
        after,
        **told,
    )
    trains(model, "final", final_plan(s))
    if measured_after(s, steps_of(s)) == "final":
        measure(steps_of(s), model)
    if s.recover == "constrained":
        now = validation_accuracy(job, images, model, device, team)
        before = journal.facts["validation"]["rows"][0][1]
        journal.facts["excess"] = _excess(before, now, job.group_names)
        _warn_of_excess(journal.facts["excess"], s.tolerance)
    return (
        Trained(model, journal.history, test_classes(job, images, model, device, team), journal),
        steps,
    )


# %%
snip, steps = prune_network(asking(method="snip"), images, unpruned, progress=False)
{row["label"] for row in snip.history}, len(steps)

# %%
# SNIP does not use the dense network's training
assert {row["label"] for row in snip.history} == {"final"}
assert (
    abs(1 - sum(int(m.sum()) for m in get_masks(snip.model).values()) / steps[0].total - 0.9) < 1e-4
)
assert all(m.all() for m in get_masks(unpruned.model).values())

# %%
short = replace(job, settings=replace(tiny, rate=0.6, keep=0.7), runs_root=home / "short")
fair, steps = prune_network(
    short, images, dense_network(job, images, progress=False), progress=False, on_step=None
)
print(
    list(dict.fromkeys(row["label"] for row in fair.history)),
    [round(step.sparsity, 3) for step in steps],
)
assert list(dict.fromkeys(row["label"] for row in fair.history)) == [
    "dense",
    "step 1",
    "step 2",
    "step 3",
    "final",
] and fair.predictions.shape == (16, 1)
kept = choice_table(**fair.journal.facts["choices"])
assert (
    kept.step.unique().tolist() == [1, 2, 3]
    and kept.groupby(["step", "layer"])[["target", "kept"]].sum().sub(1).abs().max(axis=None) < 1e-9
)
paid = step_table(steps, fair.journal.facts["validation"])
assert paid.step.tolist() == [0, 1, 2, 3] and paid["val:all"].notna().all()
assert paid["val:all"][0] == validation_accuracy(job, images, unpruned.model)[0]
# the measured network is that of the best epoch
trained = pd.DataFrame([row for row in fair.history if row["kept"]]).set_index("label")
assert np.allclose(paid["val:all"][1:], trained.val_accuracy[["step 1", "step 2", "step 3"]])
sizes = [int((images.groups[images.rows["val"]] == g).sum()) for g in (0, 1)]
of_all = (paid[["val:blue", "val:red"]] * sizes).sum(axis=1) / sum(sizes)
assert np.allclose(of_all, paid["val:all"])
# SNIP trains only at the end
assert [row[0] for row in snip.journal.facts["validation"]["rows"]] == [0, 1]
# the selection keeps the shares; a score with one group has none
assert (kept.target - kept.kept).abs().median() < 1e-3 and "choices" not in snip.journal.facts
assert np.allclose([step.sparsity for step in steps], [0.3, 0.51, 0.6], atol=1e-4) and len(
    fair.history
) == 3 + epochs_of(short.settings)


# %% [markdown]
# Every recovery, on the same dense network. The steps and their counts are the same, the trained weights are not. An interrupted run resumes with the same bits ([training](../training/01_loop.ipynb)); the state is in the journal.

# %%
def recovered(name, **more):
    j = replace(
        job,
        settings=replace(tiny, method="ws", recover=name, rate=0.6, **more),
        runs_root=home / "recovered",
    )
    start = dense_network(job, images, progress=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found, _ = prune_network(j, images, start, progress=False, on_step=None)
    return found, [str(w.message) for w in said if "constrained" in str(w.message)]


# %%
#| slow
ends = {name: recovered(name) for name in RECOVERIES}
pd.Series({name: f"{found.history[-1]['train_loss']:.4f}" for name, (found, _) in ends.items()})

# %%
#| slow
kinds = list(ends)
assert all(
    not torch.equal(ends[a][0].model.fc.weight, ends[b][0].model.fc.weight)
    for i, a in enumerate(kinds)
    for b in kinds[:i]
    if {a, b} != {"plain", "constrained"}
)
# 128 training images, so each group's 40 predictions are there after the first epoch
state = ends["constrained"][0].journal.facts["recovery"]
assert state["label"] == "final" and [len(b) for b in state["buffers"]] == [40, 40]
assert ends["worst-group"][0].journal.facts["recovery"]["q"] != [0.5, 0.5]
# the dense network, then the pruned one twice: for steps.csv and for the constraint
measured = [[90.0, 92.0, 86.0], [80.0, 88.0, 71.0], [80.0, 88.0, 71.0]]
with patch(f"{prune_network.__module__}.validation_accuracy", side_effect=measured):
    broken, told = recovered("constrained", tolerance=3.0)
assert broken.journal.facts["excess"] == dict(blue=-6, red=5)
assert len(told) == 1 and "5.0 points more than all images, 2.0 beyond" in told[0]

# %% [markdown]
# The same number of epochs for each method: WS trains at the end for as long as FairGRAPE in all.

# %%
#| slow
as_long, _ = recovered("plain", epochs_in_all=8)
[row["lr"] for row in as_long.history if row["label"] == "final"]

# %%
#| slow
assert [row["lr"] for row in as_long.history if row["label"] == "final"] == [1e-3] * 5 + [1e-4] * 3


# %% [markdown]
# `layers.csv` shows each group's share of the importance before and after pruning, layer by layer. It is an illustration, so a sample of at most 256 images of each group is enough.

# %%
#| export
def _share_table(
    job: Job,  # Settings and data
    images: Images,  # The job's images
    model: nn.Module,  # Dense or pruned
    device: str | torch.device = "cpu",  # Where to compute
    cap: int = 256,  # Maximum images of a group
    keep_on: str = "auto",  # Where the importance is stored: auto, device, host, or a folder
    team: Team = ALONE,  # The processes that share the run
    # Index layer; `weights`, `kept`, and each group's share of the importance (0 to 1)
) -> pd.DataFrame:
    "Weights, weights kept and importance shares of each layer."
    size = min(64, job.settings.importance_batch)

    def loss(out, y):
        return task_loss(out, y, job.sizes)

    with memory_errors(
        "the table of importance shares",
        f"lower importance_batch (now {size}) or image_size, or set keep_on = 'host' (now"
        f" {keep_on!r})",
    ):
        importance = group_importance(
            model,
            group_batches(images, "train", size, cap, 0, device),
            loss,
            job.G,
            team=team,
            keep_on=keep_on,
        )
    rows = {
        n: (
            dict(weights=m.numel(), kept=int(m.sum()))
            | dict(zip(job.group_names, target_share(importance[n].cpu()).tolist()))
        )
        for n, m in get_masks(model).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


# %%
shares = _share_table(job, images, unpruned.model)
shares.head(3)

# %%
assert (
    np.allclose(shares[["blue", "red"]].sum(axis=1), 1)
    and (shares["kept"] == shares["weights"]).all()
)
assert np.allclose(
    shares.loc["fc", ["blue", "red"]].astype(float), target_share(by_hand).tolist(), atol=1e-3
)
pruned_shares = _share_table(job, images, snip.model)
assert (pruned_shares["kept"] < pruned_shares["weights"]).any() and not _share_table(
    job, images, unpruned.model, cap=5
).equals(shares)


# %%
#| export
def _layer_table(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """`weights` and `kept` of each layer, and the groups' importance shares before (`before:…`)
    and after (`after:…`) pruning.
    """

    def shares(table, when):
        return table.drop(columns=["weights", "kept"]).add_prefix(f"{when}:")

    return after[["weights", "kept"]].join([shares(before, "before"), shares(after, "after")])


# %%
_layer_table(shares, pruned_shares).head(3)

# %%
both = _layer_table(shares, pruned_shares)
assert (
    both.columns.tolist()
    == ["weights", "kept", "before:blue", "before:red", "after:blue", "after:red"]
    and (both["kept"] == pruned_shares["kept"]).all()
)
assert (both["before:red"] == shares["red"]).all() and (
    both["after:red"] == pruned_shares["red"]
).all()


# %% [markdown]
# ## Four calls
#
# A run is `prepare → dense → pruned → save`, here, in the notebook that papermill runs, and in each of several processes that share a run. `prepare` returns the job ([preparation](03_preparation.ipynb)). If the folder is already complete,
# a call returns `None`, and the next call accepts that.

# %%
#| export
def dense(
    job: Job,  # From `prepare`
) -> Trained | None:  # The dense network; None: the run is already complete
    """Train the network before pruning, or load it from its folder.

    If the job asks for several processes, this call starts them, and they make the whole run.
    """
    here, folder = job.machine, run_folder(job)
    check_images(job)
    if here.team.agree(is_complete(folder)):
        return None
    if here.processes > 1 and here.team.size == 1:
        roots = dict(runs_root=job.runs_root, cache_root=job.cache_root, data_root=here.data_root)
        told = dict(device=here.device, keep_on=here.keep_on, name=job.name) | roots
        told |= dict(keep_steps=True) if here.keep_steps else {}
        run_together(
            here.processes,
            job.settings,
            here.threads,
            **{k: v for k, v in told.items() if v not in (None, "")},
        )
        return None
    return dense_network(job, opened(job), ready(job), here.shows, here.team)


# %%
fresh = dict(data_root=home, cache_root=home / "cache", progress=False, device="cpu")
small = prepare(replace(tiny, method="ws", rate=0.5), runs_root=home / "four", **fresh)
first = dense(small)
[(row["label"], row["epoch"], round(row["val_accuracy"], 1)) for row in first.history]

# %%
assert is_complete(run_folder(dense_job(small))) and not is_complete(run_folder(small))
assert (first.predictions == dense_network(job, images, progress=False).predictions).all()
shared = prepare(small.settings, runs_root=home / "four", processes=2, threads=4, **fresh)
with patch(f"{dense.__module__}.run_together", create=True) as started:
    assert dense(shared) is None
assert started.call_args.args == (2, small.settings, 4)
assert started.call_args.kwargs == dict(
    device="cpu",
    keep_on="auto",
    data_root=home,
    runs_root=home / "four",
    cache_root=home / "cache",
)


# %% [markdown]
# The lock on the dense network's folder is released before that on the pruned network's is taken, because other runs may wait for the dense network. A process that waited for the pruned network's lock first checks whether the run is complete. The lock is held until the run is saved.

# %%
#| export
@dataclass(frozen=True)
class Pruned:
    "A pruned network with its steps and layers."

    job: Job  # The job, with its clusters if it has any
    network: Trained  # The network, its history and its predictions
    steps: list[Step]  # Result of each pruning step
    layers: pd.DataFrame  # From `_layer_table`


def release(job: Job):
    "Release the run's lock."
    job.machine.opened.pop("lock", ExitStack()).close()


def pruned(
    job: Job,  # From `prepare`
    first: Trained | None,  # From `dense`; pruned in place
) -> Pruned | None:  # The pruned network; None: there is nothing to prune
    "Prune and retrain the dense network, and print a line for each step."
    if first is None or job.settings.method == "dense":
        return None
    here, device = job.machine, ready(job)
    release(job)  # an interrupted call may still hold the lock
    job, images = find_clusters(job, opened(job), first.model, device, here.team)
    with ExitStack() as held:
        held.enter_context(at_work(run_folder(job), here.team))
        if here.team.agree(is_complete(run_folder(job))):
            return None
        how = dict(keep_on=here.keep_on, team=here.team)
        before = _share_table(job, images, first.model, device, **how)
        on_step = print if here.shows else None
        network, steps = prune_network(job, images, first, device, here.shows, on_step, **how)
        layers = _layer_table(before, _share_table(job, images, network.model, device, **how))
        here.opened["lock"] = held.pop_all()
    return Pruned(job, network, steps, layers)


# %%
last = pruned(small, first)
step_table(last.steps, last.network.journal.facts["validation"]).round(3)

# %%
lock_of = home / "four" / ".locks" / f"{run_folder(small).name}.lock"


def is_free(path):
    try:
        with lock(path, wait=False):
            return True
    except Busy:
        return False


assert len(last.steps) == 1 and abs(last.steps[0].sparsity - 0.5) < 1e-3
assert not is_free(lock_of) and not is_complete(run_folder(small))
assert pruned(small, None) is None
assert pruned(replace(small, settings=replace(tiny, method="dense")), first) is None
# a failed call releases the lock
other = prepare(replace(tiny, method="ws", rate=0.6), runs_root=home / "four", **fresh)
with patch(f"{pruned.__module__}.prune_network", side_effect=KeyboardInterrupt):
    try:
        pruned(other, first)
    except KeyboardInterrupt:
        pass
assert is_free(home / "four" / ".locks" / f"{run_folder(other).name}.lock")


# %%
#| export
def save(
    job: Job,  # From `prepare`
    first: Trained | None,  # From `dense`
    last: Pruned | None,  # From `pruned`
) -> Path:  # The run folder
    "Write the run's folder. Raises: RuntimeError if it is incomplete and there is no result."
    here = job.machine
    if last is not None and here.team.main:
        seconds = time.perf_counter() - here.started
        save_run(
            last.job,
            first,
            last.network,
            last.steps,
            last.layers,
            seconds,
            ready(job),
            here.team.size,
        )
    here.team.wait()
    release(job)
    if not is_complete(run_folder(job)):
        raise RuntimeError(f"{run_folder(job)} is not complete: call dense and pruned before save")
    return run_folder(job)


# %%
small.machine.started -= 100  # as if it had started earlier
there = save(small, first, last)
metrics = json.loads((there / "metrics.json").read_text())
print(there.name, round(metrics["sparsity"], 3), metrics["seconds"] > 100)

# %%
assert there == run_folder(small) and is_complete(there) and is_free(lock_of)
assert metrics["steps"] == 1 and abs(metrics["sparsity"] - 0.5) < 1e-3
assert 100 < metrics["seconds"] < 1000
assert (pd.read_csv(there / "layers.csv").eval("kept < weights")).any()
# the run is complete, and nothing is computed twice
assert dense(small) is None and save(small, None, None) == there
with patch(f"{pruned.__module__}.prune_network", side_effect=AssertionError("pruned twice")):
    assert pruned(small, first) is None
try:
    save(other, None, None)
except RuntimeError as e:
    print(str(e).replace(str(home), "…"))
else:
    raise AssertionError("a run without results was saved")


# %% [markdown]
# The four calls in one:

# %%
#| export
def run(
    settings: Settings,  # What to run
    device: str = "",  # Empty: CUDA if available
    threads: int = 0,  # CPU threads; 0: unchanged
    progress: bool = True,  # Show progress; False: print nothing
    keep_on: str = "auto",  # Where the importance is stored: auto, device, host, or a folder
    **places,  # data_root, runs_root, cache_root, name, processes: see `prepare`
) -> Path:  # The run folder
    """Run one experiment, unless its folder is already complete; under `accelerate launch`,
    together with the other processes.
    """
    how = dict(device=device, threads=threads, progress=progress or None, keep_on=keep_on)
    job = prepare(settings, **how, **places)
    first = dense(job)
    last = pruned(job, first)
    return save(job, first, last)


# %%
folder = run(tiny, **places)
sorted(f.name for f in folder.iterdir())

# %%
assert is_complete(folder) and {f.name for f in folder.iterdir()} == {
    "settings.json",
    "environment.json",
    "metrics.json",
    "history.csv",
    "steps.csv",
    "layers.csv",
    "choices.csv",
    "predictions.parquet",
    "model.safetensors",
    "masks.safetensors",
}
metrics = json.loads((folder / "metrics.json").read_text())
print(
    f"{metrics['accuracy_dense']:.1f} % dense, {metrics['accuracy_pruned']:.1f} % at sparsity"
    f" {metrics['sparsity']:.3f}"
)
assert abs(metrics["sparsity"] - 0.9) < 1e-3 and metrics["steps"] == 4
masks = load_weights(folder / "masks.safetensors")
state = load_weights(folder / "model.safetensors")
assert all((state[f"{n}.weight"][m == 0] == 0).all() for n, m in masks.items())
build_model("resnet10", 2).load_state_dict(state, strict=True)

# %% [markdown]
# A second call does nothing. WS loads the dense network and starts from it.

# %%
before = (folder / "metrics.json").stat().st_mtime_ns
assert run(tiny, **places) == folder and (folder / "metrics.json").stat().st_mtime_ns == before
dense_folder = run_folder(dense_job(job))
before = (dense_folder / "metrics.json").stat().st_mtime_ns
ws = run(replace(tiny, method="ws", scope="global"), **places)
assert (dense_folder / "metrics.json").stat().st_mtime_ns == before and run(
    replace(tiny, method="dense"), **places
) == dense_folder
print(ws.name.rsplit("-", 1)[0], "| steps:", pd.read_csv(ws / "steps.csv")["kept"].tolist())
assert pd.read_csv(ws / "steps.csv")["step"].tolist() == [0, 1]  # the dense network, and one step

# %% [markdown]
# A custom dense network from a file is not trained, so the dense accuracy is that of the file, and the history has no `dense` row.

# %%
mine = run(replace(tiny, method="ws", weights=str(dense_folder / "model.safetensors")), **places)
theirs, ours = (
    json.loads((f / "metrics.json").read_text())["accuracy_dense"] for f in (dense_folder, mine)
)
set(pd.read_csv(mine / "history.csv")["label"])

# %%
assert theirs == ours and set(pd.read_csv(mine / "history.csv")["label"]) == {"final"}


# %% [markdown]
# ## On several GPUs
#
# `accelerate launch --multi_gpu --num_processes 8 -m fairgrape.experiment.run --dataset fairface …` runs one experiment on eight GPUs, with the same settings as options and the same run folder. A notebook calls `run_together`, waits, and shows the folder. Only process 0
# writes. All processes read the labels, train on their part of each batch, compute their share of the importance's and the evaluation's batches, and select the same masks.

# %%
#| export
def main(
    arguments: Sequence[str],  # --SETTING VALUE …, settings and places
) -> Path:  # The run folder
    "One experiment from the command line, in one of the processes that share it."
    wrong = [a for a in arguments[::2] if not a.startswith("--")]
    if wrong or len(arguments) % 2:
        raise ValueError(
            f"{(wrong or arguments[-1:])[0]!r}: write --setting value, as in --dataset utkface"
            " --rate 0.9"
        )
    settings, places = from_parameters(
        {a.removeprefix("--"): v for a, v in zip(arguments[::2], arguments[1::2])}
    )
    places.pop("processes", None)  # accelerate sets their number
    return run(
        settings, **places | ({"threads": int(places["threads"])} if "threads" in places else {})
    )


# %%
told = asdict(replace(tiny, method="ws", scope="global")) | dict(
    runs_root=home / "runs", progress=False
)
told = [part for k, v in told.items() for part in (f"--{k}", str(v))]
" ".join(told[:8]).replace(str(home), "…"), main(told).name

# %%
assert main(told) == ws
with patch(f"{main.__module__}.run") as started:
    main(["--threads", "2", "--processes", "8", "--rate", "0.5"])
assert started.call_args.args == (Settings(rate=0.5),) and started.call_args.kwargs == dict(
    threads=2
)
for wrong in (["dataset", "utkface"], ["--dataset"], ["--datasets", "utkface"]):
    try:
        main(wrong)
    except ValueError as e:
        print(str(e)[:110])
    else:
        raise AssertionError(f"{wrong} was accepted")


# %%
#| export
def run_together(
    processes: int,  # Number of processes, 2 or more; each has its own GPU
    settings: Settings,  # What to run
    threads: int = 0,  # CPU threads of all together; 0: all cores
    **places,  # device, keep_on, keep_steps, data_root, runs_root, cache_root, name
) -> Path:  # The run folder
    """Run one experiment on several processes and wait for it. Raises: RuntimeError with the
    end of their output.
    """
    job = prepare(
        settings,
        **{
            k: v for k, v in places.items() if k in ("data_root", "runs_root", "cache_root", "name")
        },
        progress=False,
    )
    each = max(1, int(threads) // processes) if threads else 0
    given = asdict(settings) | places | dict(progress=False) | (dict(threads=each) if each else {})
    log = job.runs_root / ".logs" / f"{run_folder(job).name}.processes.log"
    log.parent.mkdir(exist_ok=True)
    launch(
        "fairgrape.experiment.run",
        [part for k, v in given.items() for part in (f"--{k}", str(v))],
        processes,
        log,
        each,
    )
    return run_folder(job)


if (
    __name__ == "__main__"
    and getattr(globals().get("__spec__"), "name", "") == "fairgrape.experiment.run"
):
    main(sys.argv[1:])

# %%
roots = {k: v for k, v in places.items() if k.endswith("_root")}
with patch(f"{run_together.__module__}.launch") as launched:
    there = run_together(2, tiny, threads=4, **roots)
module, arguments, number, log, threads = launched.call_args.args
there == folder, module, " ".join(arguments[:4]).replace(str(home), "…"), number, threads, log.name

# %%
assert (
    there == folder
    and module == "fairgrape.experiment.run"
    and (number, threads) == (2, 2)
    and log.parent == home / "runs" / ".logs"
)
# the arguments of the processes give this run, which is already complete
assert main(arguments) == folder
