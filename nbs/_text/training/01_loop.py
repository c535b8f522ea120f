# %% [markdown]
# # Training
#
# > One training loop: stages with falling learning rates, each of which keeps its best epoch

# %%
#| default_exp training.loop

# %%
#| export
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from fastcore.basics import patch
from torch import Tensor, nn
from tqdm import tqdm

from fairgrape.data.loaders import Images
from fairgrape.data.transforms import augmentation
from fairgrape.training.epochs import (
    adam,
    autocast,
    check_finite,
    epoch_batches,
    evaluate_loss,
    memory_order,
    train_epoch,
)
from fairgrape.training.journal import Journal
from fairgrape.training.journal import UnfinishedStage
from fairgrape.training.out_of_memory import memory_errors
from fairgrape.training.parallel import ALONE, Team
from fairgrape.training.snapshots import optimizer_tensors, restore_optimizer
from fairgrape.training.stages import Stage, seed_of

# %%
import tempfile
from pathlib import Path
from unittest.mock import patch as instead

import pandas as pd

from fairgrape.method.masks import apply_masks, get_masks, plain_state, sparsity
from fairgrape.methods.recoveries import Balanced, Recovery, Tail, WorstGroup
from fairgrape.training.journal import open_journal
from fairgrape.training.stages import stages


# %% [markdown]
# The dense network, every retraining between two pruning steps and the final training use this loop. It has three duties beyond lowering the loss: the same settings give the same bits, a pruned weight
# stays pruned, and the test images are never used.
#
# The examples are those of *epochs*: noise that is brighter at the top or at the bottom, and a network with convolutions, batch norm and one Linear layer for two heads.

# %%
def noisy_images(n=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.arange(n) % 2, torch.randint(3, (n,), generator=g)], 1)
    pixels = torch.randint(0, 160, (n, 3, 16, 16), generator=g)
    for half, rows in enumerate((slice(0, 8), slice(8, 16))):
        pixels[labels[:, 0] == half, :, rows] += 80
    rows = dict(zip(("train", "val", "test"), torch.arange(n).split([n - 32, 16, 16])))
    return Images(pixels=pixels.byte(), labels=labels, groups=torch.arange(n) % 4, rows=rows)


def tiny_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 5),
        )


images = noisy_images()


# %% [markdown]
# ## One stage
#
# Several processes make the same decisions because they have the same numbers: predictions are gathered before the loss is computed.
# On the CPU each process has its own batch norm, so the running statistics are averaged after each epoch. In the example the other of two processes has 3 everywhere: (1 + 3)/2.

# %%
#| export
def _average_buffers(
    # Its running statistics are changed in place; masks and counters are unchanged
    model: nn.Module,
    team: Team,  # The processes
):
    "Average batch norm's running statistics over all processes."
    if team.size == 1:
        return
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    team.sum_(statistics)
    for b in statistics:
        b.div_(team.size)


# %%
@dataclass(frozen=True)
class WithThrees(Team):
    def sum_(self, tensors):
        for t in tensors:
            t += 3


norm = nn.BatchNorm1d(2)
_average_buffers(norm, ALONE)
assert norm.running_var.tolist() == [1, 1]
_average_buffers(norm, WithThrees(0, 2))
print(norm.running_var, norm.running_mean)
assert (
    norm.running_var.tolist() == [2, 2]
    and norm.running_mean.tolist() == [1.5, 1.5]
    and norm.num_batches_tracked == 0
)


# %% [markdown]
# After each epoch the validation loss decides whether its weights are the best of the stage so far. At the end of the stage the best weights are restored,
# with batch norm's running statistics, and the next stage starts from them with a new optimizer. Masks are part of the network,
# so pruned weights need no special treatment. On a tie the earlier epoch is kept.

# %%
#| export
@dataclass
class _Kept:
    "The epochs of a stage so far, and the weights of the best one."

    rows: list[dict] = field(default_factory=list)
    best: int | None = None
    weights: dict[str, Tensor] | None = None


@patch
def add(self: _Kept, model: nn.Module, **row):
    "Add an epoch, and its weights if its validation loss is the lowest so far."
    if self.best is None or row["val_loss"] < self.rows[self.best]["val_loss"]:
        self.best = row["epoch"]
        self.weights = {k: v.clone() for k, v in model.state_dict().items()}
    self.rows.append(row)


@patch
def put_back(self: _Kept, model: nn.Module) -> list[dict]:
    "Restore the best epoch's weights; the rows mark that epoch."
    model.load_state_dict(self.weights)
    return [row | dict(kept=row["epoch"] == self.best) for row in self.rows]


# %%
one, kept = nn.Linear(1, 1, bias=False), _Kept()
for epoch, loss in enumerate((3.0, 1.0, 2.0, 1.0)):
    nn.init.constant_(one.weight, epoch)
    kept.add(one, epoch=epoch, val_loss=loss)
rows = kept.put_back(one)
print(rows, one.weight.item())
assert (
    one.weight.item() == 1
    and [row["kept"] for row in rows] == [False, True, False, False]
    and [row["val_loss"] for row in rows] == [3, 1, 2, 1]
)


# %% [markdown]
# An interrupted stage is in the journal: its finished epochs, the best one's weights, and the states of optimizer and scaler, without which the next step would differ.

# %%
#| export
def _resume(
    journal: Journal | None,
    at: tuple[str, int],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> _Kept:
    """The finished epochs of a stage, from the journal if it has them; restores the optimizer and
    the scaler.
    """
    here = journal and journal.half_done(*at)
    if not here:
        return _Kept()
    restore_optimizer(optimizer, here.optimizer)
    scaler.load_state_dict(here.scaler)
    return _Kept(here.rows, here.best, here.weights)


def _note(
    journal: Journal,
    at: tuple[str, int],
    kept: _Kept,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
):
    "Store in the journal what `_resume` reads."
    journal.unfinished = UnfinishedStage(
        *at, kept.rows, kept.best, kept.weights, optimizer_tensors(optimizer), scaler.state_dict()
    )


# %%
one, journal = nn.Linear(1, 1, bias=False), open_journal(None)


def scale(size):
    return torch.amp.GradScaler("cpu", init_scale=size)


def moved_by(optimizer):
    "The change after a gradient of 1, which depends on Adam's state."
    before, one.weight.grad = one.weight.item(), torch.ones(1, 1)
    optimizer.step()
    return one.weight.item() - before


first = adam(one.parameters(), 0.1)
one.weight.grad = -10 * torch.ones(1, 1)
first.step()
kept.add(one, epoch=4, val_loss=0.5)
_note(journal, ("dense", 0), kept, first, scale(8.0))
again = _resume(journal, ("dense", 0), second := adam(one.parameters(), 0.1), scaler := scale(2.0))
steps = {
    name: round(moved_by(optimizer), 4)
    for name, optimizer in dict(fresh=adam(one.parameters(), 0.1), resumed=second).items()
}
print(len(again.rows), again.best, steps, scaler.get_scale())

# %%
assert (
    (again.rows, again.best) == (kept.rows, 4)
    and again.weights["weight"].equal(kept.weights["weight"])
    and scaler.get_scale() == 8
)
# a gradient of 1 lowers the weight, but the earlier gradient of −10 still raises it
assert steps["resumed"] > 0 > steps["fresh"]
for nothing in (
    _resume(journal, ("dense", 1), second, scaler),
    _resume(None, ("dense", 0), second, scaler),
):
    assert nothing == _Kept()


# %% [markdown]
# One line shows the progress and the remaining time of the whole run, estimated from its finished epochs. For output to a file, a plain line after each epoch is better.

# %%
#| export
def _left_words(seconds: float) -> str:
    "`40 s left`, `12 min left` or `3.5 h left`."
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


class _Line:
    "One line of progress over all epochs of a run."

    def __init__(
        self,
        epochs: int,  # Epochs of this training
        batches: int,  # Batches per epoch
        journal: Journal | None = None,  # The journal of the whole run
        shown: bool | str = True,  # True: a live line; "lines": a line per epoch; False: nothing
    ):
        self.journal, self.batches, self.shown = journal, max(batches, 1), shown
        self.total = max(journal.total if journal else 0, epochs)
        self.done = float(journal.epochs if journal else 0)  # with a fraction of an epoch
        self.what, self.epoch, self.started = "", "", time.perf_counter()
        self.bar = tqdm(
            total=self.total,
            initial=min(self.done, self.total),
            bar_format="{desc} |{bar:20}|",
            leave=False,
            disable=shown is not True,
        )


@patch
def words(self: _Line) -> str:
    "`step 3 of 44, epoch 2 of 3, 17 of 160 epochs, 12 min left`."
    spent = self.journal.seconds if self.journal else time.perf_counter() - self.started
    left = [_left_words(spent / self.done * (self.total - self.done))] if self.done else []
    count = f"{int(self.done + 1e-6)} of {self.total} epochs"
    return ", ".join([self.what, f"epoch {self.epoch}", count, *left])


@patch
def update(self: _Line):
    "Count a finished batch."
    self.done += 1 / self.batches
    if not self.bar.disable:
        self.bar.set_description_str(self.words(), refresh=False)
        self.bar.update(1 / self.batches)


@patch
def end_epoch(self: _Line):
    "Count a finished epoch."
    self.done = float(round(self.done))
    if self.shown == "lines":
        print(self.words(), flush=True)


# %%
line = _Line(3, batches=2, journal=Journal(total=160, before=100.0), shown="lines")
line.what, line.epoch, line.done = "step 3 of 44", "2 of 3", 16.0
line.update()
line.update()
line.end_epoch()

# %%
assert (line.done, line.total) == (17, 160)
# 17 epochs took 100 seconds, so 143 more take 841
assert line.words() == "step 3 of 44, epoch 2 of 3, 17 of 160 epochs, 14 min left"
assert [_left_words(s) for s in (40, 720, 12600)] == ["40 s left", "12 min left", "3.5 h left"]
assert _Line(3, 2, shown=False).total == 3 and "left" not in _Line(3, 2, shown=False).words()


# %% [markdown]
# A recipe holds everything about a training that is the same in all of its stages.

# %%
#| export
@dataclass(frozen=True)
class Recipe:
    "How a network is trained."

    sizes: list[int]  # Number of classes of each head
    seed: int  # The run's seed
    batch: int = 64  # Images per step
    augment: str = "paper"  # 'paper', 'flip' or 'none'
    precision: str = "fp32"  # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = "cpu"  # Where to compute
    accumulate: int = 1  # Parts into which a batch is divided if it does not fit into memory
    compiled: bool = False  # Train through torch.compile
    optimizer: Callable = adam  # (parameters, lr) -> optimizer, a new one for each stage
    # A `Recovery`, which chooses the images of an epoch and weights their losses; None: plain
    recovery: object | None = None

    def transform(self, images: Images) -> nn.Module | None:
        "The augmentation of a batch; None: none."
        none = self.augment == "none"
        return None if none else augmentation(self.augment, images.pixels.shape[-1])

    def drawn(self, images: Images, seed: int) -> Images:
        "The images with the training rows of one epoch."
        if self.recovery is None:
            return images
        rows = images.rows["train"]
        chosen = self.recovery.rows(rows.cpu(), images.groups[rows].cpu(), seed)
        return replace(images, rows=images.rows | dict(train=chosen.to(rows.device)))


# %%
recipe = Recipe([2, 3], seed=0, batch=16)
print(recipe, recipe.transform(images))
assert (recipe.augment, recipe.precision, recipe.optimizer) == ("paper", "fp32", adam)
assert Recipe([2], 0, augment="none").transform(images) is None
assert recipe.drawn(images, seed=0) is images
even = replace(recipe, recovery=Balanced(), seed=0).drawn(images, seed=0)
assert images.groups[even.rows["train"]].bincount().tolist() == [16] * 4
assert even.rows["val"] is images.rows["val"]


# %% [markdown]
# A stage repeats an epoch, its validation and its checkpoint. The seed of each epoch is made from the run's seed, the label, the stage and the epoch.

# %%
#| export
def train_stage(
    model: nn.Module,  # The network; ends with the weights of the best epoch
    images: Images,  # Trained on 'train', validated on 'val'
    stage: Stage,  # Learning rate and epochs
    how: Recipe,  # How it is trained
    at: tuple[str, int] = ("dense", 0),  # Label and number of the stage, from 0
    line: _Line | None = None,  # Progress, updated by every batch
    # Written after each epoch; if it has a part of this stage, the stage resumes there
    journal: Journal | None = None,
    team: Team = ALONE,  # The processes that share each batch
) -> list[dict]:  # One row per epoch; `kept` is True for the best
    """Train for some epochs at one learning rate and keep the best by validation loss, the
    earlier one on a tie.
    """
    opt = how.optimizer([p for p in model.parameters() if p.requires_grad], stage.lr)
    scaler = torch.amp.GradScaler(torch.device(how.device).type, enabled=how.precision == "fp16")
    kept, transform = _resume(journal, at, opt, scaler), how.transform(images)
    net = torch.compile(team.wrap(model)) if how.compiled else team.wrap(model)
    line = line or _Line(stage.epochs, 1, shown=False)
    where = f"{at[0]}, stage {at[1] + 1}"
    for epoch in range(len(kept.rows), stage.epochs):
        start, here = time.perf_counter(), f"{where}, epoch {epoch + 1}"
        line.epoch = f"{epoch + 1} of {stage.epochs}"
        seed = seed_of(how.seed, *at, epoch)
        drawn = how.drawn(images, seed)
        with epoch_batches(drawn, how.batch, seed, transform, how.device, team) as (pieces, whole):
            train_loss = train_epoch(
                net,
                opt,
                pieces,
                how.sizes,
                scaler,
                how.precision,
                line,
                here,
                how.accumulate,
                team,
                whole,
                how.recovery,
            )
        _average_buffers(model, team)
        val_loss, accuracy = evaluate_loss(
            model, images, "val", how.sizes, 4 * how.batch, how.precision, how.device, team
        )
        check_finite(val_loss, f"{here}, validation")
        kept.add(
            model,
            epoch=epoch,
            lr=stage.lr,
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=accuracy,
            seconds=time.perf_counter() - start,
        )
        if journal:
            _note(journal, at, kept, opt, scaler)
            journal.write(model, line.what or where, line.epoch)
        line.end_epoch()
    return kept.put_back(model)


# %% [markdown]
# Does the stage restore the complete best epoch? At a very high learning rate the validation loss must rise at some point. Training
# again for only as many epochs as the best one took must end, without restoring, with the same weights and statistics.

# %%
def run(epochs, lr=2e-2):
    model, how = tiny_net(), Recipe([2, 3], seed=0, batch=16, augment="none")
    return model, train_stage(model, images, Stage(lr, epochs), how)


model, rows = run(10)
pd.DataFrame(rows).round(3)


# %%
def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a | b)


best = min(rows, key=lambda row: row["val_loss"])
assert [row["kept"] for row in rows] == [row is best for row in rows]
assert best is not rows[-1], "the validation loss must rise in this example"
again, _ = run(best["epoch"] + 1)
assert same(model.state_dict(), again.state_dict())
assert (
    "1.running_var" in model.state_dict()
    and evaluate_loss(model, images, "val", [2, 3], 64)[0] == best["val_loss"]
)


# %% [markdown]
# ## All stages
#
# torch.compile compiles the network into fewer, larger kernels. It needs a compiler on the machine, which `_check_compiler` tests before training starts.
# Compilation only changes how the network runs: the weights and their names stay the same, and predictions and importance do not use it.
# The network is compiled when it first trains and again when it first has masks, for half a minute each for a ResNet on a CPU; later stages and
# steps reuse the result.

# %%
#| export
def _tiny(x: Tensor) -> Tensor:
    return x.sin() + 1


def _check_compiler(
    device: torch.device | str = "cpu",  # Where to compute
):
    "Compile a tiny function. Raises: RuntimeError that names the missing compiler."
    try:
        torch.compile(_tiny)(torch.ones(4, device=device))
    except Exception as e:
        raise RuntimeError(
            f"compiled = True: torch.compile does not work here ({type(e).__name__}:"
            f" {str(e).strip().splitlines()[0][:120]}). It needs a C++ compiler such as g++ (on a"
            " GPU also Triton): install it, or set compiled = False"
        ) from e


# %%
def broken(*_, **__):
    raise FileNotFoundError("g++: no such file")


with instead("torch.compile", broken):
    try:
        _check_compiler()
    except RuntimeError as e:
        print(e)
    else:
        raise AssertionError("a missing compiler was found")
with instead("torch.compile", lambda f: f):
    assert _check_compiler() is None
asked = []
with instead("torch.compile", lambda f: lambda x: asked.append(f(x))):
    _check_compiler("meta")
# on the network's device, and the compiled function was also run
assert asked[0].device.type == "meta"


# %% [markdown]
# An unusable setting is refused before the first batch.

# %%
#| export
def _check_training(
    stages: Sequence[Stage],  # The schedule
    images: Images,  # To be trained on
    how: Recipe,  # How to train
):
    "Raise ValueError or RuntimeError for settings that cannot work."
    if not stages:
        raise ValueError("stages is empty: give at least one Stage, or stages('3', '1e-5')")
    if how.batch < 2:
        raise ValueError(f"batch = {how.batch}: batch norm needs at least 2 images")
    if not 1 <= how.accumulate <= how.batch // 2:
        raise ValueError(
            f"accumulate = {how.accumulate} parts of a batch of {how.batch}: each needs 2 images,"
            f" so choose 1 to {how.batch // 2}"
        )
    if images.labels.shape[1] != len(how.sizes):
        raise ValueError(
            f"{images.labels.shape[1]} labels per image, but {len(how.sizes)} heads: give the"
            " number of classes of each label"
        )
    autocast(how.precision, how.device)
    how.transform(images)
    if how.recovery is not None:
        how.recovery.check(images.groups[images.rows["train"]], how.accumulate)
    if how.compiled:
        _check_compiler(how.device)


# %%
usable = Recipe([2, 3], seed=0, batch=16, accumulate=8)
wrong = [
    (dict(batch=1), "batch = 1:"),
    (dict(accumulate=9), "choose 1 to 8"),
    (dict(accumulate=0), "choose 1 to 8"),
    (dict(sizes=[2]), "2 labels"),
    (dict(precision="int8"), "int8"),
    (dict(augment="mirror"), "mirror"),
    (dict(compiled=True), "compiled = True"),
    (dict(recovery=Tail()), "accumulate = 8"),
]
with instead("torch.compile", broken):
    assert _check_training(stages(), images, usable) is None
    assert _check_training(stages(), images, replace(usable, batch=2, accumulate=1)) is None
    for settings, said in [({}, "stages is empty"), *wrong]:
        try:
            _check_training(stages() if settings else [], images, replace(usable, **settings))
        except (ValueError, RuntimeError) as e:
            print(e)
            assert said in str(e)
        else:
            raise AssertionError(f"{settings} was accepted")


# %% [markdown]
# `train` runs all stages in order, from a network that is the same in every process. Each epoch's random numbers depend only on its seed, so finished stages can be skipped.

# %%
#| export
def train(
    model: nn.Module,  # The network, trained in place with its masks; left in evaluation mode
    images: Images,  # Trained on 'train', validated on 'val'; 'test' is not used
    stages: Sequence[Stage],  # The schedule
    how: Recipe,  # How it is trained
    label: str = "dense",  # The training phase; part of every epoch's seed and of the history
    # Written after each epoch; its finished stages are skipped, its history is extended
    journal: Journal | None = None,
    # True: a live line; "lines": a plain line after each epoch; False: nothing
    progress: bool | str = True,
    # The processes that share each batch; all start from process 0's network
    team: Team = ALONE,
    # The history, one row per epoch: label, stage, epoch, lr, losses, accuracy, seconds, kept
) -> list[dict]:
    """Train through all stages; each keeps its best epoch by validation loss.

    Raises: ValueError or RuntimeError before the first step if a setting is not usable;
    FloatingPointError if the loss is not finite;
    OutOfMemory (a MemoryError) that names the settings to change.
    Source: paper §4.1.
    """
    _check_training(stages, images, how)
    if how.recovery is not None:
        how.recovery.begin(label, journal.facts if journal else {})
    history, progress = journal.history if journal else [], progress and team.main
    advice = (
        f"raise accumulate (now {how.accumulate}), lower batch (now {how.batch}) or image_size, or"
        " use a smaller network"
    )
    with memory_errors(f"training ({label})", advice):
        model.to(how.device, memory_format=memory_order(model, how.device))
        team.same(model.state_dict().values())
        batches = math.ceil(len(images.rows["train"]) / how.batch)
        line = _Line(sum(stage.epochs for stage in stages), batches, journal, progress)
        for i, stage in enumerate(stages):
            if journal and journal.done(label, i):
                continue
            line.what = journal.of_all(label) if journal else label
            if len(stages) > 1:
                line.what += f", stage {i + 1} of {len(stages)}"
            with team.synced(model):
                rows = train_stage(model, images, stage, how, (label, i), line, journal, team)
            history += [dict(label=label, stage=i) | row for row in rows]
            if journal:
                journal.unfinished = None
        line.bar.close()
    return history


# %% [markdown]
# Two short stages. The columns are those of a run's `history.csv`. Accuracy is in percent, the mean over both heads, of which the
# second can only guess.

# %%
short = stages("2,1", "1e-3,1e-4")


def trained(plan=short, label="dense", **settings):
    model, how = tiny_net(), replace(recipe, **settings)
    return model, train(model, images, plan, how, label, progress=False)


model, history = trained()
pd.DataFrame(history).round(3)

# %%
columns = [
    "label",
    "stage",
    "epoch",
    "lr",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "seconds",
    "kept",
]
assert [list(row) for row in history] == [columns] * 3
assert [(row["stage"], row["epoch"], row["lr"]) for row in history] == [
    (0, 0, 1e-3),
    (0, 1, 1e-3),
    (1, 0, 1e-4),
]
assert sum(row["kept"] for row in history) == 2  # one in each stage

# %% [markdown]
# The same settings give the same bits; another seed or label gives other bits.

# %%
before = torch.random.get_rng_state()
assert same(model.state_dict(), trained()[0].state_dict())
assert torch.equal(before, torch.random.get_rng_state())
assert not same(model.state_dict(), trained(seed=1)[0].state_dict())
assert not same(model.state_dict(), trained(label="step-1")[0].state_dict())

# %% [markdown]
# Training in `bf16` is nearly the same: the weights stay in float32, and after a few steps the losses agree to about a
# hundredth.

# %%
plain = trained([Stage(1e-4, 2)], augment="none")[1][-1]["train_loss"]
other, rows = trained([Stage(1e-4, 2)], augment="none", precision="bf16")
abs(plain - rows[-1]["train_loss"])

# %%
assert abs(plain - rows[-1]["train_loss"]) < 0.05
assert all(p.dtype == torch.float32 for p in other.parameters())


# %% [markdown]
# Does a batch in four parts give the same result as an undivided one? In float64 and without batch norm it does, to nine digits after three epochs of Adam.

# %%
def plain_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 5)
        ).double()


class DoubleIn(nn.Module):
    "A float64 network for float32 images."

    def __init__(self):
        super().__init__()
        self.net = plain_net()

    def forward(self, x):
        return self.net(x.double())


ends = {}
for parts in (1, 4):
    model = DoubleIn()
    how = replace(recipe, augment="none", accumulate=parts)
    train(model, images, stages("3", "1e-3"), how, progress=False)
    ends[parts] = model.state_dict()
max(float((ends[1][k] - ends[4][k]).abs().max()) for k in ends[1])

# %%
assert all(torch.allclose(ends[1][k], ends[4][k], rtol=0, atol=1e-9) for k in ends[1]) and not same(
    ends[1], ends[4]
)

# %% [markdown]
# ## Other objectives
#
# A [recovery](../methods/06_recoveries.ipynb) takes the place of the mean loss. Its state, such as the weights of the groups, begins anew with each training. The base class changes nothing but the order of sums: the mean of images' losses, in float32.

# %%
straight, (row, *_) = trained([Stage(1e-3, 1)])
same_loss, (again, *_) = trained([Stage(1e-3, 1)], recovery=Recovery())
robust, (worst, *_) = trained([Stage(1e-3, 1)], recovery=(dro := WorstGroup(4)))
{
    "plain": row["train_loss"],
    "base class": again["train_loss"],
    "worst group": worst["train_loss"],
    "weights of the groups": [round(q, 4) for q in dro.state["q"]],
}

# %%
assert math.isclose(row["train_loss"], again["train_loss"], rel_tol=1e-5)
assert not same(straight.state_dict(), robust.state_dict()) and len(set(dro.state["q"])) == 4
assert same(robust.state_dict(), trained([Stage(1e-3, 1)], recovery=dro)[0].state_dict())
assert not same(
    straight.state_dict(), trained([Stage(1e-3, 1)], recovery=Balanced())[0].state_dict()
)


# %% [markdown]
# If memory runs out, the error names the settings:

# %%
class Greedy(nn.Module):
    "A network that needs a petabyte in training and nothing in evaluation."

    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, x):
        return self.net(x + (torch.empty(2**50, dtype=torch.uint8).sum() if self.training else 0))


try:
    train(Greedy(), images, stages("1", "1e-3"), recipe, progress=False)
except MemoryError as e:
    print(e)
    assert "raise accumulate (now 1), lower batch (now 16)" in str(e)
else:
    raise AssertionError("a petabyte was found")

# %% [markdown]
# ## Pruned weights stay pruned
#
# Iterative pruning relies on this: a pruned weight is 0 after every step, not only at the end. An
# optimizer could violate it in two ways, by momentum from before the pruning and by weight decay on the hidden value. The mask is
# between the hidden value and the weight that the network uses, so neither reaches the network. The test checks after every single
# step.

# %%
optimizers = dict(
    adam=adam,
    momentum=lambda ps, lr: torch.optim.SGD(ps, lr=lr, momentum=0.9, weight_decay=1e-2),
    adamw=lambda ps, lr: torch.optim.AdamW(ps, lr=lr, weight_decay=0.1),
)

model = tiny_net()
g = torch.Generator().manual_seed(0)
masks = {name: torch.rand(mask.shape, generator=g) < 0.1 for name, mask in get_masks(model).items()}
apply_masks(model, masks)
print(f"{100 * sparsity(get_masks(model)):.1f} % pruned")


# %%
def leaks(model, masks):
    return sum(
        int(model.get_submodule(n).weight[~mask].count_nonzero()) for n, mask in masks.items()
    )


def watched(kind, steps):
    def build(parameters, lr):
        opt = optimizers[kind](parameters, lr)
        opt.register_step_post_hook(lambda *_: steps.append(leaks(model, masks)))
        return opt

    return build


for kind in optimizers:
    steps, before = [], {k: v.clone() for k, v in plain_state(model).items()}
    how = replace(recipe, optimizer=watched(kind, steps))
    train(model, images, stages("1,1", "1e-2,1e-3"), how, progress=False)
    print(kind, steps)
    assert steps == [0] * 8  # 64 training images, 4 steps per epoch, 2 epochs
    # the kept weights did change
    assert not torch.equal(before["0.weight"], plain_state(model)["0.weight"])


# %% [markdown]
# ## Interrupted and resumed
#
# Training with a journal writes a checkpoint after each epoch. Restarted with the journal of an interrupted training, it skips finished stages, restores the optimizer's state and continues with the next epoch. The test interrupts the same
# training after each of its epochs, in the middle of a stage and at its end, and compares the result with an uninterrupted one, bit for bit. The interruption comes after a checkpoint is written.

# %%
class Cut(Exception):
    pass


def cut_after(journal, epochs):
    "Make a journal stop the training after this many checkpoints."
    write = journal.write

    def and_stop(*args):
        write(*args)
        if journal.written >= epochs:
            raise Cut

    journal.write = and_stop
    return journal


def trained_with(journal, model, recovery=None):
    how = replace(recipe, augment="flip", recovery=recovery)
    plan = stages("4,1", "1,1e-3")
    return train(journal.restore(model), images, plan, how, journal=journal, progress=False)


straight = tiny_net()
rows = trained_with(open_journal(None), straight)
folder = Path(tempfile.mkdtemp())
for epochs in range(1, 6):
    try:
        trained_with(cut_after(open_journal(folder / str(epochs)), epochs), tiny_net())
    except Cut:
        pass
    model, journal = tiny_net(), open_journal(folder / str(epochs))
    again = trained_with(journal, model)
    assert same(model.state_dict(), straight.state_dict()), epochs
    assert (
        [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
        and journal.written == 5
        and journal.unfinished is None
    )
[row["kept"] for row in rows]

# %% [markdown]
# The weights of the groups are part of the journal, so a training on the worst group resumes with the same bits too.

# %%
robust, journal = tiny_net(), open_journal(None)
rows_of_all = trained_with(journal, robust, WorstGroup(4))
for epochs in range(1, 5):
    try:
        cut = cut_after(open_journal(folder / f"dro {epochs}"), epochs)
        trained_with(cut, tiny_net(), WorstGroup(4))
    except Cut:
        pass
    model, journal = tiny_net(), open_journal(folder / f"dro {epochs}")
    begun = journal.facts["recovery"]["q"]
    again = trained_with(journal, model, resumed := WorstGroup(4))
    assert same(model.state_dict(), robust.state_dict()), epochs
    assert resumed.state["q"] != begun != [0.25] * 4
resumed.state

# %%
assert not same(robust.state_dict(), straight.state_dict())
# the best epoch was not the last one, so it had to be restored too
assert rows[3]["kept"] is False and len(rows) == 5


# %% [markdown]
# ## Errors
#
# Settings are checked before the network is used. A learning rate that makes the loss diverge raises an error with stage and epoch.

# %%
def huge(ps, lr):
    return torch.optim.SGD(ps, lr=1e30)


for settings, error, said in [
    (dict(plan=[]), ValueError, "stages"),
    (dict(augment="mirror"), ValueError, "mirror"),
    (dict(optimizer=huge), FloatingPointError, "dense, stage 1, epoch 1"),
]:
    try:
        trained(**settings)
    except error as e:
        print(type(e).__name__, e)
        assert said in str(e)
    else:
        raise AssertionError(f"{settings} was accepted")
