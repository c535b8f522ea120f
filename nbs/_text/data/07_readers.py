# %% [markdown]
# # Readers
#
# > Read an official archive, folder or label file into one table, with labels by name

# %%
#| default_exp data.readers

# %%
#| export
import hashlib
import os
import re
import warnings
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from fairgrape.data.archives import open_set
from fairgrape.data.fairface_hub import FAIRFACE, official_layout
from fairgrape.data.label_files import (
    face_set,
    line_of,
    named_labels,
    read_labels,
    refuse_dates,
    refuse_lookalikes,
    refuse_missing,
)
from fairgrape.data.splits import SPLITS, join_photos
from fairgrape.data.tables import FaceData, label_columns

# %%
import shutil
import tarfile
import tempfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fairgrape.data.splits import split_table
from fairgrape.data.tables import codes

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


def plain(path, red):
    "A small picture of one colour as a file."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), (red, 100, 100)).save(path)
    os.utime(path, (10**9, 10**9))  # whole seconds, as archives carry them


# %% [markdown]
# A reader knows only the layout of one set: where its labels are, what they mean, and the set's
# irregularities. The code for archives, label tables and the `FaceData` is shared by all readers.
# This notebook shows no faces: its examples are pictures of one colour, in the layout of each set.
#
# ## UTKFace
#
# The labels are in the file names: `age_gender_race_time.jpg.chip.jpg`. In the published set three
# names lack the race. Two more have a stray space or lack a dot, but contain all four fields, and
# are read. Files whose names do not parse are left out, counted and named.

# %%
#| export
UTKFACE_RACES = ["White", "Black", "Asian", "Indian", "Others"]  # by the number in the file's name
UTKFACE_GENDERS = ["Male", "Female"]
_UTKFACE_NAME = re.compile(
    r"(\d{1,3})_([01])_([0-4])_(\d+) ?\.?jpg(\.chip)?(\.jpg)?", re.IGNORECASE
)
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _utkface_fields(
    name: str,  # A file name, without folder
    # age in years, gender, race, time stamp; None if the name does not parse
) -> tuple[int, str, str, str] | None:
    "The four fields of a UTKFace name."
    match = _UTKFACE_NAME.fullmatch(name)
    if match is None:
        return None
    age, gender, race, stamp = match.groups()[:4]
    return int(age), UTKFACE_GENDERS[int(gender)], UTKFACE_RACES[int(race)], stamp


# %%
for name in [
    "26_1_2_20170116184024662.jpg.chip.jpg",
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "61_1_20170109150557335.jpg.chip.jpg",
]:
    print(name, _utkface_fields(name))
assert _utkface_fields("8_0_4_20170103200329407.jpg.chip.jpg") == (
    8,
    "Male",
    "Others",
    "20170103200329407",
)
assert _utkface_fields("24_0_1_20170116220224657 .jpg.chip.jpg") == (
    24,
    "Male",
    "Black",
    "20170116220224657",
)
capitals = _utkface_fields("26_1_2_20170116184024662.JPG")
assert capitals == (26, "Female", "Asian", "20170116184024662")
assert (
    _utkface_fields("26_1_2_20170116184024662.png") is None
    and _utkface_fields("61_1_20170109150557335.jpg.chip.jpg") is None
    and _utkface_fields("30_2_0_20170109150557335.jpg.chip.jpg") is None
)


# %% [markdown]
# Cameras and Windows write `.JPG` for `.jpg`; both are read. An image of another format, such as
# `.png`, is not one of the set's files and counts as left out. A folder in which a third of the
# names do not parse is still read as a set, so a warning says what was left out. Names that begin
# with a dot are metadata files of some systems, not images.

# %%
#| export
def _parsed_names(folder: Path) -> tuple[list[str], list[tuple], list[str]]:
    "The images of a UTKFace folder: names, fields, and the names that do not parse."
    names = sorted(
        e.name
        for e in os.scandir(folder)
        if e.name.lower().endswith(_IMAGE_ENDINGS) and not e.name.startswith(".")
    )
    fields = [_utkface_fields(n) for n in names]
    return (
        [n for n, f in zip(names, fields) if f],
        [f for f in fields if f],
        [n for n, f in zip(names, fields) if not f],
    )


# %% [markdown]
# Six names. One lacks its race, and two share a time stamp.

# %%
utk = [
    "9_1_2_20170101000000002.jpg.chip.jpg",
    "10_0_0_20170101000000001.jpg.chip.jpg",
    "10_1_1_20170101000000001.jpg.chip.jpg",
    "61_1_20170109150557335.jpg.chip.jpg",
    "70_0_3_20170101000000003.jpg.chip.jpg",
    "71_0_4_20170101000000004.jpg.chip.jpg",
]
for i, name in enumerate(utk):
    plain(tmp / "UTKFace" / name, 40 * i)
(tmp / "UTKFace/._9_1_2_1.jpg").touch()
(tmp / "UTKFace/readme.txt").touch()
_parsed_names(tmp / "UTKFace")[2]

# %%
names, fields, skipped = _parsed_names(tmp / "UTKFace")
assert (
    names == sorted({*utk} - {utk[3]})
    and fields == [_utkface_fields(n) for n in names]
    and skipped == [utk[3]]
)


# %%
#| export
def _warn_skipped(skipped: list[str]):
    "Warn the reader's caller of names that do not parse; name the first five."
    if not skipped:
        return
    named = ", ".join(skipped[:5]) + (" …" if len(skipped) > 5 else "")
    warnings.warn(
        f"UTKFace: {len(skipped)} files are left out, because their names are not"
        f" age_gender_race_time….jpg: {named}",
        stacklevel=3,
    )


# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for skipped in ([], ["one.jpg"], list("abcdef"), list("vwxyz")):
        _warn_skipped(skipped)
for w in caught:
    print(w.message)

# %%
assert (
    len(caught) == 3
    and str(caught[2].message).endswith("v, w, x, y, z")
    and "6 files" in str(caught[1].message)
    and str(caught[1].message).endswith("a, b, c, d, e …")
    and str(caught[0].message).endswith("one.jpg")
)


# %% [markdown]
# An archive often holds one folder with the images, and some systems add a folder of metadata.
# UTKFace is also distributed in three folders, `part1`, `part2` and `part3`. All of them are read.
# A face that lies in two folders would count twice, as in copies with a second folder that holds a
# selection. This is an error, and the path must name one of the folders.

# %%
#| export
def _image_folders(root: Path) -> list[Path]:
    "The folders at or below `root` that hold images, without system folders (named .… and __…)."
    found = []
    for place, below, names in os.walk(root, followlinks=True):
        below[:] = sorted(b for b in below if not b.startswith((".", "__")))
        if any(n.lower().endswith(_IMAGE_ENDINGS) and not n.startswith(".") for n in names):
            found.append(Path(place))
    return found


def _utkface_files(root: Path) -> tuple[Path, list[str], list[str]]:
    """The folder of a UTKFace, the paths of its images in it, and the files whose names do not
    parse. Raises: FileNotFoundError, ValueError.
    """
    parsed = {folder: _parsed_names(folder) for folder in _image_folders(root)}
    if not parsed:
        raise FileNotFoundError(
            f"{root}: no UTKFace images (*.jpg) in this folder or below it; see data/README.md"
        )
    homes = [folder for folder, (names, _, _) in parsed.items() if names]
    if not homes:
        folder, (_, _, skipped) = next(iter(parsed.items()))
        raise ValueError(
            f"{folder / skipped[0]}: no file here is named like those of UTKFace, e.g."
            " 26_1_2_20170116184024662.jpg.chip.jpg"
        )
    if len(homes) == 1:
        return homes[0], parsed[homes[0]][0], parsed[homes[0]][2]
    home_of = {}
    for folder in homes:
        for name in parsed[folder][0]:
            if name in home_of:
                both = [str(f.relative_to(root)) for f in homes]
                raise ValueError(
                    f"{root}: {name} lies in {home_of[name]} and in {folder}. The folders"
                    f" {', '.join(both)} hold copies of one another: give the path of one of them"
                )
            home_of[name] = folder
    inside = [(folder.relative_to(root), parsed[folder]) for folder in homes]
    paths = sorted((place / n).as_posix() for place, (names, _, _) in inside for n in names)
    odd = sorted((place / n).as_posix() for place, (_, _, skipped) in inside for n in skipped)
    return root, paths, odd


# %%
thirds = tmp / "thirds"
for part, name in zip(("part1", "part2", "part3"), utk):
    plain(thirds / part / name, 0)
plain(thirds / "__MACOSX" / utk[0], 0)
plain(thirds / "notes/figure.jpg", 0)
_utkface_files(thirds)[1]

# %%
assert _utkface_files(thirds) == (thirds, [f"part{i + 1}/{utk[i]}" for i in range(3)], [])
# one folder: the names alone
assert _utkface_files(thirds / "part2") == (thirds / "part2", [utk[1]], [])
shutil.copytree(thirds / "part1", tmp / "above/set")
assert _utkface_files(tmp / "above") == (tmp / "above/set", [utk[0]], [])
shutil.copytree(thirds / "part1", thirds / "selection/part1")
(tmp / "empty").mkdir()
for folder, error, told in (
    (thirds, ValueError, "part1, part2, part3, selection/part1 hold copies"),
    (tmp / "empty", FileNotFoundError, "no UTKFace images"),
    (thirds / "notes", ValueError, "no file here is named like those of UTKFace"),
):
    try:
        _utkface_files(folder)
    except error as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{folder} was read as one set")


# %% [markdown]
# UTKFace does not say which faces come from one photograph, but two signs show it. Some faces share
# their time stamp to the millisecond (414 faces, 186 stamps). We looked at 24 such stamps: in most
# of them the faces have the background, light and grain of one photograph. A few seem only to have
# been saved at the same moment; keeping those together costs nothing. And 390 files are
# byte-for-byte copies of another file under another name, some with another age. `join_photos`
# joins both kinds.
#
# The vocabulary of `race` includes "Others". The task decides which races it uses; `notes` holds
# the paper's four.

# %%
#| export
def read_utkface(
    path: str | Path,  # UTKFace.tar.gz, or the folder unpacked from it
    data_root: str | Path,  # Where an archive is unpacked to
    progress: bool = True,  # Show a progress bar
    # As for `face_set`; here the file names are the labels, so no file can be missing
    strict: bool = True,
) -> FaceData:  # Labels `gender`, `race` (and `age`, in years)
    """Read UTKFace. Raises: FileNotFoundError, ValueError. Source: file names as documented
    with the set.
    """
    folder, names, skipped = _utkface_files(open_set(path, data_root, "utkface", progress))
    _warn_skipped(skipped)
    age, gender, race, stamp = zip(*(_utkface_fields(Path(n).name) for n in names))
    bar = tqdm(names, "UTKFace: looking for copies", disable=not progress)
    content = pd.Series([hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in bar])
    table = pd.DataFrame(
        dict(
            path=names,
            photo=join_photos(pd.Series(stamp), content),
            age=age,
            gender=pd.Categorical(gender, UTKFACE_GENDERS),
            race=pd.Categorical(race, UTKFACE_RACES),
        )
    )
    notes = dict(
        skipped=skipped,
        copies=int(content.duplicated().sum()),
        classes=dict(race=UTKFACE_RACES[:4]),
    )
    return face_set("utkface", folder, table, notes, strict)


# %% [markdown]
# The folder from above, with one file that is now a copy of another.

# %%
shutil.copy2(tmp / "UTKFace" / utk[0], tmp / "UTKFace" / utk[5])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    faces = read_utkface(tmp / "UTKFace", tmp / "data", progress=False)
print(caught[0].message)
faces.table

# %%
assert (
    len(caught) == 1
    and len(faces.table) == 5
    and faces.notes
    == dict(skipped=[utk[3]], copies=1, classes=dict(race=["White", "Black", "Asian", "Indian"]))
)
by_name = faces.table.set_index("path")
assert by_name.loc[utk[0], ["age", "gender", "race"]].tolist() == [9, "Female", "Asian"]
assert (
    by_name.photo[utk[1]] == by_name.photo[utk[2]]
    and by_name.photo[utk[0]] == by_name.photo[utk[5]] != by_name.photo[utk[4]]
)
assert codes(faces.table, "race")[1] == UTKFACE_RACES
assert faces.load(faces.table[:2], 16).shape == (2, 3, 16, 16)

# %% [markdown]
# Read from an archive, the same set has the same table and the same key.

# %%
with tarfile.open(tmp / "UTKFace.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
    tar.add(tmp / "UTKFace", "UTKFace")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    archived = read_utkface(tmp / "UTKFace.tar.gz", tmp / "data", progress=False)
print(archived.root.relative_to(tmp).as_posix())
assert (
    archived.table.equals(faces.table) and archived.key == faces.key and archived.root != faces.root
)
plain(tmp / "other/cat.jpg", 0)
for folder, error, told in [
    ("empty", FileNotFoundError, "no UTKFace images"),
    ("other", ValueError, "no file here is named"),
    ("nowhere", FileNotFoundError, "no such folder"),
]:
    try:
        read_utkface(tmp / folder, tmp / "data")
    except error as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{folder} was read as UTKFace")


# %% [markdown]
# ## FairFace
#
# FairFace has two CSVs, `fairface_label_train.csv` and `fairface_label_val.csv`, and images in
# `train/` and `val/`. The CSVs may be in the folder or the archive, or next to the archive, as they
# are published.

# %%
#| export
def _fairface_csv(root: Path, beside: Path, part: str) -> Path:
    "The label file of a part: in the folder, in a subfolder, or next to the archive."
    name = f"fairface_label_{part}.csv"
    return next(
        (f for f in [root / name, *sorted(root.glob(f"*/{name}")), beside / name] if f.is_file()),
        root / name,
    )


# %% [markdown]
# A FairFace of six pictures.

# %%
def fairface_csv(folder, part, rows, header="file,age,gender,race,service_test"):
    (folder / f"fairface_label_{part}.csv").write_text("\n".join([header, *rows]) + "\n")


ff = tmp / "FairFace"
for part in ("train", "val"):
    for i in (1, 2, 3):
        plain(ff / part / f"{i}.jpg", i)
fairface_csv(
    ff,
    "train",
    [
        "train/1.jpg,50-59,Male,East Asian,True",
        "train/2.jpg,30-39,Female,Indian,False",
        "train/3.jpg,3-9,Female,Black,False",
    ],
)
fairface_csv(
    ff,
    "val",
    [
        "val/1.jpg,3-9,Male,White,False",
        "val/2.jpg,more than 70,Female,Latino_Hispanic,True",
        "val/3.jpg,20-29,Male,Middle Eastern,True",
    ],
)
_fairface_csv(ff, tmp, "val").relative_to(tmp).as_posix()

# %%
for file in (
    tmp / "places/beside/fairface_label_val.csv",
    tmp / "places/set/below/fairface_label_val.csv",
    tmp / "places/set/fairface_label_val.csv",
):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    # each goes before those found so far
    assert _fairface_csv(tmp / "places/set", tmp / "places/beside", "val") == file
# where it should be
assert (
    _fairface_csv(tmp / "places/set", tmp / "places/beside", "train")
    == tmp / "places/set/fairface_label_train.csv"
)


# %% [markdown]
# FairFace does not give the source photograph of a face, so each file counts as a photograph.

# %%
#| export
def _fairface_part(csv: Path, part: str) -> pd.DataFrame:
    "The rows of one CSV, with labels as categoricals."
    text = read_labels(csv, ["file", *FAIRFACE])
    table = pd.DataFrame(
        dict(
            path=text["file"],
            photo=text["file"],
            official=pd.Categorical([part] * len(text), SPLITS),
        )
    )
    for column, names in FAIRFACE.items():
        table[column] = named_labels(csv, text[column], names)
    if "service_test" in text:
        table["service_test"] = named_labels(csv, text["service_test"], ["False", "True"])
    return table


# %%
_fairface_part(ff / "fairface_label_val.csv", "val")

# %%
part = _fairface_part(ff / "fairface_label_val.csv", "val")
assert (
    part.race.tolist() == ["White", "Latino_Hispanic", "Middle Eastern"]
    and part.race.cat.categories.tolist() == FAIRFACE["race"]
)
assert (
    part.official.tolist() == ["val"] * 3
    and part.service_test.cat.codes.tolist() == [0, 1, 1]
    and part.photo.tolist() == part.path.tolist()
)


# %% [markdown]
# A file may have two rows with the same labels; `fairgrape data check` counts them. Two rows that
# disagree are an error, because nobody can tell which one is wrong.

# %%
#| export
def _refuse_conflicts(
    root: Path,  # The set's folder, for the error
    table: pd.DataFrame,  # A set's table
    labels: list[str],  # Its label columns
) -> None:
    "Raise ValueError if two rows of one file have different labels."
    file = table["path"].map(os.path.normpath)
    often = table[file.duplicated(keep=False)]
    for column in labels:
        apart = often[column].astype(str).groupby(file).nunique() > 1
        if apart.any():
            name = apart.index[apart][0]
            labels_of_it = often[column].astype(str)[file == name].unique()
            said = " and ".join(repr(label) for label in labels_of_it)
            raise ValueError(
                f"{root}: the labels name {name} in several rows, with {column} {said}"
                f" ({apart.sum()} such files): remove the wrong rows, or fetch the label files"
                " again"
            )


# %%
assert _refuse_conflicts(ff, pd.concat([part, part]), ["race", "age"]) is None
try:
    _refuse_conflicts(
        Path("FairFace"),
        pd.concat(
            [part, part.assign(race=part.race.tolist()[:2] + ["Black"], path="./" + part.path)]
        ),
        ["age", "race"],
    )
except ValueError as e:
    print(e)
    told = str(e)
else:
    raise AssertionError("a file of two races was read")
assert "val/3.jpg in several rows, with race 'Middle Eastern' and 'Black' (1 such files)" in told


# %% [markdown]
# The reader takes an official set or a Hugging Face copy of it. Without `strict`, one part with its
# CSV is enough.

# %%
#| export
def read_fairface(
    path: str | Path,  # A folder, tar or zip; a folder of parquet or arrow files too
    data_root: str | Path,  # Where an archive is unpacked to
    progress: bool = True,  # Show a progress bar
    strict: bool = True,  # Missing files are an error; else they are listed in notes["missing"]
) -> FaceData:  # Labels `age`, `gender`, `race` (and `service_test`), official parts train and val
    """Read FairFace. Raises: FileNotFoundError (folder, CSV, image), ValueError (column,
    label). Source: the set's CSVs.
    """
    root = official_layout(open_set(path, data_root, "fairface", progress), data_root, progress)
    csvs = {part: _fairface_csv(root, Path(path).parent, part) for part in ("train", "val")}
    lost = [f.name for f in csvs.values() if not f.is_file()]
    if strict and len(lost) == 1:
        raise FileNotFoundError(
            f"{root / lost[0]}: no such label file; see data/README.md. Fetch it; or use the other"
            " part alone, with the setting partial = True (--partial True)"
        )
    if len(lost) == 2:
        lost = []  # reading raises the error
    table = pd.concat(
        [_fairface_part(f, part) for part, f in csvs.items() if f.name not in lost],
        ignore_index=True,
    )
    _refuse_conflicts(root, table, list(FAIRFACE))
    folder = next(
        (f.parent for f in [root / "train", *sorted(root.glob("*/train"))] if f.is_dir()), root
    )
    return face_set("fairface", folder, table, dict(missing=lost) if lost else {}, strict)


# %%
faces = read_fairface(ff, tmp / "data", progress=False)
faces.table

# %%
assert codes(faces.table, "race")[0].tolist() == [3, 5, 1, 0, 2, 6]
assert len(codes(faces.table, "race*gender")[1]) == 14
assert (
    faces.load(faces.table, 8).shape == (6, 3, 8, 8)
    and split_table(faces.table, "official")[3:].tolist() == ["test"] * 3
)
with zipfile.ZipFile(tmp / "fairface-img.zip", "w") as z:  # the images as a zip, the CSVs beside it
    for f in sorted(ff.rglob("*.jpg")):
        z.write(f, f.relative_to(ff))
for f in ff.glob("*.csv"):
    shutil.copy(f, tmp)
assert read_fairface(tmp / "fairface-img.zip", tmp / "data", progress=False).table.equals(
    faces.table
)
for part in ("train", "val"):  # the pictures and labels as parquet, labels in words
    rows = pd.read_csv(ff / f"fairface_label_{part}.csv").drop(columns="file")
    images = [dict(bytes=(ff / part / f"{i}.jpg").read_bytes(), path=f"{i}.jpg") for i in (1, 2, 3)]
    (tmp / "hub").mkdir(exist_ok=True)
    pq.write_table(
        pa.table(dict(image=images, **rows.to_dict("list"))),
        tmp / f"hub/{part}-00000-of-00001.parquet",
    )
assert read_fairface(tmp / "hub", tmp / "data", progress=False).table.equals(faces.table)


# %% [markdown]
# Each fault raises its own error.

# %%
def expect(error, read, *args):
    "Run a reader that must fail, and print how."
    try:
        read(*args, tmp / "data")
    except error as e:
        say(e)
    else:
        raise AssertionError("bad input was read")


good = (ff / "fairface_label_train.csv").read_text()
for header, row in [
    ("file,age,gender,ethnicity", "train/1.jpg,3-9,Male,White"),
    ("file,age,gender,race", "train/1.jpg,3-9,Male,Latino Hispanic"),
    ("file,age,gender,race", "train/1.jpg,03-Sep,Male,White"),
    ("file,age,gender,race", "train/9.jpg,3-9,Male,White"),
]:
    fairface_csv(ff, "train", [row], header)
    expect((ValueError, FileNotFoundError), read_fairface, ff)
assert read_fairface(ff, tmp / "data", strict=False).notes == dict(missing=["train/9.jpg"])
(ff / "fairface_label_train.csv").unlink()
(tmp / "fairface_label_train.csv").unlink()
expect(FileNotFoundError, read_fairface, ff)
assert read_fairface(ff, tmp / "data", strict=False).notes == dict(
    missing=["fairface_label_train.csv"]
)
(ff / "fairface_label_train.csv").write_text(good)
assert len(read_fairface(ff, tmp / "data").table) == 6


# %% [markdown]
# ## Your own folder
#
# Your own set needs a CSV with a column `file` (or `image`), which holds paths relative to the
# CSV's folder, and any number of label columns. Each label column becomes a categorical, with its
# names in alphabetical order. Three columns are special and optional: `photo` names the source
# photograph, `person` says who it is, `split` is an official split. Give the folder that holds
# `labels.csv`, or the CSV itself, under any name.

# %% [markdown]
# The vocabulary is taken from the column itself. So a typing error makes a new class, which a count
# by class shows. Two spellings of one label are refused, and so are codes for a missing label.
# Dates can be recognised only if the column also holds a range.

# %%
#| export
def _own_label(csv: Path, values: pd.Series) -> pd.Categorical:
    "A column's labels; the vocabulary is taken from the column."
    refuse_missing(csv, values)
    refuse_lookalikes(csv, values)
    if values.str.fullmatch(r"\d+-\d+").any():
        refuse_dates(csv, values, values != "")
    return pd.Categorical(values, sorted(set(values)))


# %%
_own_label(Path("labels.csv"), pd.Series(["yes", "no", "03-Sep"], name="answer"))

# %%
assert _own_label(Path("labels.csv"), pd.Series(["yes", "no", "yes"])).codes.tolist() == [1, 0, 1]
for labels, told in (
    (["yes", ""], "line 3, column 'age': no label"),
    (["20-29", "03-Sep"], "is a date"),
    (["yes", "nan"], "stands for a missing one"),
    (["yes", "Yes"], "differ only"),
):
    try:
        _own_label(Path("labels.csv"), pd.Series(labels, name="age"))
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{labels} were accepted")


# %%
#| export
def _own_files(csv: Path, text: pd.DataFrame) -> pd.DataFrame:
    "The columns that are not labels: path, photo, person, official."
    column = "file" if "file" in text else "image"
    if column not in text:
        raise ValueError(f"{csv}: no column 'file' (or 'image'): its columns are {', '.join(text)}")
    twice = text[column].map(os.path.normpath).duplicated().to_numpy()
    if twice.any():
        line = line_of(text, twice.argmax())
        raise ValueError(f"{csv}, line {line}: this file already has a row: remove one of the two")
    columns = dict(path=text[column], photo=text.get("photo", text[column]))
    refuse_missing(csv, columns["photo"])
    if "person" in text:
        columns["person"] = _own_label(csv, text["person"]).astype(str)
    if "split" in text:
        columns["official"] = named_labels(csv, text["split"], SPLITS)
    return pd.DataFrame(columns)


# %%
own = pd.DataFrame(
    dict(image=["a", "b"], smile=["yes", "no"], person=["Ada", "Bo"], split=["test", "train"])
)
_own_files(Path("labels.csv"), own)

# %%
files = _own_files(Path("labels.csv"), own)
assert (
    files.path.tolist() == files.photo.tolist() == ["a", "b"]
    and files.person.tolist() == ["Ada", "Bo"]
    and files.official.cat.codes.tolist() == [2, 0]
)
# `file` goes first
assert _own_files(Path("labels.csv"), own.assign(file=["c", "d"], photo="p")).to_numpy()[
    :, :2
].tolist() == [["c", "p"], ["d", "p"]]
for bad, told in (
    (own[["smile"]], "no column 'file'"),
    (own.assign(image="a"), "line 3: this file"),
    (own.assign(image=["a", "./a"]), "line 3: this file"),
    (own.assign(photo=["p", ""]), "line 3, column 'photo': no label"),
    (own.assign(person=["Ada", ""]), "line 3, column 'person'"),
    (own.assign(split="dev"), "'dev' is not one of"),
):
    try:
        _own_files(Path("labels.csv"), bad)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError("a faulty table was accepted")


# %%
#| export
def _label_names(csv: Path, text: pd.DataFrame) -> list[str]:
    "The label columns: all but the file's and the three special ones."
    labels = [
        c
        for c in text
        if c not in ("file" if "file" in text else "image", "photo", "person", "split")
    ]
    if not labels:
        raise ValueError(f"{csv}: no label column besides the file's: add one, e.g. 'expression'")
    for name in labels:
        if name in ("path", "official", "clusters"):
            raise ValueError(f"{csv}: a label column must not be named {name!r}: rename it")
        if name != name.strip():
            raise ValueError(
                f"{csv}, line 1: the column {name!r} begins or ends with a space: remove it (no"
                " spaces next to the commas)"
            )
        if signs := [sign for sign in "*+=;:!" if sign in name]:
            raise ValueError(
                f"{csv}, line 1: the column {name!r} has a {signs[0]!r} in its name, a sign that"
                " settings reserve: rename it"
            )
    return labels


def _classes_or_not(csv: Path, values: pd.Series) -> pd.Series | pd.Categorical:
    """A column as labels, or unchanged if most images have a different value: an id or a remark
    is not a class.
    """
    if values.nunique() > max(50, len(values) // 2):
        return values
    return _own_label(csv, values)


# %%
print(_label_names(Path("labels.csv"), own))
assert _label_names(Path("labels.csv"), own) == ["smile"] and _label_names(
    Path("labels.csv"), own.assign(file="c")
) == ["image", "smile"]
for bad in (
    own.drop(columns="smile"),
    own.assign(path="a"),
    own.assign(clusters="a"),
    own.assign(**{" tone": "a"}),
    own.assign(**{"a*b": "a"}),
    own.assign(**{"a+b": "a"}),
):
    try:
        _label_names(Path("labels.csv"), bad)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a table without usable labels was accepted")
assert isinstance(_classes_or_not(Path("labels.csv"), own.smile), pd.Categorical)
numbers = pd.Series([str(i) for i in range(100)], name="id")
assert _classes_or_not(Path("labels.csv"), numbers) is numbers  # 100 values in 100 images
# up to 50 values are always classes
assert isinstance(_classes_or_not(Path("labels.csv"), numbers[:50]), pd.Categorical)
assert isinstance(
    _classes_or_not(Path("labels.csv"), pd.concat([numbers, numbers])), pd.Categorical
)


# %%
#| export
def _folder_of(
    root: Path,  # A folder, possibly unpacked from an archive
    csv: str,  # The CSV's name
) -> Path:  # The folder that holds the CSV
    """The folder itself, or the subfolder that holds the CSV, as in a zip of a folder. Raises:
    ValueError if several subfolders hold one.
    """
    if (root / csv).is_file():
        return root
    inside = [file.parent for file in sorted(root.glob(f"*/{csv}")) if file.is_file()]
    inside = [folder for folder in inside if not folder.name.startswith((".", "__"))]
    if len(inside) > 1:
        raise ValueError(
            f"{root}: no {csv} here, but one in each of"
            f" {', '.join(folder.name for folder in inside)}: give the path of one of them"
        )
    return inside[0] if inside else root


# %%
for folder in ("__MACOSX", "faces"):
    (tmp / "zipped" / folder).mkdir(parents=True)
    (tmp / "zipped" / folder / "labels.csv").touch()
print(_folder_of(tmp / "zipped", "labels.csv").name)
assert _folder_of(tmp / "zipped", "labels.csv") == tmp / "zipped/faces"
assert _folder_of(tmp / "zipped/faces", "labels.csv") == tmp / "zipped/faces"
assert _folder_of(tmp / "zipped", "other.csv") == tmp / "zipped"
(tmp / "zipped/more").mkdir()
(tmp / "zipped/more/labels.csv").touch()
expect(ValueError, lambda data_root: _folder_of(tmp / "zipped", "labels.csv"))


# %%
#| export
def read_folder(
    path: str | Path,  # A folder, tar or zip that holds the CSV and the images, or the CSV itself
    data_root: str | Path = ".",  # Where an archive is unpacked to
    csv: str = "labels.csv",  # The CSV's name in that folder
    progress: bool = True,  # Show a progress bar
    strict: bool = True,  # Missing images are an error; else they are listed in notes["missing"]
) -> FaceData:  # Every column but file (or image), photo, person, split is a label
    "Read your own images. Raises: FileNotFoundError, ValueError."
    if Path(path).suffix.lower() == ".csv":
        path, csv = Path(path).parent, Path(path).name
    root = _folder_of(open_set(path, data_root, progress=progress), csv)
    text = read_labels(root / csv, [])
    table = _own_files(root / csv, text)
    for column in _label_names(root / csv, text):
        table[column] = _classes_or_not(root / csv, text[column])
    if not label_columns(table):
        raise ValueError(
            f"{root / csv}: no label column: most images have a different value in"
            f" {', '.join(_label_names(root / csv, text))}. Add a column with few values"
        )
    return face_set("folder", root, table, strict=strict)


# %%
for i in range(4):
    plain(tmp / f"own/img/{i}.jpg", i)
rows = [f"img/{i}.jpg,{['yes', 'no'][i % 2]},g{i // 2},p{i // 3}\n" for i in range(4)]
(tmp / "own/labels.csv").write_text("file,smile,group,photo\n" + "".join(rows))
read_folder(tmp / "own").table

# %%
own = read_folder(tmp / "own").table
assert codes(own, "smile")[0].tolist() == [1, 0, 1, 0] and own.photo.tolist() == [
    "p0",
    "p0",
    "p0",
    "p1",
]
for text in [
    "name,smile\nimg/0.jpg,yes\n",
    "file\nimg/0.jpg\n",
    "file,smile\nimg/0.jpg,\n",
    "file,smile\nimg/7.jpg,yes\n",
]:
    (tmp / "own/labels.csv").write_text(text)
    expect((ValueError, FileNotFoundError), lambda data_root: read_folder(tmp / "own", data_root))

# %% [markdown]
# A CSV under another name, with persons, and with one missing picture.

# %%
(tmp / "own/faces.csv").write_text(
    "image,smile,person\nimg/0.jpg,yes,Ada\nimg/1.jpg,yes,Ada\nimg/9.jpg,no,Bo\n"
)
expect(FileNotFoundError, lambda data_root: read_folder(tmp / "own/faces.csv", data_root))
own = read_folder(tmp / "own/faces.csv", strict=False)
print(own.table)
assert own.notes == dict(missing=["img/9.jpg"]) and own.root == tmp / "own"
assert own.table.person.tolist() == ["Ada", "Ada"] and codes(own.table, "smile")[1] == ["no", "yes"]
