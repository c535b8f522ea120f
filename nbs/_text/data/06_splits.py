# %% [markdown]
# # Splits
#
# > Train, validation and test parts that keep photographs together, and persons if known

# %%
#| default_exp data.splits

# %%
#| export
import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

SPLITS = ["train", "val", "test"]


# %% [markdown]
# Two faces from one photograph share its light, its camera and often a family. If one of them is in
# training, the other is not an independent test. So the split assigns *photographs* to parts. Its
# seed is 42 and stays 42 when the run's seed changes: runs with different seeds are tested on the
# same images.
#
# The order of the photographs comes from a hash of seed and name, not from a random generator. So
# it depends neither on the order of the files nor on the version of any library.
#
# Most sets do not say which faces come from one photograph, but equal time stamps and equal bytes
# show it. Images linked by either sign, directly or through others, count as one photograph.

# %%
#| export
def join_photos(
    stamp: pd.Series,  # A value that the faces of a photograph share, e.g. the time stamp
    content: pd.Series,  # Another such value, e.g. a hash of each file's bytes, same index
) -> pd.Series:  # One name for all images that are linked by either
    "Name photographs so that images with the same stamp, or the same bytes, share one name."
    photo = stamp
    while True:
        joined = photo.groupby(content).transform("min").groupby(stamp).transform("min")
        if joined.equals(photo):
            return photo
        photo = joined


# %% [markdown]
# By hand: 0 and 1 share a stamp, 1 and 2 their bytes, 2 and 3 a stamp. All four are one photograph.
# Image 4 is alone.

# %%
join_photos(pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])).tolist()

# %%
assert join_photos(
    pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])
).tolist() == ["r", "r", "r", "r", "t"]
assert join_photos(pd.Series(["1", "2"]), pd.Series(["x", "y"])).tolist() == ["1", "2"]


# %% [markdown]
# ## Assigning photographs to parts
#
# The hash of a name serves as a random number that is fixed for the name. Photographs are sorted by
# it, and the first eight tenths are the training part. The sizes of the parts are then exact. They
# would not be exact if each photograph drew its part at random.

# %%
#| export
def _deal(photos: pd.Series, seed: int, fractions: Sequence[float]) -> np.ndarray:
    "For each row, the number of the part that its photograph belongs to."
    unique = sorted(set(photos), key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    cuts = np.round(np.cumsum(fractions)[:-1] * len(unique)).astype(int)
    part = dict(zip(unique, np.searchsorted(cuts, np.arange(len(unique)), side="right")))
    return photos.map(part).to_numpy(np.int64)


# %%
_deal(pd.Series(list("abcda")), seed=42, fractions=(0.5, 0.25, 0.25))

# %%
dealt = _deal(pd.Series(list("abcda")), 42, (0.5, 0.25, 0.25))
# two, one, one; and a stays with a
assert sorted(dealt[:4].tolist()) == [0, 0, 1, 2] and dealt[4] == dealt[0]
# by name, not by position
assert _deal(pd.Series(list("dcba")), 42, (0.5, 0.25, 0.25)).tolist() == dealt[3::-1].tolist()
assert (
    len({tuple(_deal(pd.Series(list("abcd")), seed, (0.5, 0.25, 0.25))) for seed in range(9)}) > 1
)


# %% [markdown]
# A set may have an official split, on which others report. If it has two parts, the part other than
# `train` is the test, and a tenth of `train` becomes `val`, for choosing the epochs.

# %%
#| export
def _official(table: pd.DataFrame, seed: int) -> np.ndarray:
    """The set's own split. If it has two parts, a tenth of train becomes val and the other part
    is the test.
    """
    if "official" not in table:
        raise ValueError("this set has no official split: use split='photo'")
    names = table["official"].astype(str).to_numpy()
    if unknown := sorted(set(names) - set(SPLITS)):
        raise ValueError(f"column 'official' holds {unknown[0]!r}: use train, val, test")
    if len(set(names)) == 3:
        return np.array([SPLITS.index(n) for n in names])
    part, train = np.full(len(table), 2), names == "train"
    part[train] = _deal(table.loc[train, "photo"], seed, (0.9, 0.1))
    return part


# %%
ten = pd.DataFrame(dict(photo=list("abcdefghij")))
two_parts = ten.assign(photo=ten.photo, official=["train"] * 10)
two_parts = pd.concat(
    [two_parts, pd.DataFrame(dict(photo=["x", "y"], official="val"))], ignore_index=True
)
_official(two_parts, 42)

# %%
parts = _official(two_parts, 42)
# a tenth of ten, and val is the test
assert sorted(parts[:10].tolist()) == [0] * 9 + [1] and parts[10:].tolist() == [2, 2]
twenty = pd.DataFrame(dict(photo=[f"p{i}" for i in range(200)], official=["train"] * 199 + ["val"]))
assert (_official(twenty, 42) == 1).sum() == 20
assert (
    _official(ten.assign(official=["test", "val"] + ["train"] * 8), 42).tolist() == [2, 1] + [0] * 8
)
for table in (ten, ten.assign(official="dev")):
    try:
        _official(table, 42)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a set without such parts was split by them")


# %% [markdown]
# A set that says *who* is in an image (CelebA has 10,177 persons) can be split by person, so no
# person is in both training and test. A photograph of two persons joins them. An image without a
# person cannot be assigned.

# %%
#| export
def _persons(table: pd.DataFrame) -> pd.Series:
    "The person in each image; the persons of one photograph count as one."
    if "person" not in table:
        raise ValueError(
            "this set does not say who is in an image (no column 'person'): use split='photo'"
        )
    empty = table["person"].isna()
    if empty.any():
        raise ValueError(
            f"column 'person' is empty in row {empty.idxmax()} ({empty.sum()} such rows): use"
            " split='photo'"
        )
    return join_photos(table["person"].astype(str), table["photo"])


# %%
wedding = pd.DataFrame(dict(photo=["p", "p", "q", "r"], person=["Ada", "Bo", "Bo", "Cy"]))
_persons(wedding).tolist()

# %%
assert _persons(wedding).tolist() == ["Ada", "Ada", "Ada", "Cy"]
for table in (wedding[["photo"]], wedding.assign(person=["Ada", None, "Bo", None])):
    try:
        _persons(table)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("images without a person were dealt out by person")


# %% [markdown]
# ## The split
#
# One function for the three ways. It checks the settings first.

# %%
#| export
def split_table(
    table: pd.DataFrame,  # A data set's table
    # 'photo': a new split by photograph; 'person': by person; 'official': the set's own
    how: str = "photo",
    seed: int = 42,  # The split's seed, which is not the run's
    # Fractions of the photographs or persons in train, val and test; they add up to 1
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
) -> pd.Series:  # Categorical train / val / test, index as the table's
    """The part that each image belongs to; the faces of one photograph stay together. Raises:
    ValueError. Source: paper §4, public code.
    """
    if how not in ("photo", "person", "official"):
        raise ValueError(f"split = {how!r}: use 'photo', 'person' or 'official'")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(
            f"fractions = {tuple(fractions)}: give three positive numbers that add up to 1"
        )
    if how == "official":
        part = _official(table, seed)
    else:
        part = _deal(table["photo"] if how == "photo" else _persons(table), seed, fractions)
    return pd.Series(pd.Categorical.from_codes(part, SPLITS), index=table.index, name="split")


# %%
many = pd.DataFrame(
    dict(path=[f"{i}.jpg" for i in range(1100)], photo=[f"p{i % 1000}" for i in range(1100)])
)
split_table(many).value_counts()

# %% [markdown]
# A thousand photographs are split into exactly 800, 100 and 100. Each of the hundred photographs
# with two faces is in one part only, and another order of the rows changes nothing. The test pins
# the first four test images, so a change of the rule cannot go unnoticed.

# %%
split = split_table(many)
photos = many.groupby("photo").first().index
per_photo = split.groupby(many.photo).agg(["nunique", "first"])
assert (per_photo["nunique"] == 1).all()
assert per_photo["first"].value_counts()[SPLITS].tolist() == [800, 100, 100]
shuffled = many.sample(frac=1, random_state=1)
assert split_table(shuffled).sort_index().equals(split)
assert not split_table(many, seed=43).equals(split)
assert split[split == "test"].index[:4].tolist() == [13, 32, 33, 43]

# %% [markdown]
# FairFace has `train` and `val`. Others report on its `val`, so it is the test here, and a tenth of
# `train` is used to choose the epochs.

# %%
fairface_like = many.assign(official=pd.Categorical(["train"] * 900 + ["val"] * 200, SPLITS))
split_table(fairface_like, "official").value_counts()

# %%
official = split_table(fairface_like, "official")
assert (
    official.value_counts()[SPLITS].tolist() == [810, 90, 200] and (official[900:] == "test").all()
)
all_three = many.assign(official=pd.Categorical((["train"] * 8 + ["val", "test"]) * 110, SPLITS))
# all three parts are there: taken as they are
assert (split_table(all_three, "official") == all_three.official).all()
for settings, told in [
    (dict(how="official"), "no official split"),
    (dict(how="random"), "split = 'random'"),
    (dict(fractions=(0.8, 0.1, 0.2)), "add up"),
    (dict(fractions=(0.9, 0.1, 0)), "positive"),
    (dict(fractions=(0.9, 0.1)), "three"),
]:
    try:
        split_table(many, **settings)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{settings} was accepted")

# %% [markdown]
# A split by person: 100 people with eleven images each, and one photograph that shows two of them.

# %%
known = many.assign(person=[f"n{i % 100}" for i in range(1100)])
known.loc[1, "photo"] = known.photo[0]  # n0 and n1 on one photograph
people = split_table(known, "person")
people.value_counts()

# %%
assert (people.groupby(known.person).nunique() == 1).all() and people[0] == people[1]
# split by photograph, some people are in several parts
assert (split_table(known).groupby(known.person).nunique() > 1).any()
