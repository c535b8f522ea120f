# %% [markdown]
# # Datasets
#
# > Read any set by its name, and check it before a run needs it

# %%
#| default_exp data.catalog

# %%
#| export
import hashlib
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from fairgrape.data.appearance import synthetic_table
from fairgrape.data.archives import DATASETS, SOURCES
from fairgrape.data.celeba import read_celeba
from fairgrape.data.celeba_labels import CELEBA_HEADS
from fairgrape.data.check import SetCheck, check_data
from fairgrape.data.demographics import GENDERS
from fairgrape.data.fairface_hub import FAIRFACE
from fairgrape.data.images import load_images
from fairgrape.data.people import read_people
from fairgrape.data.readers import (
    UTKFACE_GENDERS,
    UTKFACE_RACES,
    read_fairface,
    read_folder,
    read_utkface,
)
from fairgrape.data.splits import SPLITS
from fairgrape.data.synthetic import RENDERER_VERSION, render_faces
from fairgrape.data.tables import FaceData

# %%
import shutil
import tempfile

import numpy as np
from PIL import Image

from fairgrape.data.cache import cache_key
from fairgrape.data.findings import set_text
from fairgrape.data.images import decode_image
from fairgrape.data.splits import split_table
from fairgrape.data.tables import codes, label_columns

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# This module reads every set, and [checks](16_check.ipynb) one for the [printed
# findings](17_findings.ipynb).

# %% [markdown]
# ## Synthetic faces
#
# Synthetic faces need no files: a row of the table holds all that the renderer needs, and the set
# has an official split. In the cache key, the renderer's version and the seed replace the source
# files.

# %%
#| export
def read_synthetic(
    seed: int = 0,  # The set's seed; another seed gives other faces
    **sizes,  # Passed on to `synthetic_table`, e.g. fewer images per tone
) -> FaceData:  # Labels `expression`, `tone`; official parts train, val, test
    "The project's rendered faces."
    table = (
        synthetic_table(seed=seed, **sizes)
        .reset_index(drop=True)
        .rename(columns={"split": "official"})
    )
    table["official"] = table["official"].cat.set_categories(SPLITS)
    table.insert(0, "path", "")
    table.insert(1, "photo", [f"synthetic-{seed}-{row}" for row in table.index])
    key = hashlib.sha256(f"{RENDERER_VERSION} {seed} {sizes}".encode()).hexdigest()
    return FaceData("synthetic", None, table, render_faces, key, dict(seed=seed))


# %%
faces = read_synthetic()
faces.table.head(3)

# %%
assert (
    list(faces.table.columns[:2]) == ["path", "photo"]
    and set(faces.table.path) == {""}
    and faces.table.official.cat.categories.tolist() == SPLITS
)
assert (faces.table.photo.nunique() == len(faces.table)) and faces.load(
    faces.table[:2], 16
).shape == (2, 3, 16, 16)
assert split_table(faces.table, "official").value_counts().min() > 0
assert read_synthetic(seed=1).key != faces.key == read_synthetic().key

# %% [markdown]
# ## Sets by name
#
# A run's settings name a set and, optionally, a path. Without a path, the usual names of folders
# and archives are searched for below the data root.

# %%
#| export
_USUAL_NAMES = dict(
    utkface=["UTKFace", "utkface", "UTKFace.tar.gz", "UTKFace.tar", "UTKFace.zip"],
    fairface=[
        "FairFace",
        "fairface",
        "fairface-img-margin025-trainval.zip",
        "fairface-img-margin125-trainval.zip",
        "FairFace.zip",
        "FairFace.tar",
        "fairface.zip",
        "fairface.tar",
        "fairface-subset.tar",
    ],
    celeba=["CelebA", "celeba", "celeba.zip", "CelebA.zip", "celeba.tar", "CelebA.tar"],
    people=[
        "people",
        "imagenet-people",
        "people.tar",
        "imagenet-people.tar",
        "people.zip",
        "imagenet-people.zip",
    ],
)
_READERS = dict(
    utkface=read_utkface,
    fairface=read_fairface,
    celeba=read_celeba,
    people=read_people,
    folder=read_folder,
)


# %% [markdown]
# The error for a missing set says where to get it and where to put it, because this is the first
# error that most users see.

# %%
#| export
def _find_set(
    name: str,  # 'utkface', 'fairface', 'celeba' or 'people'
    data_root: str | Path,  # Where to look
) -> Path:  # The first of the usual names that exists
    "Find a set below the data root. Raises: FileNotFoundError with the set's source."
    names = _USUAL_NAMES[name]
    found = next((p for n in names if (p := Path(data_root) / n).exists()), None)
    if found is not None:
        return found
    raise FileNotFoundError(
        f"{name}: none of {', '.join(names[:3])} … in {data_root}. {SOURCES[name]}; put it there,"
        " or give its path; see data/README.md"
    )


# %%
def write_fairface(folder, more=""):
    "Three plain pictures of train and one of val; `more` are further rows of train's CSV."
    for part, n in [("train", 3), ("val", 1)]:
        (folder / part).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (24, 24), (60 * i, 99, 20 * n)).save(folder / part / f"{i}.jpg")
        rows = [f"{part}/{i}.jpg,20-29,{['Male', 'Female'][i % 2]},White\n" for i in range(n)]
        (folder / f"fairface_label_{part}.csv").write_text(
            "file,age,gender,race\n" + "".join(rows) + (more if part == "train" else "")
        )


write_fairface(tmp / "FairFace")
write_fairface(tmp / "worse", more="train/9.jpg,3-9,Male,Indian\n")
(tmp / "empty").mkdir()
(tmp / "FairFace.zip").touch()
_find_set("fairface", tmp).name

# %%
assert _find_set("fairface", tmp) == tmp / "FairFace"  # the folder comes before its archive
for name in ("utkface", "celeba", "people"):
    try:
        _find_set(name, tmp / "empty")
    except FileNotFoundError as e:
        say(e)
        assert SOURCES[name] in str(e)
    else:
        raise AssertionError("a missing set was found")


# %% [markdown]
# Every reader takes `strict`: a run stops at a missing file, a check goes on and lists it. An
# unknown name, and a folder without a path, are mistakes in the settings, and raise an error before
# any search.

# %%
#| export
def _check_name(name: str):
    "Raise ValueError for an unknown set."
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")


def _fitted(data: FaceData, fit: str) -> FaceData:
    "The same files with another fit: another loader, and another key for the image cache."
    key = hashlib.sha256(f"{data.key} {fit}".encode()).hexdigest()
    return replace(data, load=partial(load_images, data.root, fit=fit), key=key)


def read_dataset(
    name: str,  # One of `DATASETS`
    path: str | Path | None,  # A folder or archive; None looks for the usual names in the data root
    data_root: str | Path,  # The folder of the sets, where archives are also unpacked
    progress: bool = True,  # Show progress bars
    # A missing file is an error; else it is listed in notes["missing"] and left out
    strict: bool = True,
    fit: str = "crop",  # How a rectangular image becomes a square: crop, squeeze or pad
) -> FaceData:  # The set
    "Read a data set by its name. Raises: ValueError (unknown name), and its reader's errors."
    _check_name(name)
    if name == "synthetic":
        return read_synthetic()
    if name == "folder" and not path:
        raise ValueError(
            "dataset 'folder' needs a path: the folder or archive that holds labels.csv, or a CSV"
            " under any name"
        )
    data = _READERS[name](
        path or _find_set(name, data_root), data_root, progress=progress, strict=strict
    )
    return data if fit == "crop" else _fitted(data, fit)


# %%
[len(read_dataset(n, None, tmp, progress=False).table) for n in ("synthetic", "fairface")]

# %%
assert read_dataset("fairface", None, tmp, progress=False).root == tmp / "FairFace"
assert read_dataset("fairface", tmp / "worse", tmp, progress=False, strict=False).notes == dict(
    missing=["train/9.jpg"]
)
shutil.copytree(tmp / "FairFace" / "train", tmp / "own")
(tmp / "own" / "labels.csv").write_text("file,look\n0.jpg,dark\n1.jpg,light\n2.jpg,light\n")
assert read_dataset("folder", tmp / "own", tmp, progress=False).table["look"].tolist() == [
    "dark",
    "light",
    "light",
]
for name, path in [
    ("faces", None),
    ("folder", None),
    ("fairface", tmp / "nowhere"),
    ("fairface", tmp / "worse"),
]:
    try:
        read_dataset(name, path, tmp)
    except (ValueError, FileNotFoundError) as e:
        say(e)
    else:
        raise AssertionError(f"{name} was read")

# %% [markdown]
# A rectangular image is cropped to its middle, unless the settings choose another
# [fit](05_images.ipynb). Each fit has its own image cache.

# %%
Image.fromarray(np.arange(24 * 48, dtype=np.uint16).astype(np.uint8).reshape(24, 48)).save(
    tmp / "own" / "0.jpg"
)
fits = {
    fit: read_dataset("folder", tmp / "own", tmp, progress=False, fit=fit)
    for fit in ("crop", "squeeze", "pad")
}
{fit: cache_key(data, 8) for fit, data in fits.items()}

# %%
assert len({cache_key(data, 8) for data in fits.values()}) == 3
assert all(
    (data.load(data.table, 8)[0] == decode_image(tmp / "own" / "0.jpg", 8, fit)).all()
    for fit, data in fits.items()
)
# the default fit keeps its key
assert fits["crop"].key == read_dataset("folder", tmp / "own", tmp, progress=False).key

# %% [markdown]
# ## Labels before files
#
# Unpacking an archive and scanning its files takes half a minute, which would be wasted if a
# column's name were mistyped. The labels of the published sets are known in advance: a table
# without rows holds their columns and classes, and settings are checked against it first. Only the
# files give the columns of your own folder, and the classes of ImageNet's people.

# %%
#| export
_YES_NO = ["no", "yes"]
_LABELS = dict(
    utkface=dict(gender=UTKFACE_GENDERS, race=UTKFACE_RACES),
    fairface=dict(FAIRFACE, service_test=["False", "True"]),
    celeba=dict(gender=GENDERS[::-1], **{head: _YES_NO for head in CELEBA_HEADS}),
    people=dict(person_class=[], gender=GENDERS),
)
_TASKS = dict(celeba=dict(attributes="+".join(CELEBA_HEADS)))
_ALIASES = dict(celeba=dict(Male="gender"))


def known_labels(
    name: str,  # One of `DATASETS`
    # The set without rows: `table` has its label columns, `notes` its tasks; None if only the
    # files give them
) -> FaceData | None:
    "The label columns of a published set, and their classes, before it is read."
    if name not in _LABELS:
        return None
    table = pd.DataFrame(
        {column: pd.Categorical([], names) for column, names in _LABELS[name].items()}
    )
    return FaceData(
        name,
        None,
        table,
        render_faces,
        "",
        dict(tasks=_TASKS.get(name, {}), aliases=_ALIASES.get(name, {})),
    )


# %%
{name: label_columns(known_labels(name).table)[:4] for name in _LABELS}

# %% [markdown]
# These are the columns that the readers return, with the classes in the same order.

# %%
read = read_dataset("fairface", None, tmp, progress=False).table
assert [list(read[c].cat.categories) for c in label_columns(read)] == [
    list(known_labels("fairface").table[c].cat.categories) for c in label_columns(read)
]
assert known_labels("folder") is None and known_labels("synthetic") is None
assert codes(known_labels("celeba").table, "Bald*gender")[1] == [
    "no × Female",
    "no × Male",
    "yes × Female",
    "yes × Male",
]
try:
    codes(known_labels("utkface").table, "ethnicity")
except ValueError as e:
    print(e)
else:
    raise AssertionError("a column that UTKFace does not have was found")


# %% [markdown]
# ## Checking a set
#
# A reader warns about files that it leaves out. In a check these warnings are findings, so all of
# them are caught and kept.

# %%
#| export
def _read_noting(
    name: str, path: str | Path | None, data_root: str | Path, progress: bool
) -> tuple[FaceData, tuple[str, ...]]:
    "A set as far as its files exist, and its reader's warnings."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_dataset(name, path, data_root, progress, strict=False)
    return data, tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning))


# %%
(tmp / "UTKFace").mkdir()
# one without a race
for file in ("20_0_0_1.jpg", "30_1_2_3.jpg", "61_1_20170109142408075.jpg"):
    Image.new("RGB", (24, 24)).save(tmp / "UTKFace" / file)
_read_noting("utkface", None, tmp, progress=False)[1]

# %%
data, said = _read_noting("utkface", None, tmp, progress=False)
# the warning is repeated
assert (
    len(data.table) == 2
    and len(said) == 1
    and said == _read_noting("utkface", None, tmp, progress=False)[1]
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever the caller has set
    assert _read_noting("utkface", None, tmp, progress=False)[1] == said
assert _read_noting("fairface", None, tmp, progress=False)[1] == () and _read_noting(
    "fairface", tmp / "worse", tmp, False
)[0].notes == dict(missing=["train/9.jpg"])


# %%
#| export
def check_dataset(
    name: str,  # One of `DATASETS`
    path: str | Path | None,  # As for `read_dataset`
    data_root: str | Path,  # As for `read_dataset`
    decode: bool = True,  # Decode every image
    progress: bool = True,  # Show progress bars
    partial: bool = False,  # Will a run use an incomplete set?
) -> SetCheck:  # For `set_text`
    """Check a set before a run; a missing set is a result, not an error. Raises: ValueError
    (unknown name).
    """
    _check_name(name)
    try:
        data, said = _read_noting(name, path, data_root, progress)
    except (OSError, ValueError) as e:
        return SetCheck(name, problem=str(e))
    return replace(check_data(data, decode, progress, said, partial), name=name)


# %% [markdown]
# The first set is complete and sound, the second lacks a file, and the third is missing. Only an
# unknown name is an error of the caller.

# %%
checks = [
    check_dataset("fairface", None, tmp, progress=False),
    check_dataset("fairface", tmp / "worse", tmp, progress=False),
    check_dataset("celeba", None, tmp),
]
[(check.sound, check.missing) for check in checks]

# %%
assert (
    [check.sound for check in checks] == [True, False, False]
    and checks[1].missing == ["train/9.jpg"]
    and checks[0].damaged == {}
)
assert check_dataset("fairface", tmp / "worse", tmp, progress=False, partial=True).sound
assert checks[2].problem.startswith("celeba: none of CelebA") and checks[2].data is None
assert check_dataset("utkface", None, tmp, progress=False).said == said
assert (
    check_dataset("synthetic", None, tmp).sound
    and check_dataset("synthetic", None, tmp).damaged is None
)
assert check_dataset("fairface", None, tmp, decode=False, progress=False).damaged is None
try:
    check_dataset("faces", None, tmp)
except ValueError as e:
    say(e)
else:
    raise AssertionError("an unknown set was checked")

# %% [markdown]
# `fairgrape data check` prints the following texts: for a missing set, for a set that cannot be
# read, for a set with labels but no images, and for a set without files.

# %%
(tmp / "damaged.zip").write_text("<html>")
shutil.copytree(tmp / "FairFace", tmp / "labels", ignore=shutil.ignore_patterns("*.jpg"))


def told(name, path):
    return set_text(check_dataset(name, path, tmp, progress=False))


for name, path in [
    ("celeba", None),
    ("fairface", tmp / "damaged.zip"),
    ("fairface", tmp / "labels"),
    ("synthetic", None),
]:
    print(told(name, path).replace(str(tmp), "…"), "\n")

# %%
assert told("celeba", None).startswith(
    "celeba: none of CelebA"
) and "https://mmlab.ie.cuhk.edu.hk" in told("celeba", None)
assert "neither a tar nor a zip" in told("fairface", tmp / "damaged.zip")
assert "none of the images is there" in told("fairface", tmp / "labels")
assert "Files: none" in told("synthetic", None) and "Nothing is missing." in told("synthetic", None)
try:
    told("faces", None)
except ValueError as e:
    say(e)
else:
    raise AssertionError("an unknown set was checked")
