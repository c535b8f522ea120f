# %% [markdown]
# # Checkpoints
#
# > A run's saved progress: an interruption costs at most one epoch

# %%
#| default_exp training.journal

# %%
#| export
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from fastcore.basics import patch
from torch import Tensor, nn

from fairgrape.method.masks import apply_masks
from fairgrape.training.files import code_version, write_json
from fairgrape.training.snapshots import (
    Checkpoint,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)

# %%
import json
import tempfile

from fairgrape.method.masks import get_masks
from fairgrape.training.snapshots import checkpoint_files

home = Path(tempfile.mkdtemp())


# %% [markdown]
# A pruning run of the paper's protocol trains for 150 epochs or more. Servers reboot, queues preempt jobs, people press Ctrl-C. This notebook gives three guarantees:
#
# - a run that is killed at any moment and restarted ends with **the same masks and metrics, bit for bit**, as an uninterrupted run (same machine, same number of threads);
# - it loses at most the work since the last epoch;
# - no file that it reads back can execute code: tensors are in safetensors, everything else in JSON, no pickle.
#
# [Storage](05_files.ipynb) writes files atomically, and [snapshots](06_snapshots.ipynb) put a run's state into one file. The journal defines that state.

# %% [markdown]
# ## The journal of a run
#
# A run is a fixed sequence: repeated steps of (score, select, retrain), then the final training. Each training has stages, and each stage has epochs. The state to save is the
# network with its masks and, in the middle of a stage, the optimizer and the best epoch so far.

# %%
#| export
@dataclass
class UnfinishedStage:
    "An unfinished training stage."

    label: str  # The training phase, e.g. "step 3"
    stage: int  # Which of its stages, from 0
    rows: list[dict]  # One row for each epoch so far
    best: int  # The best of them, by validation loss
    weights: dict[str, Tensor]  # The network's state after that epoch
    optimizer: dict[str, Tensor]  # From `optimizer_tensors`
    scaler: dict  # The loss scaler's state


# %%
half_way = UnfinishedStage("step 2", 1, [dict(val_loss=0.5), dict(val_loss=0.7)], 0, {}, {}, {})
assert half_way.rows[half_way.best]["val_loss"] == min(row["val_loss"] for row in half_way.rows)
half_way.label, half_way.stage, half_way.rows[half_way.best]


# %% [markdown]
# The journal records a run's progress. It is written after each epoch and after each selection.

# %%
#| export
@dataclass
class Journal:
    "A run's progress, stored in its folder until the run is complete."

    folder: Path | None = None  # The run's folder; None: nothing is written
    total: int = 0  # Epochs of the whole run, for the progress line
    # Rows of finished stages, and rows from before the run
    history: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)  # Finished pruning steps
    # The step whose masks are set, but whose retraining is unfinished
    selected: dict | None = None
    unfinished: UnfinishedStage | None = None  # The current training stage
    facts: dict = field(default_factory=dict)  # Other values to restore; plain values
    # The network's state, if there was a checkpoint
    network: dict[str, Tensor] = field(default_factory=dict)
    written: int = 0  # Checkpoints so far
    before: float = 0.0  # Seconds spent by earlier processes
    resumed: int = 0  # How often the run was resumed
    started: float = field(default_factory=time.perf_counter)


# %%
assert (
    Journal().folder is None
    and Journal().history is not Journal().history
    and Journal().started > 0
)
Journal()


# %%
#| export
@patch(as_prop=True)
def checkpoints(self: Journal) -> Path:
    "The folder of the run's checkpoints."
    return self.folder / "checkpoints"


@patch(as_prop=True)
def found(self: Journal) -> bool:
    "Whether there was a checkpoint to resume from."
    return bool(self.network)


# %% [markdown]
# An empty journal belongs to a new run. It needs no folder, so a notebook can train without leaving files.

# %%
assert (
    not Journal().found
    and Journal(network=dict(w=torch.ones(1))).found
    and Journal(home).checkpoints == home / "checkpoints"
)
Journal(home).checkpoints.name, Journal().found


# %% [markdown]
# A training loop asks its journal whether a stage is finished, half done, or begun.

# %%
#| export
@patch
def done(self: Journal, label: str, stage: int) -> bool:
    "Whether that stage of that training is finished."
    return any(row["label"] == label and row["stage"] == stage for row in self.history)


@patch
def half_done(self: Journal, label: str, stage: int) -> UnfinishedStage | None:
    "The saved state of that stage, if it is the current one."
    here = self.unfinished
    return here if here is not None and (here.label, here.stage) == (label, stage) else None


# %%
journal = Journal(history=[dict(label="step 1", stage=0)], unfinished=half_way)
journal.done("step 1", 0), journal.done("step 2", 1), journal.half_done("step 2", 1).label

# %%
assert (
    journal.done("step 1", 0)
    and not journal.done("step 1", 1)
    and not journal.done("step 2", 0)
    and not journal.done("step 2", 1)
)
assert (
    journal.half_done("step 2", 1) is half_way
    and journal.half_done("step 2", 0) is None
    and journal.half_done("step 1", 1) is None
)
assert Journal().half_done("dense", 0) is None


# %%
#| export
@patch
def begun(self: Journal, label: str) -> bool:
    "Whether that training has begun."
    return any(row["label"] == label for row in self.history) or (
        self.unfinished is not None and self.unfinished.label == label
    )


# %%
{label: journal.begun(label) for label in ("step 1", "step 2", "final")}

# %%
assert (
    journal.begun("step 1")
    and journal.begun("step 2")
    and not journal.begun("final")
    and not Journal().begun("dense")
)


# %% [markdown]
# Time and epochs are counted over all processes of the run. The training of a dense network, which many runs share, is in the history but does not count.

# %%
#| export
@patch(as_prop=True)
def seconds(self: Journal) -> float:
    "Seconds that this run took so far, including earlier processes."
    return self.before + time.perf_counter() - self.started


@patch(as_prop=True)
def epochs(self: Journal) -> int:
    "Epochs that this run has finished."
    return (
        len(self.history)
        - self.facts.get("rows_before", 0)
        + (len(self.unfinished.rows) if self.unfinished else 0)
    )


# %%
(
    Journal(history=[{}] * 5, facts=dict(rows_before=3), unfinished=half_way).epochs,
    round(Journal(before=100.0).seconds),
)

# %%
assert (
    Journal(history=[{}] * 5, facts=dict(rows_before=3), unfinished=half_way).epochs == 5 - 3 + 2
    and Journal(history=[{}]).epochs == 1
)
assert 100 < Journal(before=100.0).seconds < 1000

# %% [markdown]
# ## Writing it
#
# All tensors go into one dictionary with prefixes. If the best epoch is the last one, its weights are the current network and are not stored twice.

# %%
#| export
PARTS = ("network", "best", "optimizer", "random")


def _tensors(journal: Journal, model: nn.Module, random: Mapping[str, Tensor]) -> dict[str, Tensor]:
    "The tensors of a checkpoint, each under the prefix of its part."
    here = journal.unfinished
    parts = dict(
        network=model.state_dict(),
        best=here.weights if here and here.best < len(here.rows) - 1 else {},
        optimizer=here.optimizer if here else {},
        random=random,
    )
    return {f"{part}:{k}": v for part in PARTS for k, v in parts[part].items()}


# %%
net = nn.Sequential(nn.Linear(3, 2))
best = {k: v + 1 for k, v in net.state_dict().items()}
cut_off = UnfinishedStage("dense", 0, [{}, {}], 0, best, {"0.step": torch.ones(())}, {})
tensors = _tensors(Journal(unfinished=cut_off), net, dict(cpu=torch.ones(1)))
list(tensors)

# %%
assert list(tensors) == [
    "network:0.weight",
    "network:0.bias",
    "best:0.weight",
    "best:0.bias",
    "optimizer:0.step",
    "random:cpu",
]
assert torch.equal(tensors["best:0.bias"], tensors["network:0.bias"] + 1)
trained_on = UnfinishedStage("dense", 0, [{}, {}], 1, best, {}, {})
assert (
    list(_tensors(Journal(unfinished=trained_on), net, {}))
    == ["network:0.weight", "network:0.bias"]
    == list(_tensors(Journal(), net, {}))
)


# %% [markdown]
# Everything else is plain values. They include what must be the same when the run resumes: the code and the number of threads.

# %%
#| export
def _values(journal: Journal, random: Mapping) -> dict:
    "The plain values of a checkpoint."
    here, stage = journal.unfinished, None
    if here is not None:
        stage = dict(
            label=here.label, stage=here.stage, rows=here.rows, best=here.best, scaler=here.scaler
        )
    return dict(
        history=journal.history,
        steps=journal.steps,
        selected=journal.selected,
        stage=stage,
        facts=journal.facts,
        random=random,
        seconds=journal.seconds,
        resumed=journal.resumed,
        threads=torch.get_num_threads(),
        code=code_version(),
        torch=torch.__version__,
    )


# %%
{
    k: v
    for k, v in _values(Journal(unfinished=half_way), {}).items()
    if k in ("stage", "resumed", "history")
}

# %%
values = _values(
    Journal(
        history=[{"a": 1}],
        steps=[{"b": 2}],
        selected={"c": 3},
        facts={"d": 4},
        before=100.0,
        resumed=5,
        unfinished=half_way,
    ),
    {"r": 6},
)
assert values.pop("seconds") > 100 and values.pop("stage") == dict(
    label="step 2", stage=1, rows=half_way.rows, best=0, scaler={}
)
assert (
    values
    == dict(
        history=[{"a": 1}],
        steps=[{"b": 2}],
        selected={"c": 3},
        facts={"d": 4},
        random={"r": 6},
        resumed=5,
        threads=torch.get_num_threads(),
        code=code_version(),
        torch=torch.__version__,
    )
    and _values(Journal(), {})["stage"] is None
)


# %%
#| export
@patch
def snapshot(
    self: Journal,
    model: nn.Module,  # The network in its current state, with masks
) -> tuple[dict[str, Tensor], dict]:
    "The tensors and the plain values of a checkpoint, with the state of the random generators."
    tensors, plain = random_state()
    return _tensors(self, model, tensors), _values(self, plain)


# %%
#| export
@patch
def of_all(
    self: Journal,
    label: str,  # The training phase
) -> str:  # "step 3" as "step 3 of 44", if the number of steps is known
    "A label with the total number of steps."
    steps = self.facts.get("steps_in_all")
    return f"{label} of {steps}" if steps and label.startswith("step ") else label


# %%
counted = Journal(facts=dict(steps_in_all=44))
[counted.of_all("step 3"), counted.of_all("final"), Journal().of_all("step 3")]

# %%
assert counted.of_all("step 3") == "step 3 of 44" and counted.of_all("dense") == "dense"
assert Journal().of_all("step 3") == "step 3"


# %%
#| export
@patch
def write(
    self: Journal,
    model: nn.Module,  # The network in its current state, with masks
    label: str = "",  # The training phase, e.g. "step 3 of 44"
    epoch: str = "",  # Its epoch, e.g. "2 of 3"
):
    "Write a checkpoint and the progress. Raises: OSError if the disk is full or not writable."
    if self.folder is None:
        return
    save_checkpoint(self.checkpoints, self.written, *self.snapshot(model))
    self.written += 1
    write_json(
        self.folder / "progress.json",
        dict(
            label=label,
            epoch=epoch,
            done=self.epochs,
            total=self.total,
            seconds=self.seconds,
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


# %% [markdown]
# `progress.json` beside the checkpoints is a short summary for people and for `fairgrape status`.

# %%
journal = Journal(home / "toy run", total=3)
journal.unfinished = UnfinishedStage("dense", 0, [dict(val_loss=0.5)], 0, {}, {}, {})
journal.write(net, "dense", "1 of 3")
progress = json.loads((home / "toy run" / "progress.json").read_text())
(
    {k: progress[k] for k in ("label", "epoch", "done", "total")},
    [f.name[:6] for f in checkpoint_files(journal.checkpoints)],
)

# %%
assert {k: progress[k] for k in ("label", "epoch", "done", "total")} == dict(
    label="dense", epoch="1 of 3", done=1, total=3
)
assert journal.epochs == 1 and journal.written == 1 and 0 < progress["seconds"] < 1000
journal.write(net)
assert [f.name[:6] for f in checkpoint_files(journal.checkpoints)] == [
    "000001",
    "000000",
] and journal.written == 2
Journal().write(net)  # without a folder nothing is written


# %% [markdown]
# ## Reading it back
#
# A checkpoint from other code is set aside, because a run must not mix two versions. The same holds for a checkpoint from other images with the same names, or from another run. It is not deleted: it may be weeks of work, and somebody may return to the old code.

# %%
#| export
def _strange(state: dict, made_of: str) -> tuple[str, str]:
    "A word and a reason if a checkpoint is from other code or another run; otherwise empty."
    if state["code"] != code_version():
        return state["code"], f"by other code ({state['code']}, now {code_version()})"
    if made_of and state["facts"].get("made_of", made_of) != made_of:
        return "other-images", "for other settings, labels or images"
    return "", ""


def _put_aside(folder: Path, word: str, why: str):
    "Rename checkpoints that must not be used, with a warning."
    aside = folder / f"checkpoints.{word}"
    warnings.warn(
        f"{folder.name}: its checkpoints were written {why}, so it starts again; they are kept in"
        f" {aside.name}",
        stacklevel=3,
    )
    shutil.rmtree(aside, ignore_errors=True)
    (folder / "checkpoints").rename(aside)


# %%
for text in ("older", "newer"):
    (home / "stale" / "checkpoints").mkdir(parents=True)
    (home / "stale" / "checkpoints" / "x").write_text(text)
    with warnings.catch_warnings(record=True) as said:
        _put_aside(home / "stale", *_strange(dict(code="0" * 12), ""))
print(str(said[0].message).replace(code_version(), "…"))
assert [p.name for p in (home / "stale").iterdir()] == ["checkpoints." + "0" * 12] and (
    home / "stale" / ("checkpoints." + "0" * 12) / "x"
).read_text() == "newer"
mine = dict(code=code_version(), facts=dict(made_of="these"))
assert (
    _strange(mine, "these")
    == _strange(mine, "")
    == _strange(mine | dict(facts={}), "these")
    == ("", "")
    and _strange(mine, "others")[0] == "other-images"
)


# %% [markdown]
# The number of threads determines the order of sums and so their last bits. A resumed run therefore uses the number that it began with.

# %%
#| export
def _same_threads(name: str, threads: int):
    "Set the number of threads that the run began with, with a warning if it changes."
    if torch.get_num_threads() == threads:
        return
    warnings.warn(
        f"{name} began with {threads} threads and goes on with as many, so it ends with the"
        " same bits",
        stacklevel=4,
    )
    torch.set_num_threads(threads)


# %%
threads = torch.get_num_threads()
torch.set_num_threads(threads + 1)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    _same_threads("toy run", threads)
    _same_threads("toy run", threads)
print(said[0].message)
assert torch.get_num_threads() == threads and len(said) == 1


# %%
#| export
def _journal(folder: Path, total: int, found: Checkpoint) -> Journal:
    "The journal of a checkpoint; sets the threads and the random generators."
    s, parts = found.state, {part: {} for part in PARTS}
    for name, tensor in found.tensors.items():
        parts[name.partition(":")[0]][name.partition(":")[2]] = tensor
    here = s["stage"] and UnfinishedStage(
        **s["stage"], weights=parts["best"] or parts["network"], optimizer=parts["optimizer"]
    )
    _same_threads(folder.name, s["threads"])
    restore_random_state(parts["random"], s["random"])
    return Journal(
        folder,
        total,
        s["history"],
        s["steps"],
        s["selected"],
        here,
        s["facts"],
        parts["network"],
        found.number + 1,
        s["seconds"],
        s["resumed"] + 1,
    )


# %% [markdown]
# `_journal` reverses `_tensors` and `_values`, and the generators continue where they were.

# %%
kept = Journal(
    home / "kept",
    9,
    [{"a": 1}],
    [{"b": 2}],
    {"c": 3},
    UnfinishedStage("dense", 0, [{}, {}], 0, best, {"0.step": torch.ones(())}, {"scale": 2.0}),
    {"d": 4},
    before=100.0,
    resumed=5,
)
kept.write(net)
drawn = torch.rand(3)
back = _journal(home / "kept", 9, load_checkpoint(kept.checkpoints))
back.unfinished.label, back.history, back.resumed

# %%
assert (
    torch.equal(torch.rand(3), drawn)
    and back.before > 100
    and (back.resumed, back.written, back.total) == (6, 1, 9)
)
assert (back.history, back.steps, back.selected, back.facts) == (
    [{"a": 1}],
    [{"b": 2}],
    {"c": 3},
    {"d": 4},
)
assert all(
    torch.equal(back.network[k], v) and torch.equal(back.unfinished.weights[k], best[k])
    for k, v in net.state_dict().items()
)
assert (
    back.unfinished.optimizer == {"0.step": torch.ones(())}
    and back.unfinished.scaler == {"scale": 2.0}
    and len(back.unfinished.rows) == 2
)
nothing_half = load_checkpoint(kept.checkpoints)
nothing_half.state["stage"] = None
assert _journal(home / "kept", 9, nothing_half).unfinished is None


# %%
#| export
def open_journal(
    folder: Path | None,  # The run's folder; None: a journal that writes nothing
    total: int = 0,  # Epochs of the whole run
    # Rows from before the run, if it has no checkpoint
    history: list[dict] | None = None,
    made_of: str = "",  # The identity of this run, including its images; "": not checked
) -> Journal:
    "The journal of a run: a new one, or that of its newest intact checkpoint."
    found = None if folder is None else load_checkpoint(folder / "checkpoints")
    strange = _strange(found.state, made_of) if found else ("", "")
    if found is not None and not strange[0]:
        return _journal(folder, total, found)
    if found is not None:
        _put_aside(folder, *strange)
    return Journal(
        folder,
        total,
        history=list(history or []),
        facts=dict(rows_before=len(history or []), made_of=made_of),
    )


# %%
back = open_journal(home / "toy run", total=3)
back.found, back.unfinished.label, back.epochs, back.resumed

# %%
assert (
    torch.equal(back.network["0.weight"], net.state_dict()["0.weight"])
    and back.written == 2
    and back.before > 0
)
# the best epoch is the last one, so it is not stored twice
assert back.unfinished.weights.keys() == net.state_dict().keys()
assert not open_journal(home / "another run").found and not open_journal(None).found
fresh = open_journal(None, history=[dict(label="dense", stage=0)])
assert fresh.epochs == 0 and fresh.done("dense", 0)  # earlier epochs do not count as this run's
torch.set_num_threads(threads + 1)
with warnings.catch_warnings(record=True) as said:
    open_journal(home / "toy run")
assert torch.get_num_threads() == threads and "as many" in str(said[0].message)
written = load_checkpoint(home / "toy run" / "checkpoints")
save_checkpoint(
    home / "stale run" / "checkpoints", 1, written.tensors, written.state | dict(code="0" * 12)
)
with warnings.catch_warnings(record=True) as said:
    assert not open_journal(home / "stale run").found
assert "other code" in str(said[0].message) and [
    p.name for p in (home / "stale run").iterdir()
] == [f"checkpoints.{'0' * 12}"]
save_checkpoint(
    home / "strange run" / "checkpoints",
    1,
    written.tensors,
    written.state | dict(facts=dict(made_of="other images")),
)
with warnings.catch_warnings(record=True) as said:
    assert (
        open_journal(home / "strange run").found
        and not open_journal(home / "strange run", made_of="these images").found
    )
assert "labels or images" in str(said[-1].message) and [
    p.name for p in (home / "strange run").iterdir()
] == ["checkpoints.other-images"]

# %% [markdown]
# The network is restored with its masks: if the checkpoint has masks, they are applied first, then the state is loaded.

# %%
#| export
MASK = ".parametrizations.weight.0.mask"


@patch
def restore(
    self: Journal,
    model: nn.Module,  # The network before pruning; changed in place
) -> nn.Module:  # The same network in the state of the checkpoint
    "Load the state of the checkpoint into a network, if there is one."
    if not self.found:
        return model
    masks = {
        f".{name}".removesuffix(MASK).removeprefix("."): mask
        for name, mask in self.network.items()
        if f".{name}".endswith(MASK)  # a network of a single layer has no layer name
    }
    if masks:
        apply_masks(model, masks)
    model.load_state_dict(self.network)
    return model


# %%
masked = apply_masks(
    nn.Sequential(nn.Linear(3, 2)), {"0": torch.tensor([[True, False, True], [False, True, True]])}
)
journal = Journal(home / "masked run")
journal.write(masked)
back = open_journal(home / "masked run").restore(nn.Sequential(nn.Linear(3, 2)))
back[0].weight

# %%
assert torch.equal(back[0].weight, masked[0].weight) and torch.equal(
    get_masks(back)["0"], get_masks(masked)["0"]
)
one_layer = apply_masks(nn.Linear(3, 2), {"": get_masks(masked)["0"]})
Journal(home / "one layer").write(one_layer)
again = open_journal(home / "one layer").restore(nn.Linear(3, 2))
assert torch.equal(again.weight, one_layer.weight) and (again.weight == 0).sum() == 2
untouched = nn.Sequential(nn.Linear(3, 2))
before = untouched[0].weight.clone()
assert torch.equal(Journal().restore(untouched)[0].weight, before)


# %% [markdown]
# When the run is complete, its results are written and the journal is no longer needed.

# %%
#| export
@patch
def close(self: Journal):
    "Remove the checkpoints and the progress file of a complete run."
    if self.folder is None:
        return
    (self.folder / "progress.json").unlink(missing_ok=True)
    shutil.rmtree(self.checkpoints, ignore_errors=True)


# %%
open_journal(home / "toy run").close()
list((home / "toy run").iterdir())

# %%
assert not list((home / "toy run").iterdir()) and not open_journal(home / "toy run").found
Journal().close()
