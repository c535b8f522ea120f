# %% [markdown]
# # Sizing
#
# > How long the paper's protocol takes: counted from the settings, timed on the machine at hand, multiplied

# %%
#| default_exp sizing

# %%
#| export
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairgrape.baselines import BLIND
from fairgrape.cache import Images, augmentation, batches, group_batches
from fairgrape.checkpoints import write_json
from fairgrape.experiment import Job, Settings, environment, epochs_of, form, set_up, writable
from fairgrape.importance import group_importance
from fairgrape.masks import apply_masks, prunable
from fairgrape.models import plain_model, task_loss
from fairgrape.networks import LAYERS
from fairgrape.parallel import memory_errors
from fairgrape.plots import PALETTE, figure_of
from fairgrape.pruning import schedule
from fairgrape.selection import select_masks
from fairgrape.settings import root
from fairgrape.studies import protocol
from fairgrape.training import PRECISIONS, adam, memory_order, predict, seeded, train_epoch

# %%
import json

from PIL import Image

from fairgrape.data import split_table
from fairgrape.experiment import prepare, run, run_folder

home = Path(tempfile.mkdtemp())


# %% [markdown]
# Before a thousand runs are queued, somebody asks how long they will take and what they will leave on the disk. Two things make up the answer, and they are kept apart here. What a run *does* follows from its settings: so many
# epochs over so many images, so many passes for the importance. That is counted, exactly, without a machine. How *fast* a machine does it is measured, on that machine, in two minutes. Hours are the one divided by the other.
#
# ## How many images
#
# The rows of the studies' protocol, each with the sizes of its parts. UTKFace was counted in the set itself; FairFace and CelebA follow from their published numbers of images and the 80/10/10 split. ImageNet's person subtree
# cannot be counted, since its annotations are given out on request only. Yang et al. annotated 100 images a synset, so the paper's 104 classes have 10,400 at most: an upper bound, and marked as one.

# %%
#| export
@dataclass(frozen=True)
class Counts:
    "What a run's cost depends on in its data"
    train: int               # Training images
    val: int                 # Images that choose the epoch
    test: int                # Images that are judged at the end
    heads: tuple[int, ...]   # Classes of each head
    groups: int              # G, groups that are compared
    basis: str = "counted"   # Where the numbers come from

_FAIRFACE, _UTKFACE = (78158, 9770, 9770), (17617, 2203, 2192)
PROTOCOL = {   # Row of the studies' protocol -> its images
    "fairface": Counts(*_FAIRFACE, (7,), 7, "published"), "fairface-gender": Counts(*_FAIRFACE, (2,), 7, "published"),
    "fairface-14": Counts(*_FAIRFACE, (14,), 14, "published"),
    "utkface": Counts(*_UTKFACE, (4,), 4), "utkface-gender": Counts(*_UTKFACE, (2,), 4), "utkface-two-heads": Counts(*_UTKFACE, (4, 2), 4),
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
    assert (parts["train"], parts["val"], parts["test"]) == (PROTOCOL[row].train, PROTOCOL[row].val, PROTOCOL[row].test)
assert sum(_UTKFACE) == 22_012 and 18_965 + 2_373 + 2_366 == 23_704 == 23_707 - 3 == 22_012 + 1_692   # three without a race; 1,692 "Others"


# %% [markdown]
# For data of one's own, the counts come from the job, as `prepare` makes it; here 160 little pictures of noise.

# %%
#| export
def counts_of(
    job: Job,  # From `prepare`
) -> Counts:   # Its images
    "Count a job's images."
    parts = job.table["split"].value_counts()
    return Counts(int(parts["train"]), int(parts["val"]), int(parts["test"]), tuple(job.sizes), job.G)


# %%
places = dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
(home / "own").mkdir()
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3]) for i in range(160)]
for i, row in enumerate(rows):
    pixels = np.random.default_rng(i).integers(0, 120, (24, 24, 3), np.uint8) + np.uint8(90 * (i % 2))
    Image.fromarray(pixels).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = Settings(dataset="folder", data_path=str(home / "own"), task="shade", groups="tint", network="resnet10", weights="none",
                image_size=16, method="fairgrape", rate=0.75, keep=0.5,
                epochs="1,1", lrs="1e-3,1e-4", retrain_epochs=1, retrain_lr=1e-4, importance_cap=20, augment="flip", bootstrap=100)
mine = counts_of(prepare(tiny, **places))
mine

# %%
assert mine == Counts(128, 16, 16, (2,), 2)


# %% [markdown]
# ## How much work an image is
#
# FLOPs are counted by torch itself, on a network without memory. One multiplication and one addition are two. The backward pass computes two gradients for every product of the forward pass, the weights' and the input's, so both
# passes together are three times the forward one, less the input gradient of the first layer, which nobody needs. That is computed here rather than counted, since torch's counter takes the weight gradient of a depthwise
# convolution for that of a dense one, and would give MobileNetV2 seven times its work.

# %%
#| export
@dataclass(frozen=True)
class Work:
    "What a network costs"
    forward: float   # FLOPs of one image forward
    both: float      # FLOPs of one image forward and backward
    weights: int     # Weights that can be pruned
    layers: int      # Layers they are in
    nbytes: int      # Bytes of everything in its state

def forward_flops(
    model: nn.Module, # On any device, best on "meta"
    x: Tensor,        # Images there, shape (B, 3, S, S)
) -> tuple[int, int]: # FLOPs of the whole batch forward; those of the first layer
    "Count the FLOPs of a forward pass."
    with FlopCounterMode(display=False) as counter: model(x)
    first = next(m for m in model.modules() if isinstance(m, LAYERS))
    with FlopCounterMode(display=False) as own: first(x if isinstance(first, nn.Conv2d) else x.flatten(1))
    return counter.get_total_flops(), own.get_total_flops()

def network_work(
    network: str,          # As in the settings
    outputs: int = 7,      # Rows of the head
    image_size: int = 224, # Side of the square images, pixels
) -> Work:                 # For one image, and for the whole network
    "Count a network's FLOPs, weights and bytes without building it in memory."
    one, two = (vars(_work(network, rows, image_size)) for rows in (1, 2))              # each further row of the head adds the same
    return Work(**{k: v + (outputs - 1) * (two[k] - v) for k, v in one.items()})

@cache
def _work(network: str, outputs: int, image_size: int) -> Work:
    with torch.device("meta"): model = plain_model(network, outputs, image_size=image_size)
    forward, first = (n / 2 for n in forward_flops(model.eval(), torch.empty(2, 3, image_size, image_size, device="meta")))
    weights = [m.weight.numel() for m in prunable(model).values()]
    return Work(forward, 3 * forward - first, sum(weights), len(weights), sum(t.nbytes for t in model.state_dict().values()))


# %%
shown = (("resnet34", 224), ("resnet34", 64), ("mobilenet_v2", 224), ("resnet10", 32))
pd.DataFrame({f"{n}, {size} px": vars(network_work(n, 7, size)) for n, size in shown}).T

# %% [markdown]
# By hand: two images through a layer of 3 × 5 weights are 2 · 2 · 3 · 5 = 60 FLOPs, all of them in the first layer. A 3 × 3 convolution from 3 to 4 channels over 6 × 6 outputs is 2 · 9 · 3 · 4 · 36 = 7,776 an image. And where no
# convolution is grouped, the rule of three agrees with torch's own count of both passes.

# %%
assert forward_flops(nn.Linear(3, 5), torch.empty(2, 3)) == (60, 60)
small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
assert forward_flops(small, torch.empty(1, 3, 8, 8)) == (7776 + 2 * 144 * 2, 7776)
with torch.device("meta"): model = plain_model("resnet34", 7)
with FlopCounterMode(display=False) as counter: model(torch.empty(1, 3, 224, 224, device="meta")).sum().backward()
assert counter.get_total_flops() == network_work("resnet34", 7, 224).both
assert network_work("resnet34", 7).weights == 21_271_232 and network_work("resnet34", 7).nbytes > 4 * 21_271_232
assert network_work("mobilenet_v2", 7).both < 3 * network_work("mobilenet_v2", 7).forward


# %% [markdown]
# ## What a run does
#
# The cost of one run, its dense network not counted (a sweep trains that once for all runs that start from it). Each epoch goes over the training images, and over the validation images for its judgement. Each step of a method that
# looks at images scores its training images, forward and backward; so do the two tables of importance shares, with 256 images of each group. A step's selection orders the weights that are still there, once a group. And after every
# epoch a checkpoint is written: the weights, Adam's two memories, and the best epoch so far where that is another one, so four times the weights at most.

# %%
#| export
@dataclass(frozen=True)
class Cost:
    "What has to be done; costs can be added and multiplied"
    runs: float = 0      # Runs, dense ones included
    steps: float = 0     # Pruning steps
    epochs: float = 0    # Training epochs
    trained: float = 0   # Images forward and backward in training
    scored: float = 0    # Images forward and backward for importance, or another score
    judged: float = 0    # Images forward only: validation and test
    selected: float = 0  # Candidates that are ordered, weights × groups
    flops: float = 0     # FLOPs of all these images
    written: float = 0   # Bytes written to the disk, checkpoints included (at most)
    kept: float = 0      # Bytes that stay there

    def __add__(self, other: "Cost") -> "Cost": return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))
    def __mul__(self, n: float) -> "Cost": return Cost(*(n * getattr(self, f.name) for f in fields(self)))

    @property
    def passes(self) -> float: return self.trained + self.scored + self.judged / 3   # in images forward and backward; forward is a third


# %%
Cost(runs=1, trained=300, judged=90) + Cost(runs=1, scored=20) * 3

# %%
assert Cost(runs=1, trained=300, judged=90) + Cost(runs=1, scored=20) * 3 == Cost(runs=4, trained=300, scored=60, judged=90)
assert Cost(trained=300, scored=60, judged=90).passes == 390

# %%
#| export
SHARES = 256    # images of a group in a run's two tables of importance shares
BALANCED = 10   # images of a class in GraSP's batch, which is gone through three times: once for the gradient, twice for the Hessian

def scored_images(
    settings: Settings, # A run's settings
    counts: Counts,     # Its images
) -> int:               # Images forward and backward in one step
    "How many images a method's score sees in a step (`importance_on` would make them fewer)."
    s, how = settings, form(settings)
    if how.score in BLIND: return 0
    if how.batches == "one": return min(s.batch, counts.train)
    if how.batches == "balanced": return 3 * min(BALANCED * sum(counts.heads), counts.train)
    return min(counts.train, s.importance_cap * counts.groups or counts.train)


# %%
{m: scored_images(Settings(method=m), PROTOCOL["fairface"]) for m in ("fairgrape", "importance", "ws", "snip", "grasp")}

# %%
fairface = PROTOCOL["fairface"]
assert scored_images(Settings(), fairface) == 78_158 and scored_images(Settings(importance_cap=500), fairface) == 3_500
assert [scored_images(Settings(method=m), fairface) for m in ("ws", "snip", "grasp")] == [0, 64, 3 * 10 * 7]


# %%
#| export
def candidates(
    settings: Settings, # A run's settings; its method is not "dense"
    counts: Counts,     # Its images
    weights: int,       # The network's prunable weights
) -> float:             # Weights × groups, over all steps
    "How many candidates the selections of a run put in order: those that the step before has left, once for each group."
    how = form(settings)
    rates = schedule(settings.rate, settings.keep if how.steps == "iterative" else None)
    return (counts.groups if how.groups else 1) * weights * float(1 + sum(1 - r for r in rates[:-1]))


# %%
candidates(Settings(rate=0.75, keep=0.5), fairface, weights=100)

# %% [markdown]
# By hand: 100 weights in the first step and 50 in the second, for seven groups. WS has one step and no groups.

# %%
assert candidates(Settings(rate=0.75, keep=0.5), fairface, 100) == 7 * (100 + 50)
assert candidates(Settings(method="ws"), fairface, 100) == 100


# %%
#| export
def cost(
    settings: Settings, # A run's settings
    counts: Counts,     # Its images
) -> Cost:              # Of this run alone; a dense network is `method = "dense"`
    "Count what a run does."
    s, work, pruned = settings, network_work(settings.network, sum(counts.heads), settings.image_size), settings.method != "dense"
    steps, epochs = len(schedule(s.rate, s.keep if form(s).steps == "iterative" else None)) if pruned else 0, epochs_of(s)
    scored = steps * scored_images(s, counts) + 2 * min(counts.train, SHARES * counts.groups) if pruned else 0
    trained, judged = epochs * counts.train, epochs * counts.val + counts.test
    masks, kept = work.weights * pruned, work.nbytes + work.weights * pruned
    return Cost(1, steps, epochs, trained, scored, judged, candidates(s, counts, work.weights) if pruned else 0,
                (trained + scored) * work.both + judged * work.forward, epochs * (4 * work.nbytes + masks) + steps * kept + kept, kept)


# %%
paper = Settings(rate=0.99)
vars(cost(paper, fairface))

# %% [markdown]
# By hand, for FairGRAPE at 0.99 on FairFace: 0.9⁴⁴ is the first power of 0.9 below 0.01, so 44 steps of 3 epochs, and 19 epochs at the end: 151.

# %%
assert (cost(paper, fairface).steps, cost(paper, fairface).epochs) == (44, 151)
assert cost(paper, fairface).trained == 151 * 78_158 and cost(paper, fairface).scored == 44 * 78_158 + 2 * 7 * 256
assert cost(replace(paper, method="ws"), fairface).epochs == 19
assert cost(replace(paper, method="dense"), fairface).judged == 19 * 9_770 + 9_770

# %% [markdown]
# Counting is worth something only if a run does what is counted. A run on those pictures, with every image that enters the network noted on the way: those with a gradient on one side, those without on the other. The dense
# network and the pruned run together are the sum of the two costs, to the image.

# %%
seen = dict(gradient=0, none=0)
def note(module, args):
    if type(module).__name__ != "ResNet": return
    seen["gradient" if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() else "none"] += len(args[0])

hook = nn.modules.module.register_module_forward_pre_hook(note)
folder = run(tiny, **places)
hook.remove()
seen

# %%
expected = cost(tiny, mine) + cost(replace(tiny, method="dense"), mine)
assert seen == dict(gradient=expected.trained + expected.scored, none=expected.judged)
on_disk = sum(f.stat().st_size for f in folder.iterdir() if f.suffix == ".safetensors")
assert abs(on_disk / cost(tiny, mine).kept - 1) < 0.01 and len(pd.read_csv(folder / "steps.csv")) == cost(tiny, mine).steps
assert len(pd.read_csv(folder / "history.csv")) == expected.epochs


# %% [markdown]
# Memory and disk, beside time. The importance of G groups is the one thing that grows with the groups: 4 bytes for each weight and group, or only for the group at hand while the others lie elsewhere.

# %%
#| export
def room(
    settings: Settings, # A run's settings
    counts: Counts,     # Its images
) -> dict[str, int]:    # What for -> bytes
    "The bytes that a run needs, activations not counted."
    s, work = settings, network_work(settings.network, sum(counts.heads), settings.image_size)
    groups = 0 if s.method == "dense" else counts.groups if form(s).groups else 1
    return dict(training=4 * work.nbytes,                                           # weights, gradients, Adam's two memories
                importance=4 * work.weights * groups, one_group=4 * work.weights * min(groups, 1),
                checkpoints=2 * (4 * work.nbytes + work.weights), run_folder=work.nbytes + work.weights,
                image_cache=3 * s.image_size**2 * (counts.train + counts.val + counts.test))


# %%
{k: f"{v / 1e9:.2f} GB" for k, v in room(paper, fairface).items()}

# %%
assert room(paper, fairface)["importance"] == 7 * 4 * 21_271_232 and room(replace(paper, method="dense"), fairface)["importance"] == 0
assert room(replace(paper, method="importance"), fairface)["importance"] == room(paper, fairface)["one_group"] == 4 * 21_271_232
assert room(paper, fairface)["image_cache"] == 97_698 * 3 * 224 * 224

# %% [markdown]
# ## The protocol, counted
#
# All methods in the forms they were published in, at one rate. The lottery trains by the whole schedule after every step, which is why a study with it is another order of magnitude.

# %%
#| export
PUBLISHED = ("fairgrape", "importance", "ws", "magnitude", "lottery", "snip", "grasp", "random")   # methods with a published form
RATES = (0.5, 0.7, 0.8, 0.9, 0.99)                                                               # the paper's

def row_settings(
    row: str,                 # One of `PROTOCOL`
    network: str = "resnet34",# As in the settings
    **more,                   # Other settings
) -> Settings:                # By the paper's protocol
    "The settings of a row of the protocol. Raises: ValueError for an unknown row."
    known = {f.name for f in fields(Settings)}
    return Settings(**{k: v for k, v in protocol(row)[0].items() if k in known} | dict(network=network) | more)


# %%
row_settings("utkface", "mobilenet_v2").keep

# %%
assert row_settings("utkface").keep == 0.975 and row_settings("fairface").keep == 0.9 and row_settings("celeba", seed=3).epochs == "8,1,1"
try: row_settings("imdb")
except ValueError as e: print(e)
else: raise AssertionError("an unknown row was accepted")


# %%
#| export
def costs_table(
    row: str = "fairface",    # One of `PROTOCOL`
    network: str = "resnet34",# As in the settings
    rate: float = 0.99,       # Pruning rate
    **more,                   # Other settings
) -> pd.DataFrame:            # Index method; steps, epochs, passes in millions of images, PFLOP, GB written and kept
    "What each method's run does, its dense network in the first line."
    rows = {m: cost(row_settings(row, network, method=m, rate=rate, **more), PROTOCOL[row]) for m in ("dense", *PUBLISHED)}
    tell = lambda c: dict(steps=c.steps, epochs=c.epochs, passes_M=c.passes / 1e6, PFLOP=c.flops / 1e15,
                          written_GB=c.written / 1e9, kept_GB=c.kept / 1e9)
    return pd.DataFrame({m: tell(c) for m, c in rows.items()}).T.rename_axis("method")


# %%
costs_table().round(2)

# %%
costs_table("utkface", "mobilenet_v2").round(2)

# %%
table = costs_table()
assert table.loc[["dense", "fairgrape", "magnitude", "lottery"], "epochs"].tolist() == [19, 151, 151, 44 * 19]
assert table.loc["fairgrape", "passes_M"] > table.loc["magnitude", "passes_M"]


# %% [markdown]
# A sweep of 1,000 runs: eight methods, five rates, 25 seeds, and the 25 dense networks that they share.

# %%
#| export
def sweep_cost(
    settings: Settings,                     # Those that the runs share
    counts: Counts,                         # Their images
    methods: Iterable[str] = PUBLISHED,     # Each method …
    rates: Iterable[float] = RATES,         # … at each rate …
    seeds: int = 25,                        # … with so many seeds
) -> Cost:                                  # Of all runs and their dense networks
    "Count what a sweep does; each seed's dense network is trained once."
    cells = [replace(settings, method=m, rate=r) for m in methods for r in rates]
    return sum((cost(cell, counts) for cell in cells), cost(replace(settings, method="dense"), counts)) * seeds


# %%
thousand = sweep_cost(row_settings("fairface"), fairface)
print(f"{thousand.runs:.0f} runs, {thousand.passes / 1e9:.1f} billion images forward and backward, {thousand.flops / 1e18:.0f} EFLOP")
print(f"{thousand.kept / 1e9:.0f} GB kept, at most {thousand.written / 1e12:.0f} TB written on the way")

# %%
two = (cost(replace(paper, method="ws", rate=0.9), fairface) + cost(replace(paper, method="dense"), fairface)) * 2
assert thousand.runs == 1_025 and sweep_cost(paper, fairface, ["ws"], [0.9], 2) == two


# %% [markdown]
# ## How fast: growth laws
#
# Selection is timed at a few sizes, and grows as a power of the number of candidates: $t = c\,x^e$, a straight line on logarithmic axes. Least squares there gives both.

# %%
#| export
def power_law(
    x: Iterable[float], # Sizes, > 0
    y: Iterable[float], # What was measured there, > 0
) -> tuple[float, float]: # c and e of y = c · x^e
    "Fit a power law. Raises: ValueError for fewer than two sizes, or a measurement that is not positive."
    x, y = np.asarray(list(x), float), np.asarray(list(y), float)
    if len(set(x)) < 2 or (x <= 0).any() or (y <= 0).any():
        raise ValueError(f"a power law needs two different sizes, and all numbers above 0: sizes {x.tolist()}, measured {y.tolist()}")
    e, log_c = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(log_c)), float(e)


# %%
power_law([1, 10, 100], [3, 30, 300]), power_law([1, 4, 16], [2, 4, 8])

# %%
assert np.allclose(power_law([1, 10, 100], [3, 30, 300]), (3, 1)) and np.allclose(power_law([1, 4, 16], [2, 4, 8]), (2, 0.5))
for x, y in (([1, 1], [2, 3]), ([1, 2], [0, 3])):
    try: power_law(x, y)
    except ValueError as e: print(e)
    else: raise AssertionError("a fit without a slope was made")


# %% [markdown]
# ## Timing a machine
#
# What is timed is the project's own code on random images: an epoch of training with augmentation and masks, a pass of importance, a prediction. One round is not counted (kernels are compiled, memory is taken); then rounds follow
# until the time is up, and the median counts.

# %%
#| export
def per_second(
    work: Callable[[], object],         # What to time; goes over `images` images
    images: float,                      # How many of them, or of whatever is counted
    seconds: float,                     # How long to measure, one round at least
    device: str | torch.device = "cpu", # Where the work is done: a GPU is waited for
) -> float:                             # Images a second
    "Time something again and again and take the median, after one round that is not counted."
    def once():
        start = time.perf_counter()
        work()
        if torch.device(device).type == "cuda": torch.cuda.synchronize(device)
        return time.perf_counter() - start
    once()
    times, begin = [], time.perf_counter()
    while not times or time.perf_counter() - begin < seconds: times.append(once())
    return images / statistics.median(times)


# %%
rounds = []
per_second(lambda: (rounds.append(1), time.sleep(0.02)), images=10, seconds=0.1)

# %%
assert 2 <= len(rounds) <= 7 and per_second(lambda: time.sleep(0.02), 10, 0) < 500


# %%
#| export
def random_images(
    n: int,                             # How many
    size: int,                          # Side of the squares, pixels
    device: str | torch.device = "cpu", # Where to keep them
    classes: int = 7,                   # One head of so many classes; as many groups
) -> Images:                            # All of them in every part
    "Images of noise, with labels and groups in turn."
    pixels = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes, rows = torch.arange(n) % classes, torch.arange(n)
    return Images(pixels, codes[:, None], codes, dict(train=rows, val=rows, test=rows), tuple(map(str, range(classes)))).to(device)


# %%
noise = random_images(14, 16)
noise.pixels.shape, noise.groups.tolist()

# %%
assert noise.groups.bincount().tolist() == [2] * 7 and torch.equal(random_images(14, 16).pixels, noise.pixels)


# %%
#| export
def speed(
    network: str,                       # As in the settings
    image_size: int = 224,              # Side of the images, pixels
    precision: str = "fp32",            # "fp32", "bf16" or "fp16"
    device: str | torch.device = "cpu", # What is timed
    seconds: float = 20,                # For the three measurements together
    batch: int = 0,                     # Images a batch; 0: 64 as in the protocol, but 8 on a CPU where an image is over a GFLOP
) -> dict:                              # network, image_size, precision, batch; images a second: train, score, predict
    "Time training, importance and prediction of one network. Raises: OutOfMemory with the advice to lower `batch`."
    batch = batch or (64 if torch.device(device).type == "cuda" or network_work(network, 7, image_size).both < 1e9 else 8)
    images = random_images(7 * batch if torch.device(device).type == "cuda" else 2 * batch, image_size, device)
    advice = f"lower batch (it is {batch}), or time a smaller network or image_size"
    with memory_errors(f"timing {network} at {image_size} px in {precision}", advice):
        model = plain_model(network, 7, image_size=image_size)
        model.to(device, memory_format=memory_order(model, device))  # as in training
        chance = torch.Generator().manual_seed(0)
        apply_masks(model, {n: torch.rand(m.weight.shape, generator=chance) < 0.5 for n, m in prunable(model).items()})
        works = _works(model, images, batch, precision, device)
        rates = {name: per_second(work, len(images.pixels), seconds / len(works), device) for name, work in works.items()}
    return dict(network=network, image_size=image_size, precision=precision, batch=batch) | rates

def _works(model, images: Images, batch: int, precision: str, device) -> dict[str, Callable]:
    "What is timed: name -> function that goes once over the images"
    optimizer, augment = adam(list(model.parameters()), 1e-5), augmentation("paper", images.pixels.shape[-1])
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")
    parts = group_batches(images, "train", batch, device=device)
    parts.parts = [(0, rows) for rows in images.rows["train"].cpu().split(batch)]      # full batches, however few images
    low = torch.bfloat16 if precision == "bf16" else None
    def train():
        with seeded(0, device) as order:
            train_epoch(model, optimizer, batches(images, "train", batch, order, augment, device), [7], scaler, precision)
    def score(): group_importance(model, parts, lambda out, y: task_loss(out, y, [7]), 1, autocast=low)
    return dict(train=train, score=score, predict=lambda: predict(model, images, "test", [7], 4 * batch, precision, device))


# %%
speed("resnet10", 32, seconds=0.5)

# %%
low = speed("resnet10", 32, "bf16", seconds=0.1, batch=16)
assert low["batch"] == 16 and min(low[k] for k in ("train", "score", "predict")) > 0


# %% [markdown]
# Selection is timed as a run does it, for all layers together, at three sizes, keeping 90 % for seven groups. And the disk by writing a file and forcing it down.

# %%
#| export
def selection_speed(
    sizes: Iterable[int] = (2**18, 2**20, 2**22), # Weights, spread over 8 equal layers
    groups: int = 7,                              # G
    device: str | torch.device = "cpu",           # Where the importance lies
    seconds: float = 10,                          # For all sizes together
) -> dict:                                        # points [candidates, seconds], and c, e of seconds = c · candidates^e
    "Time `select_masks` and fit its growth."
    sizes, generator = list(sizes), torch.Generator().manual_seed(0)
    def point(n):
        draw = lambda *shape: {str(i): torch.randn(*shape, generator=generator).to(device) for i in range(8)}
        weights, importance = draw(n // 8), {k: v.square() for k, v in draw(groups, n // 8).items()}
        masks = {k: torch.ones_like(w, dtype=torch.bool) for k, w in weights.items()}
        once = lambda: select_masks(importance, masks, weights, "0.1")
        return [8 * (n // 8) * groups, 1 / per_second(once, 1, seconds / len(sizes), device)]
    points = [point(n) for n in sizes]
    c, e = power_law(*zip(*points))
    return dict(points=points, c=c, e=e)

def disk_speed(
    folder: Path,    # On the disk in question
    mib: int = 256,  # Size of the file
) -> float:          # Bytes a second
    "Write a file, force it to the disk, and remove it again."
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        block, start = bytes(2**20), time.perf_counter()
        for _ in range(mib): file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return mib * 2**20 / (time.perf_counter() - start)


# %%
selection_speed((2**12, 2**14, 2**16), seconds=0.3), f"{disk_speed(home, 8) / 1e6:.0f} MB/s"

# %%
growth = selection_speed((2**12, 2**16), groups=2, seconds=0.2)
assert [p[0] for p in growth["points"]] == [2 * 2**12, 2 * 2**16] and growth["points"][0][1] < growth["points"][1][1] and growth["e"] > 0
assert disk_speed(home, 1) > 0 and not [f for f in home.iterdir() if f.is_file()]


# %% [markdown]
# `calibrate` does all of that in the time it is given: four fifths for the networks, the rest for selection; the disk takes what it takes. On a GPU each network is timed in bfloat16 as well. It cannot know beforehand how long a first
# round takes, so on a slow machine it runs over.

# %%
#| export
def calibrate(
    seconds: float = 120,                                 # About how long
    device: str = "",                                     # Empty: CUDA where there is one, else the CPU
    networks: Iterable[str] = ("resnet34", "mobilenet_v2"), # Networks to time
    sizes: Iterable[int] = (224,),                        # Sides of the images, pixels
    precisions: Iterable[str] = (),                       # Empty: fp32, on a GPU bf16 too
    threads: int = 0,                                     # CPU threads; 0: as they are
    folder: str | Path | None = None,                     # Where the disk is timed; None: a temporary folder
    batch: int = 0,                                       # Images a batch; 0: as `speed` chooses
    weights: Iterable[int] = (2**18, 2**20, 2**22),       # Sizes at which selection is timed
    tell: Callable[[str], None] | None = None,            # Told about each measurement, e.g. `print`
) -> dict:                                                # about, speeds, selection, disk: plain values, for JSON
    "Time this machine. Raises: ValueError for an unknown precision or device."
    where, tell = set_up(device, threads), tell or (lambda _: None)
    precisions = tuple(precisions) or (("fp32", "bf16") if where.type == "cuda" else ("fp32",))
    wrong = [p for p in precisions if p not in PRECISIONS]
    if wrong: raise ValueError(f"precision {wrong[0]!r} is not known: choose from {', '.join(PRECISIONS)}")
    cases, speeds = [(n, s, p) for n in networks for s in sizes for p in precisions], []
    for case in cases:
        speeds.append(speed(*case, where, 0.8 * seconds / len(cases), batch))
        tell("{network}, {image_size} px, {precision}, images/s: {train:.1f} trained, {score:.1f} scored, {predict:.1f} predicted".format(**speeds[-1]))
    selection = selection_speed(weights, device=where, seconds=0.15 * seconds)
    most, took = selection["points"][-1]
    tell(f"selection: {most / took / 1e6:.1f} million candidates/s, growing with exponent {selection['e']:.2f}")
    with tempfile.TemporaryDirectory(dir=folder) as on_disk: disk = disk_speed(Path(on_disk))
    tell(f"disk: {disk / 1e6:.0f} MB/s written")
    about = environment(where) | dict(measured=datetime.now(UTC).isoformat(timespec="seconds"))
    return dict(about=about, speeds=speeds, selection=selection, disk=disk)


# %%
quick = calibrate(1, "cpu", ["resnet10"], [32], weights=(2**14, 2**17), tell=print)
sorted(quick)

# %%
assert json.loads(json.dumps(quick)) == quick and [s["network"] for s in quick["speeds"]] == ["resnet10"] and quick["disk"] > 0
try: calibrate(1, "cpu", precisions=["int8"])
except ValueError as e: print(e)
else: raise AssertionError("an unknown precision was timed")


# %% [markdown]
# ## Hours
#
# Work divided by speed. A network, size or precision that was not timed takes its speed from the nearest one that was, by the FLOPs of one image. That is an extrapolation, and every table says so: small networks reach a lower
# share of a GPU's FLOPs than large ones. The time for selection at a network's size comes from the fitted power, which for large networks is an extrapolation too.

# %%
#| export
def speed_of(
    calibration: Mapping, # From `calibrate`
    network: str,         # As in the settings
    image_size: int,      # Pixels
    precision: str,       # As in the settings
) -> tuple[dict, str]:    # Images a second: train, score, predict; and "measured", or from what it was scaled
    "The speed that was measured, or one scaled by FLOPs."
    found, wanted = calibration["speeds"], network_work(network, 7, image_size)
    same = [s for s in found if (s["network"], s["image_size"], s["precision"]) == (network, image_size, precision)]
    if same: return same[0], "measured"
    flops = lambda s: network_work(s["network"], 7, s["image_size"])
    near = min(found, key=lambda s: (s["precision"] != precision, s["network"] != network, abs(np.log(flops(s).both / wanted.both))))
    ratio = dict(train=flops(near).both / wanted.both, score=flops(near).both / wanted.both, predict=flops(near).forward / wanted.forward)
    source = f"scaled by FLOPs from {near['network']}, {near['image_size']} px, {near['precision']}"
    return {k: near[k] * r for k, r in ratio.items()}, source


# %%
speed_of(quick, "resnet10", 64, "fp32")

# %% [markdown]
# At half the side an image is a quarter of the work, nearly; so a machine that trains 100 images a second at 224 pixels is taken to train almost 400 at 112.

# %%
resnet34 = dict(network="resnet34", image_size=224, precision="fp32", train=100., score=100., predict=300.)
round_numbers = dict(speeds=[resnet34], selection=dict(c=1e-6, e=1.), disk=1e9)
assert speed_of(round_numbers, "resnet34", 224, "fp32") == (resnet34, "measured")
scaled, source = speed_of(round_numbers, "resnet34", 112, "fp32")
assert 350 < scaled["train"] < 450 and source == "scaled by FLOPs from resnet34, 224 px, fp32"

# %%
#| export
PARTS = ("training", "importance", "selection", "judging", "checkpoints")

def hours(
    cost: Cost,           # What has to be done
    settings: Settings,   # Its network, image size and precision
    counts: Counts,       # Its images, for the groups
    calibration: Mapping, # From `calibrate`
) -> dict[str, float]:    # Hours of each of `PARTS`
    "How long it takes on the machine that was timed, one run after another."
    s, law = settings, calibration["selection"]
    rate = speed_of(calibration, s.network, s.image_size, s.precision)[0]
    size = network_work(s.network, sum(counts.heads), s.image_size).weights * counts.groups    # the first step's: there the law is read off
    selecting = cost.selected * law["c"] * size ** (law["e"] - 1)
    images = cost.trained / rate["train"], cost.scored / rate["score"], cost.judged / rate["predict"]
    seconds = images[0], images[1], selecting, images[2], cost.written / calibration["disk"]
    return {part: t / 3600 for part, t in zip(PARTS, seconds)}


# %%
hours(cost(tiny, mine), tiny, mine, quick)

# %% [markdown]
# By hand, with a machine that trains 100 images a second, predicts 300, orders a million candidates a second and writes 1 GB: 360,000 images trained are an hour, and so are 3.6 billion candidates.

# %%
by_hand = hours(Cost(trained=360_000, scored=36_000, judged=1_080_000, selected=3.6e9, written=3.6e12), paper, fairface, round_numbers)
assert all(np.isclose(by_hand[part], h) for part, h in zip(PARTS, (1, 0.1, 1, 1, 1)))

# %% [markdown]
# How good is such a prediction? The tiny run above, from a calibration of one second, is the hardest case: hardly any work, so what nobody counts (files, the bootstrap, Python) weighs most.

# %%
took = json.loads((folder / "metrics.json").read_text())["seconds"]
both = cost(tiny, mine) + cost(replace(tiny, method="dense"), mine)
f"predicted {3600 * sum(hours(both, tiny, mine, quick).values()):.1f} s, took {took:.1f} s"

# %%
assert 0 < 3600 * sum(hours(both, tiny, mine, quick).values())


# %% [markdown]
# ## The page
#
# For each row of the protocol: its dense network, one FairGRAPE run at 0.99 and how much of that the method itself is (importance and selection), and 1,000 runs.

# %%
#| export
def sizing_table(
    calibration: Mapping,                                 # From `calibrate`
    rows: Iterable[str] = tuple(PROTOCOL),                # Rows of the protocol
    networks: Iterable[str] = ("resnet34", "mobilenet_v2"), # Networks
    **more,                                               # Other settings, e.g. precision
) -> pd.DataFrame:                                        # Hours: dense network, one FairGRAPE run at 0.99, 1,000 runs; GB kept; what is measured
    "The protocol in hours of the machine that was timed, one run at a time."
    def line(row, network):
        s, n = row_settings(row, network, rate=0.99, **more), PROTOCOL[row]
        time_of = lambda c: hours(c, s, n, calibration)
        fair, sweep = time_of(cost(s, n)), sweep_cost(s, n)
        dense, total = time_of(cost(replace(s, method="dense"), n)), sum(fair.values())
        return {"images": n.train + n.val + n.test, "G": n.groups, "dense h": sum(dense.values()), "FairGRAPE h": total,
                "of it importance %": 100 * fair["importance"] / total, "selection %": 100 * fair["selection"] / total,
                "1,000 runs h": sum(time_of(sweep).values()), "1,000 runs kept GB": sweep.kept / 1e9,
                "images are": n.basis, "speed is": speed_of(calibration, network, s.image_size, s.precision)[1]}
    return pd.DataFrame({(row, network): line(row, network) for row in rows for network in networks}).T.rename_axis(["row", "network"])


# %%
sizing_table(round_numbers, ["fairface", "utkface"]).map(lambda v: f"{v:,.1f}" if isinstance(v, float) else v)

# %%
one = sizing_table(round_numbers, ["fairface"], ["resnet34"]).iloc[0]
whole = sum(hours(cost(paper, fairface), paper, fairface, round_numbers).values())
assert abs(one["FairGRAPE h"] - whole) < 1e-9 and one["speed is"] == "measured"
assert one["1,000 runs h"] > 1_000 * 0.5 * one["dense h"] and 0 < one["of it importance %"] < 33


# %%
#| export
def plot_hours(
    calibration: Mapping,     # From `calibrate`
    row: str = "fairface",    # One of `PROTOCOL`
    network: str = "resnet34",# As in the settings
    rate: float = 0.99,       # Pruning rate
) -> Figure:                  # A bar for each method, cut into its parts
    "Where the hours of a run go, method by method."
    n, methods = PROTOCOL[row], ("dense", *PUBLISHED)
    table = {m: hours(cost(s := row_settings(row, network, method=m, rate=rate), n), s, n, calibration) for m in methods}
    fig, (ax,) = figure_of(1, 1, (8, 3.6))
    left = np.zeros(len(table))
    for i, part in enumerate(PARTS):
        width = np.array([h[part] for h in table.values()])
        ax.barh(list(table), width, left=left, color=PALETTE[i], label=part)
        left += width
    ax.invert_yaxis()
    ax.set(xlabel="hours on the machine that was timed", title=f"{row}, {network}, rate {rate:g}")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS), fontsize=9)
    fig.set_label("Hours of one run by method. " + "; ".join(f"{m} {sum(h.values()):.1f}" for m, h in table.items()) + ".")
    return fig


# %%
plot_hours(round_numbers)

# %%
assert "fairgrape" in plot_hours(round_numbers, "utkface").get_label()

# %% [markdown]
# ## Measured
#
# The same with real speeds. No GPU was at hand, so these are the hours of two threads of a server's CPU, from two minutes of `calibrate`; nobody would run the protocol there. What carries over to another machine is the left half of
# every product, the work. For the right half, run `fairgrape calibrate` on it.

# %%
MEASURED = json.loads("""{}""")

# %%
said = lambda v: f"{v:,.1f}" if isinstance(v, float) else v
sizing_table(MEASURED).map(said).drop(columns=["images are", "speed is"]) if MEASURED else "not measured yet"

# %%
if MEASURED: plot_hours(MEASURED)

# %% [markdown]
# And the laws behind it, from `make bench`: how the importance pass, the selection and the memory of both grow with weights (eight equal convolutions, 2 groups), with images and with groups (ResNet-10, 4.9 million weights). An exponent
# of 1 is proportional, 0 is no growth. Sizes and measurements are in the bench's own table.

# %%
GROWTH = json.loads("""[]""")
pd.DataFrame(GROWTH).set_index(["over", "what grows"]) if GROWTH else "not measured yet"


# %% [markdown]
# ## The command
#
# `fairgrape calibrate` times the machine, keeps what it found in `calibration.json` in the runs folder, and prints the table.

# %%
#| export
def calibration_text(
    calibration: Mapping, # From `calibrate`
) -> str:                 # For a terminal
    "The protocol's hours on the machine that was timed, as text."
    about, found = calibration["about"], {s["precision"] for s in calibration["speeds"]}
    machine = about["gpu"] or f"{about['threads']} threads of a {about['processor']} CPU"
    said = [f"{machine}, torch {about['versions']['torch']}, measured {about['measured']}",
            "Hours on this machine, one run after another; divide by the number of GPUs, or of workers that do not share cores.",
            "1,000 runs: 8 methods, 5 rates, 25 seeds; the dense network is trained once for all runs of a seed."]
    show = lambda v: f"{v:,.1f}" if isinstance(v, float) else str(v)
    for precision in [p for p in PRECISIONS if p in found]:
        table = sizing_table(calibration, precision=precision).map(show)
        said += [f"\n{precision}", table.drop(columns=["images are", "speed is"]).to_string()]
        said += [f"Speeds of {network}: {how}." for network, how in table["speed is"].groupby("network").first().items()]
    return "\n".join([*said, "people: at most so many images, assumed. Starting a run, its intervals and its report are not counted."])

def calibrate_and_tell(
    seconds: float = 120,                 # About how long
    device: str = "",                     # Empty: CUDA where there is one, else the CPU
    runs_root: str | Path | None = None,  # Default: settings.ini
    tell: Callable[[str], None] = print,  # Told everything
    **how,                                # networks, sizes, precisions, threads, batch, weights: see `calibrate`
) -> Path:                                # calibration.json
    """Time this machine, keep what was found, and say how long the protocol takes on it.

    Raises: OSError if the runs folder cannot be written."""
    folder = writable(root("runs", runs_root))
    calibration = calibrate(seconds, device, folder=folder, tell=tell, **how)
    tell(calibration_text(calibration))
    return write_json(folder / "calibration.json", calibration)


# %%
said = []
file = calibrate_and_tell(0.5, "cpu", home / "runs", said.append, networks=["resnet10"], sizes=[32], weights=(2**14, 2**17))
print(*said[:3], said[-1][:1500], sep="\n")

# %%
assert file.name == "calibration.json" and json.loads(file.read_text())["about"]["threads"] == torch.get_num_threads()
assert "scaled by FLOPs from resnet10" in said[-1] and "1,000 runs h" in said[-1]
(home / "file").write_text("")
try: calibrate_and_tell(1, "cpu", home / "file")
except OSError as e: print(str(e).replace(str(home), "…"))
else: raise AssertionError("a file was taken for the runs folder")
