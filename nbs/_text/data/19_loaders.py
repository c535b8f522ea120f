# %% [markdown]
# # Loaders
#
# > Cached bytes and labels become batches: of everybody for training, of one group for the importance

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
# The running example: 300 images of 3 looks and 3 groups, of which image $i$ is plain grey, $7 i$ mod 256. The last digit of $i$ decides its tone and its part: 0 … 7 are `train`, 8 is `val`, 9 is `test`.

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
# `Images` is what training, importance and prediction take: pixels, labels, groups, and which rows belong to which part. It can live on the GPU as a whole: 100,000 images of 64 px are 1.2 GB.

# %%
#| export
@dataclass(frozen=True)
class Images:
    "Images as bytes, with their labels, groups and split."

    pixels: Tensor  # uint8 (N, 3, size, size)
    labels: Tensor  # int64 (N, H): a column per head; -1 in rows that no part uses
    groups: Tensor  # int64 (N,)
    rows: dict[str, Tensor]  # 'train', 'val', 'test' -> int64 row numbers
    names: tuple[str, ...] = ()  # The groups' names, in code order


# %% [markdown]
# Two rows by hand.

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
# A cache is mapped into memory for reading only, and pandas gives out its columns likewise. torch has no such notion and warns, on each run and to no purpose: batches are copies, and nobody writes to the array.

# %%
#| export
def _as_tensor(pixels: np.ndarray) -> Tensor:
    "A tensor on the array's own memory, though the array may be read-only."
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
# From a table: its index says which row of the cache is meant, so a table that was filtered still finds its pixels.

# %%
#| export
def make_images(
    pixels: np.ndarray,  # uint8 (N, 3, size, size), e.g. from `image_cache`
    table: pd.DataFrame,  # The rows to use; its index holds their numbers in `pixels`
    split: pd.Series,  # train / val / test, same index
    heads: list[str],  # Label columns, one per head
    groups: str,  # The grouping, as for `codes`
) -> Images:  # On the CPU, pixels not copied
    """Join cached pixels with the labels of the rows that a task uses. Raises: ValueError, as
    `codes` does.
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
# Where the GPU has the room, the bytes go there once, and no batch waits for the bus.

# %%
#| export
@patch
def to(
    self: Images,
    device: str | torch.device,  # E.g. 'cuda'
) -> Images:  # The same images there
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
# Bytes become numbers only now, a batch at a time: gathered, moved, divided by 255, augmented and normalised. On the CPU this happens in pieces of a megabyte, which stay in the processor's cache: at 224 px that is several times faster.

# %%
#| export
def _piece(x: Tensor) -> int:
    "How many images to work on at a time: all on a GPU, a megabyte of them on the CPU."
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
    images: Images,  # Where to take them from
    index: Tensor,  # int64 (n,): row numbers
    augment=None,  # A callable on float (n, 3, S, S) in [0, 1], or None
    device: str | torch.device = "cpu",  # Where to
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
# Image 5 is grey 35, so its red is (35/255 − 0.485) / 0.229 = −1.5185. Augmentation sees pixels in [0, 1], before they are normalised; and a batch of several pieces is put together in order.

# %%
assert abs(x[0, 0, 3, 3].item() - (-1.5185)) < 1e-4 and x.dtype == torch.float32
assert y.tolist() == [[2], [1]] and g.tolist() == [1, 2]
white = get_batch(images, torch.tensor([5]), augment=lambda x: x + (1 - 35 / 255))[0]
assert torch.allclose(white, normalise(torch.ones(1, 3, 16, 16)), atol=1e-5)
assert _piece(x) == 341 and torch.equal(
    get_batch(images, torch.arange(300).repeat(2))[0][300 + 5], x[0]
)


# %% [markdown]
# An empty part would be an epoch without a step, and its mean loss no number.

# %%
#| export
def _part_rows(images: Images, split: str) -> Tensor:
    "The row numbers of a part. Raises: ValueError (unknown or empty part)."
    rows = images.rows.get(split, torch.empty(0))
    there = ", ".join(f"{len(r)} in {part}" for part, r in images.rows.items())
    if not len(rows):
        raise ValueError(f"no images in {split!r}: there are {there}")
    return rows


# %%
try:
    _part_rows(images, "dev")
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown part was accepted")
assert _part_rows(images, "val")[:3].tolist() == [8, 18, 28]


# %% [markdown]
# One epoch, lazily. The order comes from a generator of the caller's, so that an epoch can be repeated. Several processes share one epoch by `share`: each draws the same order and puts together only the batches that are its own.

# %%
#| export
def batches(
    images: Images,  # Where to take them from
    split: str,  # 'train', 'val' or 'test'
    size: int = 64,  # Images a batch; the last may be smaller
    # Shuffle with this generator (a CPU one), or keep the order
    shuffle: torch.Generator | None = None,
    augment=None,  # A callable on float (n, 3, S, S) in [0, 1], or None
    device: str | torch.device = "cpu",  # Where to
    # The batches' rows → those of them that are put together; None: all
    share: Callable[[Sequence[Tensor]], Iterable[Tensor]] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # As `get_batch` gives them
    "One epoch over a part. Raises: ValueError (unknown or empty part)."
    rows = _part_rows(images, split)
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
    batches(images, "dev")  # now, and not at the first batch
except ValueError:
    pass
else:
    raise AssertionError("an unknown part was accepted")


# %% [markdown]
# ## Batches of one group
#
# The importance of a weight for a group is a mean over mini-batches of *that group's* images. A cap on a group's images takes a random choice of them, so the order is drawn first and then cut off.

# %%
#| export
def drawn(
    rows: Tensor,  # Row numbers
    seed: int,  # Decides their order
    cap: int = 0,  # At most so many; 0: all
) -> Tensor:  # Some of the rows, or all, mixed
    "Rows in the seed's order, at most `cap` of them."
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
# Each group has its own seed: what one group draws must not depend on how many images another has.

# %%
#| export
def _rows_by_group(images: Images, split: str, cap: int, seed: int) -> list[Tensor]:
    "For each group the rows to use, in their order. Raises: ValueError (a group without images)."
    rows = images.rows[split].cpu()
    group = images.groups.cpu()[rows]
    own = [
        drawn(rows[group == g], seed + g, cap)
        for g in range(len(images.names) or int(group.max()) + 1)
    ]
    empty = [images.names[g] if images.names else g for g, mine in enumerate(own) if not len(mine)]
    if empty:
        raise ValueError(
            f"group {empty[0]!r} has no image in {split!r}: its importance is not defined"
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
unnamed = replace(images, names=())  # without names, groups are as many as the highest code says
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
# The size of the importance depends on how many images a batch holds, so a group's images are cut into batches that differ by one image at most. 100 images at 64 are two batches of 50, not one of 64 and one of 36. No augmentation; the order is the seed's.

# %%
#| export
class group_batches:
    """Batches of one group each, group after group. Raises: ValueError (a group without
    images). Source: paper §3.2; equal batches: ours.
    """

    def __init__(
        self,
        images: Images,  # Where to take them from
        split: str = "train",  # 'train', 'val' or 'test'
        size: int = 64,  # Most images a batch
        cap: int = 0,  # Most images a group; 0 takes all
        seed: int = 0,  # Order, and choice under a cap
        device: str | torch.device = "cpu",  # Where the batches go
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
# By hand: `train` has the last digits 0 … 7 of 300 images. 0 … 4 are tone-1 (150), 5 and 6 tone-2 (60), 7 is tone-3 (30). 150 images at 64 are three batches of 50.

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
# The pixels are fetched only when a batch is asked for. By their numbers several processes divide the batches among themselves.

# %%
#| export
@patch
def take(self: group_batches, numbers: Iterable[int]) -> Iterator[tuple[Tensor, Tensor, int]]:
    "Some of the batches, as (images, labels, group), where several processes divide them"
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
assert len(list(loader)) == len(list(loader)) == 5  # it can be gone through again
