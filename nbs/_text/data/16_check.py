# %% [markdown]
# # Data quality
#
# > Count the labels and check the files of a set before a run of several days depends on it

# %%
#| default_exp data.check

# %%
#| export
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pandas as pd
from fastcore.basics import patch
from tqdm import tqdm

from fairgrape.data.images import decode_image
from fairgrape.data.splits import split_table
from fairgrape.data.tables import FaceData, count_cells, label_columns
from fairgrape.training.files import cores

# %%
import tempfile
from dataclasses import replace

from PIL import Image

from fairgrape.data.readers import read_fairface


# %% [markdown]
# Before a run of several days, check the set. Is it complete, are its files sound, and does every
# group have images in every part? The running example is a FairFace of eight plain colours with
# three faults. The labels of `train` also name a missing picture, the first picture of `val` is a
# copy of the first of `train`, and one file is truncated below.

# %%
def write_fairface(folder, colours, more=""):
    """Six pictures of train and the rest of val, plain and in these colours; `more` are further
    rows of train's CSV.
    """
    for part, own in [("train", colours[:6]), ("val", colours[6:])]:
        (folder / part).mkdir(parents=True)
        for i, colour in enumerate(own):
            Image.new("RGB", (24, 24), (30 * colour, 99, 0)).save(folder / part / f"{i}.jpg")
        rows = [
            f"{part}/{i}.jpg,20-29,{['Male', 'Female'][i % 2]},{['White', 'Black'][i // 3]}\n"
            for i in range(len(own))
        ]
        (folder / f"fairface_label_{part}.csv").write_text(
            "file,age,gender,race\n" + "".join(rows) + (more if part == "train" else "")
        )


tmp = Path(tempfile.mkdtemp())
write_fairface(tmp / "worse", [0, 1, 2, 3, 4, 5, 0, 7], more="train/9.jpg,3-9,Male,Indian\n")
worse = read_fairface(tmp / "worse", tmp, progress=False, strict=False)
worse.table[["path", "gender", "race", "official"]]


# %% [markdown]
# ## The labels
#
# The splits of a set depend on its columns. A split by person needs the persons, and an official
# split exists only if it was published.

# %%
#| export
def all_splits(
    table: pd.DataFrame,  # A data set's table
) -> dict[str, pd.Series]:  # By the setting's name, the part of each image
    "Every split that a set can have: by photograph, by person, official."
    hows = ["photo", *[how for how in ("person", "official") if how in table]]
    return {how: split_table(table, how) for how in hows}


# %%
{how: split.value_counts().to_dict() for how, split in all_splits(worse.table).items()}

# %%
assert list(all_splits(worse.table)) == ["photo", "official"] and list(
    all_splits(worse.table.drop(columns="official"))
) == ["photo"]
assert list(all_splits(worse.table.assign(person="Ada"))) == ["photo", "person", "official"]
assert all_splits(worse.table)["official"].tolist() == split_table(worse.table, "official").tolist()


# %% [markdown]
# Gender is the group of most protocols, so every other label is crossed with it. In a set without
# gender, all pairs of labels are crossed. A crossing with more cells than images is left out: its
# counts say nothing, and two columns of thousands of values would need gigabytes.

# %%
#| export
def crossings(
    table: pd.DataFrame,  # A data set's table
) -> list[str]:  # Products of two label columns, as for `codes`
    """The pairs of labels to count: each label with gender, or all pairs if there is no gender,
    without those of more cells than images.
    """
    labels = label_columns(table)
    pairs = combinations(labels, 2)
    if "gender" in labels:
        pairs = [(c, "gender") for c in labels if c != "gender"]
    classes = {c: len(table[c].cat.categories) for c in labels}
    return [f"{a}*{b}" for a, b in pairs if classes[a] * classes[b] <= max(1000, len(table))]


# %%
crossings(worse.table), crossings(worse.table.drop(columns="gender"))

# %%
assert crossings(worse.table) == ["age*gender", "race*gender"]
assert (
    crossings(worse.table.drop(columns="gender")) == ["age*race"]
    and crossings(worse.table[["path", "age"]]) == []
)
many = pd.DataFrame(
    {c: pd.Categorical([f"{c}{i // 3}" for i in range(1500)]) for c in "ab"}
    | dict(c=pd.Categorical(["x", "y"] * 750))
)
assert crossings(many) == ["a*c", "b*c"]  # 500 · 500 cells, 1,500 images


# %% [markdown]
# These are the counts of one label, or of one crossing, in every part of every split. The first
# column counts the whole set, which is the sum over the parts of any split.

# %%
#| export
def _count_one(table: pd.DataFrame, splits: dict[str, pd.Series], spec: str) -> pd.DataFrame:
    "The images of each class or cell of `spec`: rows (label, class), columns (split, part)."
    parts = {how: count_cells(table, split, spec) for how, split in splits.items()}
    counts = pd.concat({"all": parts["photo"].sum(axis=1).to_frame(""), **parts}, axis=1)
    return counts.set_axis(
        pd.MultiIndex.from_product([[spec.replace("*", " × ")], counts.index]), axis=0
    )


# %%
_count_one(worse.table, all_splits(worse.table), "gender")

# %% [markdown]
# Six pictures of `train` and two of `val` are alternately male and female, so there are four of
# each, and `val` has one of each. (The `val` of FairFace is the test here.)

# %%
genders = _count_one(worse.table, all_splits(worse.table), "gender")
assert genders["all", ""].tolist() == [4, 4] and genders["official", "test"].tolist() == [1, 1]
assert genders.index.tolist() == [
    ("gender", "Male"),
    ("gender", "Female"),
] or genders.index.tolist() == [("gender", "Female"), ("gender", "Male")]
assert (
    _count_one(worse.table, all_splits(worse.table), "race*gender").index[0][0] == "race × gender"
)


# %%
#| export
def count_all(
    table: pd.DataFrame,  # A data set's table
    splits: dict[str, pd.Series],  # As from `all_splits`
    # One row per class or cell, index (label, class); columns (split, part), and ('all', '')
) -> pd.DataFrame:
    "Count the images of every class and every crossing in every part."
    rows = [_count_one(table, splits, spec) for spec in [*label_columns(table), *crossings(table)]]
    return pd.concat(rows).rename_axis(index=["label", "class"], columns=["split", "part"])


# %% [markdown]
# The result is one long table, so a single comparison finds every empty class and cell:

# %%
counts = count_all(worse.table, all_splits(worse.table))
counts.loc[["gender", "race"]]

# %%
assert (
    counts.loc[("race", "White"), ("all", "")] == 5
    and counts.loc[("race", "Black"), ("official", "test")] == 0
)
assert counts.loc[("race × gender", "White × Male"), "official"].sum() == 3
assert len(counts) == 9 + 2 + 7 + 9 * 2 + 7 * 2


# %% [markdown]
# ## The files
#
# A file may exist and still be damaged. The only sure test is to decode it completely. For a large
# set this takes a few minutes, with one thread per core.

# %%
#| export
def _trouble(file: Path) -> str:
    "The reason why an image cannot be decoded; empty if it can."
    try:
        decode_image(file, 32)
    except (ValueError, FileNotFoundError) as e:
        return str(e)
    return ""


# %%
half = tmp / "worse/train/4.jpg"
half.write_bytes(half.read_bytes()[:300])
_trouble(half).replace(str(tmp), "…")

# %%
assert (
    "4.jpg" in _trouble(half)
    and _trouble(tmp / "worse/train/3.jpg") == ""
    and "8.jpg" in _trouble(tmp / "worse/train/8.jpg")
)


# %%
#| export
def find_damaged(
    root: Path,  # The folder that the paths are relative to
    paths: Sequence[str],  # Image files
    progress: bool = True,  # Show a progress bar
) -> dict[str, str]:  # By path, why the image cannot be decoded
    "Find the images that cannot be decoded."
    with ThreadPoolExecutor(cores()) as pool:
        found = tqdm(
            pool.map(lambda path: _trouble(root / path), paths),
            "decoding",
            total=len(paths),
            disable=not progress,
        )
        return {path: why for path, why in zip(paths, found) if why}


# %% [markdown]
# The reader only checks that a file exists. This function finds the truncated one.

# %%
damaged = find_damaged(worse.root, worse.table.path, progress=False)
list(damaged)

# %%
assert (
    damaged == {"train/4.jpg": _trouble(half)}
    and find_damaged(worse.root, ["train/0.jpg"], progress=False) == {}
)


# %% [markdown]
# A picture that is both in training and in the test makes the test too easy. Equal bytes are found
# by hashing, and only files of equal size have to be read.

# %%
#| export
def find_copies(
    root: Path,  # The folder that the paths are relative to
    paths: Sequence[str],  # Image files
    progress: bool = True,  # Show a progress bar
) -> list[str]:  # For each file, the first path with the same bytes: its own, if it is not a copy
    "Find files that are byte-for-byte copies of another."
    sizes = [os.path.getsize(os.path.join(root, p)) for p in paths]
    often, first, same_as = Counter(sizes), {}, []
    for path, size in tqdm(
        zip(paths, sizes), "looking for copies", total=len(paths), disable=not progress
    ):
        key = path
        if often[size] > 1:
            key = size, hashlib.sha256((root / path).read_bytes()).digest()
        same_as.append(first.setdefault(key, path))
    return same_as


# %%
same_as = find_copies(worse.root, worse.table.path, progress=False)
dict(zip(worse.table.path, same_as))

# %% [markdown]
# Plain pictures of any colour compress to files of the same size, so only their bytes tell them
# apart:

# %%
assert os.path.getsize(tmp / "worse/train/0.jpg") == os.path.getsize(tmp / "worse/train/1.jpg")
assert [p for p, q in zip(worse.table.path, same_as) if p != q] == ["val/0.jpg"] and same_as[
    6
] == "train/0.jpg"


# %% [markdown]
# ## The check
#
# The findings are kept in a record that can be tested, printed, or inspected in a notebook. A set
# that cannot be read is a finding too, not a crash.

# %%
#| export
@dataclass(frozen=True)
class SetCheck:
    "The findings of a check of a set."

    name: str  # The set
    data: FaceData | None = None  # The set as read; None if it could not be read
    problem: str = ""  # The reason why it could not be read
    said: tuple[str, ...] = ()  # Warnings of the reader, e.g. the files that it left out
    splits: dict = field(default_factory=dict)  # As from `all_splits`
    counts: pd.DataFrame | None = None  # As from `count_all`
    damaged: dict | None = None  # As from `find_damaged`; None if nothing was decoded
    same_as: tuple[str, ...] = ()  # As from `find_copies`
    partial: bool = False  # Will a run use an incomplete set?


# %%
SetCheck("fairface", problem="none of FairFace … in data").problem

# %%
assert (
    SetCheck("fairface").damaged is None
    and SetCheck("fairface").said == ()
    and SetCheck("fairface").problem == ""
)


# %% [markdown]
# A set is sound if a run can read all of it or, with `partial`, all images that exist. Copies and
# empty cells do not make it unsound: they are properties of the set, and a matter of judgement.

# %%
#| export
@patch(as_prop=True)
def missing(self: SetCheck) -> list[str]:
    "Files that the labels name and that are missing."
    return [] if self.data is None else self.data.notes.get("missing", [])


@patch(as_prop=True)
def sound(self: SetCheck) -> bool:
    "Can a run read all of the set or, with `partial`, all images that exist?"
    return not (self.problem or (self.missing and not self.partial) or self.damaged)


# %%
SetCheck("fairface", worse).missing, SetCheck("fairface", worse).sound, SetCheck("fairface").sound

# %%
assert SetCheck("fairface", worse).missing == ["train/9.jpg"] and SetCheck("fairface").missing == []
assert not any(
    check.sound
    for check in (
        SetCheck("a", problem="gone"),
        SetCheck("a", worse),
        SetCheck("a", damaged={"4.jpg": "cut"}),
    )
)
assert SetCheck("a", damaged={}).sound
assert (
    SetCheck("a", worse, partial=True).sound
    and not SetCheck("a", worse, damaged={"4.jpg": "cut"}, partial=True).sound
)


# %% [markdown]
# Copies may have different labels. About half of the 390 copies in UTKFace have another age.

# %%
#| export
@patch
def twins(self: SetCheck) -> pd.DataFrame:
    """Pictures that are byte-for-byte copies of an earlier one: `path`, `twin`, and in `differs`
    the labels in which they differ.
    """
    table = self.data.table
    first = pd.Series(range(len(table)), table["path"]).groupby(level=0).first()
    columns = [c for c in table if c not in ("path", "photo", "official")]
    rows = []
    for i, (path, twin) in enumerate(zip(table["path"], self.same_as)):
        if path == twin:
            continue
        pairs = [(c, table[c].iloc[i], table[c].iloc[first[twin]]) for c in columns]
        differs = ", ".join(f"{c} {mine} / {other}" for c, mine, other in pairs if mine != other)
        rows.append((path, twin, differs))
    return pd.DataFrame(rows, columns=["path", "twin", "differs"])


# %%
same = SetCheck("fairface", worse, same_as=tuple(same_as))
same.twins()

# %%
# both White, Male, 20-29
assert same.twins().to_numpy().tolist() == [["val/0.jpg", "train/0.jpg", ""]]
older = replace(worse, table=worse.table.assign(age=["3-9"] + worse.table.age.tolist()[1:]))
assert replace(same, data=older).twins().differs.tolist() == ["age 20-29 / 3-9"]
assert SetCheck("fairface", worse, same_as=tuple(worse.table.path)).twins().empty


# %%
#| export
def check_data(
    data: FaceData,  # A set, read with `strict=False`
    decode: bool = True,  # Decode every image
    progress: bool = True,  # Show progress bars
    said: tuple[str, ...] = (),  # Warnings of the reader
    partial: bool = False,  # Will a run use an incomplete set?
) -> SetCheck:  # The findings
    "Check the labels and files of a set."
    if data.table.empty:
        return SetCheck(data.name, data, "none of the images is there", said)
    splits, paths = all_splits(data.table), data.table["path"]
    found = dict(splits=splits, counts=count_all(data.table, splits))
    if data.root is not None:
        found["same_as"] = tuple(find_copies(data.root, paths, progress))
        if decode:
            found["damaged"] = find_damaged(data.root, paths, progress)
    return SetCheck(data.name, data, said=said, partial=partial, **found)


# %% [markdown]
# The check finds all three faults of the example. Decoding takes most of the time in a large set,
# so it is optional.

# %%
check = check_data(worse, progress=False, said=("the reader says hello",))
(
    check.missing,
    list(check.damaged),
    [p for p, q in zip(worse.table.path, check.same_as) if p != q],
    check.sound,
)

# %%
assert (
    check.missing == ["train/9.jpg"]
    and check.damaged == damaged
    and check.same_as == tuple(same_as)
    and not check.sound
)
assert check.counts.equals(counts) and list(check.splits) == ["photo", "official"] and check.said
assert check_data(worse, decode=False, progress=False).damaged is None
nothing = check_data(FaceData("none", tmp, worse.table[:0], None, "k"))
assert nothing.problem == "none of the images is there" and nothing.counts is None
