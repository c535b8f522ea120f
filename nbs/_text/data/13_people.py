# %% [markdown]
# # People
#
# > ImageNet's person subtree, from the annotated images or from a prepared CSV

# %%
#| default_exp data.people

# %%
#| export
import os
import warnings
from pathlib import Path

import pandas as pd

from fairgrape.data.archives import open_set
from fairgrape.data.demographics import (
    GENDERS,
    NO_ONE_GENDER,
    apply_rules,
    class_names,
    image_synset,
    imageable_synsets,
    read_demographics,
    safe_synsets,
)
from fairgrape.data.label_files import (
    check_inside,
    face_set,
    line_of,
    read_labels,
    refuse_lookalikes,
    refuse_missing,
)
from fairgrape.data.tables import FaceData

# %%
import json
import tempfile

from PIL import Image

from fairgrape.data.appearance import EXPRESSIONS, synthetic_table
from fairgrape.data.synthetic import render_faces
from fairgrape.data.tables import codes, label_columns

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# The set comes in two forms: the annotated images with the ratings of their synsets, from which
# rules select the images, or a CSV of images that are already selected. The annotations are
# available on request only, so the code is tested on rendered pictures.
#
# ## A prepared CSV
#
# A prepared CSV has the columns `file`, `class` and `gender` (male or female). The authors' code
# ships such a file in another form: `image_name`, a class *number*, and gender 0 or 1, where 0 is
# male according to its code. The numbers are arbitrary, so they are only checked against the synset
# in the image's name, and the class is named after the synset.

# %%
#| export
_GENDER_WORDS = {"male": "Male", "female": "Female", "Male": "Male", "Female": "Female"}


def _named_genders(csv: Path, values: pd.Series, names: dict[str, str]) -> pd.Series:
    "The genders by name. Raises: ValueError with the line of a word that is not in `names`."
    gender = values.map(names)
    if (wrong := gender.isna().to_numpy()).any():
        raise ValueError(
            f"{csv}, line {line_of(values, wrong.argmax())}, column 'gender':"
            f" {values.iloc[wrong.argmax()]!r} is not one of {', '.join(names)}"
        )
    return gender


# %%
_named_genders(Path("Imagenet.csv"), pd.Series(["0", "1", "1"]), dict(zip("01", GENDERS))).tolist()

# %%
assert _named_genders(
    Path("people.csv"), pd.Series(["male", "Female"]), _GENDER_WORDS
).tolist() == ["Male", "Female"]
for word, names in (("unsure", _GENDER_WORDS), ("2", dict(zip("01", GENDERS)))):
    try:
        _named_genders(Path("people.csv"), pd.Series([*names, word]), names)
    except ValueError as e:
        print(e)
        assert f"line {len(names) + 2}" in str(e)
    else:
        raise AssertionError(f"{word!r} was taken for a gender")


# %% [markdown]
# In the authors' form, the synset is in the image's name. A class number that stands for two
# synsets was assigned by another rule, so the file is refused.

# %%
#| export
def _synsets_of(csv: Path, text: pd.DataFrame) -> pd.Series:
    """The synset of each image of an authors' CSV, from the image's name. Raises: ValueError
    (another form of name, a class of two synsets).
    """
    synset = text["image_name"].map(image_synset)
    if (wrong := synset.isna().to_numpy()).any():
        row = wrong.argmax()
        raise ValueError(
            f"{csv}, line {line_of(text, row)}, column 'image_name':"
            f" {text['image_name'].iloc[row]!r} is not named like n10366966_42.JPEG"
        )
    mixed = (synset.groupby(text["classes"]).transform("nunique") > 1).to_numpy()
    if mixed.any():
        raise ValueError(
            f"{csv}, column 'classes': number {text['classes'].iloc[mixed.argmax()]} stands for"
            " images of several synsets"
        )
    return synset


# %%
theirs = pd.DataFrame(
    dict(
        image_name=["n10366966_1.JPEG", "n10091651_3.JPEG"], classes=["62", "32"], gender=["1", "0"]
    )
)
_synsets_of(Path("Imagenet.csv"), theirs).tolist()

# %%
assert _synsets_of(Path("Imagenet.csv"), theirs).tolist() == ["n10366966", "n10091651"]
for bad, told in (
    (theirs.assign(classes="62"), "number 62"),
    (theirs.assign(image_name=["n10366966_1.JPEG", "3.JPEG"]), "line 3, column 'image_name'"),
):
    try:
        _synsets_of(Path("Imagenet.csv"), bad)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError("a faulty CSV was accepted")


# %%
#| export
def _numbered(csv: Path, text: pd.DataFrame) -> pd.DataFrame:
    """The rows of the authors' form. A class is the synset in the image's name; it is named by
    its words if the ratings lie next to the file.
    """
    synset, ratings = _synsets_of(csv, text), csv.parent / "synsets_safety.csv"
    used = sorted(set(synset))
    names = dict(zip(used, used))
    if ratings.is_file():
        words = safe_synsets(ratings).reindex(used)
        names = class_names(words.fillna(pd.Series(used, used)))
    gender = _named_genders(csv, text["gender"], {"0": "Male", "1": "Female"})
    return pd.DataFrame(
        dict(image=text["image_name"], synset=synset, name=synset.map(names), gender=gender)
    )


# %%
(tmp / "rated").mkdir()
(tmp / "rated/synsets_safety.csv").write_text(
    "wnid,synset,safety\nn10366966,nurse,safe\nn10118844,gambler,offensive\n"
)
_numbered(tmp / "rated/Imagenet.csv", theirs)

# %%
# no rating: the ID is its name
assert _numbered(tmp / "rated/Imagenet.csv", theirs)["name"].tolist() == ["nurse", "n10091651"]
assert _numbered(tmp / "Imagenet.csv", theirs)["name"].tolist() == ["n10366966", "n10091651"]
assert _numbered(tmp / "Imagenet.csv", theirs)["gender"].tolist() == ["Female", "Male"]


# %%
#| export
def _read_prepared(
    csv: Path,  # file, class, gender; or image_name, classes, gender as in the authors' repo
    # `image`, `synset` ("" if the name has none), `name` (of the class), `gender`
) -> pd.DataFrame:
    """Images that are already selected. Raises: FileNotFoundError, ValueError (column, gender,
    an image twice).
    """
    numbered = "image_name" in (text := read_labels(csv, ["gender"]))
    text = read_labels(csv, ["image_name", "classes"] if numbered else ["file", "class"])
    twice = text["image_name" if numbered else "file"].map(os.path.normpath).duplicated().to_numpy()
    if twice.any():
        line = line_of(text, twice.argmax())
        raise ValueError(f"{csv}, line {line}: this image already has a row: remove one of the two")
    if numbered:
        return _numbered(csv, text)
    empty = (text["class"] == "").to_numpy()
    if empty.any():
        line = line_of(text, empty.argmax())
        raise ValueError(f"{csv}, line {line}, column 'class': no class")
    refuse_missing(csv, text["class"])
    refuse_lookalikes(csv, text["class"])
    return pd.DataFrame(
        dict(
            image=text["file"],
            synset=[image_synset(Path(f).name) or "" for f in text["file"]],
            name=text["class"],
            gender=_named_genders(csv, text["gender"], _GENDER_WORDS),
        )
    )


# %%
(tmp / "own.csv").write_text(
    "file,class,gender\nn10366966_1.JPEG,nurse,female\nimg/2.jpg,singer,male\n"
)
(tmp / "rated/Imagenet.csv").write_text(
    "image_name,face_name_align,classes,gender\n"
    "n10366966_1.JPEG,n10366966_1.JPEG,62,1\nn10091651_3.JPEG,n10091651_3.JPEG,32,0\n"
)
pd.concat([_read_prepared(tmp / "own.csv"), _read_prepared(tmp / "rated/Imagenet.csv")])

# %%
own, theirs = _read_prepared(tmp / "own.csv"), _read_prepared(tmp / "rated/Imagenet.csv")
assert own["gender"].tolist() == ["Female", "Male"] == theirs["gender"].tolist() and list(
    own
) == list(theirs)
assert (
    own["synset"].tolist() == ["n10366966", ""]
    and own["name"].tolist() == ["nurse", "singer"]
    and theirs["name"].tolist() == ["nurse", "n10091651"]
)
for told, header, *rows in [
    ("no column 'gender'", "file,class", "a.jpg,nurse"),
    ("line 2, column 'gender'", "file,class,gender", "a.jpg,nurse,unsure"),
    ("line 3, column 'class': no class", "file,class,gender", "a.jpg,nurse,male", "b.jpg,,male"),
    ("line 3, column 'class': no label", "file,class,gender", "a.jpg,nurse,male", "b.jpg,nan,male"),
    ("differ only in spelling", "file,class,gender", "a.jpg,nurse,male", "b.jpg,Nurse,male"),
    ("line 3: this image", "file,class,gender", "a.jpg,nurse,male", "a.jpg,nurse,male"),
    ("no column 'classes'", "image_name,gender", "n10366966_1.JPEG,1"),
    (
        "line 3: this image",
        "image_name,classes,gender",
        "n10366966_1.JPEG,62,1",
        "n10366966_1.JPEG,62,1",
    ),
]:
    (tmp / "bad.csv").write_text("\n".join([header, *rows]) + "\n")
    try:
        _read_prepared(tmp / "bad.csv")
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError("a bad CSV was read")


# %% [markdown]
# ## Layouts
#
# ImageNet provides one tar per synset; unpacked, it is a folder named by the synset's ID. The
# authors' code has all images in one folder, `Images/Imagenet`. The first image of each synset and
# the synsets' folders show which of the two it is. The CSVs and the JSON are in the set's folder or
# in `csv/` below it.

# %%
#| export
def _image_paths(
    root: Path,  # The set's folder
    images: pd.Series,  # File names, or paths relative to the folder
    synsets: pd.Series,  # The synset of each, or ""
) -> tuple[Path, list[str]]:  # The folder of images, and each image's path in it
    """Find the images: in a folder for each synset, or all in one. Raises: FileNotFoundError if
    none of the places has any, ValueError for a path that leaves the folder.
    """
    check_inside(root, images)
    folders = [root, *(root / p for p in ("Images/Imagenet", "Images", "images", "train"))]
    first = list(dict(zip(synsets, images)).items())  # an image of each synset
    for base in folders:
        inside = {s for s, _ in first if s and (base / s).is_dir()}
        if inside or any((base / name).is_file() for _, name in first):
            return base, [
                f"{s}/{name}" if inside and s and "/" not in name else name
                for name, s in zip(images, synsets)
            ]
    example = f"{first[0][0]}/{images.iloc[0]}" if first[0][0] else images.iloc[0]
    raise FileNotFoundError(
        f"{root / example}: no image of the set is here or in Images/Imagenet. "
        "Unpack each synset's tar into a folder named by its ID; see data/README.md"
    )


# %%
pair = pd.Series(["n10366966_1.JPEG", "n10091651_3.JPEG"]), pd.Series(["n10366966", "n10091651"])
for name, synset in zip(*pair):
    for folder in (tmp / "tars" / synset, tmp / "flat/Images/Imagenet"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
_image_paths(tmp / "tars", *pair)[1], _image_paths(tmp / "flat", *pair)[1]

# %%
assert _image_paths(tmp / "tars", *pair) == (
    tmp / "tars",
    ["n10366966/n10366966_1.JPEG", "n10091651/n10091651_3.JPEG"],
)
assert _image_paths(tmp / "flat", *pair) == (tmp / "flat/Images/Imagenet", pair[0].tolist())
# a name without a synset
assert _image_paths(tmp / "tars", pair[0], pd.Series(["n10366966", ""]))[1] == [
    "n10366966/n10366966_1.JPEG",
    "n10091651_3.JPEG",
]
assert _image_paths(tmp / "flat", pair[0], pd.Series(["", ""]))[0] == tmp / "flat/Images/Imagenet"
# a path as it is
assert (
    _image_paths(tmp, pair[0].map("flat/Images/Imagenet/{}".format), pd.Series(["", ""]))[1][0]
    == "flat/Images/Imagenet/n10366966_1.JPEG"
)
try:
    _image_paths(tmp, pd.Series(["../x.jpg"]), pd.Series([""]))
except ValueError as e:
    say(e)
else:
    raise AssertionError("a path that climbs out was accepted")
try:
    _image_paths(tmp / "data", *pair)
except FileNotFoundError as e:
    say(e)
    told = str(e)
else:
    raise AssertionError("images were found where there are none")
assert "n10366966/n10366966_1.JPEG: no image of the set" in told

# %% [markdown]
# ## An example set
#
# There are four synsets, of which the first two pass the rules. Each has twelve rendered pictures,
# whose expression shows the class. The last two pictures of each are annotated with two genders and
# with "unsure".

# %%
people = tmp / "people"
people.mkdir()
used = ["n10366966", "n10091651", "n10118844", "n10036929"]
words = ["nurse", "fireman, firefighter", "gambler", "drummer"]
pd.DataFrame(dict(wnid=used, synset=words, safety=["safe", "safe", "offensive", "safe"])).to_csv(
    people / "synsets_safety.csv", index=False
)
pd.DataFrame({"wnid": used, "synset": words, "imageability score": [4.7, 4, 4.25, 3.9]}).to_csv(
    people / "imageability_scores.csv", index=False
)
genders = [["male"], ["female"]] * 5 + [["male", "female"], ["unsure"]]
entries = [dict(url=f"{s}_{i + 1}.JPEG", gender=g) for s in used for i, g in enumerate(genders)]
rows = (
    synthetic_table(train=(12,) * 4, val=(5,) * 4, test=(5,) * 4).iloc[:48].reset_index(drop=True)
)
rows = rows.assign(
    **EXPRESSIONS.iloc[[used.index(e["url"][:9]) for e in entries]].reset_index(drop=True)
)
for entry, pixels in zip(entries, render_faces(rows, 24)):
    (people / entry["url"][:9]).mkdir(exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(people / entry["url"][:9] / entry["url"])
annotations = people / "ImageNet demographics annotations.json"
annotations.write_text(json.dumps(entries))
sorted(p.name for p in people.iterdir())


# %%
#| export
def _find(root: Path, *names: str) -> Path | None:
    "The first of these files that exists, in the folder or in csv/ below it."
    return next(
        (p for p in (root / part / name for name in names for part in ("", "csv")) if p.is_file()),
        None,
    )


# %%
(tmp / "found/csv").mkdir(parents=True)
(tmp / "found/csv/a.csv").touch()
(tmp / "found/b.csv").touch()
print(_find(tmp / "found", "a.csv", "b.csv").relative_to(tmp).as_posix())
assert (
    _find(tmp / "found", "a.csv", "b.csv") == tmp / "found/csv/a.csv"
    and _find(tmp / "found", "c.csv", "b.csv") == tmp / "found/b.csv"
    and _find(tmp, "b.csv") is None
)


# %% [markdown]
# Both lists of ratings are needed, and both are public. The error for a missing one gives its
# address.

# %%
#| export
def _ratings(root: Path) -> tuple[pd.Series, set[str]]:
    """The words of the safe synsets by ID, and the imageable ones. Raises: FileNotFoundError
    with the missing file's address.
    """
    found = {name: _find(root, name) for name in ("synsets_safety.csv", "imageability_scores.csv")}
    for name, place in found.items():
        if not place:
            raise FileNotFoundError(
                f"{root / name}: no such file here or in csv/. Fetch it from"
                f" https://image-net.org/data/{name}"
            )
    return safe_synsets(found["synsets_safety.csv"]), imageable_synsets(
        found["imageability_scores.csv"]
    )


# %%
_ratings(people)

# %%
safe, imageable = _ratings(people)
assert safe.to_dict() == dict(
    n10366966="nurse", n10091651="fireman, firefighter", n10036929="drummer"
) and imageable == {*used[:3]}
try:
    _ratings(tmp / "rated")
except FileNotFoundError as e:
    say(e)
else:
    raise AssertionError("read without the scores")


# %% [markdown]
# A warning gives the number of images that each rule leaves out.

# %%
#| export
def _chosen_images(
    root: Path,  # The set's folder, with the two CSVs
    annotations: Path,  # ImageNet demographics annotations.json
    least: int = 10,  # Images that a class must have
    # `image`, `synset`, `name` (of the class), `gender`; and notes: how many images each rule
    # leaves out
) -> tuple[pd.DataFrame, dict]:
    """The images that pass the rules. Raises: FileNotFoundError (one of the CSVs), ValueError
    (no class is left).
    """
    safe, imageable = _ratings(root)
    table = apply_rules(read_demographics(annotations), safe.index, imageable, least)
    left_out = table["why"][table["why"] != ""].value_counts().to_dict()
    told = ", ".join(f"{n} {why}" for why, n in left_out.items())
    kept = table[table["why"] == ""].reset_index(drop=True)
    if kept.empty:
        raise ValueError(f"{annotations}: no class is left of {len(table)} images: {told}")
    if left_out:
        warnings.warn(
            f"people: {len(table) - len(kept)} of {len(table)} annotated images are left out:"
            f" {told}",
            stacklevel=3,
        )
    skipped = table["image"][table["why"].isin(NO_ONE_GENDER.values())].tolist()
    return kept.assign(
        name=kept["synset"].map(class_names(safe[sorted(set(kept["synset"]))]))
    ), dict(left_out=left_out, skipped=skipped)


# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    chosen, notes = _chosen_images(people, annotations)
print(caught[0].message)
chosen[::4]

# %%
assert "28 of 48 annotated images" in str(caught[0].message)
assert len(chosen) == 20 and set(chosen["name"]) == {"nurse", "fireman"}
assert notes["left_out"] == {
    "synset not rated safe": 12,
    "synset not imageable enough": 12,
    "several genders": 2,
    "gender unsure": 2,
}
assert notes["skipped"] == [
    "n10366966_11.JPEG",
    "n10366966_12.JPEG",
    "n10091651_11.JPEG",
    "n10091651_12.JPEG",
]
try:
    _chosen_images(people, annotations, least=11)
except ValueError as e:
    say(e)
else:
    raise AssertionError("a set without a class was accepted")


# %% [markdown]
# The rows of both forms become one table. The classes are in the order of their synsets' IDs, not
# of the rows, so a class has the same number in both forms.

# %%
#| export
def _people_set(root: Path, rows: pd.DataFrame, notes: dict, strict: bool) -> FaceData:
    "The set of the images in `rows`, as `_read_prepared` and `_chosen_images` give them."
    order = rows.sort_values(["synset", "name"], kind="stable")["name"].unique().tolist()
    images, paths = _image_paths(root, rows["image"], rows["synset"])
    table = pd.DataFrame(
        dict(
            path=paths,
            photo=paths,
            synset=rows["synset"],
            person_class=pd.Categorical(rows["name"], order),
            gender=pd.Categorical(rows["gender"], GENDERS),
        )
    )
    return face_set(
        "people",
        images,
        table,
        dict(notes, protocol=dict(task="person_class", groups="gender")),
        strict,
    )


# %%
_people_set(people, chosen[::5], {}, strict=True).table

# %%
few = _people_set(people, chosen[::5], dict(skipped=[]), strict=True)
assert chosen["name"].iloc[0] == "nurse" and few.table["person_class"].cat.categories.tolist() == [
    "fireman",
    "nurse",
]
assert few.notes == dict(
    skipped=[], protocol=dict(task="person_class", groups="gender")
) and few.table.photo.equals(few.table.path)

# %% [markdown]
# ## The reader
#
# The reader uses the annotations if they are there, else a prepared CSV (`people.csv`, or
# `Imagenet.csv` as in the authors' code). The path may also be such a CSV.

# %%
#| export
_JSON, _CSVS = "ImageNet demographics annotations.json", ("people.csv", "Imagenet.csv")


def _set_folder(root: Path) -> Path:
    "The folder itself, or the subfolder that holds the labels, as often in an archive."
    inside = sorted(p for p in root.iterdir() if p.is_dir())
    return next((p for p in (root, *inside) if _find(p, _JSON, *_CSVS)), root)


# %%
print(_set_folder(tmp).name)
assert (
    _set_folder(tmp) == people == _set_folder(people) and _set_folder(tmp / "flat") == tmp / "flat"
)


# %%
#| export
def read_people(
    path: str | Path,  # The set's folder or an archive of it; or a prepared CSV
    data_root: str | Path,  # Where an archive is unpacked to
    progress: bool = True,  # Show a progress bar
    # A missing image is an error; else its row is left out and it is listed in notes["missing"]
    strict: bool = True,
    least: int = 10,  # Images that a class must have
) -> FaceData:  # Labels `person_class` and `gender`; the synset's ID in the column `synset`
    """Read ImageNet's person subtree. Raises: FileNotFoundError (one of the four files, an
    image), ValueError (a file's content).
    """
    given = Path(path) if Path(path).suffix == ".csv" else None
    root = given.parent if given else _set_folder(open_set(path, data_root, "people", progress))
    annotations = None if given else _find(root, _JSON)
    csv = given or (None if annotations else _find(root, *_CSVS))
    if not annotations and not csv:
        raise FileNotFoundError(
            f"{root / _JSON}: no such file here or in csv/, and no people.csv. "
            "Request it from the ImageNet team; see data/README.md"
        )
    rows, notes = (_read_prepared(csv), {}) if csv else _chosen_images(root, annotations, least)
    return _people_set(root, rows, notes, strict)


# %%
warnings.simplefilter("ignore")
faces = read_people(people, tmp / "data")
faces.table[::4]

# %%
assert len(faces.table) == 20 and label_columns(faces.table) == ["person_class", "gender"]
assert codes(faces.table, "person_class")[1] == ["fireman", "nurse"]  # in the order of their IDs
assert pd.crosstab(faces.table["person_class"], faces.table["gender"]).to_numpy().tolist() == [
    [5, 5],
    [5, 5],
]
assert faces.notes["left_out"] == notes["left_out"] and faces.notes["protocol"] == dict(
    task="person_class", groups="gender"
)
assert faces.load(faces.table[:2], 16).shape == (2, 3, 16, 16)

# %% [markdown]
# The same images, read from a prepared CSV.

# %%
plain = faces.table[["path", "person_class", "gender"]].set_axis(
    ["file", "class", "gender"], axis=1
)
plain.to_csv(people / "people.csv", index=False)
prepared = read_people(people / "people.csv", tmp / "data")
prepared.table.head(3)

# %%
assert prepared.table.equals(faces.table) and prepared.key == faces.key
annotations.rename(tmp / "hidden.json")
# found in the folder, without annotations
assert read_people(people, tmp / "data").table.equals(faces.table)
(tmp / "hidden.json").rename(annotations)
plain[1:].to_csv(people / "mine.csv", index=False)
# under any name
assert (
    read_people(people / "mine.csv", tmp / "data").table.path.tolist()
    == faces.table.path.tolist()[1:]
)
numbered = pd.DataFrame(
    dict(
        image_name=plain["file"].str.split("/").str[-1],
        classes=plain["class"].cat.codes,
        gender=plain["gender"].cat.codes,
    )
)
numbered.to_csv(people / "Imagenet.csv", index=False)
assert read_people(people / "Imagenet.csv", tmp / "data").table.equals(faces.table)


# %% [markdown]
# The reader stops if no class is large enough, if one of the four files is missing, or if an image
# is missing.

# %%
def stopped(error, *changes):
    "Read with a changed or hidden file, and put it back."
    kept = {file: file.read_bytes() for file, _ in changes}
    for file, text in changes:
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
    try:
        read_people(people, tmp / "data")
    except error as e:
        say(e)
    else:
        raise AssertionError("a faulty set was read")
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


stopped(ValueError, (annotations, json.dumps(entries[10:21])))
for name in ("synsets_safety.csv", "imageability_scores.csv"):
    stopped(FileNotFoundError, (people / name, None))
stopped(
    FileNotFoundError,
    (annotations, None),
    (people / "people.csv", None),
    (people / "Imagenet.csv", None),
)
stopped(FileNotFoundError, (people / "n10366966/n10366966_3.JPEG", None))
(people / "n10366966/n10366966_3.JPEG").unlink()
read_people(people, tmp / "data", strict=False).notes["missing"]

# %%
part = read_people(people, tmp / "data", strict=False)
assert part.notes["missing"] == ["n10366966/n10366966_3.JPEG"] and len(part.table) == 19
assert part.table["person_class"].cat.categories.tolist() == ["fireman", "nurse"]
