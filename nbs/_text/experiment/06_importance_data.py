# %% [markdown]
# # Data for the importance
#
# > Which images a method's score uses, in which groups, and in which batches

# %%
#| default_exp experiment.importance_data

# %%
#| export
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fairgrape.data.loaders import Images, batches, drawn, get_batch, group_batches
from fairgrape.data.tables import codes, matching
from fairgrape.data.transforms import augmentation
from fairgrape.experiment.clusters import (
    cluster_groups,
    load_clusters,
    save_clusters,
    with_clusters,
)
from fairgrape.experiment.preparation import Job, run_folder
from fairgrape.experiment.settings import form
from fairgrape.methods.scores import balanced_rows
from fairgrape.training.parallel import ALONE, Team
from fairgrape.training.stages import seed_of, seeded

# %%
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from PIL import Image

from fairgrape.experiment.dense import images_of, initial_network
from fairgrape.experiment.preparation import prepare
from fairgrape.experiment.settings import Settings

# %% [markdown]
# The groups that are compared need not be the groups whose importance is kept. A method without groups treats all images as one group. A study may restrict the importance to the images of one race, or to all but one. Without
# group labels, the groups can be clusters of the dense network's features.
#
# The example: 160 small images, half of them dark (the task), a third of them red (the group), 128 for training.

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
job = prepare(
    tiny, data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False
)
images = images_of(job, progress=False)


# the same data, other settings
def asking(**more):
    return replace(job, settings=replace(tiny, **more))


images.names, images.groups[images.rows["train"]].bincount().tolist()


# %% [markdown]
# ## Groups without labels
#
# Clusters are found after the dense network is trained, and stored in the run's folder: a resumed run must use the same groups, and one process finds them for all others.

# %%
#| export
def find_clusters(
    job: Job,  # Settings and data
    images: Images,  # The job's images
    model: nn.Module,  # The dense network
    device: str | torch.device = "cpu",  # Where to compute
    # The processes that share the run; process 0 finds them, the others read its file
    team: Team = ALONE,
    # The same with `clusters`, and with new groups if the clusters are compared
) -> tuple[Job, Images]:
    """Find the clusters if the settings ask for them. Raises: ValueError if a cluster has
    too few images.
    """
    s = job.settings
    if "clusters" not in (s.groups, s.importance_groups):
        return job, images
    kept = run_folder(job) / "clusters.safetensors"
    with team.main_first():
        found = (
            load_clusters(kept)
            if kept.is_file()
            else cluster_groups(
                model, images, s.clusters, s.seed, device, least=2 if s.groups == "clusters" else 0
            )
        )
        if team.size > 1 and team.main and not kept.is_file():
            save_clusters(found, kept)
    job = replace(job, clusters=found)
    if s.groups != "clusters":
        return job, images
    return replace(
        job, group=job.clusters.codes[job.table.index], group_names=list(job.clusters.names)
    ), with_clusters(images, job.clusters)


# %%
network = initial_network(job)
clustered, regrouped = find_clusters(asking(groups="clusters", clusters=2), images, network)
aside, as_before = find_clusters(asking(importance_groups="clusters", clusters=2), images, network)
clustered.group_names, np.bincount(clustered.group).tolist()

# %%
assert (
    regrouped.names == ("cluster-1", "cluster-2")
    and clustered.group.tolist()
    == regrouped.groups[torch.from_numpy(job.table.index.to_numpy(copy=True))].tolist()
)
# used by the importance, not compared
assert (
    aside.group_names == job.group_names and as_before is images and len(aside.clusters.names) == 2
)
assert find_clusters(job, images, None) == (job, images)  # the settings ask for no clusters
# a single process stores them later, with the results
assert not run_folder(asking(groups="clusters", clusters=2)).exists()


# %%
class Several(Team):
    def wait(self):
        pass


shared = asking(importance_groups="clusters", clusters=2)
# process 0 finds and writes them
first, _ = find_clusters(shared, images, network, team=Several(0, 2))
second, _ = find_clusters(shared, images, None, team=Several(1, 2))  # needs no network: it reads
print(sorted(f.name for f in run_folder(shared).iterdir()))
assert (first.clusters.codes == second.clusters.codes).all() and (
    run_folder(shared) / "clusters.safetensors"
).is_file()


# %% [markdown]
# ## Which images
#
# The cap limits the images of each *compared* group, whatever groups the importance has. So FairGRAPE, its group-blind version and its version with clusters use the same images.

# %%
#| export
def capped(rows: Tensor, group: Tensor, cap: int, seed: int) -> Tensor:
    "At most `cap` rows of each group, the same rows that `group_batches` takes."
    present = group[rows].unique().tolist()
    mine = [drawn(rows[group[rows] == g], seed + g, cap) for g in present]
    return torch.cat(mine).sort().values


# %%
capped(torch.arange(10), torch.tensor([0] * 7 + [1] * 3), cap=4, seed=0)

# %%
some = capped(torch.arange(10), torch.tensor([0] * 7 + [1] * 3), 4, 0).tolist()
assert len(some) == 4 + 3 and some[4:] == [7, 8, 9] and some == sorted(set(some))
fair = group_batches(images, "train", 64, 10, seed=3)
assert capped(images.rows["train"], images.groups, 10, seed=3).tolist() == sorted(
    torch.cat([part for _, part in fair.parts]).tolist()
)


# %%
#| export
def _row_numbers(job: Job) -> Tensor:
    "For each row of the job's table, its row in the pixels."
    return torch.tensor(job.table.index.to_numpy(np.int64, copy=True))


# %%
later = replace(job, table=job.table.iloc[::-1])  # the table's order need not be the pixels'
print(_row_numbers(later)[:4])
assert (
    _row_numbers(later).tolist() == job.table.index.tolist()[::-1]
    and _row_numbers(later).dtype == torch.int64
)


# %%
#| export
def _importance_rows(
    job: Job,  # Settings and data
    images: Images,  # The job's images
) -> Tensor:  # Row numbers, ascending if they are capped
    "The training images that the importance uses."
    s, rows = job.settings, images.rows["train"].cpu()
    if s.importance_on:
        seen = torch.zeros(len(images.groups), dtype=torch.bool)
        seen[_row_numbers(job)] = torch.from_numpy(matching(job.table, s.importance_on))
        rows = rows[seen[rows]]
    if s.importance_cap and (not form(s).groups or s.importance_groups):
        rows = capped(rows, images.groups.cpu(), s.importance_cap, s.seed)
    return rows


# %%
dark = _importance_rows(asking(importance_on="shade=dark"), images)
{
    said: len(_importance_rows(asking(**settings), images))
    for said, settings in (
        ("all", {}),
        ("red", dict(importance_on="tint=red")),
        ("not red", dict(importance_on="tint!=red")),
        ("10 of a group, no groups", dict(method="importance", importance_cap=10)),
    )
}

# %%
assert (images.labels[dark] == 0).all() and len(dark) == int(
    (images.labels[images.rows["train"]] == 0).sum()
)
assert torch.equal(_importance_rows(job, images), images.rows["train"])
few = dict(importance_cap=10, seed=3)
blind, regroups = (
    _importance_rows(asking(**more, **few), images).tolist()
    for more in (dict(method="importance"), dict(importance_groups="shade"))
)
assert (
    blind == regroups == capped(images.rows["train"], images.groups, 10, 3).tolist()
    and len(blind) == 20
)
assert len(_importance_rows(asking(**few), images)) == 128  # here `group_batches` applies the cap
assert torch.equal(
    _importance_rows(replace(later, settings=replace(tiny, importance_on="shade=dark")), images),
    dark,
)


# %% [markdown]
# ## Which groups
#
# One group of all images, the compared groups, the groups of another label, or clusters.

# %%
#| export
def importance_groups(
    job: Job,  # Settings and data, with clusters if they are needed
    images: Images,  # The job's images
    # Code of each image, shape `(N,)`, on the CPU; the groups' names
) -> tuple[Tensor, Sequence[str]]:
    "The groups whose importance is measured."
    s, group, names = job.settings, images.groups.cpu().clone(), images.names
    if not form(s).groups:
        return torch.zeros_like(group), ("everybody",)
    if s.importance_groups == "clusters":
        return torch.from_numpy(job.clusters.codes).clone(), job.clusters.names
    if s.importance_groups:
        code, names = codes(job.table, s.importance_groups)
        group[_row_numbers(job)] = torch.from_numpy(code)
    return group, names


# %%
said = {
    who: importance_groups(j, images)
    for who, j in (
        ("compared", job),
        ("another label", asking(importance_groups="shade")),
        ("none", asking(method="importance")),
        ("clusters", aside),
    )
}
{who: (tuple(names), group[:6].tolist()) for who, (group, names) in said.items()}

# %%
assert (
    torch.equal(said["compared"][0], images.groups)
    and torch.equal(said["another label"][0], images.labels[:, 0])
    and not said["none"][0].any()
)
# a copy, because it will be renumbered
assert (
    said["clusters"][0].tolist() == aside.clusters.codes.tolist()
    and said["compared"][0] is not images.groups
)


# %% [markdown]
# Groups without images are dropped, and the others are renumbered from 0.

# %%
#| export
def importance_images(
    job: Job,  # Settings and data, with clusters if they are needed
    images: Images,  # The job's images
) -> Images:  # With the groups and the training rows of the importance
    "The images with the importance's groups and training rows."
    group, names = importance_groups(job, images)
    rows = _importance_rows(job, images)
    there = group[rows].unique()
    group[rows] = torch.searchsorted(there, group[rows])

    def move(t):
        return t.to(images.groups.device)

    return replace(
        images,
        groups=move(group),
        names=tuple(names[g] for g in there),
        rows=images.rows | dict(train=move(rows)),
    )


# %%
red = importance_images(asking(importance_on="tint=red"), images)
red.names, len(red.rows["train"]), red.groups[red.rows["train"]].unique()

# %%
# red was 1, blue is gone
assert (
    red.names == ("red",)
    and set(red.groups[red.rows["train"]].tolist()) == {0}
    and torch.equal(red.rows["test"], images.rows["test"])
)
assert len(red.rows["train"]) == int(
    (images.groups[images.rows["train"]] == 1).sum()
) and images.groups.unique().tolist() == [0, 1]
everybody = importance_images(asking(method="importance"), images)
assert (
    everybody.names == ("everybody",)
    and len(everybody.rows["train"]) == 128
    and importance_images(job, images).names == ("blue", "red")
)


# %% [markdown]
# ## Which batches
#
# Each method needs its own batches: all training images, divided by group; one batch (SNIP); or one batch with equally many images of each class (GraSP). The public
# code's importance uses mixed, augmented batches in a new order at each pass.

# %%
#| export
class Mixed:
    """Mixed, augmented batches of the training images, in a new order at each pass; yields
    (x, y, group codes).
    """

    def __init__(self, images: Images, batch: int, augment: str, seed: int, device="cpu"):
        self.images, self.device = images, device
        self.batch, self.seed, self.passes = batch, seed, 0
        self.augment = None if augment == "none" else augmentation(augment, images.pixels.shape[-1])

    def __len__(self):
        return -(-len(self.images.rows["train"]) // self.batch)

    def __iter__(self):
        self.passes += 1
        with seeded(seed_of(self.seed, "importance", self.passes), self.device) as generator:
            for b in batches(
                self.images, "train", self.batch, generator, self.augment, self.device
            ):
                if len(b[0]) > 1:  # as in training: batch norm needs two images
                    yield b


# %%
mixed = Mixed(images, 16, "none", seed=0)
orders = [torch.cat([g for _, _, g in mixed]).tolist() for _ in range(2)]
[order[:12] for order in orders]

# %%
assert (
    len(mixed) == 8
    and mixed.passes == 2
    and orders[0] != orders[1]
    and sorted(orders[0]) == sorted(orders[1])
)
# like a run that resumes after its first step
resumed = Mixed(images, 16, "none", seed=0)
resumed.passes = 1
assert (
    torch.cat([g for _, _, g in resumed]).tolist()
    == orders[1]
    != torch.cat([g for _, _, g in Mixed(images, 16, "none", seed=1)]).tolist()
)
# the batch of one is left out
assert [len(x) for x, _, _ in Mixed(images, 127, "none", 0)] == [127] and len(
    Mixed(images, 127, "none", 0)
) == 2
x, bent = next(iter(Mixed(images, 16, "none", 0)))[0], next(iter(Mixed(images, 16, "paper", 0)))[0]
assert x.shape == bent.shape and not torch.equal(x, bent)


# %% [markdown]
# A single batch is drawn at random, as large as in training.

# %%
#| export
def one_batch(rows: Tensor, size: int, seed: int) -> list[Tensor]:
    "At most `size` of these rows, drawn at random, as the only batch."
    return [drawn(rows, seed, size)]


# %%
every = torch.arange(160)
print(one_batch(every, 4, seed=0))
assert (
    len(one_batch(every, 4, 0)) == 1
    and len(set(one_batch(every, 200, 0)[0].tolist())) == 160
    and not torch.equal(one_batch(every, 4, 0)[0], one_batch(every, 4, 1)[0])
)

# %% [markdown]
# A balanced batch is differentiated twice, which takes memory. So above 256 images it is divided into equal parts.

# %%
#| export
LARGEST = 256  # A larger class-balanced batch is divided, because it is differentiated twice


def _balanced_batch(rows: Tensor, labels: Tensor, seed: int) -> Sequence[Tensor]:
    "Equally many rows of each class, in parts of at most `LARGEST`."
    rows = rows[balanced_rows(labels[rows.to(labels.device)], seed=seed)]
    return rows.tensor_split(-(-len(rows) // LARGEST))


# %%
print([part.tolist() for part in _balanced_batch(every[:30], images.labels, seed=0)])
(part,) = _balanced_batch(images.rows["train"], images.labels, seed=0)
assert images.labels[part, 0].bincount().tolist() == [10, 10] and set(part.tolist()) <= set(
    images.rows["train"].tolist()
)
with patch(f"{_balanced_batch.__module__}.LARGEST", 8):
    assert [len(p) for p in _balanced_batch(images.rows["train"], images.labels, 0)] == [7, 7, 6]


# %%
#| export
def score_batches(
    job: Job,  # Settings and data
    images: Images,  # From `importance_images`
    device: str | torch.device = "cpu",  # Where the batches go
):  # An iterable for one pass per step; yields (x, y, group)
    "The batches that the method's score needs."
    s, how, rows = job.settings, form(job.settings), images.rows["train"].cpu()
    if how.mixed:
        return Mixed(images, s.batch, s.augment, s.seed, device)
    if how.batches == "all":
        return group_batches(
            images,
            "train",
            s.importance_batch,
            s.importance_cap if how.groups and not s.importance_groups else 0,
            s.seed,
            device,
        )
    parts = (
        one_batch(rows, s.batch, s.seed)
        if how.batches == "one"
        else _balanced_batch(rows, images.labels, s.seed)
    )
    return [(*get_batch(images, part, None, device)[:2], 0) for part in parts]


# %%
def sizes(**more):
    return [
        (len(x), g if isinstance(g, int) else "mixed")
        for x, _, g in score_batches(asking(**more), images)
    ]


{
    what: sizes(**more)
    for what, more in dict(
        fairgrape={},
        smaller=dict(importance_batch=32),
        capped=dict(importance_cap=10),
        snip=dict(method="snip"),
        grasp=dict(method="grasp"),
        released=dict(as_released=True, batch=64),
    ).items()
}

# %%
blue, red = images.groups[images.rows["train"]].bincount().tolist()
assert sizes() == [(blue - blue // 2, 0), (blue // 2, 0), (red, 1)] and sizes(
    importance_cap=10
) == [(10, 0), (10, 1)]
assert sizes(as_released=True, batch=64) == [(64, "mixed")] * 2
# a training batch; ten images of each class
assert sizes(method="snip") == [(16, 0)] and sizes(method="grasp") == [(20, 0)]
# the cap is already applied to the rows
assert sizes(importance_cap=10, importance_groups="shade") == sizes()
x, y, _ = score_batches(asking(method="grasp"), images)[0]
assert x.shape == (20, 3, 16, 16) and y.flatten().bincount().tolist() == [10, 10]


# %% [markdown]
# A pass over FairFace's training images takes minutes, so `Shown` adds a progress bar. If several processes divide the batches, each takes its own batch numbers.

# %%
#| export
class Shown:
    "Batches with a progress bar; if several processes divide them, each shows its own."

    def __init__(self, batches: Iterable, progress: bool):
        self.batches, self.progress = batches, progress

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self._bar(self.batches, len(self)))

    def take(self, numbers: Sequence[int]):
        return self._bar(self.batches.take(numbers), len(numbers))

    def _bar(self, some, total):
        return tqdm(some, "importance", total, leave=False, disable=not self.progress)


# %%
shown = Shown(score_batches(job, images), progress=False)
[g for _, _, g in shown], [g for _, _, g in shown.take(range(0, 3, 2))]

# %%
# the batches of the first of two processes
assert len(shown) == len(list(shown)) == 3 and [g for _, _, g in shown.take(range(0, 3, 2))] == [
    0,
    1,
]
with redirect_stderr(StringIO()):
    assert (
        Shown([1, 2], True)._bar([1, 2], 2).disable is False
        and Shown([1, 2], False)._bar([1, 2], 2).disable is True
    )
