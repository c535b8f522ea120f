# %% [markdown]
# # Checkpoints
#
# > What a run keeps while it runs, so that whatever kills it costs at most an epoch

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
# A pruning run of the paper's protocol trains for 150 epochs and more. Servers reboot, queues preempt, somebody presses Ctrl-C. Three promises follow, and this notebook is how they are kept:
#
# - a run that was killed at any moment and started again ends with **the same masks and metrics, bit for bit**, as one that was never killed (same machine, same number of threads);
# - what it had done is lost back to the last epoch at most;
# - nothing that is read back can execute code: tensors in safetensors, everything else in JSON, no pickle.
#
# [Storage](05_files.ipynb) has files that are whole or not there, [snapshots](06_snapshots.ipynb) put a run's state into one of them. Here is the journal that says what that state is. Who keeps runs finds all three here: the names below are handed on.

# %% [markdown]
# ## The journal of a run
#
# A run is a fixed sequence: (score, select, retrain) again and again, then the final training, each training some stages of some epochs. What must be kept is the
# network with its masks, and, in the middle of a stage, the optimizer and the best epoch so far.

# %%
#| export
@dataclass
class Stage:
    "A training stage that is not finished"

    label: str  # What is trained, e.g. "step 3"
    stage: int  # Which of its stages, from 0
    rows: list[dict]  # One row for each epoch so far
    best: int  # The best of them, by validation loss
    weights: dict[str, Tensor]  # The network's state after that epoch
    optimizer: dict[str, Tensor]  # From `optimizer_tensors`
    scaler: dict  # The loss scaler's state


# %%
half_way = Stage("step 2", 1, [dict(val_loss=0.5), dict(val_loss=0.7)], 0, {}, {}, {})
assert half_way.rows[half_way.best]["val_loss"] == min(row["val_loss"] for row in half_way.rows)
half_way.label, half_way.stage, half_way.rows[half_way.best]


# %% [markdown]
# The journal knows how far a run came. It is written after each epoch and after each selection.

# %%
#| export
@dataclass
class Journal:
    "How far a run came; kept in its folder while it runs"

    folder: Path | None = None  # The run's folder; None: nothing is written
    total: int = 0  # Epochs of the whole run, for those who watch
    # Rows of finished stages, and of what came before the run
    history: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)  # Finished pruning steps
    # The step whose masks are set, but whose retraining is not through
    selected: dict | None = None
    unfinished: Stage | None = None  # The training stage under way
    facts: dict = field(default_factory=dict)  # Whatever else must come back; plain values
    # The network's state, where one was found
    network: dict[str, Tensor] = field(default_factory=dict)
    written: int = 0  # Checkpoints so far
    before: float = 0.0  # Seconds spent by earlier processes
    resumed: int = 0  # How often the run was taken up again
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
    "The folder of the run's checkpoints"
    return self.folder / "checkpoints"


@patch(as_prop=True)
def found(self: Journal) -> bool:
    "Whether there was a checkpoint to go on from"
    return bool(self.network)


# %% [markdown]
# A journal of nothing is one that begins. It has no need of a folder, so that a notebook can train without leaving files.

# %%
assert (
    not Journal().found
    and Journal(network=dict(w=torch.ones(1))).found
    and Journal(home).checkpoints == home / "checkpoints"
)
Journal(home).checkpoints.name, Journal().found


# %% [markdown]
# A training loop that is given a journal asks it: is this stage done, is it half done, is anything of it there?

# %%
#| export
@patch
def done(self: Journal, label: str, stage: int) -> bool:
    "Whether that stage of that training is finished"
    return any(row["label"] == label and row["stage"] == stage for row in self.history)


@patch
def half_done(self: Journal, label: str, stage: int) -> Stage | None:
    "What is there of that stage, if it is the one under way"
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
    "Whether anything of that training is there"
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
# Time and epochs are counted over all the processes that had a part in the run. What came before it, the training of a dense network that many runs share, is in its history but is not its work.

# %%
#| export
@patch(as_prop=True)
def seconds(self: Journal) -> float:
    "Seconds that this run took so far, earlier processes included"
    return self.before + time.perf_counter() - self.started


@patch(as_prop=True)
def epochs(self: Journal) -> int:
    "Epochs that this run has behind it"
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
# All tensors go into one dictionary with prefixes. Where the best epoch is the last one, it is the network as it stands, and is not kept twice.

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
list(
    _tensors(
        Journal(unfinished=Stage("dense", 0, [{}, {}], 0, best, {"0.step": torch.ones(())}, {})),
        net,
        dict(cpu=torch.ones(1)),
    )
)

# %%
tensors = _tensors(
    Journal(unfinished=Stage("dense", 0, [{}, {}], 0, best, {"0.step": torch.ones(())}, {})),
    net,
    dict(cpu=torch.ones(1)),
)
assert list(tensors) == [
    "network:0.weight",
    "network:0.bias",
    "best:0.weight",
    "best:0.bias",
    "optimizer:0.step",
    "random:cpu",
]
assert torch.equal(tensors["best:0.bias"], tensors["network:0.bias"] + 1)
assert (
    list(_tensors(Journal(unfinished=Stage("dense", 0, [{}, {}], 1, best, {}, {})), net, {}))
    == ["network:0.weight", "network:0.bias"]
    == list(_tensors(Journal(), net, {}))
)


# %% [markdown]
# All else is plain values. With them goes what must be the same when the run goes on: the code, and the number of threads.

# %%
#| export
def _values(journal: Journal, random: Mapping) -> dict:
    "The plain values of a checkpoint."
    here = journal.unfinished
    stage = (
        None
        if here is None
        else dict(
            label=here.label, stage=here.stage, rows=here.rows, best=here.best, scaler=here.scaler
        )
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
def of_all(
    self: Journal,
    label: str,  # What is trained
) -> str:  # "step 3" as "step 3 of 44", where the number of steps is known
    "A label for people."
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
    model: nn.Module,  # The network as it is now, masks included
    label: str = "",  # What is going on, e.g. "step 3 of 44"
    epoch: str = "",  # Which epoch of it, e.g. "2 of 3"
):
    "Write a checkpoint and the progress. Raises: OSError where the disk refuses."
    if self.folder is None:
        return
    tensors, plain = random_state()
    save_checkpoint(
        self.checkpoints, self.written, _tensors(self, model, tensors), _values(self, plain)
    )
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
# Beside the checkpoint goes `progress.json`, a few words for people and for `fairgrape status`.

# %%
journal = Journal(home / "toy run", total=3)
journal.unfinished = Stage("dense", 0, [dict(val_loss=0.5)], 0, {}, {}, {})
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
# A checkpoint of other code is put aside: a run that is half of one version and half of another is neither's. The same goes for one of other images under the same names, or of another run. It is not deleted, for it may be weeks of work, and the old code may come back.

# %%
#| export
def _strange(state: dict, made_of: str) -> tuple[str, str]:
    "A word and a reason if what a checkpoint holds is not this run's by this code; else empty"
    if state["code"] != code_version():
        return state["code"], f"by other code ({state['code']}, now {code_version()})"
    if made_of and state["facts"].get("made_of", made_of) != made_of:
        return "other-images", "for other settings, labels or images"
    return "", ""


def _put_aside(folder: Path, word: str, why: str):
    "Rename checkpoints that are not to be used, and say so."
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
# The number of threads decides the order in which sums are taken, and with it the last bits, so it is set to what the run began with.

# %%
#| export
def _same_threads(name: str, threads: int):
    "Go on with as many threads as the run began with, and say so where that is a change."
    if torch.get_num_threads() == threads:
        return
    warnings.warn(
        f"{name} began with {threads} threads and goes on with as many, so that it ends with the"
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
    "The journal that a checkpoint holds; sets the threads and the random generators."
    s, parts = found.state, {part: {} for part in PARTS}
    for name, tensor in found.tensors.items():
        parts[name.partition(":")[0]][name.partition(":")[2]] = tensor
    here = s["stage"] and Stage(
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
# What `_tensors` and `_values` took apart is put together, and the generators go on where they were.

# %%
kept = Journal(
    home / "kept",
    9,
    [{"a": 1}],
    [{"b": 2}],
    {"c": 3},
    Stage("dense", 0, [{}, {}], 0, best, {"0.step": torch.ones(())}, {"scale": 2.0}),
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
    # Rows of what came before the run, if it starts from nothing
    history: list[dict] | None = None,
    made_of: str = "",  # What tells this run from others, its images among it; "": not looked at
) -> Journal:
    "The journal of a run: a new one, or from its newest whole checkpoint."
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
# the best epoch is the last one, so it is not kept twice
assert back.unfinished.weights.keys() == net.state_dict().keys()
assert not open_journal(home / "another run").found and not open_journal(None).found
fresh = open_journal(None, history=[dict(label="dense", stage=0)])
assert fresh.epochs == 0 and fresh.done("dense", 0)  # what came before is not this run's work
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
# The network comes back with its masks: where the checkpoint has masks, the network is given them first, then its state.

# %%
#| export
MASK = ".parametrizations.weight.0.mask"


@patch
def restore(
    self: Journal,
    model: nn.Module,  # A network as it was before pruning; changed in place
) -> nn.Module:  # The same network, as it was at the checkpoint
    "Bring a network to the state of the checkpoint, if there is one."
    if not self.found:
        return model
    masks = {
        f".{name}".removesuffix(MASK).removeprefix("."): mask
        for name, mask in self.network.items()
        if f".{name}".endswith(MASK)  # a network that is itself a layer has no name
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
# When the run is through, its results are there and the journal has no more to say.

# %%
#| export
@patch
def close(self: Journal):
    "Remove what was kept for going on; the run's results are written."
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
