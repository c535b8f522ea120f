# %% [markdown]
# # Data
#
# > One table for every set of faces, with a row for each image and a column for each label

# %%
#| default_exp data.tables

# %%
#| export
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from fairgrape.data.splits import SPLITS


# %% [markdown]
# Data sets differ in their files, folders and label codes. The rest of the code should not depend
# on these differences. So a reader turns a set into a `FaceData`: a table, and a function that
# turns rows of the table into pixels. A label is a *categorical* column: its vocabulary has names
# and a fixed order. So class 2 means the same in every run, and a class without an image in some
# sample keeps its place.

# %%
#| export
@dataclass(frozen=True)
class FaceData:
    "A set of face images: the labels of each image, and a function that loads its pixels."

    name: str  # The set's name, e.g. 'utkface'
    root: Path | None  # The folder that `path` is relative to; None if nothing lies on disk
    # One row per image: `path`, `photo`, categorical label columns, and `official` if the set has
    # a split
    table: pd.DataFrame
    # (rows of the table, side in pixels) -> uint8 (n, 3, side, side)
    load: Callable[[pd.DataFrame, int], np.ndarray]
    key: str  # Identifies the source files; the image cache is keyed by it
    # The reader's remarks, e.g. the files it skipped
    notes: dict = field(default_factory=dict)


# %% [markdown]
# A set of six images without files. Its pixels are computed from the row number.

# %%
def tiny_table():
    "Six images from five photographs: d.jpg and e.jpg show two faces of one photograph."
    names = [f"{c}.jpg" for c in "abcdef"]
    return pd.DataFrame(
        dict(
            path=names,
            photo=["a", "b", "c", "de", "de", "f"],
            age=[30, 41, 8, 77, 25, 19],
            race=pd.Categorical(
                ["Black", "White", "Black", "Asian", "White", "Other"],
                ["White", "Black", "Asian", "Other"],
            ),
            gender=pd.Categorical(
                ["Male", "Male", "Female", "Male", "Female", "Male"], ["Male", "Female"]
            ),
        )
    )


def flat(rows, size):
    return np.stack([np.full((3, size, size), 10 * i, np.uint8) for i in rows.index])


faces = FaceData("tiny", None, tiny_table(), flat, key="v1")
faces.table

# %%
assert faces.load(faces.table.iloc[2:4], 5).shape == (2, 3, 5, 5)
assert faces.load(faces.table.iloc[2:4], 5)[1].max() == 30
assert faces.notes == {}


# %% [markdown]
# ## Labels by name
#
# The same faces have been published with different numbers for the races. So labels are selected by
# column name and turned into codes here, in one place. A product of columns, `race*gender`, works
# in the same way: every cell of the product has a code, even an empty one.

# %%
#| export
def label_columns(
    table: pd.DataFrame,  # A data set's table
) -> list[str]:  # Names of the columns that can be a task or a grouping
    "The label columns of a table: the categorical ones, without the official split."
    return [
        c
        for c in table
        if isinstance(table[c].dtype, pd.CategoricalDtype) and c not in ("official", "split")
    ]


# %%
label_columns(faces.table)

# %%
# age is a number, path and photo are not labels
assert label_columns(faces.table) == ["race", "gender"]
assert label_columns(faces.table.assign(official=faces.table.gender, split=faces.table.race)) == [
    "race",
    "gender",
]


# %% [markdown]
# A name that is not a label column, or a row without a label, raises an error at once. pandas would
# give such a row the code −1, and an array would read −1 as its last class.

# %%
#| export
def _column(table: pd.DataFrame, name: str) -> pd.Series:
    "One label column without gaps. Raises: ValueError (no such column, a row without a label)."
    if name not in label_columns(table):
        there = " (it is in the table, but holds no classes)" if name in table else ""
        raise ValueError(
            f"no label column {name!r}{there}: this set has {', '.join(label_columns(table))}"
        )
    empty = table[name].isna()
    if empty.any():
        raise ValueError(
            f"column {name!r} has no label in row {empty.idxmax()} ({empty.sum()} such rows)"
        )
    return table[name]


# %%
_column(faces.table, "race").cat.codes.tolist()

# %%
assert _column(faces.table, "race").equals(faces.table.race)
for table, name in (
    (faces.table, "ethnicity"),
    (faces.table, "age"),
    (faces.table.assign(race=faces.table.race.where(faces.table.index < 4)), "race"),
):
    try:
        _column(table, name)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{name} was taken for a whole label column")


# %%
#| export
def codes(
    table: pd.DataFrame,  # A data set's table
    spec: str,  # A label column, or several joined by '*' for their product
) -> tuple[np.ndarray, list[str]]:  # int64 (n,), and the name of each code
    """Labels as codes 0 … K-1, and the name of each code. Raises: ValueError (no such column, a
    row without a label).
    """
    columns = [_column(table, name.strip()) for name in spec.split("*")]
    code = np.zeros(len(table), np.int64)
    for c in columns:
        code = code * len(c.cat.categories) + c.cat.codes.to_numpy(np.int64)
    names = reduce(
        lambda so_far, c: [f"{a} × {b}" if a else str(b) for a in so_far for b in c.cat.categories],
        columns,
        [""],
    )
    return code, names


# %%
codes(faces.table, "race"), codes(faces.table, "race*gender")

# %% [markdown]
# By hand: the first image is Black (1) and Male (0), so its cell is 1 · 2 + 0 = 2.

# %%
code, names = codes(faces.table, "race*gender")
assert code.tolist() == [2, 0, 3, 4, 1, 6] and code.dtype == np.int64
# the empty cell has a name too
assert len(names) == 8 and names[2] == "Black × Male" and names[5] == "Asian × Female"
assert codes(faces.table, "race")[1] == ["White", "Black", "Asian", "Other"]


# %% [markdown]
# ## Some of the classes
#
# Settings select classes by name too. An unknown name is most often a misspelling, so the error
# lists the names that exist.

# %%
#| export
def _check_classes(column: str, names: Sequence[str], have: Sequence[str], where: str = "") -> None:
    "Raise ValueError for a name that is not a class of the column; `where` starts the message."
    if "" in names:
        raise ValueError(f"{where}a name of {column} is empty: is there an extra comma?")
    if unknown := [n for n in names if n not in have]:
        hint = "; write a name with a comma or semicolon in double quotes"
        raise ValueError(
            f"{where}{column} has no class {unknown[0]!r}: it has {', '.join(have)}"
            + (hint if {",", ";"} & set("".join(have)) else "")
        )


# %%
_check_classes("race", ["Black"], ["White", "Black"])
try:
    _check_classes("race", ["Black", "black"], ["White", "Black"], where="'race=Black,black': ")
except ValueError as e:
    print(e)
    told = str(e)
else:
    raise AssertionError("an unknown class was accepted")
assert told == "'race=Black,black': race has no class 'black': it has White, Black"


# %% [markdown]
# A vocabulary often has a class that a task leaves out, such as "Others" in UTKFace. Dropping it
# removes its rows, and its name from the vocabulary. The index stays: it is the row's number in the
# image cache, so a smaller table still finds its pixels. (pandas' own `remove_categories` would
# also sort the remaining names, and so renumber the classes.)

# %%
#| export
def drop_classes(
    table: pd.DataFrame,  # A data set's table
    column: str,  # A label column
    names: Sequence[str],  # Classes to leave out
) -> pd.DataFrame:  # The table without their rows, index kept, their names out of the vocabulary
    "Leave classes of a label column out. Raises: ValueError (no such column, no such class)."
    have = list(_column(table, column).cat.categories)
    _check_classes(column, names, have)
    left = table[~table[column].isin(list(names))]
    return left.assign(
        **{column: left[column].cat.set_categories([n for n in have if n not in names])}
    )


# %%
drop_classes(faces.table, "race", ["Other"])

# %%
four = drop_classes(faces.table, "race", ["Other"])
assert len(four) == 5 and codes(four, "race")[1] == ["White", "Black", "Asian"]
assert drop_classes(faces.table, "race", ["White"]).index.tolist() == [0, 2, 3, 5]
assert len(faces.table) == 6  # the original table does not change
try:
    drop_classes(faces.table, "race", ["Others"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown class was accepted")


# %% [markdown]
# A task can also name the classes to keep.

# %%
#| export
def keep_classes(
    table: pd.DataFrame,  # A data set's table
    column: str,  # A label column
    names: Sequence[str],  # Classes to keep; the order of the vocabulary stays
) -> pd.DataFrame:  # The table with only their rows, index kept
    "Keep only some classes of a label column. Raises: ValueError (no such column, no such class)."
    have = list(_column(table, column).cat.categories)
    _check_classes(column, names, have)
    return drop_classes(table, column, [n for n in have if n not in names])


# %%
keep_classes(faces.table, "race", ["Black", "White"]).race.tolist()

# %%
assert codes(keep_classes(faces.table, "race", ["Black", "White"]), "race")[1] == ["White", "Black"]
try:
    keep_classes(faces.table, "race", ["Grey"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown class was accepted")


# %% [markdown]
# ## Fewer images
#
# A trial run uses a random part of the images. The same seed gives the same part.

# %%
#| export
def limit_table(
    table: pd.DataFrame,  # A data set's table
    n: int,  # How many rows to keep; 0 keeps all
    seed: int = 42,  # The choice depends on it alone
) -> pd.DataFrame:  # `n` of the rows, in their old order, index kept
    "A random part of a table. Raises: ValueError (`n` exceeds the number of rows)."
    if not 0 <= n <= len(table):
        raise ValueError(
            f"limit = {n}, but there are {len(table)} images: choose 1 to {len(table)}, or 0"
            " for all"
        )
    if n == 0:
        return table
    return table.iloc[np.sort(np.random.default_rng(seed).permutation(len(table))[:n])]


# %%
limit_table(faces.table, 3)[["path", "race"]]

# %%
assert (
    limit_table(faces.table, 3).index.is_monotonic_increasing
    and len(limit_table(faces.table, 3)) == 3
)
assert limit_table(faces.table, 3).equals(limit_table(faces.table, 3))
assert any(
    not limit_table(faces.table, 3, seed=s).equals(limit_table(faces.table, 3)) for s in range(5)
)
assert limit_table(faces.table, 0).equals(faces.table)
try:
    limit_table(faces.table, 7)
except ValueError as e:
    print(e)
else:
    raise AssertionError("7 of 6 images were accepted")

# %% [markdown]
# ## Images with given labels
#
# Three of the paper's studies select images by their labels: importance on one race only,
# importance without one race, and a training set in which the other races are scarce. A short
# notation selects them: `race=White,Black` takes the images of these races, `race!=White` all
# others, and `;` joins conditions that must all hold. A product of columns works too. An unknown
# name is an error, and so is a condition that no image fulfils.
#
# Put a name with a comma or a semicolon in double quotes: `race="Black, non-Hispanic",White`.

# %%
#| export
# a name in double quotes, between the signs that separate names
_QUOTED = re.compile(r'(?:^|(?<=[=,;]))\s*"[^"]+"\s*(?=[,;:]|$)')


def split_names(
    text: str,  # Names, or conditions, of a spec
    at: str = ",",  # The separator
) -> list[str]:  # The parts as they are written
    "Split a spec at commas or semicolons, but not inside a name in double quotes."
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    cuts = [m.start() for m in re.finditer(re.escape(at), text)]
    cuts = [i for i in cuts if not any(start <= i < end for start, end in quoted)]
    return [text[a:b] for a, b in zip([0, *(i + 1 for i in cuts)], [*cuts, len(text)])]


# %%
split_names('race="Black; other, mixed",White;gender=Male', ";")

# %%
assert split_names('race="Black; other, mixed",White;gender=Male', ";") == [
    'race="Black; other, mixed",White',
    "gender=Male",
]
assert split_names('"Black, other", White') == ['"Black, other"', " White"]
assert split_names("White,Black,") == ["White", "Black", ""] and split_names("") == [""]
# quotes inside a name are letters
assert split_names('5" pipe,6" pipe') == ['5" pipe', '6" pipe']
assert split_names('a "b, c", d') == ['a "b', ' c"', " d"]


# %%
#| export
def class_name(
    name: str,  # A class, perhaps in double quotes
    have: Sequence[str],  # The known names
) -> str:  # The name without quotes and spaces around it
    "The name of a class as a spec gives it."
    name = name.strip()
    is_quoted = len(name) > 2 and name[0] == name[-1] == '"'
    return name[1:-1] if is_quoted and name not in have else name


# %%
print(class_name(' "Black, other" ', ["Black, other"]))
assert class_name(' "Black, other" ', ["Black, other"]) == "Black, other"
assert class_name('"x"', ['"x"']) == '"x"' and class_name(" White", ["White"]) == "White"
assert class_name('"', []) == '"' and class_name('""', []) == '""'


# %%
#| export
def cell_name(
    name: str,  # A class, or a cell of a product such as "Female × yes" or "Female*yes"
    have: Sequence[str],  # The known names
) -> str:  # The name as `codes` writes it
    "The name of a class or cell, which may be typed with * for ×."
    name = class_name(name, have)
    if name in have:
        return name
    return " × ".join(part.strip() for part in name.replace("×", "*").split("*"))


# %%
assert (
    cell_name(" Female*yes", ["Female × yes"])
    == cell_name("Female × yes", ["Female × yes"])
    == "Female × yes"
    and cell_name("a*b", ["a*b"]) == "a*b"
    and cell_name('"Black, other*yes"', ["Black, other × yes"]) == "Black, other × yes"
)


# %%
#| export
def _condition(table: pd.DataFrame, text: str) -> np.ndarray:
    "The rows that fulfil one condition, such as 'race!=White', as bool (n,)."
    column, equals, names = text.partition("=")
    if not equals:
        raise ValueError(
            f"{text!r} is not a condition: write column=name,name or column!=name,name; the columns"
            f" are {', '.join(label_columns(table))}"
        )
    unlike, column = column.endswith("!"), column.removesuffix("!").strip()
    code, have = codes(table, column)
    wanted = [cell_name(name, have) for name in split_names(names)]
    _check_classes(column, wanted, have, where=f"{text!r}: ")
    return np.isin(code, [have.index(n) for n in wanted]) != unlike


# %%
_condition(faces.table, "race!=White")

# %%
assert _condition(faces.table, "race=White").tolist() == [False, True, False, False, True, False]
assert _condition(faces.table, "race != White, Black").tolist() == [
    False,
    False,
    False,
    True,
    False,
    True,
]
assert _condition(faces.table, "race*gender=White × Male").tolist() == [
    False,
    True,
    False,
    False,
    False,
    False,
]
assert (
    _condition(faces.table, "race*gender=White*Male").tolist()
    == _condition(faces.table, "race*gender=White × Male").tolist()
)
for text, told in [
    ("White", "is not a condition"),
    ("race=White,", "an extra comma"),
    ("ethnicity=White", "no label column"),
    ("race=Grey", "'race=Grey': race has no class 'Grey'"),
]:
    try:
        _condition(faces.table, text)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{text} was accepted")


# %%
#| export
def matching(
    table: pd.DataFrame,  # A data set's table
    spec: str,  # 'race=White,Black' or 'race!=White'; several joined by ';' must all hold
) -> np.ndarray:  # bool (n,)
    """The images that fulfil a spec. Raises: ValueError (no such column or class, no such
    image).
    """
    found = reduce(
        np.logical_and, [_condition(table, text.strip()) for text in split_names(spec, ";")]
    )
    if len(table) and not found.any():
        raise ValueError(f"{spec!r}: none of the {len(table)} images matches; change the condition")
    return found


# %%
faces.table[matching(faces.table, "race=White,Black; gender=Male")]

# %%
assert matching(faces.table, "race=White,Black; gender=Male").tolist() == [
    True,
    True,
    False,
    False,
    False,
    False,
]
assert matching(faces.table, "race!=White").tolist() == [True, False, True, True, False, True]
commas = faces.table[["race"]].assign(
    race=faces.table.race.cat.rename_categories(dict(Black="Black, other"))
)
assert (
    matching(commas, 'race="Black, other",White').tolist()
    == matching(faces.table, "race=Black,White").tolist()
)
try:
    matching(commas, "race=Black, other")
except ValueError as e:
    print(e)
    assert str(e).endswith("; write a name with a comma or semicolon in double quotes")
else:
    raise AssertionError("half of a name was accepted")
# without rows, only the names are checked
assert matching(faces.table[:0], "race=White").tolist() == []
try:
    matching(faces.table, "race=Asian;gender=Female")
except ValueError as e:
    print(e)
else:
    raise AssertionError("a condition that nobody fulfils was accepted")


# %% [markdown]
# The imbalanced FairFace of the paper keeps every White image, and each other image with
# probability 0.2. It is drawn once, *before* the split, so all three parts are imbalanced. The spec
# is a condition, and the probability of keeping an image that does not fulfil it.

# %%
#| export
def _thinning(spec: str) -> tuple[str, float]:
    "The condition and the probability of a spec such as 'race=White:0.2'."
    condition, _, number = spec.rpartition(":")
    try:
        keep = float(number)
    except ValueError:
        keep = 0.0
    if condition and 0 < keep <= 1:
        return condition, keep
    raise ValueError(
        f"imbalance = {spec!r}: write column=name:probability with a probability above 0, up to 1,"
        " e.g. race=White:0.2"
    )


# %%
print(_thinning("race=White,Black:0.2"))
assert _thinning("race=White,Black:0.2") == ("race=White,Black", 0.2) and _thinning(
    "race=White:1"
) == ("race=White", 1)
for spec in ["race=White", "race=White:half", "race=White:1.5", "race=White:0", ":0.2"]:
    try:
        _thinning(spec)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{spec} was accepted")


# %%
#| export
def thin_table(
    table: pd.DataFrame,  # A data set's table
    spec: str,  # A condition as for `matching`, ':' and a probability, e.g. 'race=White:0.2'
    seed: int = 42,  # The choice depends on it and on the rows' order
) -> pd.DataFrame:  # All rows that match, each other row with that probability; index kept
    """Make all but some classes rare. Raises: ValueError (no such column, class or probability).
    Source: paper §4, public code.
    """
    condition, keep = _thinning(spec)
    return table[
        matching(table, condition) | (np.random.default_rng(seed).random(len(table)) < keep)
    ]


# %%
six_hundred = pd.concat([faces.table] * 100, ignore_index=True)
thin_table(six_hundred, "race=White:0.2").race.value_counts()

# %% [markdown]
# All 200 White images stay. Of the 200 Black ones about 40 stay: their number is binomial, with a standard deviation of √(200 · 0.2 · 0.8) ≈ 5.7.

# %%
thin = thin_table(six_hundred, "race=White:0.2").race.value_counts()
assert thin["White"] == 200 and 20 < thin["Black"] < 60 and 5 < thin["Asian"] < 40
assert thin_table(six_hundred, "race=White:0.2").equals(
    thin_table(six_hundred, "race=White:0.2", seed=42)
)
assert not thin_table(six_hundred, "race=White:0.2", seed=1).index.equals(
    thin_table(six_hundred, "race=White:0.2").index
)
assert thin_table(six_hundred, "race=White:1").equals(six_hundred)
for spec in ["race=Grey:0.2", "skin=White:0.2"]:
    try:
        thin_table(six_hundred, spec)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{spec} was accepted")


# %% [markdown]
# ## Groups without images
#
# Importance is computed per group on the training images, accuracy per group on the test images. A
# group without images there would make a run fail hours later, so the images are counted first.

# %%
#| export
def count_cells(
    table: pd.DataFrame,  # A data set's table
    split: pd.Series,  # Its split, same index
    spec: str,  # A label column, or several joined by '*', as for `codes`
) -> pd.DataFrame:  # Number of images: one row per class or cell, one column per part
    "Count the images of each class, or of each cell of a product, in each part."
    code, names = codes(table, spec)
    counts = np.bincount(
        3 * code + pd.Categorical(split, SPLITS).codes, minlength=3 * len(names)
    ).reshape(-1, 3)
    return pd.DataFrame(counts, pd.Index(names, name=spec), pd.Index(SPLITS, name="split"))


# %%
split = pd.Series(["train", "train", "train", "val", "test", "test"])
count_cells(faces.table, split, "race")

# %%
# names without an image
assert count_cells(faces.table[:2], split[:2], "race").to_numpy().tolist() == [
    [1, 0, 0],
    [1, 0, 0],
    [0] * 3,
    [0] * 3,
]
assert count_cells(faces.table, split, "race").to_numpy().tolist() == [
    [1, 0, 1],
    [2, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
]
cells = count_cells(faces.table, split, "race*gender")
assert (
    len(cells) == 8
    and cells.loc["Asian × Female"].tolist() == [0, 0, 0]
    and cells.to_numpy().sum() == 6
)


# %%
#| export
def check_cells(
    table: pd.DataFrame,  # A data set's table
    split: pd.Series,  # Its split, same index
    spec: str,  # The groups, as for `codes`
    left_out: Sequence[str] = (),  # Groups that are not compared
) -> pd.DataFrame:  # Number of images: one row per group, one column per part
    """Count the images of each group in each part. Raises: ValueError if a group has none in
    train or test. Warns if it has none in val.
    """
    counts = count_cells(table, split, spec).drop(index=list(left_out))
    for part in ("train", "test", "val"):
        if not (empty := counts.index[counts[part] == 0]).size:
            continue
        told = (
            f"{spec} {empty[0]!r} has no image in {part} (of {counts.loc[empty[0]].sum()} in all)"
        )
        if part != "val":
            name = f'"{empty[0]}"' if {",", ";"} & set(empty[0]) else empty[0]
            raise ValueError(
                f"{told}: use more images (limit), another split, or leave the group out (classes ="
                f" '{spec}!={name}')"
            )
        warnings.warn(f"{told}: the best epochs are chosen without it", stacklevel=2)
    return counts


# %%
whole = pd.concat([faces.table] * 3, ignore_index=True)
parts = pd.Series(np.repeat(SPLITS, 6))
check_cells(whole, parts, "gender")

# %%
assert check_cells(whole, parts, "gender").to_numpy().tolist() == [[4, 4, 4], [2, 2, 2]]
for table, where, spec, told in (
    (faces.table, split, "race", "race 'Asian' has no image in train (of 1 in all)"),
    (
        faces.table,
        split.replace("test", "val"),
        "gender",
        "gender 'Male' has no image in test (of 4 in all)",
    ),
    (whole, parts, "race*gender", "'Asian × Female'"),
    (
        faces.table.assign(race=faces.table.race.cat.rename_categories(dict(Asian="Asian, other"))),
        split,
        "race",
        """leave the group out (classes = 'race!="Asian, other"')""",
    ),
):
    try:
        check_cells(table, where, spec)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError("a group without images was accepted")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert check_cells(whole, parts.replace("val", "train"), "gender")["val"].tolist() == [0, 0]
assert [str(w.message) for w in said] == [
    "gender 'Male' has no image in val (of 12 in all): the best epochs are chosen without it"
]
nobody = cells.index[cells.sum(axis=1) == 0]
assert len(check_cells(whole, parts, "race*gender", nobody)) == 8 - len(nobody) < 8
