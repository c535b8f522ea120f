# %% [markdown]
# # Data
#
# > One table for every set of faces: a row an image, a column a label, and a split that keeps photographs whole

# %%
#| default_exp data

# %%
#| export
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

# %%
import tempfile
from dataclasses import replace


# %% [markdown]
# Data sets differ in their files, folders and label codes. Everything after this notebook should not care. So a reader
# (next notebook) turns a set into a `FaceData`: a table, and a function that turns rows of the table into pixels. A label is
# a *categorical* column: its vocabulary has names and a fixed order, so that class 2 means the same in every run, and a
# class without an image in some sample still has its place.

# %%
#| export
@dataclass(frozen=True)
class FaceData:
    "A set of face images: what is known of each image, and how to get its pixels."
    name: str            # The set's name, e.g. 'utkface'
    root: Path | None    # The folder that `path` is relative to; None where nothing lies on disk
    table: pd.DataFrame  # A row an image: `path`, `photo`, categorical label columns, and `official` where the set has a split
    load: Callable[[pd.DataFrame, int], np.ndarray]  # (rows of the table, side in pixels) -> uint8 (n, 3, side, side)
    key: str             # Identifies the source files; the image cache is keyed by it
    notes: dict = field(default_factory=dict)        # What the reader has to say, e.g. the files it skipped


# %% [markdown]
# A set of six images, without files. Its pixels are made from the row number.

# %%
def tiny_table():
    "Six images from five photographs: d.jpg and e.jpg show two faces of one photograph."
    names = [f"{c}.jpg" for c in "abcdef"]
    return pd.DataFrame(dict(path=names, photo=["a", "b", "c", "de", "de", "f"], age=[30, 41, 8, 77, 25, 19],
                             race=pd.Categorical(["Black", "White", "Black", "Asian", "White", "Other"],
                                                 ["White", "Black", "Asian", "Other"]),
                             gender=pd.Categorical(["Male", "Male", "Female", "Male", "Female", "Male"], ["Male", "Female"])))
def flat(rows, size): return np.stack([np.full((3, size, size), 10 * i, np.uint8) for i in rows.index])

faces = FaceData("tiny", None, tiny_table(), flat, key="v1")
faces.table

# %%
assert faces.load(faces.table.iloc[2:4], 5).shape == (2, 3, 5, 5)
assert faces.load(faces.table.iloc[2:4], 5)[1].max() == 30
assert faces.notes == {}


# %% [markdown]
# ## From a file to pixels
#
# The network sees squares. The shorter side is resized, with antialiasing, and the centred square is cut out of that, both in one call. A JPEG can be decoded
# at a half, a quarter or an eighth of its size for less than the full price; we let it, as long as what comes out is still at least twice as large
# as what is wanted, so that the resize has something to average. The result differs from a full decode by a fraction of a grey level on average.
#
# A damaged file must stop the work and say its name. Left alone, the library would name only the number of bytes it misses.

# %%
#| export
def decode_image(
    path: str | Path, # An image file that PIL can read
    size: int,        # Side of the square, pixels
) -> np.ndarray:      # uint8 (3, size, size), RGB
    "Decode an image, resize its shorter side to `size`, cut out the centred square. Raises: FileNotFoundError, ValueError (damaged)."
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))
            image = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError: raise FileNotFoundError(f"{path}: the label table names this image, but the file is not there") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path}: this image cannot be decoded ({e}). Fetch it again, or take the file and its label out") from e
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square).transpose(2, 0, 1)


# %% [markdown]
# A picture twice as wide as high, black on the outer quarters, orange in the middle: only the middle comes through.

# %%
tmp = Path(tempfile.mkdtemp())
wide = np.zeros((40, 80, 3), np.uint8); wide[:, 20:60] = (255, 128, 0)
Image.fromarray(wide).save(tmp/"wide.png")
decode_image(tmp/"wide.png", 4)[:, 1, 1]

# %%
assert decode_image(tmp/"wide.png", 4).shape == (3, 4, 4)
assert (decode_image(tmp/"wide.png", 40) == np.array([255, 128, 0], np.uint8)[:, None, None]).all()   # no black: the square is centred
Image.fromarray(wide[..., 0]).save(tmp/"grey.png")
assert (decode_image(tmp/"grey.png", 8)[:, 1:-1, 1:-1] == 255).all()                                  # one channel becomes three

# %% [markdown]
# How much does the cheap decode change? A smooth picture of 200 px at 32 px, both ways: less than one grey level on average.

# %%
y, x = np.mgrid[:200, :200] / 200
smooth = np.stack([x, y, .5 + .5*np.sin(9*x*y)], -1)
Image.fromarray((255*smooth).astype(np.uint8)).save(tmp/"smooth.jpg", quality=92)
full = np.asarray(Image.open(tmp/"smooth.jpg").resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
difference = np.abs(decode_image(tmp/"smooth.jpg", 32).astype(float) - full)
print(f"mean {difference.mean():.2f}, largest {difference.max():.0f} of 255")
assert difference.mean() < 1

# %% [markdown]
# Half a JPEG, and a file that is not there.

# %%
whole = (tmp/"smooth.jpg").read_bytes()
(tmp/"half.jpg").write_bytes(whole[:len(whole)//2])
for name, error in [("half.jpg", ValueError), ("gone.jpg", FileNotFoundError)]:
    try: decode_image(tmp/name, 32)
    except error as e: print(str(e).replace(str(tmp), "…"))
    else: raise AssertionError(f"{name} was decoded")


# %% [markdown]
# `load_images` does it for rows of a table. It is what a reader of files hands to `FaceData`, with the folder filled in.

# %%
#| export
def load_images(
    root: Path,         # The folder that the paths are relative to
    rows: pd.DataFrame, # Rows of a data set's table, with `path`
    size: int,          # Side of the squares, pixels
) -> np.ndarray:        # uint8 (n, 3, size, size)
    "Decode the images of some rows, in their order."
    pixels = np.empty((len(rows), 3, size, size), np.uint8)
    for i, path in enumerate(rows["path"]): pixels[i] = decode_image(root/path, size)
    return pixels


# %%
two = pd.DataFrame(dict(path=["grey.png", "wide.png"]))
load_images(tmp, two, 4)[:, :, 1, 1]

# %%
assert load_images(tmp, two, 4)[:, :, 1, 1].tolist() == [[255, 255, 255], [255, 128, 0]]


# %% [markdown]
# ## Labels by name
#
# The same distribution of faces has been published with its races numbered in different ways. So a label is asked for by its column's name and turned
# into codes here, once. A product of columns, `race*gender`, is asked for in the same way: every cell of the product has a code, also an empty one.

# %%
#| export
def label_columns(
    table: pd.DataFrame, # A data set's table
) -> list[str]:          # Names of the columns that can be a task or a grouping
    "The label columns of a table: the categorical ones, without the official split."
    return [c for c in table if isinstance(table[c].dtype, pd.CategoricalDtype) and c not in ("official", "split")]


# %%
label_columns(faces.table)

# %%
assert label_columns(faces.table) == ["race", "gender"]   # age is a number, path and photo are no labels


# %%
#| export
def _column(table: pd.DataFrame, name: str) -> pd.Series:
    "One label column, whole; or an error that says what there is."
    if name not in label_columns(table): raise ValueError(f"no label column {name!r}: this set has {', '.join(label_columns(table))}")
    empty = table[name].isna()
    if empty.any(): raise ValueError(f"column {name!r} has no label in row {empty.idxmax()} ({empty.sum()} such rows)")
    return table[name]

def codes(
    table: pd.DataFrame, # A data set's table
    spec: str,           # A label column, or several joined by '*' for their product
) -> tuple[np.ndarray, list[str]]:  # int64 (n,), and the name of each code
    "Labels as codes 0 … K-1, and what each code means. Raises: ValueError (no such column, a row without label)."
    columns = [_column(table, name.strip()) for name in spec.split("*")]
    code = np.zeros(len(table), np.int64)
    for c in columns: code = code * len(c.cat.categories) + c.cat.codes.to_numpy(np.int64)
    names = reduce(lambda so_far, c: [f"{a} × {b}" if a else str(b) for a in so_far for b in c.cat.categories], columns, [""])
    return code, names


# %%
codes(faces.table, "race"), codes(faces.table, "race*gender")

# %% [markdown]
# By hand: the first image is Black (1) and Male (0), so its cell is 1 · 2 + 0 = 2.

# %%
code, names = codes(faces.table, "race*gender")
assert code.tolist() == [2, 0, 3, 4, 1, 6] and code.dtype == np.int64
assert len(names) == 8 and names[2] == "Black × Male" and names[5] == "Asian × Female"     # the empty cell has a name too
try: codes(faces.table, "ethnicity")
except ValueError as e: print(e)
else: raise AssertionError("an unknown column was accepted")


# %% [markdown]
# A vocabulary often has a class that a task leaves out, as UTKFace's "Others". Dropping it takes the rows away and the name out of the vocabulary.
# The index stays: it is the row's number in the image cache, so that a smaller table still finds its pixels. (pandas' own `remove_categories` would also
# sort the names that are left, and so renumber the classes.)

# %%
#| export
def drop_classes(
    table: pd.DataFrame,  # A data set's table
    column: str,          # A label column
    names: Sequence[str], # Classes to leave out
) -> pd.DataFrame:        # The table without their rows, index kept, their names out of the vocabulary
    "Leave classes of a label column out. Raises: ValueError (no such column, no such class)."
    have = list(_column(table, column).cat.categories)
    if unknown := [n for n in names if n not in have]: raise ValueError(f"{column} has no class {unknown[0]!r}: it has {', '.join(have)}")
    left = table[~table[column].isin(list(names))]
    return left.assign(**{column: left[column].cat.set_categories([n for n in have if n not in names])})


# %%
drop_classes(faces.table, "race", ["Other"])

# %%
four = drop_classes(faces.table, "race", ["Other"])
assert len(four) == 5 and codes(four, "race")[1] == ["White", "Black", "Asian"]
assert drop_classes(faces.table, "race", ["White"]).index.tolist() == [0, 2, 3, 5]
assert len(faces.table) == 6                                                        # the table given is left as it was
try: drop_classes(faces.table, "race", ["Others"])
except ValueError as e: print(e)
else: raise AssertionError("an unknown class was accepted")


# %% [markdown]
# The other way round, a task names the classes it keeps.

# %%
#| export
def keep_classes(
    table: pd.DataFrame,  # A data set's table
    column: str,          # A label column
    names: Sequence[str], # Classes to keep; the vocabulary's order stays as it is
) -> pd.DataFrame:        # The table with their rows only, index kept
    "Keep only some classes of a label column. Raises: ValueError (no such column, no such class)."
    have = list(_column(table, column).cat.categories)
    if unknown := [n for n in names if n not in have]: raise ValueError(f"{column} has no class {unknown[0]!r}: it has {', '.join(have)}")
    return drop_classes(table, column, [n for n in have if n not in names])


# %%
keep_classes(faces.table, "race", ["Black", "White"]).race.tolist()

# %%
assert codes(keep_classes(faces.table, "race", ["Black", "White"]), "race")[1] == ["White", "Black"]
try: keep_classes(faces.table, "race", ["Grey"])
except ValueError as e: print(e)
else: raise AssertionError("an unknown class was accepted")


# %% [markdown]
# ## Fewer images
#
# A trial run uses a part of the images. It is a random part, and the same one for the same seed.

# %%
#| export
def limit_table(
    table: pd.DataFrame, # A data set's table
    n: int,              # How many rows to keep; 0 keeps all
    seed: int = 42,      # The choice depends on it alone
) -> pd.DataFrame:       # `n` of the rows, in their old order, index kept
    "A random part of a table. Raises: ValueError (more than there are)."
    if not 0 <= n <= len(table): raise ValueError(f"limit = {n}, but there are {len(table)} images: choose 1 to {len(table)}, or 0 for all")
    if n == 0: return table
    return table.iloc[np.sort(np.random.default_rng(seed).permutation(len(table))[:n])]


# %%
limit_table(faces.table, 3)[["path", "race"]]

# %%
assert limit_table(faces.table, 3).index.is_monotonic_increasing and len(limit_table(faces.table, 3)) == 3
assert limit_table(faces.table, 3).equals(limit_table(faces.table, 3))
assert any(not limit_table(faces.table, 3, seed=s).equals(limit_table(faces.table, 3)) for s in range(5))
assert limit_table(faces.table, 0).equals(faces.table)
try: limit_table(faces.table, 7)
except ValueError as e: print(e)
else: raise AssertionError("7 of 6 images were accepted")


# %% [markdown]
# ## Some of the images
#
# Three of the paper's studies need a part of the images by their labels: importance on one race only, importance without one race, and a training set in which the other races are scarce. One
# short notation says which: `race=White,Black` are the images of these races, `race!=White` all but one, and `;` joins conditions that must all hold. A product of columns goes too. A name that the
# set does not have is an error, and so is a condition that nothing fulfils: the study would be an empty one.

# %%
#| export
def _condition(table: pd.DataFrame, text: str) -> np.ndarray:
    "Which rows fulfil one condition, such as 'race!=White'."
    column, equals, names = text.partition("=")
    if not equals: raise ValueError(f"{text!r} is no condition: write column=name,name or column!=name,name; the columns are "
                                    f"{', '.join(label_columns(table))}")
    unlike = column.endswith("!")
    code, have = codes(table, column.removesuffix("!").strip())
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [n for n in wanted if n not in have]:
        raise ValueError(f"{text!r}: {column.removesuffix('!').strip()} has no class {unknown[0]!r}: it has {', '.join(have)}")
    return np.isin(code, [have.index(n) for n in wanted]) != unlike

def matching(
    table: pd.DataFrame, # A data set's table
    spec: str,           # 'race=White,Black' or 'race!=White'; several joined by ';' must all hold
) -> np.ndarray:         # bool (n,)
    "Which images have the labels asked for. Raises: ValueError (no such column or class, no such image)."
    found = reduce(np.logical_and, [_condition(table, text.strip()) for text in spec.split(";")])
    if not found.any(): raise ValueError(f"{spec!r}: none of the {len(table)} images is like that")
    return found


# %%
faces.table[matching(faces.table, "race=White,Black; gender=Male")]

# %%
assert matching(faces.table, "race=White").tolist() == [False, True, False, False, True, False]
assert matching(faces.table, "race!=White").tolist() == [True, False, True, True, False, True]
assert matching(faces.table, "race=White,Black; gender=Male").tolist() == [True, True, False, False, False, False]
assert matching(faces.table, "race*gender=White × Male").tolist() == [False, True, False, False, False, False]
for spec in ["White", "ethnicity=White", "race=Grey", "race=Asian;gender=Female"]:
    try: matching(faces.table, spec)
    except ValueError as e: print(e)
    else: raise AssertionError(f"{spec} was accepted")


# %% [markdown]
# The imbalanced FairFace of the paper keeps every White image and each other one with probability 0.2. It is drawn once, *before* the split, so that all three parts are thin. The spec is a condition and the
# probability for those that do not fulfil it.

# %%
#| export
def thin_table(
    table: pd.DataFrame, # A data set's table
    spec: str,           # A condition as for `matching`, ':' and a probability, e.g. 'race=White:0.2'
    seed: int = 42,      # The choice depends on it and on the rows' order
) -> pd.DataFrame:       # All rows that match, each other one with that probability; index kept
    "Make all but some classes rare. Raises: ValueError (no such column or class, no probability). Source: paper §4, public code."
    condition, _, number = spec.rpartition(":")
    try: keep = float(number)
    except ValueError: keep = 0.
    if not condition or not 0 < keep <= 1:
        raise ValueError(f"imbalance = {spec!r}: write column=name:probability with a probability above 0, up to 1, e.g. race=White:0.2")
    return table[matching(table, condition) | (np.random.default_rng(seed).random(len(table)) < keep)]


# %%
six_hundred = pd.concat([faces.table] * 100, ignore_index=True)
thin_table(six_hundred, "race=White:0.2").race.value_counts()

# %% [markdown]
# All 200 White images stay. Of the 200 Black ones about 40 stay: their number is binomial, with a standard deviation of √(200 · 0.2 · 0.8) ≈ 5.7. A wrong spec is told by its part.

# %%
thin = thin_table(six_hundred, "race=White:0.2").race.value_counts()
assert thin["White"] == 200 and 20 < thin["Black"] < 60 and 5 < thin["Asian"] < 40
assert thin_table(six_hundred, "race=White:0.2").equals(thin_table(six_hundred, "race=White:0.2", seed=42))
assert not thin_table(six_hundred, "race=White:0.2", seed=1).index.equals(thin_table(six_hundred, "race=White:0.2").index)
assert thin_table(six_hundred, "race=White:1").equals(six_hundred)
for spec in ["race=White", "race=White:half", "race=White:20", "race=Grey:0.2", "skin=White:0.2"]:
    try: thin_table(six_hundred, spec)
    except ValueError as e: print(e)
    else: raise AssertionError(f"{spec} was accepted")


# %% [markdown]
# ## The split
#
# Two faces cut from one photograph share its light, its camera and often its family. With one of them in training, the other is a test only in name. So the split
# deals out *photographs*. Its seed is 42 and stays 42 when the run's seed changes: runs of different seeds are tested on the same images.
#
# The order in which photographs are dealt comes from a hash of seed and name, not from a random generator: it does not
# depend on the order of the files, nor on the version of any library.

# %% [markdown]
# What is one photograph? Most sets do not say, but something tells: an equal time stamp, equal bytes. Two such signs are joined, also in chains.

# %%
#| export
def join_photos(
    stamp: pd.Series,   # What a photograph's faces share, e.g. the time stamp
    content: pd.Series, # Another such sign, e.g. a hash of each file's bytes, same index
) -> pd.Series:         # One name for all images that are linked by either
    "Name photographs so that images with the same stamp, or the same bytes, are of one photograph."
    photo = stamp
    while True:
        joined = photo.groupby(content).transform("min").groupby(stamp).transform("min")
        if joined.equals(photo): return photo
        photo = joined


# %% [markdown]
# By hand: 0 and 1 share a stamp, 1 and 2 their bytes, 2 and 3 a stamp. All four are one. Image 4 is alone.

# %%
join_photos(pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])).tolist()

# %%
assert join_photos(pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])).tolist() == ["r", "r", "r", "r", "t"]
assert join_photos(pd.Series(["1", "2"]), pd.Series(["x", "y"])).tolist() == ["1", "2"]

# %% [markdown]
# Now the split itself. A set that knows *who* is on an image (CelebA has 10,177 persons) can be dealt out by person, so that nobody is tested on a face that was trained on. A photograph of two such persons joins them.

# %%
#| export
SPLITS = ["train", "val", "test"]

def _deal(photos: pd.Series, seed: int, fractions: Sequence[float]) -> np.ndarray:
    "For each row the number of the part that its photograph falls in."
    unique = sorted(set(photos), key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    cuts = np.round(np.cumsum(fractions)[:-1] * len(unique)).astype(int)
    part = dict(zip(unique, np.searchsorted(cuts, np.arange(len(unique)), side="right")))
    return photos.map(part).to_numpy(np.int64)

def _official(table: pd.DataFrame, seed: int) -> np.ndarray:
    "The set's own split; where it has two parts, a tenth of train becomes val and the other part is the test."
    if "official" not in table: raise ValueError("this set has no official split: use split='photo'")
    names = table["official"].astype(str).to_numpy()
    if unknown := sorted(set(names) - set(SPLITS)): raise ValueError(f"column 'official' holds {unknown[0]!r}: use train, val, test")
    if len(set(names)) == 3: return np.array([SPLITS.index(n) for n in names])
    part, train = np.full(len(table), 2), names == "train"
    part[train] = _deal(table.loc[train, "photo"], seed, (.9, .1))
    return part

def _persons(table: pd.DataFrame) -> pd.Series:
    "Who is on each image; the persons of one photograph count as one."
    if "person" not in table: raise ValueError("this set does not say who is on an image (no column 'person'): use split='photo'")
    empty = table["person"].isna()
    if empty.any(): raise ValueError(f"column 'person' is empty in row {empty.idxmax()} ({empty.sum()} such rows): use split='photo'")
    return join_photos(table["person"].astype(str), table["photo"])

def split_table(
    table: pd.DataFrame,  # A data set's table
    how: str = "photo",   # 'photo': dealt out anew, by photograph; 'person': by person; 'official': the set's own
    seed: int = 42,       # The split's seed, which is not the run's
    fractions: Sequence[float] = (.8, .1, .1), # Of the photographs or persons, for train, val and test; they add up to 1
) -> pd.Series:           # Categorical train / val / test, index as the table's
    "Which part each image belongs to; the faces of one photograph stay together. Raises: ValueError. Source: paper §4, public code."
    if how not in ("photo", "person", "official"): raise ValueError(f"split = {how!r}: use 'photo', 'person' or 'official'")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions = {tuple(fractions)}: give three positive numbers that add up to 1")
    if how == "official": part = _official(table, seed)
    else: part = _deal(table["photo"] if how == "photo" else _persons(table), seed, fractions)
    return pd.Series(pd.Categorical.from_codes(part, SPLITS), index=table.index, name="split")


# %%
many = pd.DataFrame(dict(path=[f"{i}.jpg" for i in range(1100)], photo=[f"p{i % 1000}" for i in range(1100)]))
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
# An official split with a third part missing: FairFace has `train` and `val`. Its `val` is what others report on, so it is the test here,
# and a tenth of `train` chooses the epochs.

# %%
fairface_like = many.assign(official=pd.Categorical(["train"] * 900 + ["val"] * 200, SPLITS))
split_table(fairface_like, "official").value_counts()

# %%
official = split_table(fairface_like, "official")
assert official.value_counts()[SPLITS].tolist() == [810, 90, 200] and (official[900:] == "test").all()
all_three = many.assign(official=pd.Categorical((["train"] * 8 + ["val", "test"]) * 110, SPLITS))
assert (split_table(all_three, "official") == all_three.official).all()      # nothing to add: taken as it is
for table, settings in [(many, dict(how="official")), (many, dict(how="random")), (many, dict(fractions=(.8, .1, .2)))]:
    try: split_table(table, **settings)
    except ValueError as e: print(e)
    else: raise AssertionError(f"{settings} was accepted")

# %% [markdown]
# By person: 100 people with eleven images each, and one photograph that shows two of them. Who has no name cannot be dealt out.

# %%
known = many.assign(person=[f"n{i % 100}" for i in range(1100)])
known.loc[1, "photo"] = known.photo[0]                                       # n0 and n1 on one photograph
people = split_table(known, "person")
people.value_counts()

# %%
assert (people.groupby(known.person).nunique() == 1).all() and people[0] == people[1]
assert (split_table(known).groupby(known.person).nunique() > 1).any()        # by photograph the same people are on both sides
for table in (many, known.assign(person=known.person.where(known.index != 7))):
    try: split_table(table, "person")
    except ValueError as e: print(e)
    else: raise AssertionError("images without a person were dealt out by person")


# %% [markdown]
# ## A group that is not there
#
# Importance is computed per group on the training images, accuracy per group on the test images. A group that has none there would fail hours later, so we count first.

# %%
#| export
def count_cells(
    table: pd.DataFrame, # A data set's table
    split: pd.Series,    # Its split, same index
    spec: str,           # A label column, or several joined by '*', as for `codes`
) -> pd.DataFrame:       # Number of images: a row a class or cell, a column a part
    "Count the images of each class, or of each cell of a product, in each part."
    code, names = codes(table, spec)
    counts = np.bincount(3 * code + pd.Categorical(split, SPLITS).codes, minlength=3 * len(names)).reshape(-1, 3)
    return pd.DataFrame(counts, pd.Index(names, name=spec), pd.Index(SPLITS, name="split"))

def check_cells(
    table: pd.DataFrame, # A data set's table
    split: pd.Series,    # Its split, same index
    spec: str,           # The groups, as for `codes`
) -> pd.DataFrame:       # Number of images: a row a group, a column a part
    "Count the images of each group in each part. Raises: ValueError where a group has none."
    counts = count_cells(table, split, spec)
    for part in SPLITS:
        if (empty := counts.index[counts[part] == 0]).size:
            raise ValueError(f"{spec} {empty[0]!r} has no image in {part} (of {counts.loc[empty[0]].sum()} in all): "
                             "use more images (limit), another split, or leave the group out (classes)")
    return counts


# %%
labelled = many.assign(tone=pd.Categorical(np.where(many.index % 5 == 0, "tone-2", "tone-1"), ["tone-1", "tone-2", "tone-3"]))
count_cells(labelled, split, "tone")

# %%
counts = count_cells(labelled, split, "tone")
assert counts.loc["tone-3"].tolist() == [0, 0, 0] and counts.loc["tone-2"].sum() == 220 and counts["train"].sum() == (split == "train").sum()
assert check_cells(drop_classes(labelled, "tone", ["tone-3"]), split, "tone").equals(counts.iloc[:2])
try: check_cells(labelled, split, "tone")
except ValueError as e: print(e)
else: raise AssertionError("a group without images was accepted")
