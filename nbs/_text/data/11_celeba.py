# %% [markdown]
# # CelebA
#
# > Forty attributes, a partition and the persons, from any of the three layouts of CelebA

# %%
#| default_exp data.celeba

# %%
#| export
from pathlib import Path

import pandas as pd

from fairgrape.data.archives import SOURCES, open_set
from fairgrape.data.celeba_labels import CELEBA_HEADS, numbers_of, official_part, read_attributes
from fairgrape.data.label_files import face_set
from fairgrape.data.tables import FaceData

# %%
import shutil
import tempfile
import zipfile

import numpy as np
from PIL import Image

from fairgrape.data.appearance import synthetic_table
from fairgrape.data.celeba_labels import CELEBA_ATTRIBUTES
from fairgrape.data.splits import split_table
from fairgrape.data.synthetic import render_faces
from fairgrape.data.tables import codes, label_columns

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# The paper groups CelebA by one of its forty attributes, `Male`, and predicts the other 39, with a
# head of two outputs for each. The set is distributed in three layouts. This notebook finds the
# files in any of them, and combines their labels.
#
# ## Layouts
#
# | layout | images | labels |
# |---|---|---|
# | official | `Img/img_align_celeba/` or `Img/img_align_celeba.zip` | `Anno/list_attr_celeba.txt`, `Anno/identity_CelebA.txt`, `Eval/list_eval_partition.txt` |
# | torchvision | `celeba/img_align_celeba/` or the zip | `celeba/list_attr_celeba.txt`, `celeba/identity_CelebA.txt`, `celeba/list_eval_partition.txt` |
# | CSV | `img_align_celeba/img_align_celeba/` | `list_attr_celeba.csv`, `list_eval_partition.csv`; no persons |
#
# All these places are searched, so a copy that mixes the layouts is read as well. Label files may
# also be next to an archive of images.

# %%
#| export
_CELEBA_FILES = dict(
    attributes="list_attr_celeba", partition="list_eval_partition", persons="identity_CelebA"
)
_INSIDE = ("", "celeba", "CelebA")
_IMAGES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")


def _celeba_file(
    folders: list[Path],  # The set's folder, and the folder of an archive
    name: str,  # 'list_attr_celeba', 'list_eval_partition' or 'identity_CelebA'
) -> Path | None:  # The file, or None if there is none
    "The label file of that name in any of the layouts."
    bases = [
        f / inside / part for f in folders for inside in _INSIDE for part in ("", "Anno", "Eval")
    ]
    return next(
        (p for p in (b / f"{name}{end}" for b in bases for end in (".txt", ".csv")) if p.is_file()),
        None,
    )


# %%
(tmp / "CelebA/Anno").mkdir(parents=True)
(tmp / "CelebA/Anno/list_attr_celeba.txt").touch()
(tmp / "list_eval_partition.csv").touch()
_celeba_file([tmp / "CelebA"], "list_attr_celeba").relative_to(tmp).as_posix()

# %%
assert (
    _celeba_file([tmp], "list_attr_celeba")
    == _celeba_file([tmp / "CelebA"], "list_attr_celeba")
    == tmp / "CelebA/Anno/list_attr_celeba.txt"
)
assert _celeba_file([tmp / "CelebA"], "identity_CelebA") is None
assert _celeba_file([tmp / "CelebA", tmp], "list_eval_partition") == tmp / "list_eval_partition.csv"
(tmp / "list_eval_partition.txt").touch()
# the official form first
assert _celeba_file([tmp / "CelebA", tmp], "list_eval_partition") == tmp / "list_eval_partition.txt"


# %% [markdown]
# The images usually come as one zip. Like any archive, it is unpacked below the data root, because
# the set's own folder may be read-only.

# %%
#| export
def _celeba_images(
    folders: list[Path],  # The set's folder, and the folder of an archive
    data_root: str | Path,  # A zip of images is unpacked below it
    progress: bool = True,  # Show a progress bar
) -> Path:  # The folder that holds 000001.jpg
    """The folder of the aligned images, unpacked from their zip if necessary. Raises:
    FileNotFoundError, and the errors of `unpack`.
    """
    bases = [f / inside for f in folders for inside in _INSIDE]
    for place in (b / i for b in bases for i in _IMAGES):
        if place.is_dir():
            return place
    for packed in (b / f"{i}.zip" for b in bases for i in _IMAGES):
        if packed.is_file():
            return _celeba_images([open_set(packed, data_root, "celeba", progress)], data_root)
    raise FileNotFoundError(
        f"{folders[0]}: no folder img_align_celeba here or in Img, and no img_align_celeba.zip. "
        f"{SOURCES['celeba']}; see data/README.md"
    )


# %%
(tmp / "CelebA/Img").mkdir()
with zipfile.ZipFile(tmp / "CelebA/Img/img_align_celeba.zip", "w") as z:
    z.writestr("img_align_celeba/000001.jpg", b"")
packed = _celeba_images([tmp / "CelebA"], tmp / "data", progress=False)
(tmp / "twice/img_align_celeba/img_align_celeba").mkdir(parents=True)
packed.name, _celeba_images([tmp / "twice"], tmp / "data").relative_to(tmp).as_posix()

# %%
assert (packed / "000001.jpg").is_file() and packed.parent.parent == tmp / "data/unpacked"
assert (
    _celeba_images([tmp / "twice"], tmp / "data") == tmp / "twice/img_align_celeba/img_align_celeba"
)
try:
    _celeba_images([tmp / "data"], tmp / "data")
except FileNotFoundError as e:
    say(e)
else:
    raise AssertionError("a folder without images was accepted")


# %% [markdown]
# ## The reader
#
# `Male` becomes the column `gender`, with names instead of yes and no, and is not a head. The other
# 39 keep their names and their order; `notes["tasks"]` joins them, so a run can use all of them as
# one task. Each image counts as one photograph, because the set does not say which pictures were
# taken together. It does say who is in them, and `split="person"` uses that: no person is in both
# training and test.

# %%
#| export
def _table(files: dict[str, Path | None], beside: list[str] | None = None) -> pd.DataFrame:
    """The set's table, from its label files. If `beside` is given, it collects the images that
    only some of the files name, and the table omits them.
    """
    answers = read_attributes(files["attributes"])
    table = pd.DataFrame(dict(path=answers["image"], photo=answers["image"]))
    for column, kind in (("person", "persons"), ("official", "partition")):
        if files[kind]:
            table[column] = numbers_of(files[kind], answers["image"], files["attributes"], beside)
    table["gender"] = answers["Male"].cat.rename_categories(dict(no="Female", yes="Male"))
    table = pd.concat([table, answers[CELEBA_HEADS]], axis=1)
    if beside:
        table = table[~table["path"].isin(beside)].reset_index(drop=True)
    if files["partition"]:
        table["official"] = official_part(files["partition"], table["official"])
    return table


# %% [markdown]
# Ten rendered faces in the official layout of CelebA. First the labels:

# %%
answers = np.where(np.random.default_rng(0).random((10, 40)) < 0.3, 1, -1)
answers[:, 20] = [1, -1] * 5  # men and women in turn
answers[::2, 4], answers[1::2, 4] = [1, 1, -1, 1, -1], -1  # three bald men, no bald woman
names = [f"{i:06d}.jpg" for i in range(1, 11)]
official = tmp / "official"
for folder in ("Img/img_align_celeba", "Anno", "Eval"):
    (official / folder).mkdir(parents=True)
rows = pd.DataFrame(answers, names).to_csv(sep=" ", header=False)
(official / "Anno/list_attr_celeba.txt").write_text(
    "\n".join(["10", " ".join(CELEBA_ATTRIBUTES), rows])
)
(official / "Anno/identity_CelebA.txt").write_text(
    "".join(f"{n} {p}\n" for n, p in zip(names, [7, 7, 7, 2, 2, 9, 9, 4, 4, 4]))
)
(official / "Eval/list_eval_partition.txt").write_text(
    "".join(f"{n} {p}\n" for n, p in zip(names, "0000011222"))
)
files = {kind: _celeba_file([official], name) for kind, name in _CELEBA_FILES.items()}
_table(files).iloc[:, :8]

# %%
labels = _table(files)
assert labels["gender"].tolist() == ["Male", "Female"] * 5 and list(labels) == [
    "path",
    "photo",
    "person",
    "official",
    "gender",
    *CELEBA_HEADS,
]
assert (
    labels["person"].tolist() == list("7772299444")
    and labels["official"].cat.codes.tolist() == [0] * 5 + [1] * 2 + [2] * 3
)
assert _table(dict(files, persons=None, partition=None)).equals(
    labels.drop(columns=["person", "official"])
)


# %% [markdown]
# The error for a missing attribute file says where to get it. The other two label files are
# optional. `notes["absent"]` lists them if they are missing, for the error of a split that needs
# them.

# %%
#| export
def read_celeba(
    path: str | Path,  # The set's folder in any of the three layouts, or an archive of it
    data_root: str | Path,  # Where an archive is unpacked to
    progress: bool = True,  # Show a progress bar
    # A missing image is an error; else its row is left out and it is listed in notes["missing"]
    strict: bool = True,
) -> FaceData:  # `gender`, 39 attributes, `person` and official parts if their files exist
    """Read CelebA. Raises: FileNotFoundError (folder, attribute file, image), ValueError (a
    file's content). Source: the set's README.
    """
    folders = [
        open_set(path, data_root, "celeba", progress),
        *([] if Path(path).is_dir() else [Path(path).parent]),
    ]
    files = {kind: _celeba_file(folders, name) for kind, name in _CELEBA_FILES.items()}
    if not files["attributes"]:
        raise FileNotFoundError(
            f"{folders[0]}: no list_attr_celeba.txt (or .csv) here or in Anno."
            f" {SOURCES['celeba']}; see data/README.md"
        )
    images = _celeba_images(folders, data_root, progress)
    notes = dict(
        tasks=dict(attributes="+".join(CELEBA_HEADS)),
        protocol=dict(task="attributes", groups="gender"),
        absent=[f"{_CELEBA_FILES[kind]}.txt" for kind, file in files.items() if not file],
    )
    notes["aliases"] = dict(Male="gender")  # the set's own name of that column
    beside = None if strict else []
    table = _table(files, beside)
    if beside:
        notes["missing"] = sorted(set(beside))
    return face_set("celeba", images, table, notes, strict)


# %%
faces = synthetic_table(train=(5,) * 4, val=(5,) * 4, test=(5,) * 4)
for name, pixels in zip(names, render_faces(faces[::2], 32)):
    Image.fromarray(np.pad(pixels, ((0, 0), (4, 4), (0, 0)), mode="edge").transpose(1, 2, 0)).save(
        official / "Img/img_align_celeba" / name
    )
celeba = read_celeba(official, tmp / "data", progress=False)
celeba.table.iloc[:, :9]

# %%
assert celeba.notes["aliases"] == dict(Male="gender")
assert celeba.table.equals(labels) and celeba.table["gender"].cat.categories.tolist() == [
    "Female",
    "Male",
]
assert (
    label_columns(celeba.table) == ["gender", *CELEBA_HEADS]
    and celeba.notes["tasks"]["attributes"].split("+") == CELEBA_HEADS
)
assert codes(celeba.table, "Bald")[0].tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0] and codes(
    celeba.table, "Bald"
)[1] == ["no", "yes"]
assert split_table(celeba.table, "official").tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
assert celeba.load(celeba.table[:2], 16).shape == (2, 3, 16, 16) and celeba.notes["absent"] == []

# %% [markdown]
# The same set in the layouts of torchvision and of the CSVs gives the same table, except that the
# CSVs have no persons. The notes list the absent file, and a split by person then raises an error.

# %%
shutil.copytree(official / "Img", tmp / "torchvision/celeba")
shutil.copytree(official / "Img", tmp / "csv/img_align_celeba")
for file in (
    "Anno/list_attr_celeba.txt",
    "Anno/identity_CelebA.txt",
    "Eval/list_eval_partition.txt",
):
    (tmp / "torchvision/celeba" / Path(file).name).write_text((official / file).read_text())
pd.DataFrame(answers, pd.Index(names, name="image_id"), CELEBA_ATTRIBUTES).to_csv(
    tmp / "csv/list_attr_celeba.csv"
)
(tmp / "csv/list_eval_partition.csv").write_text(
    "image_id,partition\n" + "".join(f"{n},{p}\n" for n, p in zip(names, "0000011222"))
)
theirs, plain = (
    read_celeba(tmp / layout, tmp / "data", progress=False) for layout in ("torchvision", "csv")
)
plain.notes["absent"]

# %%
assert plain.notes["absent"] == ["identity_CelebA.txt"] and theirs.notes["absent"] == []
assert theirs.table.equals(celeba.table) and plain.table.equals(celeba.table.drop(columns="person"))
with zipfile.ZipFile(tmp / "celeba.zip", "w") as z:
    for f in sorted(official.rglob("*")):
        z.write(f, f.relative_to(official))
assert read_celeba(tmp / "celeba.zip", tmp / "data", progress=False).table.equals(celeba.table)

# %% [markdown]
# Unlike in the other sets, a head of CelebA can be constant in a group. No woman is bald here, and
# hardly any in the set itself, so the true positive rate of `Bald` among women is undefined. The
# evaluation leaves such cells empty and reports them.

# %%
pd.crosstab(celeba.table["gender"], celeba.table["Bald"])

# %%
assert pd.crosstab(celeba.table["gender"], celeba.table["Bald"]).to_numpy().tolist() == [
    [5, 0],
    [2, 3],
]


# %% [markdown]
# Each fault raises an error before any image is decoded. Without `strict`, missing images are left
# out and listed.

# %%
def fault(file, change, error=ValueError):
    "Change one file, read, put it back."
    good = file.read_text()
    file.write_text(change(good))
    try:
        read_celeba(official, tmp / "data", progress=False)
    except error as e:
        say(e)
    else:
        raise AssertionError(f"{file.name} was read")
    finally:
        file.write_text(good)


anno, evaluation = official / "Anno/list_attr_celeba.txt", official / "Eval/list_eval_partition.txt"
fault(anno, lambda text: text.replace("10", "12", 1))
fault(anno, lambda text: text.replace(" Young", "", 1))
fault(evaluation, lambda text: text + "000011.jpg 2\n")
fault(evaluation, lambda text: text.replace("000003.jpg 0\n", ""))
fault(official / "Anno/identity_CelebA.txt", lambda text: text.replace("000003.jpg 7\n", ""))
hidden = (official / "Img/img_align_celeba/000004.jpg").rename(tmp / "000004.jpg")
try:
    read_celeba(official, tmp / "data")
except FileNotFoundError as e:
    say(e)
else:
    raise AssertionError("a missing image was not noticed")
part = read_celeba(official, tmp / "data", strict=False)
part.notes["missing"]

# %%
assert part.notes["missing"] == ["000004.jpg"] and part.table["path"].tolist() == [
    n for n in names if n != "000004.jpg"
]
hidden.rename(official / "Img/img_align_celeba/000004.jpg")
assert read_celeba(official, tmp / "data").table.equals(celeba.table)
# a partition of other images: 1 … 8, and 11
(official / "Eval/list_eval_partition.txt").rename(tmp / "whole.txt")
evaluation.write_text(
    "".join((tmp / "whole.txt").read_text().splitlines(keepends=True)[:8]) + "000011.jpg 2\n"
)
part = read_celeba(official, tmp / "data", strict=False)
assert part.notes["missing"] == ["000009.jpg", "000010.jpg", "000011.jpg"] and part.table.equals(
    celeba.table[:8]
)
(tmp / "whole.txt").rename(evaluation)
anno.rename(tmp / "hidden.txt")
try:
    read_celeba(official, tmp / "data")
except FileNotFoundError as e:
    say(e)
else:
    raise AssertionError("read without attributes")
