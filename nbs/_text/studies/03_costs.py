# %% [markdown]
# # Costs
#
# > The work of a run, counted from its settings: images, FLOPs, bytes

# %%
#| default_exp studies.costs

# %%
#| export
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairgrape.experiment.preparation import Job
from fairgrape.experiment.run import measured_after
from fairgrape.experiment.settings import Settings, epochs_of, form
from fairgrape.method.masks import prunable
from fairgrape.method.schedule import schedule
from fairgrape.networks.builders import plain_model
from fairgrape.networks.inspect import LAYERS
from fairgrape.studies.studies import protocol

# %%
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from fairgrape.data.splits import split_table
from fairgrape.experiment.preparation import prepare
from fairgrape.experiment.run import run

home = Path(tempfile.mkdtemp())


# %% [markdown]
# How long will a thousand runs take, and how much disk space will they use? The answer has two separate parts. The *work* of a run follows from its settings: epochs over the images, and passes for the importance.
# This notebook counts it exactly, for any machine. The *speed* of a machine is [measured](04_calibration.ipynb) on that machine. [Hours](05_sizing.ipynb) are the work divided by the speed.
#
# ## How many images

# %%
#| export
@dataclass(frozen=True)
class Counts:
    "The properties of the data that determine the cost of a run."

    train: int  # Training images
    val: int  # Validation images, which select the epoch
    test: int  # Test images
    heads: tuple[int, ...]  # Classes of each head
    groups: int  # G, number of compared groups
    basis: str = "counted"  # Where the numbers come from


# %% [markdown]
# These are the rows of the studies' protocol with the sizes of their parts. UTKFace was counted in the set itself; FairFace and CelebA follow from their published numbers of images and the 80/10/10 split. ImageNet's person subtree
# cannot be counted, because its annotations are available on request only. Yang et al. annotated 100 images per synset, so the paper's 104 classes have at most 10,400. This is an upper bound and marked as such.

# %%
#| export
_FAIRFACE, _UTKFACE = (78158, 9770, 9770), (17617, 2203, 2192)
PROTOCOL = {  # Row of the studies' protocol -> its images
    "fairface": Counts(*_FAIRFACE, (7,), 7, "published"),
    "fairface-gender": Counts(*_FAIRFACE, (2,), 7, "published"),
    "fairface-14": Counts(*_FAIRFACE, (14,), 14, "published"),
    "utkface": Counts(*_UTKFACE, (4,), 4),
    "utkface-gender": Counts(*_UTKFACE, (2,), 4),
    "utkface-two-heads": Counts(*_UTKFACE, (4, 2), 4),
    "utkface-five": Counts(18965, 2373, 2366, (5,), 5),
    "celeba": Counts(162079, 20260, 20260, (2,) * 39, 2, "published"),
    "people": Counts(8320, 1040, 1040, (104,), 2, "at most, assumed"),
}

# %%
pd.DataFrame({row: vars(counts) for row, counts in PROTOCOL.items()}).T

# %%
for n, row in ((86_744 + 10_954, "fairface"), (202_599, "celeba"), (10_400, "people")):
    files = [f"{i}.jpg" for i in range(n)]
    parts = split_table(pd.DataFrame(dict(path=files, photo=files)), "photo").value_counts()
    assert (parts["train"], parts["val"], parts["test"]) == (
        PROTOCOL[row].train,
        PROTOCOL[row].val,
        PROTOCOL[row].test,
    )
# three without a race; 1,692 "Others"
assert sum(_UTKFACE) == 22_012 and 18_965 + 2_373 + 2_366 == 23_704 == 23_707 - 3 == 22_012 + 1_692


# %% [markdown]
# For your own data the counts come from the job that `prepare` makes; here it has 160 small pictures of noise.

# %%
#| export
def counts_of(
    job: Job,  # From `prepare`
) -> Counts:  # Its images
    "Count a job's images."
    parts = job.table["split"].value_counts()
    return Counts(
        int(parts["train"]), int(parts["val"]), int(parts["test"]), tuple(job.sizes), job.G
    )


# %%
places = dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
(home / "own").mkdir()
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
for i, row in enumerate(rows):
    pixels = np.random.default_rng(i).integers(0, 120, (24, 24, 3), np.uint8) + np.uint8(
        90 * (i % 2)
    )
    Image.fromarray(pixels).save(home / "own" / row["file"])
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
    rate=0.75,
    keep=0.5,
    epochs="1,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    retrain_lr=1e-4,
    importance_cap=20,
    augment="flip",
    bootstrap=100,
)
mine = counts_of(prepare(tiny, **places))
assert mine == Counts(128, 16, 16, (2,), 2)
mine


# %% [markdown]
# ## Work per image
#
# torch counts FLOPs, on a network on the meta device, which needs no memory. A multiplication and an addition are two FLOPs.

# %%
#| export
def _forward_flops(
    model: nn.Module,  # On any device, best on "meta"
    x: Tensor,  # Images there, shape (B, 3, S, S)
) -> tuple[int, int]:  # FLOPs of the whole batch forward; those of the first layer
    "Count the FLOPs of a forward pass."
    with FlopCounterMode(display=False) as counter:
        model(x)
    first = next(m for m in model.modules() if isinstance(m, LAYERS))
    with FlopCounterMode(display=False) as own:
        first(x if isinstance(first, nn.Conv2d) else x.flatten(1))
    return counter.get_total_flops(), own.get_total_flops()


# %% [markdown]
# By hand: two images through a layer of 3 × 5 weights take 2 · 2 · 3 · 5 = 60 FLOPs, all of them in the first layer. A 3 × 3 convolution from 3 to 4 channels over 6 × 6 outputs takes 2 · 9 · 3 · 4 · 36 = 7,776 FLOPs per image.

# %%
small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
assert _forward_flops(nn.Linear(3, 5), torch.empty(2, 3)) == (60, 60)
assert _forward_flops(small, torch.empty(1, 3, 8, 8)) == (7776 + 2 * 144 * 2, 7776)
_forward_flops(small, torch.empty(1, 3, 8, 8))


# %% [markdown]
# The backward pass computes two gradients for every product of the forward pass, that of the weights and that of the input. Both passes
# together are therefore three times the forward pass, less the input gradient of the first layer, which is not needed. This is computed and not counted, because torch's counter treats the weight gradient of a depthwise
# convolution like that of a dense one and would give MobileNetV2 seven times its work.

# %%
#| export
@dataclass(frozen=True)
class Work:
    "The cost of a network."

    forward: float  # FLOPs of one image forward
    both: float  # FLOPs of one image forward and backward
    weights: int  # Weights that can be pruned
    layers: int  # Layers with these weights
    nbytes: int  # Bytes of everything in its state


@cache
def _work(network: str, outputs: int, image_size: int) -> Work:
    "Count the work of a network with so many outputs, on the meta device."
    with torch.device("meta"):
        model = plain_model(network, outputs, image_size=image_size)
    forward, first = (
        n / 2
        for n in _forward_flops(
            model.eval(), torch.empty(2, 3, image_size, image_size, device="meta")
        )
    )
    weights = [m.weight.numel() for m in prunable(model).values()]
    return Work(
        forward,
        3 * forward - first,
        sum(weights),
        len(weights),
        sum(t.nbytes for t in model.state_dict().values()),
    )


# %% [markdown]
# Without grouped convolutions, the factor of three agrees with torch's own count of both passes:

# %%
with torch.device("meta"):
    model = plain_model("resnet34", 7)
with FlopCounterMode(display=False) as counter:
    model(torch.empty(1, 3, 224, 224, device="meta")).sum().backward()
assert counter.get_total_flops() == _work("resnet34", 7, 224).both
assert _work("mobilenet_v2", 7, 224).both < 3 * _work("mobilenet_v2", 7, 224).forward
assert (_work("resnet34", 7, 224).weights, _work("resnet34", 7, 224).layers) == (
    21_271_232,
    37,
) and _work("resnet34", 7, 224).nbytes == sum(t.nbytes for t in model.state_dict().values())
_work("resnet34", 7, 224)


# %% [markdown]
# Building a network takes a second, even on the meta device, and a plan needs many numbers of outputs. Each further row of the head adds the same work, so two networks determine all others.

# %%
#| export
def network_work(
    network: str,  # As in the settings
    outputs: int = 7,  # Rows of the head
    image_size: int = 224,  # Side of the square images, pixels
) -> Work:  # For one image, and for the whole network
    "Count a network's FLOPs, weights and bytes without building it in memory."
    one, two = (vars(_work(network, rows, image_size)) for rows in (1, 2))
    return Work(**{k: v + (outputs - 1) * (two[k] - v) for k, v in one.items()})


# %%
shown = (("resnet34", 224), ("resnet34", 64), ("mobilenet_v2", 224), ("resnet10", 32))
assert all(network_work(n, 7, size) == _work(n, 7, size) for n, size in shown) and network_work(
    "resnet10", 104, 32
) == _work("resnet10", 104, 32)
pd.DataFrame({f"{n}, {size} px": vars(network_work(n, 7, size)) for n, size in shown}).T


# %% [markdown]
# ## What a run does
#
# The cost of a run excludes its dense network, which a sweep trains once for all runs that start from it. Each epoch reads the training images, and the validation images for evaluation. Each step of a method that
# uses images scores training images, forward and backward; so do the two tables of importance shares, with 256 images of each group. The selection in a step sorts the remaining weights once per group. After every
# epoch a checkpoint is written: the weights, Adam's two moments, and the best epoch so far if it is another one, so at most four times the weights.

# %%
#| export
@dataclass(frozen=True)
class Cost:
    "The work of runs; costs can be added and multiplied."

    runs: float = 0  # Runs, dense ones included
    steps: float = 0  # Pruning steps
    epochs: float = 0  # Training epochs
    trained: float = 0  # Images forward and backward in training
    scored: float = 0  # Images forward and backward for importance, or another score
    judged: float = 0  # Images forward only: validation and test
    selected: float = 0  # Candidates that are sorted, weights × groups
    flops: float = 0  # FLOPs of all these images
    written: float = 0  # Bytes written to the disk, checkpoints included (at most)
    kept: float = 0  # Bytes that stay on the disk

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, n: float) -> "Cost":
        return Cost(*(n * getattr(self, f.name) for f in fields(self)))

    @property
    # in images forward and backward; forward is a third
    def passes(self) -> float:
        return self.trained + self.scored + self.judged / 3


# %%
assert Cost(runs=1, trained=300, judged=90) + Cost(runs=1, scored=20) * 3 == Cost(
    runs=4, trained=300, scored=60, judged=90
)
assert Cost(trained=300, scored=60, judged=90).passes == 390
Cost(runs=1, trained=300, judged=90) + Cost(runs=1, scored=20) * 3

# %% [markdown]
# The number of scored images depends on the method: magnitude needs none, SNIP one batch, GraSP the same number of each class, FairGRAPE all images or a number of each group. Methods without images cost only their training.

# %%
#| export
# images of a class in GraSP's batch, which is processed three times: once for the gradient, twice
# for the Hessian
BALANCED = 10


def _scored_images(
    settings: Settings,  # A run's settings
    counts: Counts,  # Its images
) -> int:  # Images forward and backward in one step
    "Images that a method's score uses in a step (`importance_on` would reduce them)."
    s, how = settings, form(settings)
    if how.blind:
        return 0
    if how.batches == "one":
        return min(s.batch, counts.train)
    if how.batches == "balanced":
        return 3 * min(BALANCED * sum(counts.heads), counts.train)
    return min(counts.train, s.importance_cap * counts.groups or counts.train)


# %%
fairface = PROTOCOL["fairface"]
{
    m: _scored_images(Settings(method=m), fairface)
    for m in ("fairgrape", "importance", "ws", "snip", "grasp")
}

# %%
assert (
    _scored_images(Settings(), fairface) == 78_158
    and _scored_images(Settings(importance_cap=500), fairface) == 3_500
)
assert [_scored_images(Settings(method=m), fairface) for m in ("ws", "snip", "grasp")] == [
    0,
    64,
    3 * 10 * 7,
]


# %% [markdown]
# A selection sorts the weights left by the previous step, so its work shrinks from step to step.

# %%
#| export
def candidates(
    settings: Settings,  # A run's settings; its method is not "dense"
    counts: Counts,  # Its images
    weights: int,  # The network's prunable weights
) -> float:  # Weights × groups, over all steps
    "Candidates that the selections of a run sort: the weights left by the step before, per group."
    how = form(settings)
    rates = schedule(settings.rate, settings.keep if how.steps == "iterative" else None)
    return (
        (counts.groups if how.groups else 1) * weights * float(1 + sum(1 - r for r in rates[:-1]))
    )


# %% [markdown]
# By hand: 100 weights in the first step and 50 in the second, for seven groups. WS has one step and no groups.

# %%
assert candidates(Settings(rate=0.75, keep=0.5), fairface, 100) == 7 * (100 + 50) and candidates(
    Settings(rate=0.7, keep=0.5), fairface, 100
) == 7 * (100 + 50)
assert candidates(Settings(method="ws"), fairface, 100) == 100
candidates(Settings(rate=0.75, keep=0.5), fairface, weights=100)

# %% [markdown]
# The images of a run, by use. Besides the scores, a run that prunes makes two tables of importance shares, before and after, and measures each group on the validation images, before pruning and after each step.

# %%
#| export
SHARES = 256  # images per group in the two tables of importance shares of a run


def _images(s: Settings, counts: Counts, steps: int) -> tuple[int, int, int]:
    "Images trained on, scored, and judged in a run with this many pruning steps."
    epochs = epochs_of(s)
    scored = (
        steps * _scored_images(s, counts) + 2 * min(counts.train, SHARES * counts.groups)
        if steps
        else 0
    )
    looks = sum(bool(measured_after(s, i + 1)) for i in range(steps)) + (steps > 0)
    return epochs * counts.train, scored, (epochs + looks) * counts.val + counts.test


# %% [markdown]
# By hand, for a hundred training images of two groups, ten validation images and five test images. Both tables use all hundred, because there are fewer than 2 · 256. The validation images are used after each of 8 epochs, and 3 more times: for the dense network and after both steps.

# %%
hundred = Counts(100, 10, 5, (2,), 2)
short = Settings(rate=0.75, keep=0.5, epochs="1,1", lrs="1e-3,1e-4", retrain_epochs=3)
assert epochs_of(short) == 8 and _images(short, hundred, 2) == (
    8 * 100,
    2 * 100 + 2 * 100,
    8 * 10 + 3 * 10 + 5,
)
assert (
    _images(replace(short, method="dense"), hundred, 0) == (2 * 100, 0, 2 * 10 + 5)
    and _images(short, replace(hundred, train=1000), 2)[1] == 2 * 1000 + 2 * 512
)
_images(short, hundred, 2)


# %%
#| export
def cost(
    settings: Settings,  # A run's settings
    counts: Counts,  # Its images
) -> Cost:  # Of this run alone; a dense network is `method = "dense"`
    "Count the work of a run."
    s = settings
    work = network_work(settings.network, sum(counts.heads), settings.image_size)
    pruned = settings.method != "dense"
    steps = 0
    if pruned:
        steps = len(schedule(s.rate, s.keep if form(s).steps == "iterative" else None))
    epochs = epochs_of(s)
    trained, scored, judged = _images(s, counts, steps)
    masks = work.weights * pruned
    kept = work.nbytes + masks
    return Cost(
        1,
        steps,
        epochs,
        trained,
        scored,
        judged,
        candidates(s, counts, work.weights) if pruned else 0,
        (trained + scored) * work.both + judged * work.forward,
        epochs * (4 * work.nbytes + masks) + steps * kept + kept,
        kept,
    )


# %%
paper = Settings(rate=0.99)
vars(cost(paper, fairface))

# %% [markdown]
# By hand, for FairGRAPE at 0.99 on FairFace: 0.9⁴⁴ is the first power of 0.9 below 0.01, so 44 steps of 3 epochs, and 19 epochs at the end: 151.

# %%
assert (cost(paper, fairface).steps, cost(paper, fairface).epochs) == (44, 151)
assert (
    cost(paper, fairface).trained == 151 * 78_158
    and cost(paper, fairface).scored == 44 * 78_158 + 2 * 7 * 256
)
assert cost(replace(paper, method="ws"), fairface).epochs == 19
one = cost(paper, fairface)
dense = cost(replace(paper, method="dense"), fairface)
work = network_work("resnet34", 7)
assert (
    dense.judged == 19 * 9_770 + 9_770
    and (dense.steps, dense.scored, dense.selected) == (0, 0, 0)
    and dense.kept == work.nbytes == one.kept - work.weights
)
assert one.flops == (
    one.trained + one.scored
) * work.both + one.judged * work.forward and one.selected == candidates(
    paper, fairface, work.weights
)
assert (
    one.written == 151 * (4 * work.nbytes + work.weights) + (44 + 1) * one.kept
    and dense.written == 19 * 4 * work.nbytes + dense.kept
)

# %% [markdown]
# The count is checked against a real run on those pictures. A hook counts every image that enters the network, with and without gradient. The dense
# network and the pruned run together equal the sum of the two costs, to the image.

# %%
seen = dict(gradient=0, none=0)


def note(module, args):
    if type(module).__name__ != "ResNet":
        return
    seen[
        "gradient" if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() else "none"
    ] += len(args[0])


hook = nn.modules.module.register_module_forward_pre_hook(note)
folder = run(tiny, **places)
hook.remove()
seen

# %%
expected = cost(tiny, mine) + cost(replace(tiny, method="dense"), mine)
assert seen == dict(gradient=expected.trained + expected.scored, none=expected.judged)
on_disk = sum(f.stat().st_size for f in folder.iterdir() if f.suffix == ".safetensors")
assert (
    abs(on_disk / cost(tiny, mine).kept - 1) < 0.01
    and len(pd.read_csv(folder / "steps.csv")) == 1 + cost(tiny, mine).steps
)
assert len(pd.read_csv(folder / "history.csv")) == expected.epochs


# %% [markdown]
# Besides time, a run needs memory and disk space. Only the importance grows with the number of groups G: 4 bytes for each weight and group, or for the current group only if the others are stored elsewhere.

# %%
#| export
def room(
    settings: Settings,  # A run's settings
    counts: Counts,  # Its images
) -> dict[str, int]:  # What for -> bytes
    "The bytes that a run needs, without activations."
    s, work = settings, network_work(settings.network, sum(counts.heads), settings.image_size)
    groups = 0
    if s.method != "dense":
        groups = counts.groups if form(s).groups else 1
    return dict(
        training=4 * work.nbytes,  # weights, gradients, Adam's two moments
        importance=4 * work.weights * groups,
        one_group=4 * work.weights * min(groups, 1),
        checkpoints=2 * (4 * work.nbytes + work.weights),
        run_folder=work.nbytes + work.weights,
        image_cache=3 * s.image_size**2 * (counts.train + counts.val + counts.test),
    )


# %%
{k: f"{v / 1e9:.2f} GB" for k, v in room(paper, fairface).items()}

# %%
assert (
    room(paper, fairface)["importance"] == 7 * 4 * 21_271_232
    and room(replace(paper, method="dense"), fairface)["importance"] == 0
)
assert (
    room(replace(paper, method="importance"), fairface)["importance"]
    == room(paper, fairface)["one_group"]
    == 4 * 21_271_232
)
assert (
    room(paper, fairface)["image_cache"] == 97_698 * 3 * 224 * 224
    and room(paper, fairface)["training"] == 4 * work.nbytes
)
assert (
    room(paper, fairface)["checkpoints"] == 2 * (4 * work.nbytes + work.weights)
    and room(paper, fairface)["run_folder"] == work.nbytes + work.weights
)

# %% [markdown]
# ## The protocol, counted
#
# All methods in their published forms, at one rate. The lottery trains with the full schedule after every step, so a study with it is an order of magnitude larger.

# %%
#| export
# the methods with a published form
PUBLISHED = ("fairgrape", "importance", "ws", "magnitude", "lottery", "snip", "grasp", "random")
RATES = (0.5, 0.7, 0.8, 0.9, 0.99)  # the paper's


def row_settings(
    row: str,  # One of `PROTOCOL`
    network: str = "resnet34",  # As in the settings
    **more,  # Other settings
) -> Settings:  # By the paper's protocol
    "The settings of a row of the protocol. Raises: ValueError for an unknown row."
    known = {f.name for f in fields(Settings)}
    return Settings(
        **{k: v for k, v in protocol(row)[0].items() if k in known} | dict(network=network) | more
    )


# %%
assert (
    row_settings("utkface", "mobilenet_v2").network == "mobilenet_v2"
    and row_settings("utkface").keep == 0.975
    and row_settings("fairface").keep == 0.9
    and row_settings("celeba", seed=3).epochs == "8,1,1"
)
try:
    row_settings("imdb")
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown row was accepted")
row_settings("utkface").keep, row_settings("celeba").epochs


# %%
#| export
def costs_table(
    row: str = "fairface",  # One of `PROTOCOL`
    network: str = "resnet34",  # As in the settings
    rate: float = 0.99,  # Pruning rate
    **more,  # Other settings
    # Index method; steps, epochs, passes in millions of images, PFLOP, GB written and kept
) -> pd.DataFrame:
    "The work of a run of each method, with the dense network in the first row."
    rows = {
        m: cost(row_settings(row, network, method=m, rate=rate, **more), PROTOCOL[row])
        for m in ("dense", *PUBLISHED)
    }

    def tell(c):
        return dict(
            steps=c.steps,
            epochs=c.epochs,
            passes_M=c.passes / 1e6,
            PFLOP=c.flops / 1e15,
            written_GB=c.written / 1e9,
            kept_GB=c.kept / 1e9,
        )

    return pd.DataFrame({m: tell(c) for m, c in rows.items()}).T.rename_axis("method")


# %%
costs_table().round(2)

# %%
table = costs_table()
assert table.loc[["dense", "fairgrape", "magnitude", "lottery"], "epochs"].tolist() == [
    19,
    151,
    151,
    44 * 19,
]
assert (
    np.allclose(
        table.loc["fairgrape"],
        (44, 151, one.passes / 1e6, one.flops / 1e15, one.written / 1e9, one.kept / 1e9),
    )
    and table.loc["fairgrape", "passes_M"] > table.loc["magnitude", "passes_M"]
)
# 0.975 ** 27 = 0.505, 0.975 ** 28 = 0.492
assert (
    costs_table("utkface", "mobilenet_v2", rate=0.5, retrain_epochs=1).loc["fairgrape", "steps"]
    == 28
)


# %% [markdown]
# A sweep of 1,000 runs has eight methods, five rates and 25 seeds, and the 25 dense networks that they share.

# %%
#| export
def sweep_cost(
    settings: Settings,  # Settings that the runs share
    counts: Counts,  # Their images
    methods: Iterable[str] = PUBLISHED,  # Each method …
    rates: Iterable[float] = RATES,  # … at each rate …
    seeds: int = 25,  # … with this many seeds
) -> Cost:  # Of all runs and their dense networks
    "Count the work of a sweep; the dense network of a seed is trained once."
    cells = [replace(settings, method=m, rate=r) for m in methods for r in rates]
    return (
        sum((cost(cell, counts) for cell in cells), cost(replace(settings, method="dense"), counts))
        * seeds
    )


# %%
thousand = sweep_cost(row_settings("fairface"), fairface)
print(
    f"{thousand.runs:.0f} runs, {thousand.passes / 1e9:.1f} billion images forward and backward,"
    f" {thousand.flops / 1e18:.0f} EFLOP"
)
print(
    f"{thousand.kept / 1e9:.0f} GB kept, at most {thousand.written / 1e12:.0f} TB written on"
    " the way"
)
pair = (
    cost(replace(paper, method="ws", rate=0.9), fairface)
    + cost(replace(paper, method="dense"), fairface)
) * 2
assert thousand.runs == 1_025 and sweep_cost(paper, fairface, ["ws"], [0.9], 2) == pair
