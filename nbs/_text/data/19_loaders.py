# %% [markdown]
# # Loaders
#
# > Turn cached bytes and labels into batches: of all images, or of one group for importance

# %%
#| default_exp data.loaders

# %%
#| export
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from fastcore.basics import patch
from torch import Tensor

from fairgrape.data.splits import SPLITS
from fairgrape.data.tables import codes
from fairgrape.data.transforms import normalise

# %% [markdown]
# The running example has 300 images of 3 looks and 3 groups. Image $i$ is plain grey, $7 i$ mod
# 256. The last digit of $i$ decides its tone and its part: 0 … 7 are `train`, 8 is `val`, 9 is
# `test`.

# %%
pixels = np.stack([np.full((3, 16, 16), 7 * i % 256, np.uint8) for i in range(300)])
digit = np.arange(300) % 10
table = pd.DataFrame(
    dict(
        look=pd.Categorical.from_codes(np.arange(300) % 3, ["dark", "mid", "light"]),
        tone=pd.Categorical.from_codes(
            np.array([0, 0, 0, 0, 0, 1, 1, 2, 0, 1])[digit], ["tone-1", "tone-2", "tone-3"]
        ),
    )
)
split = pd.Series(
    pd.Categorical.from_codes(np.array([0] * 8 + [1, 2])[digit], SPLITS), index=table.index
)
pd.crosstab(table.tone, split)


# %% [markdown]
# ## Images for training
#
# Training, importance and prediction take an `Images` record: pixels, labels, groups, and the rows
# of each part. It can be moved to the GPU as a whole: 100,000 images of 64 px take 1.2 GB.

# %%
#| export
@dataclass(frozen=True)
class Images:
    "Images as bytes, with their labels, groups and split."

    pixels: Tensor  # uint8 (N, 3, size, size)
    labels: Tensor  # int64 (N, H): one column per head; -1 in rows that no part uses
    groups: Tensor  # int64 (N,)
    rows: dict[str, Tensor]  # 'train', 'val', 'test' -> int64 row numbers
    names: tuple[str, ...] = ()  # Names of the groups, in code order


# %% [markdown]
# An example with two rows:

# %%
by_hand = Images(
    torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
    torch.tensor([[1], [0]]),
    torch.tensor([0, 1]),
    dict(train=torch.tensor([0, 1])),
    ("a", "b"),
)
by_hand.rows

# %%
assert Images(*[torch.zeros(1)] * 3, {}).names == ()
try:
    by_hand.names = ()
except AttributeError as e:
    print(e)
else:
    raise AssertionError("images that several parts of a run share were changed")


# %% [markdown]
# A cache is mapped into memory read-only, and pandas returns its columns read-only too. torch has
# no read-only tensors and warns about such arrays. The warning is suppressed, because batches are
# copies and nothing writes to the array.

# %%
#| export
def _as_tensor(pixels: np.ndarray) -> Tensor:
    "A tensor that shares the array's memory, even if the array is read-only."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


# %%
locked = np.arange(3)
locked.flags.writeable = False
with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert _as_tensor(locked).data_ptr() == locked.ctypes.data
_as_tensor(locked)


# %% [markdown]
# The table's index holds the row numbers in the cache, so a filtered table still finds its pixels.

# %%
#| export
def make_images(
    pixels: np.ndarray,  # uint8 (N, 3, size, size), e.g. from `image_cache`
    table: pd.DataFrame,  # The rows to use; its index holds their numbers in `pixels`
    split: pd.Series,  # train / val / test, same index
    heads: list[str],  # Label columns, one per head
    groups: str,  # The grouping, as for `codes`
) -> Images:  # On the CPU, pixels not copied
    """Join cached pixels with the labels of the rows that a task uses. Raises: the ValueErrors
    of `codes`.
    """
    labels, group = torch.full((len(pixels), len(heads)), -1), torch.full((len(pixels),), -1)
    index = torch.tensor(table.index.to_numpy(np.int64, copy=True))
    for h, head in enumerate(heads):
        labels[index, h] = torch.from_numpy(codes(table, head)[0])
    code, names = codes(table, groups)
    group[index] = torch.from_numpy(code)
    rows = {part: index[_as_tensor((split == part).to_numpy())] for part in SPLITS}
    return Images(_as_tensor(pixels), labels, group, rows, tuple(names))


# %%
images = make_images(pixels, table, split, ["look"], "tone")
{part: len(rows) for part, rows in images.rows.items()}, images.names

# %%
assert (
    images.labels[:4, 0].tolist() == [0, 1, 2, 0]
    and images.rows["val"][:2].tolist() == [8, 18]
    and images.groups[4:8].tolist() == [0, 1, 1, 2]
)
some = table[table.look != "mid"]
part = make_images(pixels, some, split[some.index], ["look", "tone"], "tone")
assert (
    part.rows["train"][:3].tolist() == [0, 2, 3]
    and part.labels[1].tolist() == [-1, -1]
    and part.groups[1] == -1
)
# nothing was copied
assert part.pixels.data_ptr() == images.pixels.data_ptr() == pixels.ctypes.data


# %% [markdown]
# If the GPU has enough memory, the bytes are moved there once, and no batch waits for the transfer.

# %%
#| export
@patch
def to(
    self: Images,
    device: str | torch.device,  # E.g. 'cuda'
) -> Images:  # The same images on that device
    "Move everything to a device."
    rows = {part: index.to(device) for part, index in self.rows.items()}
    return replace(
        self,
        pixels=self.pixels.to(device),
        labels=self.labels.to(device),
        groups=self.groups.to(device),
        rows=rows,
    )


# %%
there = images.to("meta")  # a device without memory
there.pixels.device, there.rows["val"].device

# %%
assert {
    t.device.type for t in (there.pixels, there.labels, there.groups, *there.rows.values())
} == {"meta"} and there.names == images.names
assert torch.equal(images.to("cpu").pixels, images.pixels) and images.pixels.device.type == "cpu"


# %% [markdown]
# ## Batches
#
# Bytes become floating-point numbers one batch at a time: gathered, moved, divided by 255,
# augmented and normalised. On the CPU this is done in pieces of a megabyte, which fit into the
# processor's cache. At 224 px that is several times faster.

# %%
#| export
def _piece(x: Tensor) -> int:
    "The number of images to process at a time: all on a GPU, a megabyte of them on the CPU."
    return max(1, 2**18 // x[0].numel()) if x.device.type == "cpu" else len(x)


# %%
{side: _piece(torch.empty(64, 3, side, side)) for side in (32, 64, 224, 512)}

# %%
# float32: 4 bytes
assert (
    _piece(torch.empty(64, 3, 64, 64)) == 21
    and 21 * 3 * 64 * 64 * 4 <= 2**20 < 22 * 3 * 64 * 64 * 4
)
assert (
    _piece(torch.empty(2, 3, 512, 512)) == 1
    and _piece(torch.empty(64, 3, 64, 64, device="meta")) == 64
)


# %%
#| export
def get_batch(
    images: Images,  # The source
    index: Tensor,  # int64 (n,): row numbers
    augment=None,  # A callable on float (n, 3, S, S) in [0, 1], or None
    device: str | torch.device = "cpu",  # Device of the batch
) -> tuple[Tensor, Tensor, Tensor]:  # float32 (n, 3, S, S) normalised; labels (n, H); groups (n,)
    "Some images as one batch."
    index = index.to(images.pixels.device)
    x = torch.empty((len(index), *images.pixels.shape[1:]), device=device)
    for out, rows in zip(x.split(step := _piece(x)), index.split(step)):
        out.copy_(images.pixels.index_select(0, rows), non_blocking=True).mul_(1 / 255)
        normalise(out if augment is None else augment(out), out)
    return x, images.labels[index].to(device), images.groups[index].to(device)


# %%
x, y, g = get_batch(images, torch.tensor([5, 7]))
x[:, :, 0, 0], y.T, g

# %% [markdown]
# Image 5 is grey 35, so its red is (35/255 − 0.485) / 0.229 = −1.5185. Augmentation gets pixels in
# [0, 1], before normalisation. The pieces of a batch keep their order.

# %%
assert abs(x[0, 0, 3, 3].item() - (-1.5185)) < 1e-4 and x.dtype == torch.float32
assert y.tolist() == [[2], [1]] and g.tolist() == [1, 2]
white = get_batch(images, torch.tensor([5]), augment=lambda x: x + (1 - 35 / 255))[0]
assert torch.allclose(white, normalise(torch.ones(1, 3, 16, 16)), atol=1e-5)
assert _piece(x) == 341 and torch.equal(
    get_batch(images, torch.arange(300).repeat(2))[0][300 + 5], x[0]
)


# %% [markdown]
# An epoch is a lazy iterator over batches. An empty part raises an error, because the mean loss of
# an epoch without steps is undefined. The caller passes the generator of the order, so an epoch can
# be repeated. With `share`, several processes share one epoch: each draws the same order and
# assembles only its own batches.

# %%
#| export
def batches(
    images: Images,  # The source
    split: str,  # 'train', 'val' or 'test'
    size: int = 64,  # Images per batch; the last batch may be smaller
    # Shuffle with this generator (a CPU one), or keep the order
    shuffle: torch.Generator | None = None,
    augment=None,  # A callable on float (n, 3, S, S) in [0, 1], or None
    device: str | torch.device = "cpu",  # Device of the batches
    # The rows of all batches → the rows of the batches to assemble; None: all
    share: Callable[[Sequence[Tensor]], Iterable[Tensor]] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # As `get_batch` gives them
    "One epoch over a part. Raises: ValueError (unknown or empty part)."
    rows = images.rows.get(split, ())
    if not len(rows):
        there = ", ".join(f"{len(r)} in {part}" for part, r in images.rows.items())
        raise ValueError(f"no images in {split!r}: there are {there}")
    if shuffle is not None:
        rows = rows[torch.randperm(len(rows), generator=shuffle).to(rows.device)]
    parts = rows.split(size)
    return (
        get_batch(images, index, augment, device)
        for index in (parts if share is None else share(parts))
    )


# %%
[len(x) for x, y, g in batches(images, "train")]

# %%
assert [len(x) for x, y, g in batches(images, "train")] == [64, 64, 64, 48]


def labels(seed):
    return torch.cat(
        [
            y
            for x, y, g in batches(
                images, "train", shuffle=seed and torch.Generator().manual_seed(seed)
            )
        ]
    )[:, 0]


assert torch.equal(labels(None), images.labels[images.rows["train"], 0])
assert torch.equal(labels(1), labels(1)) and not torch.equal(labels(1), labels(2))
assert torch.equal(labels(1).sort().values, labels(None).sort().values)
# one of several processes
assert [
    len(x)
    for x, y, g in batches(images, "train", share=lambda parts: [part[:10] for part in parts[1::2]])
] == [10, 10]
try:
    batches(images, "dev")  # raises at once, not at the first batch
except ValueError as e:
    print(e)
    assert str(e) == "no images in 'dev': there are 240 in train, 30 in val, 30 in test"
else:
    raise AssertionError("an unknown part was accepted")


# %% [markdown]
# ## Batches of one group
#
# The importance of a weight for a group is a mean over mini-batches of *that group's* images. A cap
# limits a group to a random sample: the images are shuffled first and then truncated.

# %%
#| export
def drawn(
    rows: Tensor,  # Row numbers
    seed: int,  # Seed of their order
    cap: int = 0,  # Most rows to return; 0: all
) -> Tensor:  # The rows, shuffled
    "Rows in a random order, at most `cap` of them."
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))][
        : cap or None
    ]


# %%
drawn(torch.arange(10, 20), seed=0, cap=3), drawn(torch.arange(10, 20), seed=1, cap=3)

# %%
assert torch.equal(
    drawn(torch.arange(9), 0, 3), drawn(torch.arange(9), 0, 0)[:3]
) and not torch.equal(drawn(torch.arange(9), 0, 3), drawn(torch.arange(9), 1, 3))
assert drawn(torch.arange(10, 20), 0, 0).sort().values.tolist() == list(range(10, 20))


# %% [markdown]
# Each group has its own seed, so its draw does not depend on the number of images of another group.

# %%
#| export
def _rows_by_group(images: Images, split: str, cap: int, seed: int) -> list[Tensor]:
    "The rows of each group, in their order. Raises: ValueError (a group without images)."
    rows = images.rows[split].cpu()
    group = images.groups.cpu()[rows]
    own = [
        drawn(rows[group == g], seed + g, cap)
        for g in range(len(images.names) or int(group.max()) + 1)
    ]
    empty = [images.names[g] if images.names else g for g, mine in enumerate(own) if not len(mine)]
    if empty:
        raise ValueError(
            f"group {empty[0]!r} has no image in {split!r}, so its importance is undefined: use"
            " more images, or leave the group out"
        )
    return own


# %%
try:
    _rows_by_group(images, "val", cap=0, seed=0)
except ValueError as e:
    print(e)
else:
    raise AssertionError("a group without images was accepted")

# %%
own = _rows_by_group(images, "train", cap=0, seed=3)
assert [len(rows) for rows in own] == [150, 60, 30] and set(own[2].tolist()) == set(
    range(7, 300, 10)
)
assert [rows.tolist() for rows in _rows_by_group(images, "train", cap=35, seed=3)] == [
    rows[:35].tolist() for rows in own
]
assert torch.equal(own[1], drawn(torch.arange(300)[(digit == 5) | (digit == 6)], 3 + 1, 0))
unnamed = replace(images, names=())  # without names, the highest code gives the number of groups
assert all(
    torch.equal(a, b) for a, b in zip(_rows_by_group(unnamed, "train", 0, 3), own, strict=True)
)
try:
    _rows_by_group(replace(unnamed, groups=2 * images.groups), "train", 0, 0)  # groups 0, 2 and 4
except ValueError as e:
    print(e)
    assert "group 1 has" in str(e)
else:
    raise AssertionError("a group without images was accepted")


# %% [markdown]
# The magnitude of the importance depends on the batch size, so a group's images are divided into
# batches that differ by one image at most. At a size of 64, 100 images give two batches of 50, not
# one of 64 and one of 36. There is no augmentation, and the order comes from the seed.

# %%
#| export
class group_batches:
    """Batches of one group each, group after group. Raises: ValueError (a group without
    images). Source: paper §3.2; equal batches: ours.
    """

    def __init__(
        self,
        images: Images,  # The source
        split: str = "train",  # 'train', 'val' or 'test'
        size: int = 64,  # Most images per batch
        cap: int = 0,  # Most images per group; 0 takes all
        seed: int = 0,  # Seed of the order, and of the sample under a cap
        device: str | torch.device = "cpu",  # Device of the batches
    ):
        self.images, self.device, own = images, device, _rows_by_group(images, split, cap, seed)
        self.counts = [len(mine) for mine in own]  # images of each group
        self.parts = [
            (g, part)
            for g, mine in enumerate(own)
            for part in mine.tensor_split(math.ceil(len(mine) / size))
        ]

    def __len__(self):
        return len(self.parts)


# %%
loader = group_batches(images, size=64)
loader.counts, [(g, len(part)) for g, part in loader.parts]

# %% [markdown]
# By hand: `train` has the last digits 0 … 7 of 300 images. 0 … 4 are tone-1 (150), 5 and 6 tone-2
# (60), 7 is tone-3 (30). At a size of 64, 150 images give three batches of 50.

# %%
assert loader.counts == [150, 60, 30] and len(loader) == 5
assert [(g, len(part)) for g, part in loader.parts] == [(0, 50), (0, 50), (0, 50), (1, 60), (2, 30)]
# near-equal
assert sorted(len(part) for g, part in group_batches(images, size=40).parts if g == 0) == [
    37,
    37,
    38,
    38,
]
assert group_batches(images, cap=35).counts == [35, 35, 30]


def order(seed):
    return torch.cat([part for g, part in group_batches(images, seed=seed).parts])


assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
assert torch.equal(order(0).sort().values, images.rows["train"])  # every image once


# %% [markdown]
# The pixels are read only when a batch is requested. Several processes divide the batches by their
# numbers.

# %%
#| export
@patch
def take(self: group_batches, numbers: Iterable[int]) -> Iterator[tuple[Tensor, Tensor, int]]:
    "The batches with these numbers, as (images, labels, group)."
    for g, part in (self.parts[i] for i in numbers):
        yield (*get_batch(self.images, part, None, self.device)[:2], g)


@patch
def __iter__(self: group_batches) -> Iterator[tuple[Tensor, Tensor, int]]:
    return self.take(range(len(self)))


# %%
[(g, tuple(x.shape), tuple(y.shape)) for x, y, g in loader.take(range(1, 5, 2))]

# %%
assert [(g, len(x)) for x, y, g in loader.take(range(1, 5, 2))] == [(0, 50), (1, 60)]
for (x, y, g), (group, part) in zip(loader, loader.parts, strict=True):
    assert (
        g == group
        and torch.equal(x, get_batch(images, part)[0])
        and torch.equal(y, images.labels[part])
    )
assert len(list(loader)) == len(list(loader)) == 5  # it can be iterated again
