# %% [markdown]
# # Splits
#
# > Train, validation and test parts that keep photographs whole, and persons where they are known

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
# Two faces cut from one photograph share its light, its camera and often its family. With one of them in training, the other is a test only in name. So the split
# deals out *photographs*. Its seed is 42 and stays 42 when the run's seed changes: runs of different seeds are tested on the same images.
#
# The order in which photographs are dealt comes from a hash of seed and name, not from a random generator: it does not
# depend on the order of the files, nor on the version of any library.
#
# What is one photograph? Most sets do not say, but something tells: an equal time stamp, equal bytes. Two such signs are joined, also in chains.

# %%
#| export
def join_photos(
    stamp: pd.Series,  # What a photograph's faces share, e.g. the time stamp
    content: pd.Series,  # Another such sign, e.g. a hash of each file's bytes, same index
) -> pd.Series:  # One name for all images that are linked by either
    "Name photographs so that images with the same stamp, or the same bytes, are of one photograph."
    photo = stamp
    while True:
        joined = photo.groupby(content).transform("min").groupby(stamp).transform("min")
        if joined.equals(photo):
            return photo
        photo = joined


# %% [markdown]
# By hand: 0 and 1 share a stamp, 1 and 2 their bytes, 2 and 3 a stamp. All four are one. Image 4 is alone.

# %%
join_photos(pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])).tolist()

# %%
assert join_photos(
    pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])
).tolist() == ["r", "r", "r", "r", "t"]
assert join_photos(pd.Series(["1", "2"]), pd.Series(["x", "y"])).tolist() == ["1", "2"]


# %% [markdown]
# ## Dealing out
#
# The hash of a name is as good as a random number that belongs to the name. Photographs are sorted by it, and the first eight tenths of that line are
# the training part. The parts' sizes are then exact, which they would not be if each photograph drew its part.

# %%
#| export
def _deal(photos: pd.Series, seed: int, fractions: Sequence[float]) -> np.ndarray:
    "For each row the number of the part that its photograph falls in."
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
# by name, not by place
assert _deal(pd.Series(list("dcba")), 42, (0.5, 0.25, 0.25)).tolist() == dealt[3::-1].tolist()
assert (
    len({tuple(_deal(pd.Series(list("abcd")), seed, (0.5, 0.25, 0.25))) for seed in range(9)}) > 1
)


# %% [markdown]
# A set may come with a split of its own, and then that is what others report on. Where it has two parts, the part that is not `train` is the test, and
# a tenth of `train` is dealt out for choosing the epochs.

# %%
#| export
def _official(table: pd.DataFrame, seed: int) -> np.ndarray:
    """The set's own split; where it has two parts, a tenth of train becomes val and the other
    part is the test.
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
# A set that knows *who* is on an image (CelebA has 10,177 persons) can be dealt out by person, so that nobody is tested on a face that was trained on.
# A photograph of two such persons joins them. Who has no name cannot be dealt out.

# %%
#| export
def _persons(table: pd.DataFrame) -> pd.Series:
    "Who is on each image; the persons of one photograph count as one."
    if "person" not in table:
        raise ValueError(
            "this set does not say who is on an image (no column 'person'): use split='photo'"
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
# The three ways under one name. The settings are checked before anything is dealt.

# %%
#| export
def split_table(
    table: pd.DataFrame,  # A data set's table
    # 'photo': dealt out anew, by photograph; 'person': by person; 'official': the set's own
    how: str = "photo",
    seed: int = 42,  # The split's seed, which is not the run's
    # Of the photographs or persons, for train, val and test; they add up to 1
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
) -> pd.Series:  # Categorical train / val / test, index as the table's
    """Which part each image belongs to; the faces of one photograph stay together. Raises:
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
# A thousand photographs give 800, 100 and 100 of them, exactly. The hundred that show two faces are on one side each, another order of the rows changes
# nothing, and the split of four named photographs is written down here, so that a change of the rule would not pass unseen.

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
# FairFace has `train` and `val`. Its `val` is what others report on, so it is the test here,
# and a tenth of `train` chooses the epochs.

# %%
fairface_like = many.assign(official=pd.Categorical(["train"] * 900 + ["val"] * 200, SPLITS))
split_table(fairface_like, "official").value_counts()

# %%
official = split_table(fairface_like, "official")
assert (
    official.value_counts()[SPLITS].tolist() == [810, 90, 200] and (official[900:] == "test").all()
)
all_three = many.assign(official=pd.Categorical((["train"] * 8 + ["val", "test"]) * 110, SPLITS))
# nothing to add: taken as it is
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
# By person: 100 people with eleven images each, and one photograph that shows two of them.

# %%
known = many.assign(person=[f"n{i % 100}" for i in range(1100)])
known.loc[1, "photo"] = known.photo[0]  # n0 and n1 on one photograph
people = split_table(known, "person")
people.value_counts()

# %%
assert (people.groupby(known.person).nunique() == 1).all() and people[0] == people[1]
# by photograph the same people are on both sides
assert (split_table(known).groupby(known.person).nunique() > 1).any()
