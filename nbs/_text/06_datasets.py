# %% [markdown]
# # Datasets
#
# > One door to every set, and a look at what is there before a run needs it

# %%
#| default_exp datasets

# %%
#| export
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from fairgrape.celeba import read_celeba
from fairgrape.data import SPLITS, FaceData, count_cells, decode_image, label_columns, split_table
from fairgrape.people import read_people
from fairgrape.readers import SOURCES, read_fairface, read_folder, read_utkface
from fairgrape.synthetic import RENDERER_VERSION, render_faces, synthetic_table

# %%
import io
import shutil
import tempfile

import numpy as np
from PIL import Image

tmp = Path(tempfile.mkdtemp())
def say(error): print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")     # an error without the temporary folder's name


# %% [markdown]
# ## Synthetic faces
#
# They need no files: a row of the table holds all that the renderer needs, and its split is its own. The renderer's version and the seed stand for the source files in the cache's key.

# %%
#| export
def read_synthetic(
    seed: int = 0, # The set's seed: another seed, other faces
    **sizes,       # Passed on to `synthetic_table`, e.g. fewer images per tone
) -> FaceData:     # Labels `expression`, `tone`; official parts train, val, test
    "The project's rendered faces."
    table = synthetic_table(seed=seed, **sizes).reset_index(drop=True).rename(columns={"split": "official"})
    table["official"] = table["official"].cat.set_categories(SPLITS)
    table.insert(0, "path", "")
    table.insert(1, "photo", [f"synthetic-{seed}-{row}" for row in table.index])
    key = hashlib.sha256(f"{RENDERER_VERSION} {seed} {sizes}".encode()).hexdigest()
    return FaceData("synthetic", None, table, render_faces, key, dict(seed=seed))


# %%
faces = read_synthetic()
faces.table.head(3)

# %%
assert (faces.table.photo.nunique() == len(faces.table)) and faces.load(faces.table[:2], 16).shape == (2, 3, 16, 16)
assert split_table(faces.table, "official").value_counts().min() > 0
assert read_synthetic(seed=1).key != faces.key == read_synthetic().key

# %% [markdown]
# ## One door
#
# A run's settings name a set and, if one likes, a path. Without a path the official names are looked for below the data root. What is not found is said with where it comes from and where it must lie.

# %%
#| export
_USUAL_NAMES = dict(
    utkface=["UTKFace", "utkface", "UTKFace.tar.gz", "UTKFace.tar", "UTKFace.zip"],
    fairface=["FairFace", "fairface", "fairface-img-margin025-trainval.zip", "fairface-img-margin125-trainval.zip",
              "FairFace.zip", "FairFace.tar", "fairface.zip", "fairface.tar", "fairface-subset.tar"],
    celeba=["CelebA", "celeba", "celeba.zip", "CelebA.zip", "celeba.tar", "CelebA.tar"],
    people=["people", "imagenet-people", "people.tar", "imagenet-people.tar", "people.zip", "imagenet-people.zip"],
)
_READERS = dict(utkface=read_utkface, fairface=read_fairface, celeba=read_celeba, people=read_people, folder=read_folder)
DATASETS = ["synthetic", *_READERS]

def find_set(
    name: str,             # 'utkface', 'fairface', 'celeba' or 'people'
    data_root: str | Path, # Where to look
) -> Path:                 # The first of the usual names that is there
    "Where a set lies below the data root. Raises: FileNotFoundError with the set's source."
    places = [Path(data_root)/n for n in _USUAL_NAMES[name]]
    found = next((p for p in places if p.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{name}: none of {', '.join(_USUAL_NAMES[name][:3])} … in {data_root}. {SOURCES[name]}; "
                                "put it there, or give its path; see data/README.md")
    return found


# %% [markdown]
# A FairFace of eight colour gradients. Two of them are the same file, one on each side of the official split; the CSV of `train` also names a picture that is not there.

# %%
def picture(seed):
    "The bytes of a small JPEG of a random colour gradient."
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, 1, 3))
    t = np.linspace(0, 1, 24)[:, None, None]
    out = io.BytesIO()
    Image.fromarray(np.broadcast_to(a + (b - a) * t, (24, 24, 3)).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()

def write_fairface(folder, seeds, more=""):
    "Six pictures of train and two of val, from these seeds; `more` are further rows of train's CSV."
    for part, own in [("train", seeds[:6]), ("val", seeds[6:])]:
        (folder/part).mkdir(parents=True)
        for i, seed in enumerate(own): (folder/part/f"{i}.jpg").write_bytes(picture(seed))
        rows = [f"{part}/{i}.jpg,20-29,{['Male', 'Female'][i % 2]},{['White', 'Black'][i // 3]}\n" for i in range(len(own))]
        (folder/f"fairface_label_{part}.csv").write_text("file,age,gender,race\n" + "".join(rows) + (more if part == "train" else ""))

write_fairface(tmp/"FairFace", range(8))
write_fairface(tmp/"worse", [0, 1, 2, 3, 4, 5, 0, 7], more="train/9.jpg,3-9,Male,Indian\n")
(tmp/"empty").mkdir()
print(find_set("fairface", tmp).name)
for name in ("utkface", "celeba", "people"):
    try: find_set(name, tmp/"empty")
    except FileNotFoundError as e: say(e)
    else: raise AssertionError("a missing set was found")
assert find_set("fairface", tmp) == tmp/"FairFace"


# %% [markdown]
# Every reader takes `strict`: a run stops at a missing file, a check goes on and lists it.

# %%
#| export
def read_dataset(
    name: str,                # One of `DATASETS`
    path: str | Path | None,  # A folder or archive; None looks for the usual names in the data root
    data_root: str | Path,    # Where sets lie, and where archives are unpacked
    progress: bool = True,    # Show progress bars
    strict: bool = True,      # A missing file is an error; else it is listed in notes["missing"] and left out
) -> FaceData:                # The set
    "Read a data set by its name. Raises: ValueError (unknown name), and what its reader raises."
    if name not in DATASETS: raise ValueError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    if name == "synthetic": return read_synthetic()
    if name == "folder" and not path:
        raise ValueError("dataset 'folder' needs a path: the folder or archive that holds labels.csv, or a CSV of its own name")
    return _READERS[name](path or find_set(name, data_root), data_root, progress=progress, strict=strict)


# %%
[len(read_dataset(n, None, tmp, progress=False).table) for n in ("synthetic", "fairface")]

# %%
assert read_dataset("fairface", None, tmp, progress=False).root == tmp/"FairFace"
assert read_dataset("fairface", tmp/"worse", tmp, progress=False, strict=False).notes == dict(missing=["train/9.jpg"])
for name, path in [("faces", None), ("folder", None), ("fairface", tmp/"nowhere"), ("fairface", tmp/"worse")]:
    try: read_dataset(name, path, tmp)
    except (ValueError, FileNotFoundError) as e: say(e)
    else: raise AssertionError(f"{name} was read")


# %% [markdown]
# ## What is there
#
# Before a run of days one wants to know what a set holds: is it whole, are its files sound, has every group its images in every part? That is `fairgrape data check`, and the rest of this notebook.
#
# First the labels. Which splits can this set have, and which crossings of labels are worth counting? Gender is the group of most protocols, so every other label is crossed with it. A set without it has
# its labels crossed in pairs.

# %%
#| export
def all_splits(
    table: pd.DataFrame,      # A data set's table
) -> dict[str, pd.Series]:    # By the setting's name, the part of each image
    "Every split that a set can have: by photograph, by person, its own."
    hows = ["photo", *[how for how, column in [("person", "person"), ("official", "official")] if column in table]]
    return {how: split_table(table, how) for how in hows}

def crossings(
    table: pd.DataFrame, # A data set's table
) -> list[str]:          # Products of two label columns, as for `codes`
    "The pairs of labels to look at: each with gender, or all where there is no gender."
    labels = label_columns(table)
    if "gender" in labels: return [f"{c}*gender" for c in labels if c != "gender"]
    return [f"{a}*{b}" for a, b in combinations(labels, 2)]


# %%
worse = read_dataset("fairface", tmp/"worse", tmp, progress=False, strict=False)
list(all_splits(worse.table)), crossings(worse.table)

# %%
assert list(all_splits(worse.table)) == ["photo", "official"] and crossings(worse.table) == ["age*gender", "race*gender"]
assert crossings(read_synthetic().table) == ["expression*tone"]
assert list(all_splits(worse.table.assign(person="Ada"))) == ["photo", "person", "official"]


# %% [markdown]
# The counts, of every class and every cell, in every part of every split: one long table.

# %%
#| export
def count_all(
    table: pd.DataFrame,          # A data set's table
    splits: dict[str, pd.Series], # As from `all_splits`
) -> pd.DataFrame:                # A row a class or cell, index (label, class); columns (split, part), and ('all', '')
    "Count the images of every class and every crossing in every part."
    rows = []
    for spec in [*label_columns(table), *crossings(table)]:
        parts = {how: count_cells(table, split, spec) for how, split in splits.items()}
        counts = pd.concat({"all": parts["photo"].sum(axis=1).to_frame(""), **parts}, axis=1)
        rows.append(counts.set_axis(pd.MultiIndex.from_product([[spec.replace("*", " × ")], counts.index]), axis=0))
    return pd.concat(rows).rename_axis(index=["label", "class"], columns=["split", "part"])


# %%
counts = count_all(worse.table, all_splits(worse.table))
counts.loc[["gender", "race"]]

# %%
assert counts.loc[("race", "White"), ("all", "")] == 5 and counts.loc[("race", "Black"), ("official", "test")] == 0
assert counts.loc[("race × gender", "White × Male"), "official"].sum() == 3
assert len(counts) == 9 + 2 + 7 + 9*2 + 7*2


# %% [markdown]
# ## The files
#
# A file may be there and still be no picture. The only sure test is to decode it, all of it; that takes a few minutes for a large set, on as many threads as there are cores.

# %%
#| export
def find_damaged(
    root: Path,            # The folder that the paths are relative to
    paths: Sequence[str],  # Image files
    progress: bool = True, # Show a progress bar
) -> dict[str, str]:       # By path, why the image cannot be decoded
    "Decode every image; which cannot be?"
    def trouble(path: str) -> str:
        try: decode_image(root/path, 32)
        except (ValueError, FileNotFoundError) as e: return str(e)
        return ""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tqdm(pool.map(trouble, paths), "decoding", total=len(paths), disable=not progress)
        return {path: why for path, why in zip(paths, found) if why}


# %%
half = tmp/"worse/train/4.jpg"
half.write_bytes(half.read_bytes()[:300])
print(str(find_damaged(worse.root, worse.table.path, progress=False)).replace(str(tmp), "…"))

# %%
assert list(find_damaged(worse.root, worse.table.path, progress=False)) == ["train/4.jpg"]


# %% [markdown]
# The same picture twice, once in training and once in the test, is a test question with the answer. Equal bytes are found by hashing, and only files of equal size need to be read.

# %%
#| export
def find_copies(
    root: Path,            # The folder that the paths are relative to
    paths: Sequence[str],  # Image files
    progress: bool = True, # Show a progress bar
) -> list[str]:            # For each, the first path with the same bytes: its own, if it is no copy
    "Which files are byte for byte the same?"
    sizes = [os.path.getsize(os.path.join(root, p)) for p in paths]
    often, first, same_as = Counter(sizes), {}, []
    for path, size in tqdm(zip(paths, sizes), "looking for copies", total=len(paths), disable=not progress):
        key = (size, hashlib.sha256((root/path).read_bytes()).digest()) if often[size] > 1 else path
        same_as.append(first.setdefault(key, path))
    return same_as


# %%
dict(zip(worse.table.path, find_copies(worse.root, worse.table.path, progress=False)))

# %%
same_as = find_copies(worse.root, worse.table.path, progress=False)
assert [p for p, q in zip(worse.table.path, same_as) if p != q] == ["val/0.jpg"] and same_as[6] == "train/0.jpg"


# %% [markdown]
# ## The check
#
# All of it together. A set that cannot be read at all is a finding too, and no crash.

# %%
#| export
@dataclass(frozen=True)
class SetCheck:
    "What is there of a set, and what is not"
    name: str                      # The set
    data: FaceData | None = None   # What was read; None where nothing could be
    problem: str = ""              # Why not
    said: tuple[str, ...] = ()     # Warnings of the reader, e.g. the files that it left out
    splits: dict = field(default_factory=dict)  # As from `all_splits`
    counts: pd.DataFrame | None = None          # As from `count_all`
    damaged: dict | None = None    # As from `find_damaged`; None where nothing was decoded
    same_as: tuple[str, ...] = ()  # As from `find_copies`

    @property
    def missing(self) -> list[str]: return [] if self.data is None else self.data.notes.get("missing", [])
    @property
    def sound(self) -> bool: return not (self.problem or self.missing or self.damaged)

def check_dataset(
    name: str,                # One of `DATASETS`
    path: str | Path | None,  # As for `read_dataset`
    data_root: str | Path,    # As for `read_dataset`
    decode: bool = True,      # Decode every image
    progress: bool = True,    # Show progress bars
) -> SetCheck:                # For `set_text`
    "Look at a set without using it; a set that is not there is a result. Raises: ValueError (unknown name)."
    if name not in DATASETS: raise ValueError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: data = read_dataset(name, path, data_root, progress, strict=False)
        except (OSError, ValueError) as e: return SetCheck(name, problem=str(e))
    said = tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    if data.table.empty: return SetCheck(name, data, "none of the images is there", said)
    splits = all_splits(data.table)
    found = dict(splits=splits, counts=count_all(data.table, splits))
    if data.root is not None:
        found["same_as"] = tuple(find_copies(data.root, data.table["path"], progress))
        if decode: found["damaged"] = find_damaged(data.root, data.table["path"], progress)
    return SetCheck(name, data, said=said, **found)


# %%
check = check_dataset("fairface", tmp/"worse", tmp, progress=False)
check.missing, list(check.damaged), check.sound

# %%
assert check.missing == ["train/9.jpg"] and list(check.damaged) == ["train/4.jpg"] and not check.sound
assert check_dataset("fairface", None, tmp, progress=False).sound
assert check_dataset("utkface", None, tmp).problem.startswith("utkface: none of UTKFace") and check_dataset("utkface", None, tmp).data is None
assert check_dataset("synthetic", None, tmp).sound and check_dataset("synthetic", None, tmp).damaged is None
try: check_dataset("faces", None, tmp)
except ValueError as e: say(e)
else: raise AssertionError("an unknown set was checked")

# %% [markdown]
# What `fairgrape data check` prints. The counts come first, then the files, then the cells without an image: a rate is not defined there, and a product of labels cannot be the grouping.
# Where the published set is larger, that is said, for a part of a set looks whole to its own label file.

# %%
#| export
FULL_SIZE = dict(utkface=23_707, fairface=97_698, celeba=202_599)   # image files in the published sets

def _some(names: Sequence[str], n: int = 8) -> str:
    "A list of names that stays short."
    return ", ".join(names[:n]) + (f" … and {len(names) - n:,} more" if len(names) > n else "")

def _counts_text(check: SetCheck) -> list[str]:
    "The tables: images in each part, classes, and crossings where they are few."
    sizes = pd.DataFrame({how: split.value_counts()[SPLITS] for how, split in check.splits.items()}).T.rename_axis("split")
    there = check.counts[check.counts["all", ""] > 0]
    crossed = there.index.get_level_values("label").str.contains("×")
    few = there if len(crossings(check.data.table)) <= 3 else there[~crossed]
    return ["Images in each part", sizes.to_string(), "", "Images of each class", few.to_string(sparsify=True), ""]

def _copies_text(check: SetCheck) -> list[str]:
    "Copies, and those of them that a split tears apart."
    paths, same_as = check.data.table["path"], pd.Series(check.same_as, check.data.table.index)
    copies = int((paths != same_as).sum())
    lines = [f"  byte for byte the same as another: {copies:,}"]
    for how, split in check.splits.items() if copies else ():
        apart = split.astype(str).groupby(same_as).nunique() > 1
        lines.append(f"    with its twin in another part, {how} split: {apart.sum():,}" + (f" ({_some(list(apart.index[apart]), 3)})" if apart.any() else ""))
    return lines

def _files_text(check: SetCheck) -> list[str]:
    "What is wrong with the files."
    if check.data.root is None: return ["Files: none, the images are rendered", ""]
    twice = check.data.table["path"][check.data.table["path"].duplicated()].tolist()
    decoded = "not looked for" if check.damaged is None else f"{len(check.damaged):,} (every image was decoded)"
    lines = ["Files", f"  missing: {len(check.missing):,} {_some(check.missing)}", f"  damaged: {decoded} {_some(list(check.damaged or ()))}",
             f"  named twice by the labels: {len(twice):,} {_some(twice)}"]
    return [line.rstrip() for line in [*lines, *_copies_text(check), *[f"  {text}" for text in check.said]]] + [""]

def _empty_text(check: SetCheck) -> list[str]:
    "Classes and cells without an image: in the whole set, and then of the others in each part."
    lines, nowhere = [], check.counts["all", ""] == 0
    for where, column in check.counts.items():
        there = column if where[0] == "all" else column[~nowhere]
        crossed = there.index.get_level_values("label").str.contains("×")
        for what, some in [("classes", there[~crossed]), ("cells", there[crossed])]:
            if names := [f"{label}: {cell}" for label, cell in some.index[some == 0]]:
                name = "none in the whole set" if where[0] == "all" else f"none in {where[1]} ({where[0]} split)"
                lines.append(f"  {name}: {len(names):,} of {len(some):,} {what}: {_some(names)}")
    return ["Classes and cells (label × label) without an image", *(lines or ["  none"]), ""]

def _advice(check: SetCheck) -> str:
    "What to do."
    source = f" {SOURCES[check.name]}; see data/README.md" if check.name in SOURCES else ""
    if check.sound: return "Nothing is missing and nothing is damaged." if check.damaged is not None else "Nothing is missing."
    what = [f"{kind} ({len(files):,})" for kind, files in [("missing", check.missing), ("damaged", check.damaged)] if files]
    return f"A run would stop at the {' and the '.join(what)} files. Fetch them again, or take their rows out of the labels.{source}"

def set_text(
    check: SetCheck, # From `check_dataset`
) -> str:            # Many lines, for a terminal
    "What a check found, to read."
    if check.problem:
        source = SOURCES.get(check.name, "")
        return f"{check.name}: {check.problem.removeprefix(f'{check.name}: ')}" + (f"\n{source}; see data/README.md" if source and source not in check.problem else "")
    n, full = len(check.data.table), FULL_SIZE.get(check.name, 0)
    head = [f"{check.name}: {n:,} images" + (f" in {check.data.root}" if check.data.root else "")]
    here = n + len(check.missing) + len(check.data.notes.get("skipped", []))
    if full and here != full: head.append(f"The published set has {full:,} images; the labels here name {here:,}.")
    return "\n".join([*head, "", *_counts_text(check), *_files_text(check), *_empty_text(check), _advice(check)])


# %%
text = set_text(check)
print(text.replace(str(tmp), "…"))

# %% [markdown]
# A test reads that text like a person: each of the faults that were put in is named.

# %%
for line in ["fairface: 8 images in", "The published set has 97,698 images; the labels here name 9.", "missing: 1 train/9.jpg",
             "damaged: 1 (every image was decoded) train/4.jpg", "byte for byte the same as another: 1",
             "with its twin in another part, official split: 1 (train/0.jpg)", "the missing (1) and the damaged (1) files", "https://github.com/joojs/fairface"]:
    assert line in text, line
assert "none in the whole set: 13 of 18 classes: age: 0-2" in text
assert "none in test (official split): 2 of 6 cells: race × gender: Black × Male, race × gender: Black × Female" in text

# %% [markdown]
# Look, then tell: this is what `fairgrape data check` prints. A set that is not there, one that cannot be read, one of which only the labels are there, and one without files:

# %%
(tmp/"damaged.zip").write_text("<html>")
shutil.copytree(tmp/"FairFace", tmp/"labels", ignore=shutil.ignore_patterns("*.jpg"))
def told(name, path): return set_text(check_dataset(name, path, tmp, progress=False))
for name, path in [("celeba", None), ("fairface", tmp/"damaged.zip"), ("fairface", tmp/"labels"), ("synthetic", None)]:
    print(told(name, path).replace(str(tmp), "…"), "\n")

# %%
assert told("celeba", None).startswith("celeba: none of CelebA") and "https://mmlab.ie.cuhk.edu.hk" in told("celeba", None)
assert "neither a tar nor a zip" in told("fairface", tmp/"damaged.zip")
assert "none of the images is there" in told("fairface", tmp/"labels")
assert "Files: none" in told("synthetic", None) and "Nothing is missing." in told("synthetic", None)
try: told("faces", None)
except ValueError as e: say(e)
else: raise AssertionError("an unknown set was checked")
